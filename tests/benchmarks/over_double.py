"""Exporters of GPUs as processes of their own, over the double of NVML, and how they are scraped."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import fake_nvml
from tests.fake_nvml import Calls, Machine
from trainvitals.child import Child, start_server

GPUS = 8
# What Prometheus 2.42 sends when it scrapes.
HEADERS = {
    "User-Agent": "Prometheus/2.42.0",
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}
UNCOMPRESSED = {**HEADERS, "Accept-Encoding": "identity"}


class Exporter(NamedTuple):
    """A program that publishes GPUs: its name, and how it is started on an address."""

    name: str
    command: Callable[[str], Sequence[str]]
    ready_path: str


OURS = Exporter(
    "trainvitals",
    lambda address: [sys.executable, "-m", "trainvitals", "serve", "--only", "gpu", "--listen", address],
    "/ready",
)
THEIRS = Exporter(
    "nvitop-exporter",
    lambda address: [sys.executable, "-m", "nvitop_exporter", "--port", address.rpartition(":")[2]],
    "/metrics",
)


class Running:
    """An exporter that runs."""

    def __init__(self, child: Child, url: str, calls: Calls) -> None:
        self._pid = child.process.pid
        self._calls = calls
        address = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)

    @property
    def calls(self) -> int:
        """NVML calls so far."""
        return sum(self._calls.counts().values())

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far, that of threads that have ended too."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mib(self) -> float:
        return resident_bytes(self._pid) / 2**20

    def scrape(self, headers: Mapping[str, str] = HEADERS) -> tuple[float, bytes]:
        """Milliseconds until the page is there, and the page; a connection is kept if the server does."""
        began = time.perf_counter()
        self._connection.request("GET", "/metrics", headers=dict(headers))
        response = self._connection.getresponse()
        page = response.read()
        took = time.perf_counter() - began
        if response.status != 200:
            raise RuntimeError(f"a scrape was answered by {response.status}: {page[:200]!r}")
        return 1e3 * took, page

    def page(self) -> str:
        """Its page, in OpenMetrics."""
        return self.scrape(UNCOMPRESSED)[1].decode()

    def disconnect(self) -> None:
        """Close the connection; the next scrape opens another."""
        self._connection.close()


@contextlib.contextmanager
def running(exporter: Exporter, machine: Machine) -> Iterator[Running]:
    """Start it over a machine of `gpus`. Raises ChildError when it does not become ready."""
    folder = machine.control.parent
    calls = folder / f"{exporter.name}.calls"
    calls.unlink(missing_ok=True)
    variables = [f"{name}={value}" for name, value in fake_nvml.environment(machine.control, calls).items()]
    child, url = start_server(
        exporter.name,
        lambda address: ["env", *variables, *exporter.command(address)],
        folder / f"{exporter.name}.log",
        ready_path=exporter.ready_path,
    )
    process = Running(child, url, Calls(calls))
    try:
        yield process
    finally:
        process.disconnect()
        child.stop()


def gpus(folder: Path) -> Machine:
    """Build the double in this folder, and its machine."""
    fake_nvml.build(folder)
    return scenario(folder / "control")


def scenario(control: Path) -> Machine:
    """A machine whose GPUs have all there is to tell, an XID each."""
    machine = Machine(control)
    machine.update({"devices": GPUS, **{f"event.{gpu}": f"{gpu} 31" for gpu in range(GPUS)}})
    return machine


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
