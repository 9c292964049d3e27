"""Options that several commands have, and how such a command gives up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

Recordings = Annotated[
    Path | None, typer.Option("--dir", help="Where the recordings are. Default: every usual place.")
]
SimulateGpus = Annotated[
    str, typer.Option(metavar="N[:SCENARIO],…", help="For demonstrations: GPUs that are not there.")
]


def stop(command: str, message: str) -> NoReturn:
    """End the command with exit status 1 and one line that says why, and what to do."""
    print(f"trainvitals {command}: {message}", file=sys.stderr)
    raise typer.Exit(1)
