"""What a real GPU supports, what it does not and why, and what each call into NVML takes.

`python -m tests.benchmarks.gpu_device --record` writes it to tests/benchmarks/results, one file a day and
kind of GPU; without the flag it prints. It says so and ends with 1 where there is no driver or no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynvml

from exporters.collector import Sample
from exporters.gpu.node import GpuStatus, NvmlGpus, gpu_statuses
from exporters.gpu.nvml import NvmlUnavailableError
from tests.benchmarks import report

ROUNDS = 20
ROUND_SECONDS = 0.25
RESULTS = Path(__file__).with_name("results")
nvml: Any = pynvml


@contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """The seconds of every call into the library, by the name of its function."""
    seconds: dict[str, list[float]] = defaultdict(list)
    find = nvml._nvmlGetFunctionPointer

    def find_timed(name: str) -> Callable[..., Any]:
        function = find(name)

        def call(*arguments: object) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                seconds[name].append(time.perf_counter() - began)

        return call

    nvml._nvmlGetFunctionPointer = find_timed
    try:
        yield seconds
    finally:
        nvml._nvmlGetFunctionPointer = find


def look(rounds: int = ROUNDS) -> tuple[list[GpuStatus], list[Sample], dict[str, list[float]]]:
    """The GPUs, the samples of the last of so many rounds of every collector, and the calls' seconds.

    Raises NvmlUnavailableError.
    """
    with timed() as seconds:
        gpus = NvmlGpus()
        for number in range(rounds):
            if number:
                time.sleep(ROUND_SECONDS)
            samples = [sample for collector in gpus.collectors for sample in collector.collect()]
        statuses = gpu_statuses(samples)
        gpus.close()
    return statuses, samples, seconds


def text(statuses: Sequence[GpuStatus], samples: Sequence[Sample], seconds: dict[str, list[float]]) -> str:
    """What was seen, as Markdown."""
    drivers = {s.labels.get("driver_version", "?") for s in samples if s.metric.name == "nvidia_gpu_info"}
    given = sorted({s.metric.name for s in samples if s.labels.get("gpu") == str(statuses[0].gpu)})
    missing = sorted({(name, why) for status in statuses for name, why in status.unsupported.items()})
    calls = [["call", "calls", "median µs", "longest µs"]]
    for name, taken in sorted(seconds.items(), key=lambda item: -statistics.median(item[1])):
        median, longest = statistics.median(taken) * 1e6, max(taken) * 1e6
        calls.append([name, str(len(taken)), f"{median:.1f}", f"{longest:.0f}"])
    return "\n\n".join(
        [
            f"{len(statuses)} of {statuses[0].name}, driver {', '.join(sorted(drivers))}",
            report.conditions_with(("nvidia-ml-py",), "wall time"),
            "Given: " + ", ".join(f"`{name}`" for name in given),
            "Not given, or not whole: "
            + (", ".join(f"`{name}` ({why})" for name, why in missing) or "nothing"),
            report.table(calls),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write it to tests/benchmarks/results")
    options = parser.parse_args(arguments)
    try:
        seen = look()
    except NvmlUnavailableError as error:
        print(f"gpu_device: {error}", file=sys.stderr)
        return 1
    if not seen[0]:
        print("gpu_device: the driver reports no GPU", file=sys.stderr)
        return 1
    body = text(*seen)
    print(body)
    if options.record:
        kind = "-".join((seen[0][0].name or "gpu").lower().split())
        path = RESULTS / f"{datetime.date.today()}-{kind}.md"
        path.write_text(f"# What NVML tells of this GPU, and how fast\n\n{body}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
