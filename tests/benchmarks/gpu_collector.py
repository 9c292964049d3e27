"""What the GPUs cost to watch: `python -m tests.benchmarks.gpu_collector [--quick]`.

`trainvitals serve --only gpu` and nvitop-exporter run by turns, each as it comes, over the same double of
NVML with 8 GPUs, whose calls take 0 and then 100 µs, and are scraped as Prometheus does it. Before that
our collectors make 3,600 pages in one process, and must keep nothing of any. Exit status 1 where a bar of
the contract is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.benchmarks import gpu_footprint, report
from tests.benchmarks.gpu_footprint import Growth
from tests.benchmarks.over_double import (
    GPUS,
    HEADERS,
    OURS,
    THEIRS,
    UNCOMPRESSED,
    Exporter,
    Running,
    gpus,
    running,
)
from tests.benchmarks.report import Place, Promise, Whole
from tests.fake_nvml import Machine

PLACE = Place(
    "<!-- written by `python -m tests.benchmarks.gpu_collector --record` -->\n",
    "<!-- up to here: gpu_collector -->\n",
    "gpu-collector",
)
PACKAGES = ("nvidia-ml-py", "prometheus-client", "uvicorn", "nvitop-exporter")
LATENCIES_US = (0, 100)
SETTLING_SECONDS = 6.0  # the second round of a collector is over: its counters have begun
SCRAPE_INTERVAL_SECONDS = 15.0
BETWEEN_SCRAPES_SECONDS = 0.05

SHARE = 1 / 2  # of what nvitop-exporter takes
SCRAPE_BAR_MS = 10.0
SERIES_BAR = 60  # a GPU
PAGES = 3600
TRACED_BAR_BYTES = 2 * PAGES  # less than two bytes a page: nothing is kept of any
RESIDENT_BAR_BYTES = 1 << 20

# Whatever names these is a row of a process, of the rank it is, or of a metric that is missing.
ASIDE = {"pid", "run", "metric"}
# Whose a series is, and which of the links: no difference in what is measured.
IDENTITY = {"gpu", "uuid", "index", "devicename", "hostname", "link"}


class Length(NamedTuple):
    """How long it is measured: seconds left alone, scrapes at Prometheus' interval, scrapes in a row."""

    idle_seconds: float
    polls: int
    scrapes: int
    uncompressed: int
    turns: int


WHOLE = Length(idle_seconds=30, polls=2, scrapes=200, uncompressed=50, turns=4)
QUICK = Length(idle_seconds=5, polls=1, scrapes=50, uncompressed=10, turns=1)


class Turn(NamedTuple):
    """What one process of an exporter took; processor time by the second, NVML calls by GPU and second."""

    scrapes_ms: Sequence[float]
    uncompressed_ms: Sequence[float]
    idle_cpu_ms: float
    scraped_cpu_ms: float
    calls: float
    resident_mib: float
    page: str


class Page(NamedTuple):
    """What a page has: series in all, series of the GPU with most, families and measurements of GPUs.

    A family is one of GPUs when its series bear a uuid and no label of ASIDE. It is as many measurements as
    it has different labels besides IDENTITY: what one exporter tells apart by a label, another does by name.
    """

    series: int
    series_of_a_gpu: int
    families: int
    measurements: int


PAGE_ROWS = ("series in all", "series of a GPU", "GPU families", "GPU measurements")


class Quantity(NamedTuple):
    """A row of the table: what of a turn, in which unit, and the share of theirs that ours may be."""

    what: str
    unit: str
    of: Callable[[Turn], float]
    share: float | None = None


SCRAPES = (
    Quantity("scrape, median", "ms", lambda turn: statistics.median(turn.scrapes_ms), SHARE),
    Quantity("scrape, 99th percentile", "ms", lambda turn: _percentile(turn.scrapes_ms, 99), SHARE),
)
QUANTITIES = (
    *SCRAPES,
    Quantity("scrape, uncompressed, median", "ms", lambda turn: statistics.median(turn.uncompressed_ms)),
    Quantity("CPU, not scraped", "ms/s", lambda turn: turn.idle_cpu_ms, SHARE),
    Quantity("CPU, scraped every 15 s", "ms/s", lambda turn: turn.scraped_cpu_ms, SHARE),
    Quantity("NVML calls a GPU", "1/s", lambda turn: turn.calls, SHARE),
    Quantity("resident memory", "MiB", lambda turn: turn.resident_mib),
)


