"""Runs that report by Kubeflow's status protocol."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import exporters.kubeflow
from exporters.catalog import CATALOG
from exporters.history import events
from exporters.history import runs as run_store
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.known import KnownRuns
from exporters.kubeflow import MOST_RUNS
from exporters.runs import Acknowledgement, RunStatus
from tests.exporters.history.written import full_disk
from tests.exporters.kubeflow import Clock, Service, at_step, begin, end, metrics
from tests.exporters.looks import by_series, value, values

HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services() -> Iterator[list[Service]]:
    """Those that are put in here are closed with the test."""
    opened: list[Service] = []
    yield opened
    for service in opened:
        service.close()


@pytest.fixture
def service(tmp_path: Path, clock: Clock, services: list[Service]) -> Service:
    services.append(service := Service(tmp_path, clock))
    return service


def trained(service: Service, run: str = "a-run") -> None:
    """Half of a training: steps 10, 30 and 50, told every ten seconds."""
    service.post(run, **begin())
    service.post(run, after_seconds=10, **at_step(10))
    service.post(run, after_seconds=10, **at_step(30, loss=3.0, learning_rate=0.1, grad_norm=1.5, epoch=0.5))
    service.post(run, after_seconds=10, **at_step(50, loss=2.5, learning_rate=0.1, grad_norm=1.25, epoch=0.9))
    service.look()


def kinds(service: Service, run: str = "a-run") -> list[str]:
    """Of the events, the oldest first; a change of state with the state."""
    found, _ = events.listed(service.database, run)
    return [
        f"state {each.fields['state']}" if each.kind == "state" else each.kind for each in reversed(found)
    ]


def test_a_training_has_progress_an_eta_and_what_it_logged(service: Service, clock: Clock) -> None:
    trained(service)

    run = service.run()
    assert (run.state, run.step, run.steps_expected, run.progress_ratio, run.epoch) == (
        *("running", 50, 100, 0.5, 1.0),
    )
    assert run.started_at == 1_000_000.0
    assert run.eta_seconds == 25.0  # two steps a second of late, not the 50 s of its own reckoning
    assert run.loss == 2.5
    assert service.curve("loss") == [(30, 3.0), (50, 2.5)]
    assert service.curve("learning_rate") == [(30, 0.1), (50, 0.1)]
    assert service.curve("gradient_norm") == [(30, 1.5), (50, 1.25)]
    assert service.curve("step_seconds") == [(30, 0.5), (50, 0.5)]
    assert run_store.one(service.database, "a-run") == run


def test_what_is_published_is_in_the_catalog_with_its_labels(service: Service) -> None:
    trained(service)
    service.post(after_seconds=5, **at_step(60, eval_loss=2.0, eval_accuracy=0.75))
    samples = service.look()

    for sample in samples:
        labels = CATALOG[sample.metric.name].labels
        assert set(sample.labels) == set(labels) or sample.metric.kind == "info"
    assert len(by_series(samples)) == len(samples)
    assert values(samples, "training_run_state", "state")["running"] == 1
    told = {
        "training_step_current": 60,
        "training_steps_expected": 100,
        "training_progress_ratio": 0.6,
        "training_epoch_current": 1.2,
        "training_loss": 2.5,
        "training_learning_rate": 0.1,
        "training_gradient_norm": 1.25,
        "validation_loss": 2.0,
        "validation_loss_best": 2.0,
        "validation_accuracy": 0.75,
        "training_restarts_total": 0,
        "training_run_start_timestamp_seconds": 1_000_000.0,
        "training_last_progress_timestamp_seconds": 1_000_035.0,
        "training_last_step_timestamp_seconds": 1_000_035.0,
    }
    assert {name: value(samples, name) for name in told} == told
    assert value(samples, "training_eta_seconds") == pytest.approx(20, abs=1)


def test_a_loss_that_is_told_again_is_one_point(service: Service) -> None:
    service.post(**begin())
    service.post(after_seconds=5, **at_step(5, loss=3.0, epoch=0.1))
    service.post(after_seconds=5, **at_step(10, loss=3.0, epoch=0.1))
    service.post(after_seconds=5, **at_step(15, loss=3.0, epoch=0.3))
    service.look()

    assert service.curve("loss") == [(5, 3.0), (15, 3.0)]
    assert [step for step, _ in service.curve("step_seconds")] == [10, 15]


def test_an_evaluation_is_an_event_once(service: Service) -> None:
    service.post(**begin())
    for step, loss in ((5, 2.0), (10, 2.0), (15, 1.5), (20, 1.75)):
        service.post(after_seconds=5, **at_step(step, eval_loss=loss, eval_accuracy=0.5))
    service.look()

    found, _ = events.listed(service.database, "a-run", kinds=["evaluation"])
    assert [(each.step, each.fields) for each in reversed(found)] == [
        (5, {"loss": 2.0, "accuracy": 0.5}),
        (15, {"loss": 1.5, "accuracy": 0.5}),
        (20, {"loss": 1.75, "accuracy": 0.5}),
    ]
    assert (service.run().validation_loss, service.run().validation_loss_best) == (1.75, 1.5)


def test_at_100_percent_it_is_finished_with_all_its_steps(service: Service) -> None:
    trained(service)
    service.post(after_seconds=20, **end(loss=2.25, train_loss=2.7, train_runtime=50))
    service.look()

    run = service.run()
    assert (run.state, run.reason, run.step, run.progress_ratio, run.eta_seconds) == (
        *("finished", "completed", 100, 1.0, None),
    )
    assert run.ended_at == 1_000_050.0
    assert service.curve("loss")[-1] == (100, 2.25)
    assert kinds(service) == ["start", "state running", "finish", "state finished"]
    assert value(service.look(), "training_run_end_timestamp_seconds") == 1_000_050.0

    service.post(after_seconds=5, **end())
    service.look()
    assert service.run() == run


def test_a_training_too_short_for_a_report_between_is_whole(service: Service) -> None:
    service.post(**begin(4))
    service.post(after_seconds=1, **end(loss=3.0, epoch=0.5))
    service.look(after_seconds=3)

    assert (service.run().state, service.run().step) == ("finished", 4)
    assert service.curve("loss") == [(4, 3.0)]


def test_without_a_word_it_is_stalled_and_at_last_given_up(service: Service) -> None:
    trained(service)
    service.look(after_seconds=1799)
    assert service.run().state == "running"

    samples = service.look(after_seconds=2)
    assert (service.run().state, service.run().first_silent_rank) == ("stalled", 0)
    assert values(samples, "training_run_state", "state")["stalled"] == 1
    service.look(after_seconds=24 * HOUR)
    assert service.run().state == "stalled"

    service.look(after_seconds=HOUR)
    run = service.run()
    assert (run.state, run.reason, run.ended_at) == ("killed", "no word for 25 hours", 1_000_030.0)
    assert not [sample for sample in service.look() if sample.metric.name.startswith("training_")]
    service.look(after_seconds=2 * HOUR)
    assert service.reports.runs == ()
    kept = run_store.one(service.database, "a-run")
    assert kept is not None
    assert kept.state == "killed"
    assert set(kinds(service)) == {"start", "state running", "state stalled", "state killed"}


def test_a_stalled_run_that_reports_again_runs(service: Service) -> None:
    trained(service)
    service.look(after_seconds=2000)
    service.post(after_seconds=1, **at_step(51))
    service.look()

    assert service.run().state == "running"
    assert service.run().attempt == 1


@pytest.mark.parametrize("first", [begin(), at_step(5)], ids=["its beginning", "a step further back"])
def test_a_training_that_starts_again_is_another_attempt(service: Service, first: dict[str, Any]) -> None:
    trained(service)
    service.post(after_seconds=600, **first)
    service.post(after_seconds=10, **at_step(20, loss=2.75, epoch=0.4))
    samples = service.look()

    run = service.run()
    assert (run.attempt, run.state, run.step, run.started_at) == (2, "running", 20, 1_000_630.0)
    assert value(samples, "training_restarts_total") == 1
    with service.database.read() as connection:
        rows = connection.execute("SELECT attempt FROM recordings ORDER BY attempt").fetchall()
    assert [attempt for (attempt,) in rows] == [1, 2]


def test_a_finished_run_that_reports_anew_is_another_attempt(service: Service) -> None:
    trained(service)
    service.post(after_seconds=5, **end())
    service.post(after_seconds=5, **at_step(100, steps=200))
    service.look()

    assert (service.run().attempt, service.run().state) == (2, "running")


def test_a_report_that_comes_twice_counts_once(service: Service) -> None:
    moment = "2026-01-02T03:04:05+00:00"
    service.post(**begin(), lastUpdatedTime=moment)
    service.post(**begin(), lastUpdatedTime=moment)
    service.look(after_seconds=3)

    assert service.run().attempt == 1
    assert kinds(service) == ["start", "state running"]


def test_of_a_training_that_was_under_way_the_start_is_reckoned_from_its_eta(service: Service) -> None:
    service.post(**{**at_step(25), "estimatedRemainingSeconds": 300})
    service.look(after_seconds=3)

    assert service.run().started_at == 1_000_000.0 - 100
    assert service.run().eta_seconds == 297


def test_after_kill_9_of_the_service_a_run_keeps_its_start_its_attempt_and_its_step(
    tmp_path: Path, clock: Clock, services: list[Service]
) -> None:
    services.append(before := Service(tmp_path, clock))
    trained(before)
    told = before.run()

    clock.now += 40 * 60  # longer than a run may be silent
    services.append(after := Service(tmp_path, clock))
    samples = after.look()

    assert value(samples, "training_step_current") == 50
    run = after.run()
    assert (run.state, run.started_at, run.attempt, run.step) == ("running", told.started_at, 1, 50)
    after.post(after_seconds=5, **at_step(80, loss=2.5, epoch=0.9, learning_rate=0.1, grad_norm=1.25))
    after.look()
    assert (after.run().attempt, after.run().step) == (1, 80)
    assert after.curve("loss") == [(30, 3.0), (50, 2.5)]
    assert kinds(after) == ["start", "state running"]


def test_a_restarted_service_that_hears_nothing_says_so_after_a_minute(
    tmp_path: Path, clock: Clock, services: list[Service]
) -> None:
    services.append(before := Service(tmp_path, clock))
    trained(before)
    clock.now += 40 * 60
    services.append(after := Service(tmp_path, clock))
    after.look(after_seconds=61)

    assert after.run().state == "stalled"


def test_a_run_that_was_stalled_stays_so_when_the_service_is_restarted(
    tmp_path: Path, clock: Clock, services: list[Service]
) -> None:
    services.append(before := Service(tmp_path, clock))
    trained(before)
    before.look(after_seconds=2000)
    assert before.run().state == "stalled"

    services.append(after := Service(tmp_path, clock))
    after.look()

    assert after.run().state == "stalled"
    assert kinds(after) == ["start", "state running", "state stalled"]


@pytest.mark.parametrize("held_back", [False, True], ids=["one that is shown", "one that is held back"])
def test_a_finish_that_was_reported_just_before_the_service_stops_is_kept(
    tmp_path: Path, clock: Clock, services: list[Service], held_back: bool
) -> None:
    services.append(before := Service(tmp_path, clock))
    if held_back:
        before.post(**begin())
    else:
        trained(before)
    before.post(after_seconds=1, **end(loss=2.25))
    before.writer.close()

    services.append(after := Service(tmp_path, clock))
    after.look(after_seconds=5)
    assert (after.run().state, after.run().attempt, after.run().step) == ("finished", 1, 100)
    assert after.curve("loss")[-1] == (100, 2.25)
    assert kinds(after)[-2:] == ["finish", "state finished"]


def test_a_database_that_fails_at_the_end_is_said_and_hinders_no_other_end(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.post(**begin())
    service.database.close()
    service.writer.close()

    assert "the last reports of runs could not be kept" in caplog.text


def test_where_a_run_has_a_recording_that_wins(tmp_path: Path, clock: Clock, services: list[Service]) -> None:
    recorded: list[RunStatus] = []
    services.append(service := Service(tmp_path, clock, recorded=lambda: recorded))
    service.post("mine", **begin())
    service.look(after_seconds=3)
    recorded.append(replace(service.run("mine"), run="a-run"))
    trained(service)

    assert [run.run for run in service.reports.runs] == ["mine"]
    assert {sample.labels["run"] for sample in service.look() if "run" in sample.labels} == {"mine"}
    assert run_store.one(service.database, "a-run") is None
    with service.database.read() as connection:
        assert connection.execute("SELECT run FROM kubeflow_runs").fetchall()[0][0] == "mine"
        assert connection.execute("SELECT count(*) FROM steps").fetchone()[0] == 0


def test_attempts_are_counted_on_from_those_of_recordings_that_are_gone(service: Service) -> None:
    with service.database.write() as connection:
        connection.execute(
            "INSERT INTO recordings (run, node, rank, attempt, boot_id, start_ns, wall_offset_seconds) "
            "VALUES ('a-run', 'here', 0, 3, 'boot', 0, 0)"
        )
    trained(service)

    assert service.run().attempt == 4
    service.post(after_seconds=100, **begin())
    service.look()
    assert service.run().attempt == 5


def test_a_stalled_run_that_a_person_took_note_of_is_aborted_until_it_reports(
    tmp_path: Path, clock: Clock, services: list[Service]
) -> None:
    known: list[Acknowledgement] = []
    services.append(
        service := Service(tmp_path, clock, acknowledgement=lambda run, attempt: next(iter(known), None))
    )
    trained(service)
    service.look(after_seconds=2000)
    known.append(Acknowledgement("on-call", clock.now))
    service.look(after_seconds=1)
    assert (service.run().state, service.run().acknowledged) == ("aborted", known[0])

    service.post(after_seconds=60, **at_step(51))
    service.look()
    assert (service.run().state, service.run().acknowledged) == ("running", None)


def test_a_stalled_run_that_reported_again_can_be_aborted_again(
    tmp_path: Path, clock: Clock, services: list[Service]
) -> None:
    acknowledgements: list[Acknowledgements] = []
    services.append(
        service := Service(
            *(tmp_path, clock),
            acknowledgement=lambda run, attempt: next(
                (each.of(run, attempt) for each in acknowledgements), None
            ),
        )
    )
    acknowledgements.append(Acknowledgements(service.database))
    known = KnownRuns(service.database, acknowledgements[0], [lambda: service.reports.runs])
    trained(service)
    for person, step in (("one", 51), ("two", 52)):
        service.look(after_seconds=2000)
        known.acknowledge(service.run(), person)
        service.look(after_seconds=1)
        run = service.run()
        assert (run.state, run.acknowledged and run.acknowledged.by) == ("aborted", person)
        service.post(after_seconds=60, **at_step(step))
        service.look()
        assert service.run().state == "running"


def test_while_the_disk_is_full_the_figures_go_on_and_nothing_is_lost(service: Service) -> None:
    trained(service)
    steps = iter(range(51, 10_000))
    failures = 0
    with full_disk(service.database.path):
        while failures < 3:
            step = next(steps)
            service.post(after_seconds=5, **at_step(step, 10_000, loss=float(step), epoch=step / 50))
            samples = list(service.reports.collect())
            assert value(samples, "training_step_current") == step
            try:
                list(service.writer.collect())
            except sqlite3.OperationalError:
                failures += 1
    service.look()

    assert [step for step, _ in service.curve("loss")] == [30, *range(50, step + 1)]


def test_reports_that_waited_too_long_to_be_written_are_counted_in_the_log(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters.kubeflow, "MOST_UNWRITTEN", 8)
    trained(service)
    for step in range(8 + 3):
        service.post(after_seconds=1, **at_step(51 + step, 10_000, loss=float(step), epoch=step / 50))
    with pytest.raises(sqlite3.OperationalError), service.reports.unwritten():
        raise sqlite3.OperationalError("disk full")
    assert "lost" not in caplog.text
    service.look()

    assert "3 reports of runs came while nothing could be written, and are lost" in caplog.text
    assert service.curve("loss")[2] == (51 + 3, 3.0)


@pytest.mark.parametrize(
    ("run", "status", "problem"),
    [
        (".hidden", {}, "no name of a run"),
        ("a b", {}, "no name of a run"),
        ("a" * 65, {}, "no name of a run"),
        ("a\n", {}, "no name of a run"),
        ('"}', {}, "no name of a run"),
        ("a-run", {"progressPercentage": 101}, "less than or equal to 100"),
        ("a-run", {"progressPercentage": -1}, "greater than or equal to 0"),
        ("a-run", {"progressPercentage": "much"}, "valid integer"),
        ("a-run", {"estimatedRemainingSeconds": 10**11}, "less than or equal to"),
        ("a-run", {"metrics": metrics(current_step="1e400")}, "current_step is no whole number"),
        ("a-run", {"metrics": metrics(total_steps="-1")}, "total_steps is no whole number"),
        ("a-run", {"metrics": metrics(total_steps="nan")}, "total_steps is no whole number"),
        ("a-run", {"metrics": metrics(loss="x" * 257)}, "at most 256 characters"),
        ("a-run", {"metrics": metrics(**{f"m{number}": 1 for number in range(1025)})}, "at most 1024 items"),
        ("a-run", {"metrics": {"loss": 1}}, "valid list"),
        ("a-run", {"lastUpdatedTime": "x" * 65}, "at most 64 characters"),
    ],
)
def test_what_is_no_status_is_refused_with_a_sentence(
    service: Service, run: str, status: dict[str, Any], problem: str
) -> None:
    answer = service.client.post(f"/api/v1/kubeflow/{quote(run, safe='')}", json={"trainerStatus": status})

    assert answer.status_code == 422
    assert problem in answer.text
    service.look(after_seconds=5)
    assert service.reports.runs == ()


def test_numbers_that_are_none_are_left_out(service: Service) -> None:
    odd: dict[str, Any] = {
        "loss": "nan",
        "eval_loss": "inf",
        "learning_rate": "much",
        "epoch": "-3",
        "grad_norm": "1e308",
    }
    assert service.post(**begin()) == 200
    odd |= {"{evil}\n": "1"}
    assert service.post(after_seconds=5, **at_step(5, **odd)) == 200
    service.post(after_seconds=5, **end(epoch="-1e300"))
    samples = service.look()

    assert service.run().loss is None
    assert value(samples, "training_gradient_norm") == 1e308
    assert {label for sample in samples for label in sample.labels} <= {
        *("run", "rank", "state", "told_by", "attempt", "group"),
    }


def test_the_runs_that_are_followed_are_bounded_and_the_oldest_that_ended_gives_way(
    service: Service, clock: Clock
) -> None:
    for number in range(MOST_RUNS - 1):
        assert service.post(f"run-{number}", after_seconds=1, **begin()) == 200
    service.post("ended", **begin())
    service.post("ended", after_seconds=1, **end())

    assert service.post("one-more", after_seconds=1, **begin()) == 200
    assert service.post("too-many", after_seconds=1, **begin()) == 503
    service.look(after_seconds=3)
    runs = {run.run for run in service.reports.runs}
    assert len(runs) == MOST_RUNS
    assert "ended" not in runs
    clock.now += 2000
    assert service.post("too-many", **begin()) == 200, "one that is silent for long gives way"
