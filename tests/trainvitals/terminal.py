"""A command in a terminal, as a person has it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


class Terminal:
    """A running command; `screen` is all it has written, without control sequences."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._reads, terminal = pty.openpty()
        self.screen = ""
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=variables, stdin=terminal, stdout=terminal, stderr=terminal
        )
        os.close(terminal)

    def wait_for(self, text: str, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.screen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.screen[-4000:]}"
            self._read()

    def end(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        return self.process.wait(1)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._reads)

    def _read(self) -> None:
        if select.select([self._reads], [], [], 0.1)[0]:
            try:
                written = os.read(self._reads, 65536).decode(errors="replace")
            except OSError:  # it has ended
                time.sleep(0.05)
                return
            self.screen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
