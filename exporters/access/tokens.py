"""Tokens: the file of their hashes, and the local token beside the database."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from exporters.access.roles import Role
from exporters.access.stored import OTHERS_AT_ALL, OTHERS_WRITE, read_private, synchronize, write_private

PREFIX = "tvl_"
LOCAL_NAME = "local"
LOCAL_FILE = "local-token"
TOKENS_FILE = "tokens.json"
LEAST_CHARACTERS = 16  # of a token that somebody else chose: the scrape token
MOST_CHARACTERS = 200
MOST_FILE_BYTES = 1000  # of a token and the white space round it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
# What the audit log calls those who have no token of the file.
RESERVED_NAMES = (LOCAL_NAME, "nobody", "scrape", "unknown")


class StoredToken(BaseModel):
    """A token without the token. The secret is 256 random bits and not a password, so nobody can go through
    those that are likely, and a plain SHA-256 keeps it; a slow hash would only slow down each request."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(pattern=rf"^{NAME.pattern}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class StoredTokens(BaseModel):
    """The file as it stands on disk."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    entries: tuple[StoredToken, ...] = ()


class TokenFile:
    """Where tokens are kept. One who changes it at a time, in this process or another."""

    def __init__(self, path: Path, *, now: Callable[[], datetime]) -> None:
        self.path = path
        self._now = now

    def entries(self) -> Sequence[StoredToken]:
        """All; none where the file is missing. Raises OSError, or ValueError with a sentence."""
        try:
            data, _ = read_private(self.path, OTHERS_WRITE)
        except FileNotFoundError:
            return ()
        return parse_entries(data)

    def create(
        self,
        name: str,
        role: Role,
        expires_at: datetime | None = None,
        *,
        before: Callable[[StoredToken], None] = lambda entry: None,
    ) -> tuple[StoredToken, str]:
        """A new entry and its token, which is told nowhere else.

        `before` runs when the entry is known to be a right one and not kept yet. Raises OSError, or
        ValueError with a sentence where the name is taken or none.
        """
        if not NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise ValueError(
                f"{name!r} is no name for a token: letters, digits and _.@- up to 64, "
                f"and none of {', '.join(RESERVED_NAMES)}"
            )
        now = self._now()
        with self._alone():
            entries = self.entries()
            if any(each.name == name and each.state(now) == "valid" for each in entries):
                raise ValueError(f"there is a valid token {name} already; revoke it, or take another name")
            token = new_token()
            entry = StoredToken(
                id=secrets.token_hex(4),
                name=name,
                role=role,
                sha256=sha256_of(token),
                created_at=now,
                expires_at=expires_at,
            )
            before(entry)
            self._write([*entries, entry])
        return entry, token

    def revoke(self, name_or_id: str) -> list[StoredToken]:
        """End the token of this id, or those of this name; raises OSError, or ValueError with a sentence."""
        now = self._now()
        with self._alone():
            entries = self.entries()
            revoked = [
                each.model_copy(update={"revoked_at": now})
                for each in entries
                if name_or_id in (each.id, each.name) and each.revoked_at is None
            ]
            if not revoked:
                raise ValueError(f"there is no token {name_or_id!r} that is not revoked yet in {self.path}")
            changed = {each.id: each for each in revoked}
            self._write([changed.get(each.id, each) for each in entries])
        return revoked

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Not the file itself, which each change replaces.
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(
            self.path.with_name(self.path.name + ".lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, entries: Sequence[StoredToken]) -> None:
        text = StoredTokens(entries=tuple(entries)).model_dump_json(indent=1)
        write_private(self.path, text.encode() + b"\n", replace=True)
        synchronize(self.path.parent)  # what was revoked stays so


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def sha256_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def parse_entries(data: bytes) -> Sequence[StoredToken]:
    """Raises ValueError with a sentence that quotes nothing of the file."""
    try:
        return StoredTokens.model_validate_json(data).entries
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"is no file of tokens: {place}: {first['msg'].partition(',')[0]}") from None


def parse_secret(data: bytes) -> str:
    """The hash of the one token a file holds; raises ValueError with a sentence."""
    return sha256_of(parse_token(data))


def parse_token(data: bytes) -> str:
    """The one token a file holds; raises ValueError with a sentence that quotes nothing of it."""
    text = data.decode("ascii", "replace").strip()
    if not LEAST_CHARACTERS <= len(text) <= MOST_CHARACTERS or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            f"holds no token: one line of {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters, for example "
            "what `openssl rand -hex 32` prints"
        )
    return text


def read_token(path: Path) -> str:
    """The token to show another service, from whatever file the user names.

    Raises OSError where it cannot be read, ValueError with a sentence that quotes nothing of it.
    """
    with path.open("rb") as file:
        data = file.read(MOST_FILE_BYTES)
    try:
        return parse_token(data)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def make_local_token(folder: Path) -> Path:
    """The file of the local token, made where it is missing.

    Raises OSError where it cannot be made, ValueError with a sentence where it is not this user's alone.
    """
    path = folder / LOCAL_FILE
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # another service of this folder was quicker, or it is kept
        if not path.exists():
            write_private(path, new_token().encode() + b"\n", replace=False)
    read_local_token(folder)
    return path


def read_local_token(folder: Path) -> str:
    """For commands of this user: the token of the service whose database is in this folder.

    Raises OSError where there is none, ValueError with a sentence where others may read it.
    """
    path = folder / LOCAL_FILE
    try:
        data, _ = read_private(path, OTHERS_AT_ALL)
        return parse_token(data)
    except ValueError as error:
        raise ValueError(f"the local token {path} {error}") from None
