"""A real Prometheus for tests: Debian's binary on a free loopback port, its data in the test's directory."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

START_DEADLINE_SECONDS = 60.0
STOP_DEADLINE_SECONDS = 20.0
NO_SCRAPING = "global: {scrape_interval: 15s, evaluation_interval: 15s}\n"


class Series(NamedTuple):
    """The labels of a series, its name among them, and (unix seconds, value) pairs in order of time."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


class PrometheusServer:
    """A Prometheus that lives as long as the `with` block.

    `directory` takes the configuration, the log and, in `data`, the database, which may hold blocks made
    by `create_blocks` before. Relative paths in `config` are resolved against `directory`. Entering raises
    RuntimeError, with the end of the log, when Prometheus is not ready within a minute.
    """

    def __init__(self, directory: Path, config: str = NO_SCRAPING, flags: Sequence[str] = ()) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "prometheus.log"
        self.url = ""
        self._config = config
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    def create_blocks(self, openmetrics: str) -> None:
        """Fill the database, before the start, with recorded samples: OpenMetrics text with timestamps.

        Raises RuntimeError with promtool's words when the text is not OpenMetrics.
        """
        recording = self.directory / "recording.txt"
        recording.write_text(openmetrics, encoding="utf-8")
        command = [binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
        made = subprocess.run([*command, recording, self.data], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"promtool could not read {recording}: {made.stderr.strip()}")

    def __enter__(self) -> Self:
        config = self.directory / "prometheus.yml"
        config.write_text(self._config, encoding="utf-8")
        # Between finding a free port and taking it another process may take it: then try the next.
        for attempts_left in (2, 1, 0):
            port = free_port()
            self.url = f"http://127.0.0.1:{port}"
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        binary("prometheus"),
                        f"--config.file={config}",
                        f"--storage.tsdb.path={self.data}",
                        # Recordings of any age are served, not deleted.
                        "--storage.tsdb.retention.time=10y",
                        f"--web.listen-address=127.0.0.1:{port}",
                        *self._flags,
                    ],
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if self._wait_until_ready():
                return self
            self.stop()
            if not attempts_left or "address already in use" not in self.log.read_text(errors="replace"):
                break
        last_lines = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
        raise RuntimeError(f"prometheus did not become ready; the end of {self.log}:\n{last_lines}")

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, by force when it does not go; nothing happens when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def query(self, expr: str, at: float | None = None) -> list[Series]:
        """The series of an instant query at `at` in unix seconds, else now. Raises QueryError."""
        time_ = {} if at is None else {"time": f"{at:.3f}"}
        found = self.get("/api/v1/query", query=expr, **time_)
        if found["resultType"] == "scalar":
            return [Series({}, _points([found["result"]]))]
        return [Series(one["metric"], _points([one["value"]])) for one in found["result"]]

    def query_range(self, expr: str, start: float, end: float, step_seconds: float) -> list[Series]:
        """The series of a range query; times in unix seconds. Raises QueryError."""
        found = self.get(
            "/api/v1/query_range",
            query=expr,
            start=f"{start:.3f}",
            end=f"{end:.3f}",
            step=f"{step_seconds:g}",
        )
        return [Series(one["metric"], _points(one["values"])) for one in found["result"]]

    def get(self, path: str, **parameters: str) -> Any:
        """What lies under `data` in the API's answer. Raises QueryError when it is an error."""
        address = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            body = error.read().decode(errors="replace")
            raise QueryError(f"{parameters}: {body}") from error

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    # Another server on the port might have answered: ours must still be there.
                    return self._process.poll() is None
            except OSError:
                time.sleep(0.05)
        return False


def binary(name: str) -> str:
    """The path of one of Prometheus's programs. Raises RuntimeError when it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed: apt-get install prometheus")
    return path


def free_port() -> int:
    """A TCP port of the loopback address that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _points(pairs: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(float(moment), float(value)) for moment, value in pairs]
