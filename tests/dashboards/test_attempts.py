"""Runs of several attempts: one that went on on another node, and one that a GPU has killed.

The node on which an attempt has ended goes on telling for a while how it stood there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from alerts import lifecycle
from dashboards import links
from dashboards.events import ALERTS, ALERTS_FOR_STATE
from dashboards.queries import per_run
from exporters import catalog
from exporters.catalog import Metric
from tests.dashboards import promql, recorded_series
from tests.dashboards.generated import DASHBOARDS, panel_queries
from tests.dashboards.recorded_series import LENGTH_SECONDS, Course, RecordedSeries, constant
from tests.prometheus import PrometheusServer, Series

MOVED, KILLED = "moved", "killed"
ENDED_SECONDS = LENGTH_SECONDS - 600
WENT_ON_SECONDS = LENGTH_SECONDS - 480
DIED_SECONDS = LENGTH_SECONDS - 1800
JOB = {"job": "training-service"}
ONE, OTHER = {**JOB, "instance": "n1:8003"}, {**JOB, "instance": "n2:8003"}
LOST_GPU = {**ONE, "gpu": "3", "uuid": "GPU-3"}


def moved() -> Iterator[RecordedSeries]:
    """It came to step 5000 and took up at step 4000 again; both nodes tell of it at the end."""
    yield from _attempt(ONE, since=0, ended=ENDED_SECONDS, step=5000, loss=2.0, best=1.0)
    yield from _attempt(OTHER, since=WENT_ON_SECONDS, ended=None, step=4200, loss=1.5, best=0.9)


def _attempt(
    node: Mapping[str, str], since: int, ended: int | None, step: int, loss: float, best: float
) -> Iterator[RecordedSeries]:
    labels = {**node, "run": MOVED}
    rank = {**labels, "rank": "0"}

    def series(
        metric: Metric | str, labels: Mapping[str, str], course: Course, age: bool = False
    ) -> RecordedSeries:
        return RecordedSeries(str(metric), labels, course, age=age, since_seconds=since)

    def counts(a_second: float) -> Course:
        return lambda s: a_second * (min(s, ended or s) - since)

    known = {
        catalog.TRAINING_STEP_CURRENT: step,
        catalog.TRAINING_PROGRESS_RATIO: step / 10_000,
        catalog.TRAINING_LOSS: loss,
        catalog.VALIDATION_LOSS_BEST: best,
    }
    for metric, value in known.items():
        yield series(metric, labels, constant(value))
    yield series(
        catalog.TRAINING_RUN_INFO, {**labels, "attempt": "1", "model": node["instance"]}, constant(1)
    )
    # How long before each sample it was.
    yield series(catalog.WALLCLOCK_SECONDS, node, constant(0), age=True)
    yield series(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS, labels, lambda s: s - since, age=True)
    for moment in (
        catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS,
        catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS,
    ):
        yield series(moment, rank, lambda s: 2 + (s - ended if ended and s > ended else 0), age=True)
    if ended is None:
        yield series(catalog.TRAINING_PHASE_ACTIVE, {**rank, "phase": "forward"}, constant(1))
    yield series(catalog.TRAINING_STEPS_TOTAL, rank, counts(1))
    yield series(catalog.TRAINING_TOKENS_PROCESSED_TOTAL, {**rank, "kind": "all"}, counts(1000))
    yield series(catalog.TRAINING_PHASE_SECONDS_TOTAL, {**rank, "phase": "forward"}, counts(1))
    yield series(catalog.TRAINING_CHECKPOINTS_TOTAL, {**labels, "result": "ok"}, counts(0.01))
    yield series(lifecycle.ATTEMPT_STARTED, {"run": MOVED, "start": node["instance"]}, constant(1))


def killed() -> Iterator[RecordedSeries]:
    """Half an hour ago; its GPU's alert fires since, and another's does."""
    held = {**LOST_GPU, "run": KILLED, "rank": "0"}
    yield RecordedSeries(str(catalog.TRAINING_RUN_GPU_INFO), held, constant(1), until_seconds=DIED_SECONDS)
    for gpu in (LOST_GPU, {**ONE, "gpu": "4", "uuid": "GPU-4"}):
        labels = {**gpu, "alertname": "GPULost", "severity": "critical", "scope": "hardware"}
        yield RecordedSeries(ALERTS, {**labels, "alertstate": "firing"}, constant(1))
        yield RecordedSeries(ALERTS_FOR_STATE, labels, constant(1), age=True)


Ask = Callable[..., list[list[Series]]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """The series of each query of a panel at the end of the recording."""
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    end = time.time() // 60 * 60
    server.create_blocks(recorded_series.openmetrics([*moved(), *killed()], end))

    def ask(uid: str, title: str, run: str = MOVED) -> list[list[Series]]:
        choices = {
            "cluster": ".*",
            "job": ".+",
            "instance": ".+",
            "run": run,
            "__range": f"{LENGTH_SECONDS}s",
            "__interval": "60s",
            "__rate_interval": "60s",
        }
        queries = [one.expr for one in panel_queries(DASHBOARDS[uid]) if one.panel == title]
        return [server.query(promql.fill_in(expr, choices), at=end) for expr in queries]

    with server:
        yield ask


def value(series: list[Series]) -> float:
    ((*_, (_, newest)),) = (one.points for one in series)
    return newest


@pytest.mark.parametrize(
    ("title", "newest"),
    [("Steps", [4200]), ("Progress", [0.42]), ("Loss now", [1.5, 0.9])],
)
def test_a_run_stands_where_its_newest_attempt_does(ask: Ask, title: str, newest: list[float]) -> None:
    shown = ask(links.RUN, title)
    assert [value(series) for series in shown if series] == newest


def test_a_rank_that_has_moved_is_not_silent_where_it_was(ask: Ask) -> None:
    step, progress, _ = ask(links.RUN, "How long ago a rank made progress")
    assert value(step) == value(progress) == 2


def test_what_a_run_is_the_newest_attempt_tells(ask: Ask) -> None:
    ((one,),) = ask(links.RUN, "What it is")
    assert one.labels["model"] == OTHER["instance"]
    *_, facts = ask(links.COMPARE, "How they were made")
    assert [series.labels["model"] for series in facts] == [OTHER["instance"]]


def test_steps_that_were_made_before_are_no_curve_any_more(ask: Ask) -> None:
    steps, loss = ask(links.COMPARE, "Training loss by step")
    assert (value(steps), value(loss)) == (4200, 1.5)


def test_what_came_of_a_run_is_of_its_newest_attempt_and_what_it_took_of_all(ask: Ask) -> None:
    titles = ["Loss", "Best validation", "Steps", "Tokens", "Time", "Tokens / s"]
    _, *columns = ask(links.COMPARE, "What came of them")
    shown = dict(zip(titles, map(value, columns[: len(titles)]), strict=True))
    worked_seconds = ENDED_SECONDS + LENGTH_SECONDS - WENT_ON_SECONDS
    assert shown == {
        "Loss": 1.5,
        "Best validation": 0.9,
        "Steps": 4200,
        "Tokens": pytest.approx(1000 * worked_seconds, rel=0.01),
        "Time": pytest.approx(worked_seconds, rel=0.01),
        "Tokens / s": pytest.approx(1000, rel=0.01),
    }
    _, _, tokens_a_step, *_ = ask(links.COMPARE, "How they were made")
    assert value(tokens_a_step) == pytest.approx(1000)


def test_checkpoints_of_all_attempts_are_counted(ask: Ask) -> None:
    (written,) = ask(links.RUN, "Checkpoints written")
    assert value(written) == round(0.01 * (ENDED_SECONDS + LENGTH_SECONDS - WENT_ON_SECONDS))


def test_a_start_on_another_node_is_a_restart(ask: Ask) -> None:
    began, ended, restarts, _ = ask(links.RUN, "This attempt")
    assert (value(began), ended, value(restarts)) == (LENGTH_SECONDS - WENT_ON_SECONDS, [], 1)


def test_a_killed_run_shows_the_gpu_that_killed_it(ask: Ask) -> None:
    ((alert,),) = ask(links.RUN, "Its alerts", KILLED)
    assert (alert.labels["alertname"], alert.labels["where"]) == ("GPULost", "GPU 3")
    assert [value(series) for series in ask(links.RUN, "Alerts", KILLED)] == [1]


def test_of_ranks_nobody_is_asked_which_attempt_they_belong_to() -> None:
    with pytest.raises(ValueError, match="training_host_memory_bytes is of rank scope"):
        per_run.newest(catalog.TRAINING_HOST_MEMORY_BYTES)
