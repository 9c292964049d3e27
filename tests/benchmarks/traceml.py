"""TraceML as its users have it: `traceml serve` beside the training, and its threads within."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Its aggregator on a free port of the loopback, where `init` will find it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "traceml_ai.launcher.cli", "serve", "--aggregator-port", port]
    settings = {
        "TRACEML_AGGREGATOR_PORT": port,
        "TRACEML_LOGS_DIR": str(folder / "traceml"),
        "TRACEML_ON_MISSING_AGGREGATOR": "raise",
    }
    os.environ.update(settings)
    server = subprocess.Popen(
        [*command, "--logs-dir", str(folder / "traceml")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(int(port), deadline=time.monotonic() + 60)
        yield
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, deadline: float) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
