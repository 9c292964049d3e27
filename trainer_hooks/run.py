"""`run [--name N] [--run R] [--serve] COMMAND …`: records the training that an unchanged command makes.

It sets the environment and becomes the command: exit code, signals, job control, input, output and arguments
are the command's own, since nothing stands between. See `autoload`, which the environment leads Python to.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from trainer_hooks import identity, launchers
from trainer_hooks.recording import NAME_PATTERN

AUTOLOAD = Path(__file__).parent / "autoload"
DEFAULT_SERVE = "127.0.0.1:8003"
LINGER_SECONDS = 30.0  # two scrapes

USAGE = "usage: {} [--name NAME] [--run RUN] [--serve[=HOST:PORT]] [--linger SECONDS] COMMAND [ARGUMENT …]"
HELP = f"""
Record the training that COMMAND makes, whose script needs no change: python, torchrun, accelerate launch, or
a script that starts one of them.

  --name NAME           what to call the run; it gets a suffix. Default: the name of the script
  --run RUN             identity of the run: the same again is its next attempt. TRAINVITALS_RUN does the same
  --serve[=HOST:PORT]   start the service beside it, at {DEFAULT_SERVE} or there, on the node's first rank.
                        TRAINVITALS_SERVE=HOST:PORT does the same
  --linger SECONDS      how long the service outlives the command. Default: {LINGER_SECONDS:g}
"""


class Call(NamedTuple):
    """What the command line asks for; `serve` is where the service is to listen."""

    command: list[str]
    name: str | None = None
    run: str | None = None
    serve: str | None = None
    linger_seconds: float = LINGER_SECONDS


class CallError(ValueError):
    """The command line makes no sense; the message says why."""


def main(arguments: list[str], program: str = "trainvitals run") -> int:
    """Become the command. Returns only where that cannot be: 2 wrongly called, 126 or 127 as a shell says."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE.format(program), HELP, sep="\n", end="")
        return 0
    try:
        call = parse(arguments)
    except CallError as error:
        print(f"{program}: {error}\n{USAGE.format(program)}", file=sys.stderr)
        return 2
    if call.serve is not None and launchers.place().local_rank == 0:
        from trainer_hooks import beside

        print(f"{program}: {beside.start(call.serve, call.linger_seconds)}", file=sys.stderr, flush=True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # which Python ignores, and the command would inherit that
    try:
        os.execvpe(call.command[0], call.command, environment(call))
    except OSError as error:
        command = call.command[0]
        if not _exists(command, error):
            print(f"{program}: there is no command {command}", file=sys.stderr)
            return 127
        print(f"{program}: {command} cannot be executed: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126  # the interpreter of a script


def parse(arguments: list[str]) -> Call:
    """Our options up to the command; all from there on is the command's. Raises CallError."""
    rest = list(arguments)
    call = Call([], serve=_address(os.environ.get("TRAINVITALS_SERVE") or None))
    while rest and rest[0].startswith("-"):
        option, given, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option == "--serve":
            call = call._replace(serve=_address(value or DEFAULT_SERVE))
            continue
        if option not in ("--name", "--run", "--linger"):
            raise CallError(f"there is no option {option}; options of the command come after it")
        if not given:
            if not rest:
                raise CallError(f"{option} needs a value")
            value = rest.pop(0)
        if option == "--name":
            call = call._replace(name=value)
        elif option == "--run":
            if not NAME_PATTERN.fullmatch(value):
                raise CallError(f"--run {value} must match {NAME_PATTERN.pattern}")
            call = call._replace(run=value)
        else:
            call = call._replace(linger_seconds=_seconds(value))
    if not rest:
        raise CallError("a command is missing")
    return call._replace(command=rest)


def environment(call: Call) -> dict[str, str]:
    """That of the command: ours, with what arms every Python it starts."""
    result = dict(os.environ)
    if "LC_CTYPE" not in identity.initial_environment():
        result.pop("LC_CTYPE", None)  # in the C locale Python sets it for itself
    behind = result.get("PYTHONPATH")
    result["PYTHONPATH"] = f"{AUTOLOAD}{os.pathsep}{behind}" if behind else str(AUTOLOAD)
    result["TRAINVITALS"] = "1"
    for key, value in (("TRAINVITALS_NAME", call.name), ("TRAINVITALS_RUN", call.run)):
        if value is not None:
            result[key] = value
    return result


def _exists(command: str, error: OSError) -> bool:
    """Whether there is such a file, at its place or on the PATH.

    The error alone does not say: it is one of permission, too, where one folder of the PATH is closed.
    """
    if "/" in command:
        return not isinstance(error, FileNotFoundError) or os.access(command, os.F_OK)
    return any(os.access(Path(folder) / command, os.F_OK) for folder in os.get_exec_path())


def _address(text: str | None) -> str | None:
    return f"127.0.0.1{text}" if text is not None and text.startswith(":") else text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise CallError(f"--linger {text} is no number of seconds")
    return seconds
