"""What the GPU collectors keep in memory, page after page: a process of its own over the double of NVML.

A page is a round of every collector and the text of it all. Between two of them lie 15 s by a clock that is
not waited for.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pynvml

from exporters import exposition
from exporters.collector import Runner
from exporters.gpu.node import NvmlGpus
from tests import fake_nvml
from tests.benchmarks import report
from tests.benchmarks.over_double import HEADERS, resident_bytes, scenario
from tests.fake_nvml import Calls

FIRST_PAGES = 50  # what is kept for good is there by then
FIRST_TRACED_PAGES = 10  # and what was there before the tracing is replaced
SECONDS_BETWEEN_PAGES = 15.0


class Growth(NamedTuple):
    """By how much a process grew: resident, then as Python traces it, then NVML's objects not freed."""

    resident_bytes: int
    traced_bytes: int
    gpm_samples: int
    event_sets: int


def grown(folder: Path, pages: int) -> Growth:
    """By how much a process grows over so many pages, and as many traced; the double is in the folder."""
    variables = fake_nvml.environment(folder / "footprint.control", folder / "footprint.calls")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu_footprint", str(pages)],
        cwd=report.ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return Growth(*json.loads(done.stdout))


def make_pages(pages: int) -> Growth:
    """Be that process. Raises RuntimeError when a collector fails."""
    machine = scenario(Path(os.environ[fake_nvml.CONTROL_VARIABLE]))
    calls = Calls(Path(os.environ[fake_nvml.CALLS_VARIABLE]))
    now = 0.0

    def clock() -> float:
        return now

    gpus = NvmlGpus(monotonic=clock, wall=clock)
    runners = [Runner(collector, monotonic=clock, wall=clock) for collector in gpus.collectors]

    def make_page() -> None:
        nonlocal now
        now += SECONDS_BETWEEN_PAGES
        for runner in runners:
            runner.run_once()
            if runner.error:
                raise RuntimeError(f"the collector {runner.collector.name} fails: {runner.error}")
        exposition.render(exposition.gather(runners), HEADERS["Accept"])

    make_page()
    # The XIDs are told by now: no need to wait for others, 10 ms a round.
    machine.set("error.nvmlEventSetWait_v2", pynvml.NVML_ERROR_TIMEOUT)
    _repeat(make_page, FIRST_PAGES)
    samples, event_sets = calls.live_samples(), calls.live_event_sets()
    resident = _resident_bytes()
    _repeat(make_page, pages)
    resident = _resident_bytes() - resident
    tracemalloc.start()
    _repeat(make_page, FIRST_TRACED_PAGES)
    traced = _traced_bytes()
    _repeat(make_page, pages)
    traced = _traced_bytes() - traced
    growth = Growth(resident, traced, calls.live_samples() - samples, calls.live_event_sets() - event_sets)
    gpus.close()
    return growth


def _repeat(make_page: Callable[[], object], pages: int) -> None:
    for _ in range(pages):
        make_page()


def _resident_bytes() -> int:
    gc.collect()
    return resident_bytes(os.getpid())


def _traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


if __name__ == "__main__":
    print(json.dumps(make_pages(int(sys.argv[1]))))
