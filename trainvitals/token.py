"""`trainvitals token`: who may come in to a service that others reach."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from exporters.access.audit import LOG_FILE, AuditLog
from exporters.access.entry import Event
from exporters.access.roles import Role
from exporters.access.tokens import TOKENS_FILE, StoredToken, TokenFile
from trainer_hooks import directory
from trainvitals import options

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST_DAYS = 36_500

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

File = Annotated[
    Path | None,
    typer.Option("--token-file", help="As that of `trainvitals serve`. Default: beside the database."),
]
Database = Annotated[
    Path | None,
    typer.Option("--state", help="As that of `trainvitals serve`: its audit log lies beside it."),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the audit log will call whoever has it.")],
    role: Annotated[Role, typer.Option(help="viewer reads, operator acts on runs, admin may do all.")],
    expires: Annotated[
        str | None, typer.Option(metavar="30d", help="After so many m, h, d or w; never if left out.")
    ] = None,
    token_file: File = None,
    state: Database = None,
) -> None:
    """Make a token and print it, once: it is kept nowhere."""
    tokens = _tokens(token_file, state)
    with _told("create"):
        ends = None if expires is None else _now() + parse_duration(expires)
        # Written down first: a token nobody knows of is worse than a line about one that was not made.
        entry, token = tokens.create(
            name, role, ends, before=lambda entry: _audit(state, "create token", entry, "accepted")
        )
    print(token)
    until = "until it is revoked" if entry.expires_at is None else f"until {_shown(entry.expires_at)}"
    print(
        f"{entry.name} ({entry.id}) is {entry.role} {until}, by {tokens.path}; this is shown once",
        file=sys.stderr,
    )


@app.command("list")
def list_tokens(token_file: File = None, state: Database = None) -> None:
    """Show every token there was: name, id, role, whether it is valid. Never the token."""
    tokens = _tokens(token_file, state)
    with _told("list"):
        entries = tokens.entries()
    if not entries:
        print(f"no token in {tokens.path}; `trainvitals token create NAME --role viewer` makes one")
        return
    table = Table("name", "id", "role", "state", "created", "expires", box=None)
    for entry in entries:
        expires = "never" if entry.expires_at is None else _shown(entry.expires_at)
        is_now = entry.state(_now())
        table.add_row(entry.name, entry.id, entry.role, is_now, _shown(entry.created_at), expires)
    Console(highlight=False, soft_wrap=True).print(table)


@app.command()
def revoke(
    name_or_id: Annotated[str, typer.Argument(help="As `trainvitals token list` shows it.")],
    token_file: File = None,
    state: Database = None,
) -> None:
    """End a token at once, and every session it opened."""
    tokens = _tokens(token_file, state)
    with _told("revoke"):
        revoked = tokens.revoke(name_or_id)
    for entry in revoked:
        print(f"{entry.name} ({entry.id}) is revoked")
    with _told("revoke", "revoked, but "):
        for entry in revoked:
            _audit(state, "revoke token", entry, "revoked")


def parse_duration(text: str) -> timedelta:
    """Of a number and its unit; raises ValueError with a sentence."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([mhdw])", text)
    duration = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    if duration is None or duration > timedelta(days=_MOST_DAYS):
        raise ValueError(f"--expires {text} is no time up to {_MOST_DAYS} days; for example 12h, 30d or 8w")
    return duration


def _tokens(path: Path | None, state: Path | None) -> TokenFile:
    return TokenFile(path or _folder(state) / TOKENS_FILE, now=_now)


def _folder(state: Path | None) -> Path:
    return state.parent if state is not None else directory.state_directory()


def _now() -> datetime:
    return datetime.now(UTC)


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _audit(state: Path | None, action: str, entry: StoredToken, outcome: str) -> None:
    """In the log of the service; who may write the file of the tokens needs no role."""
    folder = _folder(state)
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    what = f"{entry.name} ({entry.id}) {entry.role}"
    AuditLog(folder / LOG_FILE).append(Event(_user(), "none", action, what, outcome, ""))


def _user() -> str:
    try:
        return f"user {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user has no name
        return f"user {os.getuid()}"


@contextlib.contextmanager
def _told(command: str, but: str = "") -> Iterator[None]:
    """End the command with a sentence where a file will not do."""
    try:
        yield
    except ValueError as error:
        options.stop(f"token {command}", f"{but}{error}")
    except OSError as error:
        options.stop(f"token {command}", f"{but}{error.filename or 'the file'}: {error.strerror}")
