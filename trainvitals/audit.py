"""`trainvitals audit`: whether the audit log is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporters.access.audit import LOG_FILE
from exporters.access.verification import verify as verify_log
from trainer_hooks import directory
from trainvitals import options

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.callback()
def audit() -> None:
    """The audit log of a service."""


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="The log, audit.jsonl beside the database. Default: the usual one.")
    ] = None,
) -> None:
    """Find a line that was changed, removed or moved; exits 1 where there is one."""
    path = file or directory.state_directory() / LOG_FILE
    try:
        verdict = verify_log(path)
    except OSError as error:
        options.stop("audit verify", f"{path} cannot be read ({error.strerror}); name the log as FILE")
    if verdict.problem is not None:
        options.stop("audit verify", f"{path}: {verdict.problem}")
    remark = f"; {verdict.remark}" if verdict.remark else ""
    print(f"{path}: all {verdict.count} entries follow each other, the last is {verdict.hash}{remark}")
