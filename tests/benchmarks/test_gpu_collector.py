"""Counts, and ratios within one run: figures of their own depend on who else uses the machine."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.benchmarks import gpu_collector, gpu_footprint, report
from tests.benchmarks.gpu_collector import Compared, Page
from tests.benchmarks.gpu_footprint import Growth
from tests.benchmarks.over_double import GPUS, HEADERS, OURS, THEIRS, gpus, running
from tests.benchmarks.report import Promise, Whole

# Calls of NVML are counted for so many times the settling: the machine may hold one exporter up for a part.
ROUNDS = 3


class Side(NamedTuple):
    """What one exporter took while both ran: NVML calls after its start, scrapes, its page.

    `reconnected_ms` has the scrapes on a connection of their own each, `in_a_row_ms` those without a pause.
    """

    calls: int
    scrapes_ms: list[float]
    reconnected_ms: list[float]
    in_a_row_ms: list[float]
    page: Page


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Side]:
    """Both over the same double at the same time."""
    machine = gpus(tmp_path_factory.mktemp("gpus"))
    with contextlib.ExitStack() as stack:
        processes = {each.name: stack.enter_context(running(each, machine)) for each in (OURS, THEIRS)}
        before = {name: process.calls for name, process in processes.items()}
        time.sleep(ROUNDS * gpu_collector.SETTLING_SECONDS)
        calls = {name: process.calls - before[name] for name, process in processes.items()}
        return {
            name: Side(
                calls[name],
                gpu_collector.latencies_ms(process, HEADERS, 11),
                gpu_collector.latencies_ms(process, HEADERS, 11, process.disconnect),
                # The quickest row of three: another process may hold up any, and what waits waits in each.
                min(
                    (gpu_collector.latencies_ms(process, HEADERS, 21, lambda: None) for _ in range(3)),
                    key=statistics.median,
                ),
                gpu_collector.read(process.page()),
            )
            for name, process in processes.items()
        }


@pytest.mark.long
def test_nvml_is_asked_at_most_half_as_often_as_by_nvitop_exporter(sides: dict[str, Side]) -> None:
    ours, theirs = sides[OURS.name], sides[THEIRS.name]
    assert ROUNDS * GPUS < ours.calls < theirs.calls / 2


@pytest.mark.long
def test_a_scrape_takes_less_than_one_of_nvitop_exporter_and_tells_more(sides: dict[str, Side]) -> None:
    ours, theirs = sides[OURS.name], sides[THEIRS.name]
    assert statistics.median(ours.scrapes_ms) < statistics.median(theirs.scrapes_ms)
    assert ours.page.families > 1.5 * theirs.page.families
    assert ours.page.measurements > 2 * theirs.page.measurements


@pytest.mark.long
def test_no_scrape_waits_for_the_acknowledgement_of_the_one_before(sides: dict[str, Side]) -> None:
    """40 ms, where the server's socket sends a page in two parts and holds the second back."""
    ours = sides[OURS.name]
    assert statistics.median(ours.in_a_row_ms) < 3 * statistics.median(ours.reconnected_ms)


@pytest.mark.long
def test_a_gpu_that_has_all_there_is_to_tell_keeps_to_its_series(sides: dict[str, Side]) -> None:
    page = sides[OURS.name].page
    assert 36 < page.families < page.measurements <= page.series_of_a_gpu <= gpu_collector.SERIES_BAR
    assert page.series < (GPUS + 1) * gpu_collector.SERIES_BAR


@pytest.mark.long
def test_the_collectors_keep_nothing_of_any_page(tmp_path: Path) -> None:
    gpus(tmp_path)
    pages = 100
    growth = gpu_footprint.grown(tmp_path, pages)
    assert growth.traced_bytes < 20 * pages  # an object of each page would be more
    assert growth.resident_bytes < gpu_collector.RESIDENT_BAR_BYTES
    assert (growth.gpm_samples, growth.event_sets) == (0, 0)


def test_a_page_is_counted_by_what_its_series_name() -> None:
    page = """\
# TYPE gpu info
gpu_info{uuid="a",name="H100"} 1
gpu_info{uuid="b",name="H200"} 1
# TYPE clock gauge
clock{uuid="a",domain="sm"} 1
clock{uuid="a",domain="memory"} 1
# TYPE sent counter
sent_total{uuid="a",link="0"} 1
sent_total{uuid="a",link="1"} 1
# TYPE process_memory gauge
process_memory{uuid="a",pid="4711"} 1
# TYPE rank_memory gauge
rank_memory{uuid="a",run="r",rank="0"} 1
# TYPE unsupported gauge
unsupported{uuid="a",metric="clock"} 1
# TYPE host_uptime gauge
host_uptime{hostname="h"} 1
# EOF
"""
    # All but the host are of a GPU; of the families three are, of the measurements the clock is two.
    assert gpu_collector.read(page) == Page(series=10, series_of_a_gpu=8, families=3, measurements=4)


def test_a_promise_is_kept_up_to_its_bar_and_not_above() -> None:
    slow, uncompressed, calls = (
        next(each for each in gpu_collector.QUANTITIES if each.what == what)
        for what in ("scrape, 99th percentile", "scrape, uncompressed, median", "NVML calls a GPU")
    )
    compared = [
        Compared(slow, 0, 10.0, 20.0, [0.5]),
        Compared(slow, 100, 10.1, 20.0, [0.4, 0.51, 0.6]),
        Compared(uncompressed, 0, 40.0, 20.0, [2.0]),
        Compared(calls, 0, 9.0, 17.0, [0.53]),
    ]
    ours, theirs = Page(480, 60, 48, 55), Page(500, 58, 24, 24)

    def kept(growth: Growth) -> list[bool]:
        return [each.kept for each in gpu_collector.promises(compared, ours, theirs, growth)]

    of_others = [True, False, False, True, False, True, True]
    assert kept(Growth(1 << 20, 7200, 0, 0)) == [*of_others, True, True, True]
    assert kept(Growth((1 << 20) + 1, 7201, 1, 0)) == [*of_others, False, False, False]


def test_a_run_is_written_into_its_own_part_of_the_readme(tmp_path: Path) -> None:
    (tmp_path / "tests" / "benchmarks" / "results").mkdir(parents=True)
    readme = tmp_path / "README.md"
    place = gpu_collector.PLACE
    readme.write_text(f"{report.BEGIN}hook\n{report.END}between\n{place.begin}old\n{place.end}after\n")
    whole = Whole("What the GPUs cost to watch", "a machine", "all of it")
    file = report.write(place, whole, "| a row |", [Promise("calls", "9", "8", False)], tmp_path)
    written = readme.read_text()
    assert written.startswith(
        f"{report.BEGIN}hook\n{report.END}between\n{place.begin}\na machine\n\n| a row |\n"
    )
    assert "kept there: 0 of 1. Missed:\n\n- calls: 9, at most 8\n" in written
    assert ("old" in written, written.endswith(f"{place.end}after\n")) == (False, True)
    assert file.name.endswith("-gpu-collector.md")
    assert "a machine\n\nall of it\n" in file.read_text()


def test_the_readme_has_a_place_for_the_figures() -> None:
    text = (report.ROOT / "README.md").read_text()
    assert (text.count(gpu_collector.PLACE.begin), text.count(gpu_collector.PLACE.end)) == (1, 1)
