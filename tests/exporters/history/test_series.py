from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest

from exporters.history import series
from exporters.history import steps as step_rows
from exporters.history.bins import Axis
from exporters.history.database import Database
from exporters.history.retention import Retention, keep
from exporters.history.series import Points, Series
from exporters.history.writer import HistoryCollector
from tests.exporters.history.written import SECOND, read_all, recorder, rows, steps, write
from trainer_hooks.recording import FINISHED, Recorder, StepRecord


def curves(database: Database, *names: str, **options: object) -> dict[str, Series]:
    with database.read() as connection:
        found = series.of_steps(connection, "a-run", names, **options)  # type: ignore[arg-type]
    return {each.name: each for each in found}


def curve(database: Database, name: str, **options: object) -> Points:
    return curves(database, name, **options)[name].points


def losses(count: int) -> list[float]:
    chance = random.Random(0)
    return [chance.uniform(1, 3) for _ in range(count)]


def trained(
    directory: Path, collector: HistoryCollector, values: list[float], **options: object
) -> tuple[Recorder, list[StepRecord]]:
    training = recorder(directory, **options)  # type: ignore[arg-type]
    records = steps(training, values)
    write(training, records)
    read_all(collector)
    return training, records


def test_a_short_run_has_a_point_for_each_step(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training, _ = trained(directory, collector, [3.0, math.nan, 1.0])

    points = curve(database, "loss")

    assert points.mean == points.min == points.max == [3.0, 1.0]
    assert points.step == [1, 3]
    assert points.tokens == [100, 300]
    start = training.static.start_wall_ns / 1e9
    assert points.time == pytest.approx([start + 1, start + 3], abs=0.002)


def test_steps_that_are_in_no_bucket_yet_were_looked_at_one_by_one(
    directory: Path, database: Database
) -> None:
    training = recorder(directory)
    write(training, steps(training, losses(300), seconds=0.01))
    read_all(HistoryCollector([directory], database, buckets_every_seconds=math.inf))

    (found,) = curves(database, "loss", most_points=20).values()

    assert found.resolution_seconds == 0
    assert 10 <= len(found.points.mean) <= 21


def test_steps_since_the_last_bucket_were_looked_at_one_by_one(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training = recorder(directory)
    records = steps(training, losses(1000), seconds=0.05)
    write(training, records[:600])
    read_all(collector)
    write(training, records[600:])
    read_all(HistoryCollector([directory], database, buckets_every_seconds=math.inf))
    since = training.static.start_wall_ns / 1e9 + 600 * 0.05

    (found,) = curves(database, "loss", most_points=1, between=(since + 0.02, since + 1e6)).values()

    assert found.resolution_seconds == 0
    assert found.points.step[-1] == 1000


def test_many_steps_are_few_points_and_no_spike_is_lost(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    values = losses(3000)
    values[1234], values[2345] = 99.0, 0.01
    trained(directory, collector, values)

    points = curve(database, "loss", most_points=100)

    assert 90 <= len(points.mean) <= 101
    assert (max(points.max), min(points.min)) == (99.0, 0.01)
    assert all(
        low <= mean <= high for low, mean, high in zip(points.min, points.mean, points.max, strict=True)
    )


@pytest.mark.parametrize("most_points", [10, 60, 500])
def test_means_of_buckets_are_those_of_their_steps(
    directory: Path, database: Database, collector: HistoryCollector, most_points: int
) -> None:
    """Whatever the resolution: weighted by how many steps a point holds they add up."""
    values = losses(4000)
    _, records = trained(directory, collector, values, age_seconds=4000)
    points = curve(database, "loss", most_points=most_points)

    ends = {record.step: index for index, record in enumerate(records, 1)}
    expected, first = [], 0
    for step in points.step:
        part = values[first : ends[step]]
        expected.append(sum(part) / len(part))
        first = ends[step]

    assert points.mean == pytest.approx(expected)
    assert first == 4000


def test_buckets_made_as_the_steps_came_are_those_made_at_once(
    directory: Path, database: Database, tmp_path: Path
) -> None:
    training = recorder(directory)
    records = steps(training, losses(700))
    live = HistoryCollector([directory], database, buckets_every_seconds=0)
    for first in range(0, 700, 13):
        write(training, records[first : first + 13])
        list(live.collect())
    late = Database(tmp_path / "late.db")
    at_once = HistoryCollector([directory], late)
    list(at_once.collect())

    query = "SELECT * FROM buckets ORDER BY width_seconds, bucket"
    assert rows(database, query) == [pytest.approx(each) for each in rows(late, query)]
    assert len(rows(late, query)) > 70
    for each in (live, at_once):
        each.close()
    late.close()


def test_what_is_not_bucketed_yet_is_in_the_curve(directory: Path, database: Database) -> None:
    training = recorder(directory)
    records = steps(training, losses(3000))
    write(training, records[:2500])
    collector = HistoryCollector([directory], database)
    read_all(collector)
    write(training, records[2500:])
    list(collector.collect())
    collector.close()

    points = curve(database, "loss", most_points=50)

    assert curves(database, "loss", most_points=50)["loss"].resolution_seconds == 10
    assert points.step[-1] == 3000


def test_rates_and_shares_come_of_running_totals_and_are_exact(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    trained(directory, collector, [math.log(5)] * 3000)

    found = curves(
        database, "tokens_per_second", "phase_forward_ratio", "phase_data_ratio", "perplexity", most_points=20
    )

    assert found["tokens_per_second"].points.mean == pytest.approx(
        [100] * len(found["tokens_per_second"].points.mean)
    )
    for name, value in (("phase_forward_ratio", 0.75), ("phase_data_ratio", 0.25), ("perplexity", 5)):
        means = found[name].points.mean
        assert len(means) >= 20
        assert means == pytest.approx([value] * len(means), abs=0.01)


def test_a_part_of_a_run_is_read_alone_and_finer(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    training, _ = trained(directory, collector, [2.0] * 3000)
    start = training.static.start_wall_ns / 1e9
    between = (start + 1000.5, start + 1020.5)

    found = curves(database, "loss", "tokens_per_second", "perplexity", between=between, most_points=50)

    assert found["loss"].points.step == list(range(1001, 1021))
    assert found["loss"].resolution_seconds == 0
    assert found["tokens_per_second"].points.mean == pytest.approx([100] * 20)
    assert found["perplexity"].points.mean == pytest.approx([math.exp(2)] * 20)


def test_a_run_that_resumed_is_told_whole_over_time_and_once_along_steps(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    first = recorder(directory, age_seconds=100)
    write(first, steps(first, [3.0] * 10))
    first.close(FINISHED, first.static.start_monotonic_ns + 1)
    second = recorder(directory, age_seconds=50)
    second.event({"event": "resume", "time_ns": second.static.start_monotonic_ns, "step": 6})
    write(second, steps(second, [1.0] * 5, first=7))
    read_all(collector)

    over_time = curve(database, "loss")
    along_steps = curve(database, "loss", axis="step")
    along_tokens = curve(database, "loss", axis="tokens")

    assert over_time.step == [*range(1, 11), *range(7, 12)]
    assert over_time.attempt == [1] * 10 + [2] * 5
    assert along_steps.step == list(range(1, 12))
    assert along_steps.mean == [3.0] * 6 + [1.0] * 5
    assert along_tokens.tokens == [100 * step for step in range(1, 12)]


def test_ranks_are_summed_and_their_losses_pooled(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    for rank, loss in ((0, 1.0), (1, 3.0)):
        training = recorder(directory, rank=rank, age_seconds=1000)
        write(training, steps(training, [loss] * 1000))
    read_all(collector)

    found = curves(database, "loss", "tokens_per_second", "perplexity", most_points=100)

    assert found["loss"].points.mean[-1] == 1.0
    assert found["loss"].labels == {"rank": "0"}
    rates = found["tokens_per_second"].points.mean[1:-1]
    assert len(rates) > 90
    assert rates == pytest.approx([200] * len(rates), rel=0.01)
    # The ranks began a moment apart: in the first and the last bucket there may be one of them only.
    pooled = found["perplexity"].points.mean[1:-1]
    assert len(pooled) > 90
    assert pooled == pytest.approx([math.exp(2)] * len(pooled), rel=0.15)
    assert curve(database, "loss", rank=1).mean[-1] == 3.0


def test_buckets_that_make_no_curve_are_not_read(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    """Of five minutes there are 30 of ten seconds, and more steps than are read of so many ranks."""
    for rank in range(4):
        training = recorder(directory, rank=rank, age_seconds=300)
        write(training, steps(training, [1.0] * 3000, seconds=0.1))
    read_all(collector)

    found = curves(database, "tokens_per_second", most_points=1000)["tokens_per_second"]

    assert len(found.points.mean) > 200
    assert found.points.mean[50:-50] == pytest.approx([4000] * (len(found.points.mean) - 100), rel=0.02)


def test_a_rank_that_ended_early_is_no_longer_summed(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    for rank, count in ((0, 1000), (1, 500)):
        training = recorder(directory, rank=rank, age_seconds=1000)
        write(training, steps(training, [1.0] * count))
    read_all(collector)

    rates = curve(database, "tokens_per_second", most_points=100).mean

    assert rates[20] == pytest.approx(200, rel=0.01)
    assert rates[-1] == pytest.approx(100, rel=0.01)


def test_a_long_run_is_thinned_with_age_and_its_curve_goes_back_to_its_start(
    directory: Path, database: Database, collector: HistoryCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = losses(12_000)
    values[5] = 77.0
    training, records = trained(directory, collector, values, age_seconds=12_000)

    database.wall = lambda: training.static.start_wall_ns / 1e9 + 12_000.5
    keep(database, Retention(steps=3600))

    assert rows(database, "SELECT count(*), max(step) FROM steps") == [(3600, 12_000)]
    points = curve(database, "loss", most_points=1000)
    assert max(points.max[:3]) == 77.0
    assert points.step[-1] == 12_000
    assert points.tokens[-1] == records[-1].tokens_all
    start = training.static.start_wall_ns / 1e9
    recent = curves(database, "loss", between=(start + 11_000, start + 12_000), most_points=1000)["loss"]
    assert recent.resolution_seconds == 0


def test_a_short_run_stays_whole_whatever_its_age(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    trained(directory, collector, [2.0] * 1500, age_seconds=1500)

    keep(database, Retention(steps=1, buckets=(1, 1, 1)))

    assert len(curve(database, "loss", most_points=2000).mean) == 1500


def test_no_more_than_so_many_steps_of_a_rank_are_kept(
    directory: Path, database: Database, collector: HistoryCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.history.retention.MOST_STEPS", 4000)
    trained(directory, collector, [2.0] * 5000, age_seconds=5000)

    keep(database)

    assert rows(database, "SELECT count(*), min(step) FROM steps") == [(4001, 1000)]


def test_an_unknown_run_has_no_curve(database: Database) -> None:
    assert curves(database, "loss") == {}


def test_widths_nest() -> None:
    for narrow, wide in zip(step_rows.WIDTHS_SECONDS, step_rows.WIDTHS_SECONDS[1:], strict=False):
        assert wide % narrow == 0


def attempt(
    directory: Path, collector: HistoryCollector, count: int, *, first: int = 1, ago: int, loss: float = 1.0
) -> None:
    """One that began some seconds ago, made so many steps of a second, and died."""
    made = recorder(directory, age_seconds=ago)
    write(made, steps(made, [loss] * count, first=first))
    made.disarm()
    read_all(collector)


def test_an_attempt_without_a_step_takes_nothing_up(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    """As one does that has just begun, or that dies before it has loaded its checkpoint."""
    attempt(directory, collector, 100, ago=1000)
    attempt(directory, collector, 0, ago=800)
    attempt(directory, collector, 50, first=101, ago=600)

    along_steps = curve(database, "loss", axis="step")

    assert along_steps.step == list(range(1, 151))
    assert along_steps.tokens[-1] == 15_000


def test_what_was_done_three_times_is_told_once(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    attempt(directory, collector, 100, ago=1000, loss=1.0)
    attempt(directory, collector, 20, first=81, ago=800, loss=2.0)
    attempt(directory, collector, 50, first=61, ago=600, loss=3.0)

    along_steps = curve(database, "loss", axis="step")

    assert along_steps.step == list(range(1, 111))
    assert along_steps.mean == [1.0] * 60 + [3.0] * 50
    assert along_steps.tokens[-1] == 11_000


def test_a_spike_where_the_next_attempt_took_up_is_kept(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    values = [1.0] * 6000
    values[-1] = 99.0
    made = recorder(directory, age_seconds=9000)
    write(made, steps(made, values))
    made.disarm()
    attempt(directory, collector, 100, first=6001, ago=2000)

    for most_points in (10, 50, 1000):
        assert max(curve(database, "loss", axis="step", most_points=most_points).max) == 99.0


def test_along_tokens_no_bin_swallows_its_neighbour(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    attempt(directory, collector, 105, ago=1000)
    attempt(directory, collector, 95, first=106, ago=600)

    tokens = curve(database, "loss", axis="tokens", most_points=20).tokens

    apart = [after - before for before, after in pairwise(tokens)]
    assert max(apart) <= 1100


def test_of_another_loss_there_is_no_perplexity(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    trained(directory, collector, [3.0] * 20)
    status = json.dumps({"info": {"loss_kind": "preference"}})
    with database.write() as connection:
        connection.execute("INSERT INTO runs VALUES ('a-run', 'running', 0, NULL, 0, ?)", (status,))

    assert "perplexity" not in curves(database, "loss", "perplexity")


def test_evaluations_have_their_place_on_every_axis(
    directory: Path, database: Database, collector: HistoryCollector
) -> None:
    first = recorder(directory, age_seconds=1000)
    write(first, steps(first, [1.0] * 100))
    for step in (50, 100):
        at_ns = first.static.start_monotonic_ns + step * SECOND
        first.event({"event": "evaluation", "time_ns": at_ns, "step": step, "loss": step / 100})
    first.disarm()
    read_all(collector)
    attempt(directory, collector, 50, first=81, ago=500)

    def evaluations(axis: Axis, rank: int | None = None) -> Points:
        with database.read() as connection:
            (found,) = series.of_evaluations(connection, "a-run", ["validation_loss"], axis=axis, rank=rank)
        return found.points

    assert evaluations("time").mean == [0.5, 1.0]
    assert (evaluations("step").mean, evaluations("step").step) == ([0.5], [50])
    assert evaluations("tokens").tokens == [5_000]
    assert evaluations("time", rank=3).mean == []
