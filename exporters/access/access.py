"""All that decides who may do what with one service, put together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from exporters.access.audit import LOG_FILE, AuditLog
from exporters.access.callers import Callers
from exporters.access.hosts import Hosts
from exporters.access.journal import Journal
from exporters.access.limits import Buckets
from exporters.access.refusal import Refusal, limited, wrong_token
from exporters.access.roles import NOBODY, Caller
from exporters.access.tokens import make_local_token

logger = logging.getLogger(__name__)

# Generous: an Alertmanager or a trainer's callback has its own token or address, and comes rarely.
WRITES_PER_SECOND, WRITES_AT_ONCE = 100.0, 500
FAILURES_PER_SECOND, FAILURES_AT_ONCE = 10 / 60, 10


class Access:
    """Who may come in, under which name, and where it is written down. Guard and routes ask this."""

    def __init__(
        self,
        callers: Callers,
        hosts: Hosts,
        journal: Journal,
        *,
        token_required: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """With `token_required` nobody reads without a token: a proxy of this machine would make any
        stranger local. `clock` gives the seconds in which writes and wrong tokens are limited."""
        self.callers = callers
        self.hosts = hosts
        self.journal = journal
        self.nobody: Caller | None = None if token_required else NOBODY
        self.writes = Buckets(WRITES_PER_SECOND, WRITES_AT_ONCE, clock=clock)
        self.failures = Buckets(FAILURES_PER_SECOND, FAILURES_AT_ONCE, clock=clock)

    def wrong_token(self, network: str) -> Refusal:
        """What is answered to a wrong token from there, which it is to be charged with."""
        wait = self.failures.take(network)
        return limited("wrong tokens", wait) if wait else wrong_token()

    def close(self) -> None:
        self.journal.close()


def open_access(
    folder: Path,
    *,
    listening: str = "127.0.0.1",
    hosts: Iterable[str] = (),
    token_file: Path | None = None,
    scrape_token_file: Path | None = None,
    reads_only: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Access:
    """For a service that keeps its database in `folder`; makes the local token there where it is missing.
    `clock` gives the seconds in which writes and wrong tokens are limited.

    Raises OSError where that cannot be made, unless `reads_only`: then nobody writes. Raises ValueError with
    a sentence where a file or a name will not do.
    """
    names = Hosts(listening, hosts)
    if token_file is not None and not token_file.exists():
        raise ValueError(
            f"--token-file {token_file} is not there; make it with "
            f"`trainvitals token create NAME --role viewer --token-file {token_file}`"
        )
    local_token = None
    try:
        local_token = make_local_token(folder)
    except OSError as error:
        if not reads_only:
            raise
        logger.warning("nobody may write to this service, for there is no local token: %s", error)
    callers = Callers(local_token, token_file, scrape_token_file)
    callers.check()
    journal = Journal(AuditLog(folder / LOG_FILE))
    return Access(callers, names, journal, token_required=token_file is not None, clock=clock)
