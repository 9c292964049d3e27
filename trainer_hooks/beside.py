"""The service beside a command: it ends some seconds after the command, by itself.

    python -m trainer_hooks.beside PID_DESCRIPTOR HOST:PORT SECONDS

waits for the end of the process behind a pidfd. It belongs to nobody: it is no child of the command, and
shares no terminal, input or output with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

from trainer_hooks import directory

READY_SECONDS = 30.0
STOP_SECONDS = 10.0
_READY = "trainvitals: http"


def start(listen: str, linger_seconds: float) -> str:
    """Start it for this process; a sentence that says where the service is, or why there is none."""
    try:
        log = directory.state_directory() / "serve.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        said = _start_detached(listen, linger_seconds, log)
    except OSError as error:
        return f"no service: {error.strerror or error}"
    lines = said.splitlines()
    for line in lines:
        if line.startswith(_READY):
            return f"the service is at {line.partition(' ')[2]}, its log is {log}"
    return f"no service: {lines[-1]}" if lines else f"no service yet; its log is {log}"


def _start_detached(listen: str, linger_seconds: float, log: Path) -> str:
    """What the service said first, or all it said before it ended."""
    reading, writing = os.pipe()
    process = os.pidfd_open(os.getpid())
    between = os.fork()
    if between == 0:  # so that the service is no child of the command, which may wait for its own
        try:
            with log.open("wb") as output:
                subprocess.Popen(
                    [*_python(), "trainer_hooks.beside", str(process), listen, str(linger_seconds)],
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=output,
                    pass_fds=[process],
                    start_new_session=True,
                )
        finally:
            os._exit(0)
    os.close(writing)
    os.close(process)
    os.waitpid(between, 0)
    said = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while not said.endswith(b"\n") and select.select([pipe], [], [], READY_SECONDS)[0]:
            part = pipe.read(4096)
            if not part:
                return log.read_text(errors="replace")
            said += part
    return said.decode(errors="replace")


def _python() -> list[str]:
    """Without what is in the current folder: it may bear the name of a package of ours."""
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m"]


def main(process: int, listen: str, linger_seconds: float) -> int:
    service = subprocess.Popen(
        [*_python(), "trainvitals", "serve", "--listen", listen],
        stdin=subprocess.DEVNULL,
        stdout=sys.stdout,
        start_new_session=True,
    )
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())  # the service's end of the pipe alone is left
    watched = os.pidfd_open(service.pid)
    select.select([process, watched], [], [])
    with contextlib.suppress(subprocess.TimeoutExpired):
        return service.wait(linger_seconds)
    service.terminate()
    try:
        return service.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        service.kill()
        return service.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
