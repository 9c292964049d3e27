from __future__ import annotations

import sqlite3

import pytest

from exporters import catalog
from exporters.collector import Sample
from exporters.history import gauges, retention, series
from exporters.history.database import Database
from exporters.history.gauges import GaugesCollector
from tests.exporters.history.written import full_disk, rows

ACCURACY = catalog.TRAINING_ACCURACY
POWER = catalog.NVIDIA_GPU_POWER_WATTS
GPU = {"gpu": "0", "uuid": "GPU-1"}


class Node:
    """What the collectors say at present, and the clock."""

    def __init__(self, database: Database) -> None:
        self.now = 1_000_000.0
        self.samples: list[Sample] = []
        self.collector = GaugesCollector(lambda: self.samples, database, wall=lambda: self.now)

    def look(self, *samples: Sample) -> None:
        self.samples = list(samples)
        list(self.collector.collect())
        self.now += 10


@pytest.fixture
def node(database: Database) -> Node:
    return Node(database)


def accuracy(value: float, run: str = "a-run") -> Sample:
    return Sample(ACCURACY, {"run": run}, value)


def curve(database: Database, most_points: int = 1000, **whose: str) -> series.Series:
    names = [ACCURACY.name, POWER.name]
    with database.read() as connection:
        (found,) = series.of_gauges(connection, names, most_points=most_points, **whose)  # type: ignore[arg-type]
    return found


def test_gauges_that_are_kept_have_a_point_every_ten_seconds(node: Node, database: Database) -> None:
    for value in (0.1, 0.2, 0.3):
        node.look(accuracy(value), Sample(catalog.TRAINING_LOSS, {"run": "a-run"}, 7.0))

    found = curve(database, run="a-run")

    assert (found.name, found.labels, found.resolution_seconds) == (ACCURACY.name, {"run": "a-run"}, 10)
    assert found.points.mean == [0.1, 0.2, 0.3]
    assert found.points.time == [1_000_000.0, 1_000_010.0, 1_000_020.0]


def test_in_few_points_the_least_and_the_greatest_are_kept(node: Node, database: Database) -> None:
    for index in range(120):
        node.look(Sample(POWER, GPU, 900.0 if index == 37 else 100.0))

    found = curve(database, most_points=30, gpu_uuid="GPU-1")

    assert found.resolution_seconds == 60
    assert len(found.points.mean) <= 30
    assert (min(found.points.min), max(found.points.max)) == (100.0, 900.0)
    assert sum(found.points.mean) / len(found.points.mean) < 150


def test_the_gauges_of_each_run_are_its_own(node: Node, database: Database) -> None:
    node.look(accuracy(0.1), accuracy(0.9, run="another"))

    assert curve(database, run="another").points.mean == [0.9]


def test_the_gpus_of_a_run_are_kept_with_when_they_were_seen(node: Node, database: Database) -> None:
    on_gpu = Sample(catalog.TRAINING_RUN_GPU_INFO, {"run": "a-run", "rank": "3", **GPU}, 1)
    for _ in range(3):
        node.look(on_gpu)

    assert gauges.of_run(database, "a-run") == [("GPU-1", 3, 1_000_000.0, 1_000_020.0)]
    assert gauges.of_run(database, "another") == []


def test_a_round_that_finds_the_disk_full_spoils_no_later_one(node: Node, database: Database) -> None:
    with full_disk(database.path.with_name(database.path.name + "-wal")), pytest.raises(sqlite3.Error):
        node.look(*(accuracy(0.1, run=f"run-{number}") for number in range(500)))

    node.look(accuracy(0.5, run="run-7"))

    assert curve(database, run="run-7").points.mean == [0.5]


def test_gauges_are_thinned_with_age_and_forgotten_with_their_series(database: Database) -> None:
    clock = [1_000_000.0]
    database.wall = lambda: clock[0]
    node = Node(database)
    node.look(accuracy(0.1))

    def widths() -> list[object]:
        retention.keep(database)
        return [width for (width,) in rows(database, "SELECT width_seconds FROM samples ORDER BY 1")]

    assert widths() == [10, 60, 600]
    clock[0] += 4 * retention.DAY_SECONDS
    assert widths() == [60, 600]
    clock[0] += 11 * retention.DAY_SECONDS
    assert widths() == [600]
    clock[0] += 80 * retention.DAY_SECONDS
    assert widths() == []
    assert rows(database, "SELECT * FROM series") == []
    node.look(accuracy(0.2))
    assert len(rows(database, "SELECT * FROM series")) == 1


def test_of_an_old_time_the_wide_buckets_are_told(database: Database) -> None:
    clock = [1_000_000.0]
    database.wall = lambda: clock[0]
    node = Node(database)
    for index in range(360):
        node.look(accuracy(index / 360))
    clock[0] += 4 * retention.DAY_SECONDS
    node.now = clock[0]
    node.look(accuracy(1.0))
    retention.keep(database)

    found = curve(database, run="a-run")

    assert found.resolution_seconds == 60
    assert found.points.min[0] == 0.0
    assert found.points.mean[-1] == 1.0
    assert len(found.points.time) > 10


@pytest.mark.parametrize("most_points", [10, 77, 1000])
def test_a_gauge_has_no_more_points_than_were_asked_for(
    node: Node, database: Database, most_points: int
) -> None:
    for index in range(1500):
        node.look(accuracy(index / 1500))

    points = curve(database, most_points, run="a-run").points

    assert most_points / 3 < len(points.mean) <= most_points
    assert (points.min[0], points.max[-1]) == (0.0, 1499 / 1500)


def test_a_number_beyond_63_bits_is_kept_as_any_other(node: Node, database: Database) -> None:
    nonfinite = Sample(
        catalog.TRAINING_NONFINITE_TOTAL, {"run": "a-run", "rank": "0", "what": "loss"}, 2**64 - 1
    )

    for _ in range(2):
        node.look(nonfinite, accuracy(0.5))

    assert curve(database, run="a-run").points.mean == [0.5, 0.5]
    assert rows(database, "SELECT DISTINCT max FROM samples ORDER BY max") == [(0.5,), (2.0**64,)]