class Compared(NamedTuple):
    """A quantity of both, medians of turns, and the shares that ours has of theirs in neighbouring turns."""

    quantity: Quantity
    latency_us: int
    ours: float
    theirs: float
    shares: Sequence[float]

    @property
    def share(self) -> float:
        return statistics.median(self.shares)

    def __str__(self) -> str:
        return f"{self.quantity.what}, {self.latency_us} µs a call"


def take_turn(exporter: Exporter, machine: Machine, length: Length) -> Turn:
    """Start it, measure it, and stop it."""
    with running(exporter, machine) as process:
        time.sleep(SETTLING_SECONDS)
        calls, began = process.calls, time.monotonic()
        idle_cpu_ms = _cpu_ms_a_second(process, lambda: time.sleep(length.idle_seconds))
        scraped_cpu_ms = _cpu_ms_a_second(process, lambda: _poll(process, length.polls))
        calls, seconds = process.calls - calls, time.monotonic() - began
        return Turn(
            latencies_ms(process, HEADERS, length.scrapes),
            latencies_ms(process, UNCOMPRESSED, length.uncompressed),
            idle_cpu_ms,
            scraped_cpu_ms,
            calls / GPUS / seconds,
            process.resident_mib,
            process.page(),
        )


def latencies_ms(
    process: Running,
    headers: Mapping[str, str],
    count: int,
    between: Callable[[], object] = lambda: time.sleep(BETWEEN_SCRAPES_SECONDS),
) -> list[float]:
    """Of scrapes one after the other, with a pause between them."""
    latencies = []
    for _ in range(count):
        latencies.append(process.scrape(headers)[0])
        between()
    return latencies


def _cpu_ms_a_second(process: Running, wait: Callable[[], object]) -> float:
    cpu, began = process.cpu_seconds, time.monotonic()
    wait()
    return 1e3 * (process.cpu_seconds - cpu) / (time.monotonic() - began)


def _poll(process: Running, times: int) -> None:
    for _ in range(times):
        time.sleep(SCRAPE_INTERVAL_SECONDS / 2)
        process.scrape()
        process.disconnect()  # a server may close what is idle for so long
        time.sleep(SCRAPE_INTERVAL_SECONDS / 2)


def compare(machine: Machine, latency_us: int, length: Length) -> tuple[list[Compared], Page, Page]:
    """Both by turns, each call of NVML taking so long; also what a page of ours has, and one of theirs."""
    machine.set("latency_us", latency_us)
    turns: dict[str, list[Turn]] = {OURS.name: [], THEIRS.name: []}
    for number in range(length.turns):
        for exporter in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            _say(f"{latency_us} µs a call, turn {number + 1} of {length.turns}: {exporter.name}")
            turns[exporter.name].append(take_turn(exporter, machine, length))
    ours, theirs = turns[OURS.name], turns[THEIRS.name]
    compared = [_compared(quantity, latency_us, ours, theirs) for quantity in QUANTITIES]
    return compared, read(ours[-1].page), read(theirs[-1].page)


def _compared(quantity: Quantity, latency_us: int, ours: Sequence[Turn], theirs: Sequence[Turn]) -> Compared:
    mine, other = [quantity.of(turn) for turn in ours], [quantity.of(turn) for turn in theirs]
    shares = [one / of if of else math.inf for one, of in zip(mine, other, strict=True)]
    return Compared(quantity, latency_us, statistics.median(mine), statistics.median(other), shares)


def read(page: str) -> Page:
    """What a page in OpenMetrics has."""
    series = 0
    by_gpu: dict[str, int] = {}
    measurements: dict[str, set[frozenset[tuple[str, str]]]] = {}
    for family in text_string_to_metric_families(page):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            series += 1
            if "uuid" not in sample.labels:
                continue
            by_gpu[sample.labels["uuid"]] = by_gpu.get(sample.labels["uuid"], 0) + 1
            if not ASIDE & sample.labels.keys():
                # What an info metric has besides is no measurement either.
                labels = {} if family.type == "info" else sample.labels
                further = frozenset(item for item in labels.items() if item[0] not in IDENTITY)
                measurements.setdefault(family.name, set()).add(further)
    most = max(by_gpu.values(), default=0)
    return Page(series, most, len(measurements), sum(map(len, measurements.values())))


