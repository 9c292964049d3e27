"""Counts and ratios; figures of their own depend on who else uses the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import report, service
from tests.benchmarks.kubeflow import Answers
from tests.benchmarks.service import Figures, Length, Load, Opened


@pytest.mark.long
def test_beside_many_ranks_and_clients_no_step_is_lost(tmp_path: Path) -> None:
    figures = service.measure(tmp_path / "service", Length(alone_seconds=3, crowded_seconds=10, share=0.02))

    assert figures.kept == figures.recorded > 64 * 100
    assert (figures.lost, figures.parted) == (0, 0)
    assert figures.messages > service.CLIENTS
    assert figures.crowded.growth_mib < service.GROWTH_BAR_MIB


def test_a_promise_is_kept_up_to_its_bar_and_not_above() -> None:
    def kept(core: float, scrape_ms: float, recorded: int, opened_ms: float, p99: float) -> list[bool]:
        load = Load(core, [50.0, 60.0, 60.0, 60.0, 61.0])
        answers = Answers(median=0.001, p99=p99, longest=1.0)
        opened = Opened({"run": 1.0, "13 curves": opened_ms})
        figures = Figures(load, load, [5.0, scrape_ms], 9, 0, recorded, 100, 0, answers, opened)
        return [each.kept for each in service.promises(figures)]

    assert kept(0.15, 100.0, 100, 200.0, 0.01) == [True] * 7
    assert kept(0.16, 101.0, 101, 201.0, 0.011) == [False, False, False, True, True, False, False]


def test_memory_that_is_gained_at_first_is_not_counted() -> None:
    assert Load(0.1, [10.0, 50.0, 50.0, 50.0, 51.0, 51.0, 51.0, 51.0]).growth_mib == 1.0


def test_the_readme_has_a_place_for_the_figures() -> None:
    text = (report.ROOT / "README.md").read_text()
    assert (text.count(service.PLACE.begin), text.count(service.PLACE.end)) == (1, 1)
