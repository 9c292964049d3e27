"""A service of the local stack, as the one of a node: started, held, killed, started again."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainvitals.child import Child, start_server
from trainvitals.interruption import held


class Node:
    """A service with recordings and a history of its own.

    `instance` is the label under which Prometheus scrapes it, None for its address, and `cluster` a further
    one. `wrapper` gives what stands before its command, by the folder of its recordings. A service that was
    told to go has not failed.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        options: Sequence[str],
        *,
        instance: str | None = None,
        cluster: str | None = None,
        environment: Mapping[str, str] | None = None,
        wrapper: Callable[[Path], Sequence[str]] = lambda recordings: (),
    ) -> None:
        self.name = name
        self.instance = instance
        self.cluster = cluster
        self.directory = directory
        self.recordings = directory / "recordings"
        self.history = directory / "history.db"
        self.log = directory.parent / f"{name}.log"
        self.environment = environment
        self.url = ""
        self._options = options
        self._wrapper = wrapper
        self._child: Child | None = None

    def start(self) -> None:
        """Start it on a free port and wait until it answers. Raises ChildError."""
        self.recordings.mkdir(parents=True, exist_ok=True)
        _, self.url = start_server(
            self.name,
            self._command,
            self.log,
            ready_path="/ready",
            started=self._take,
            environment=self.environment,
        )

    def restart(self) -> None:
        """Kill it and start it again at the same address, without a wait until it answers."""
        self.kill()
        with held():
            address = self.url.removeprefix("http://")
            self._take(Child(self.name, self._command(address), self.log, environment=self.environment))

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._child is not None:
            self._child.process.kill()
            self._child.process.wait()
            self._child = None

    def stop(self) -> None:
        """End it in order."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def hold(self) -> None:
        """SIGSTOP: it stays, and answers nobody."""
        if self._child is not None:
            self._child.process.send_signal(signal.SIGSTOP)

    def let_go(self) -> None:
        """SIGCONT, after `hold`."""
        if self._child is not None:
            self._child.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end, without a wait."""
        if self._child is not None:
            self._child.terminate()

    @property
    def failed(self) -> Child | None:
        """The process, where it has ended by itself."""
        return self._child if self._child is not None and not self._child.running else None

    def target(self) -> dict[str, Any]:
        """What Prometheus's discovery by file is to hold of it."""
        labels = {"instance": self.instance, "cluster": self.cluster}
        return {
            "targets": [self.url.removeprefix("http://")],
            "labels": {name: value for name, value in labels.items() if value is not None},
        }

    def _take(self, child: Child) -> None:
        self._child = child

    def _command(self, address: str) -> list[str]:
        return [
            *self._wrapper(self.recordings),
            *(sys.executable, "-m", "trainvitals", "serve", "--listen", address),
            *("--dir", str(self.recordings), "--state", str(self.history), *self._options),
        ]
