"""A real Prometheus for tests: Debian's binary on a free loopback port, its data in the test's directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from trainvitals.child import Child, start_server

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
    ChildError, with the end of the log, when Prometheus is not ready within a minute.
    """

    def __init__(self, directory: Path, config: str = NO_SCRAPING, flags: Sequence[str] = ()) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "prometheus.log"
        self.url = ""
        self._config = config
        self._flags = flags
        self._child: Child | None = None

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
        self._child, self.url = start_server(
            "prometheus",
            lambda address: [
                binary("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={self.data}",
                # Recordings of any age are served, not deleted.
                "--storage.tsdb.retention.time=10y",
                f"--web.listen-address={address}",
                *self._flags,
            ],
            self.log,
        )
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process; nothing happens when it is gone."""
        if self._child is not None:
            self._child.stop()

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


def binary(name: str) -> str:
    """The path of one of the stack's programs. Raises RuntimeError when it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed: apt-get install prometheus prometheus-alertmanager")
    return path


def _points(pairs: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(float(moment), float(value)) for moment, value in pairs]
