"""Child processes that serve HTTP on loopback: started on a free port, awaited, stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from trainvitals.interruption import check, held

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
PORT_ATTEMPTS = 3

# No proxy of the environment stands between this machine and itself.
loopback = httpx.Client(trust_env=False, timeout=10)


class ChildError(Exception):
    """A child did not start; the message says which, and shows the end of its log."""


class Child:
    """A child process in a session of its own, its output in a log file.

    The kernel kills it when the thread that started it ends, by SIGKILL of our process too: start it in the
    main thread. That takes util-linux's setpriv; without it a child outlives a parent that was killed.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*_bound_to_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for us, who then stop our children in order
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_until(self, url: str) -> None:
        """Wait until the URL answers with success. Raises ChildError when the process ends or time is up."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(httpx.HTTPError):
                # Another server might have taken the port and answered: ours must still be there.
                if loopback.get(url).is_success and self.running:
                    return
            check()
            time.sleep(0.05)
        raise ChildError(f"{self.name} did not become ready; the end of its log:\n{self.last_lines()}")

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def terminate(self) -> None:
        """Ask the process to end, a frozen one too."""
        if self.running:
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process, by force when it does not go, and whatever else is left in its session."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_server(
    name: str,
    command: Callable[[str], Sequence[str]],
    log: Path,
    *,
    ready_path: str = "/-/ready",
    started: Callable[[Child], object] = lambda child: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Child, str]:
    """Start a server on a free port and return it with its URL; `command` takes its HOST:PORT.

    `started` is told of the child before the wait for it begins. Raises ChildError when it does not become
    ready within a minute; then, and at any other exception, the child is stopped.
    """
    for attempts_left in reversed(range(PORT_ATTEMPTS)):
        address = f"127.0.0.1:{_free_port()}"
        with held():
            child = Child(name, command(address), log, environment=environment)
            started(child)
        try:
            child.wait_until(f"http://{address}{ready_path}")
        except BaseException as error:
            child.stop()
            # Between finding a free port and taking it another process may take it: then try the next.
            taken = "address already in use" in log.read_text(errors="replace").lower()
            if not (isinstance(error, ChildError) and taken and attempts_left):
                raise
        else:
            return child, f"http://{address}"
    raise AssertionError("unreachable")


@functools.cache
def _bound_to_parent() -> Sequence[str]:
    """What stands before a command; not `preexec_fn`, which is not safe beside other threads."""
    bound = ("setpriv", "--pdeathsig", "KILL", "--")
    try:
        works = subprocess.run([*bound, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        works = False
    return bound if works else ()  # other setprivs, BusyBox's for example, do not know the option


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
