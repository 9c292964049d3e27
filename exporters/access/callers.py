"""Who calls: by a token, or by the session that a token opened."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from exporters.access.roles import Caller, Role
from exporters.access.stored import OTHERS_AT_ALL, OTHERS_WRITE, StoredFile
from exporters.access.tokens import LOCAL_NAME, StoredToken, parse_entries, parse_secret, sha256_of

SESSION_SECONDS = 12 * 3600
MOST_SESSIONS = 4096


class Session(NamedTuple):
    token_sha256: str
    ends: float


class Callers:
    """Everybody who may come in, as the files say at this moment. Of secrets it keeps hashes only: finding
    one takes the same time whatever was guessed of it."""

    def __init__(
        self,
        local_token: Path | None,
        tokens: Path | None = None,
        scrape_token: Path | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local: StoredFile[str | None] | None = None
        if local_token is not None:
            self._local = StoredFile(local_token, parse_secret, None, forbidden_mode=OTHERS_AT_ALL)
        self._tokens: StoredFile[Mapping[str, StoredToken]] | None = None
        if tokens is not None:
            self._tokens = StoredFile(tokens, _by_hash, {}, forbidden_mode=OTHERS_WRITE)
        self._scrape: StoredFile[str | None] | None = None
        if scrape_token is not None:
            self._scrape = StoredFile(scrape_token, parse_secret, None, forbidden_mode=OTHERS_WRITE)
        self._now = now
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def check(self) -> None:
        """Raises ValueError with a sentence where a file that decides who comes in cannot be used."""
        files: list[StoredFile[Any] | None] = [self._local, self._tokens, self._scrape]
        for file in files:
            if file is not None:
                file.check()

    @property
    def has_scrape_token(self) -> bool:
        return self._scrape is not None

    def of_token(self, token: str) -> Caller | None:
        return self._of_hash(sha256_of(token))

    def is_scrape_token(self, token: str) -> bool:
        known = self._scrape.value if self._scrape else None
        return known is not None and secrets.compare_digest(known, sha256_of(token))

    def open_session(self, token: str) -> tuple[str, Caller] | None:
        """An id to be kept in a cookie, and whose it is; None for a wrong token."""
        digest = sha256_of(token)
        caller = self._of_hash(digest)
        if caller is None:
            return None
        session = secrets.token_urlsafe(32)
        self._sessions[sha256_of(session)] = Session(digest, self._clock() + SESSION_SECONDS)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session, caller

    def of_session(self, session: str) -> Caller | None:
        """Whose session it is, as long as the token that opened it is valid."""
        digest = sha256_of(session)
        found = self._sessions.get(digest)
        if found is None:
            return None
        caller = self._of_hash(found.token_sha256) if self._clock() < found.ends else None
        if caller is None:
            del self._sessions[digest]
        return caller

    def close_session(self, session: str) -> None:
        self._sessions.pop(sha256_of(session), None)

    def _of_hash(self, digest: str) -> Caller | None:
        local = self._local.value if self._local else None
        if local is not None and secrets.compare_digest(local, digest):
            return Caller(LOCAL_NAME, Role.admin)
        entry = self._tokens.value.get(digest) if self._tokens else None
        if entry is None or entry.state(self._now()) != "valid":
            return None
        return Caller(entry.name, entry.role)


def _by_hash(data: bytes) -> Mapping[str, StoredToken]:
    entries = parse_entries(data)
    found = {entry.sha256: entry for entry in entries}
    if len(found) < len(entries):  # which of them would hold, the revoked or the valid one?
        raise ValueError("has one token twice")
    return found