def promises(compared: Sequence[Compared], ours: Page, theirs: Page, growth: Growth) -> list[Promise]:
    """The contract's lines."""
    shares = [
        _share(f"{each}: {OURS.name} / {THEIRS.name}", each.share, each.quantity.share)
        for each in compared
        if each.quantity.share is not None
    ]
    scrapes = [
        _at_most(f"{each}, {GPUS} GPUs", each.ours, SCRAPE_BAR_MS, "ms")
        for each in compared
        if each.quantity in SCRAPES
    ]
    over = f"over {PAGES:,} pages"
    return [
        *shares,
        *scrapes,
        _share(f"GPU families: {THEIRS.name} / {OURS.name}", theirs.families / ours.families, SHARE),
        _at_most("series of a GPU", ours.series_of_a_gpu, SERIES_BAR),
        _at_most(f"Python's memory grown {over}", growth.traced_bytes / 1024, TRACED_BAR_BYTES / 1024, "KiB"),
        _at_most(
            f"resident memory grown {over}", growth.resident_bytes / 1024, RESIDENT_BAR_BYTES / 1024, "KiB"
        ),
        _at_most(f"GPM samples and event sets not freed {over}", growth.gpm_samples + growth.event_sets, 0),
    ]


def _share(what: str, share: float, bar: float) -> Promise:
    return Promise(what, f"{share:.3f}", f"{bar:.3f}", share <= bar)


def _at_most(what: str, figure: float, bar: float, unit: str = "") -> Promise:
    return Promise(
        what, f"{_figure(figure)} {unit}".rstrip(), f"{_figure(bar)} {unit}".rstrip(), figure <= bar
    )


def table(compared: Sequence[Compared], ours: Page, theirs: Page) -> str:
    """What was compared, as Markdown."""
    rows = [[f"{GPUS} GPUs", "unit", "a call takes", OURS.name, THEIRS.name, "ours / theirs", "by turns"]]
    for each in compared:
        row = [each.quantity.what, each.quantity.unit, f"{each.latency_us} µs"]
        row += [_figure(each.ours), _figure(each.theirs), f"{each.share:.2f}"]
        rows.append([*row, f"{min(each.shares):.2f} to {max(each.shares):.2f}"])
    for what, mine, other in zip(PAGE_ROWS, ours, theirs, strict=True):
        rows.append([what, "", "", str(mine), str(other), f"{mine / other:.2f}", ""])
    return report.table(rows)


def how(length: Length) -> str:
    """What the figures of such a run are."""
    tick_ms = 1000 // os.sysconf("SC_CLK_TCK")
    return (
        f"Medians of {length.turns} turns of each, made there and back; of ours / theirs, in neighbouring\n"
        "turns, the least and the largest too. In a turn a process is left alone for "
        f"{length.idle_seconds:g} s, scraped {length.polls}\n"
        f"times every {SCRAPE_INTERVAL_SECONDS:g} s, then {length.scrapes} times "
        f"{1e3 * BETWEEN_SCRAPES_SECONDS:g} ms apart for the latency, which includes a\n"
        "connection where the server closes the last one. NVML calls are those of both windows; processor\n"
        f"time is that of the whole process, in ticks of {tick_ms} ms. nvitop-exporter asks NVML every\n"
        "second and compresses its page; ours asks every 1 to 30 s and does not compress.\n\n"
        "GPU families: their series name a GPU, but no process, rank or missing metric. GPU measurements:\n"
        "the same, each as often as its further labels differ, the links of a GPU once."
    )


def _figure(value: float) -> str:
    return f"{value:.2f}".rstrip("0").removesuffix(".")


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short turn of each")
    parser.add_argument(
        "--record", action="store_true", help="write a file into results, and the figures into the README"
    )
    arguments = parser.parse_args()
    if arguments.record and arguments.quick:
        parser.error("only a whole run is recorded: leave out --quick")
    if importlib.util.find_spec("nvitop_exporter") is None:
        parser.error("nvitop-exporter is not installed: pip install '.[dev]'")
    length = QUICK if arguments.quick else WHOLE
    conditions = report.conditions_with(PACKAGES, "wall time", "no GPU: the double of NVML")
    print(f"{conditions}\n", flush=True)
    compared: list[Compared] = []
    with tempfile.TemporaryDirectory() as folder:
        machine = gpus(Path(folder))
        _say(f"{PAGES:,} pages in one process")
        growth = gpu_footprint.grown(Path(folder), PAGES)
        for latency_us in LATENCIES_US:
            found, ours, theirs = compare(machine, latency_us, length)
            compared += found
    lines = promises(compared, ours, theirs, growth)
    figures = table(compared, ours, theirs)
    measured = "\n\n".join([figures, how(length), report.promises_table(lines)])
    print(measured, flush=True)
    if arguments.record:
        whole = Whole("What the GPUs cost to watch", conditions, measured)
        print(f"\nwritten: {report.write(PLACE, whole, figures, lines)}")
    return 0 if all(each.kept for each in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
