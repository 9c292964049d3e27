from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from exporters import catalog
from exporters.api.models import Alert, Curve, Event, Run
from tests.trainvitals.test_run_table import NOW, a_run
from trainvitals import report_findings as findings
from trainvitals.report_data import RunData
from trainvitals.wording import UNKNOWN


def a_curve(name: str, means: Sequence[float | None], **points: Sequence[float]) -> Curve:
    count = len(means)
    columns: dict[str, Any] = {
        "time": [NOW - 3600 + 10 * index for index in range(count)],
        "step": list(range(1, count + 1)),
        "tokens": [100 * (index + 1) for index in range(count)],
        "attempt": [1] * count,
        **dict.fromkeys(("mean", "min", "max"), means),
        **points,
    }
    return Curve.model_validate(
        {"name": name, "unit": "", "labels": {"rank": "0"}, "resolution_seconds": 0, "points": columns}
    )


def an_event(
    kind: str, at: float, *, rank: int | None = 0, step: int | None = None, attempt: int = 1, **fields: Any
) -> Event:
    return Event.model_validate(
        {"id": 1, "run": "a-run", "at": at, "kind": kind, "rank": rank, "attempt": attempt, "step": step}
        | {"fields": fields}
    )


def data(
    *,
    series: Sequence[Curve] = (),
    events: Sequence[Event] = (),
    alerts: Sequence[Alert] = (),
    counted: dict[str, float] | None = None,
    **run: Any,
) -> RunData:
    return RunData(
        run=Run.model_validate(a_run(**{"ranks": [], "ended_at": NOW, "state": "finished", **run})),
        series=list(series),
        events=list(events),
        alerts=list(alerts),
        gpus=[],
        counted=counted or {},
        now=NOW,
    )


def texts(known: RunData) -> list[str]:
    return [each.text for each in findings.incidents(known)]


def test_the_summary_has_the_first_the_best_and_the_last() -> None:
    known = data(
        series=[
            a_curve("loss", [4.0, 2.0, 2.5]),
            a_curve("perplexity", [50.0, 8.0, 12.0]),
            a_curve("tokens_per_second", [None, 10.0, 30.0]),
            a_curve("validation_accuracy", [0.5, 0.75]),
        ],
        loss=2.4,
        perplexity=11.0,
        validation_loss=2.25,
        validation_loss_best=2.125,
    )

    assert [tuple(each) for each in findings.figures(known)] == [
        ("Steps", "500", "of 2,000, 25 %"),
        ("Time", "1 h", ""),
        ("Tokens", "300", "20 a second on average"),
        ("Loss", "2.4", "from 4, at best 2"),
        ("Perplexity", "11", "at best 8"),
        ("Validation loss", "2.25", "at best 2.125, accuracy 0.75"),
        ("Attempts", "1", "never restarted"),
    ]


def test_what_is_unknown_is_not_in_the_summary() -> None:
    names = [
        each.name for each in findings.figures(data(steps_expected=None, progress_ratio=None, loss=None))
    ]

    assert names == ["Steps", "Time", "Attempts"]


def test_shares_of_time_count_each_point_for_its_time_and_none_between_attempts() -> None:
    times = [NOW, NOW + 10, NOW + 40, NOW + 5000, NOW + 5010]
    attempts = [1, 1, 1, 2, 2]
    known = data(
        series=[
            a_curve("phase_forward_ratio", [0.9, 0.8, 0.4, 0.9, 0.4], time=times, attempt=attempts),
            a_curve("phase_data_ratio", [0.1, 0.2, 0.6, 0.1, 0.6], time=times, attempt=attempts),
            a_curve("phase_other_ratio", [0.0] * 5, time=times, attempt=attempts),
        ]
    )

    shares = dict(findings.phase_shares(known))
    assert shares == pytest.approx({"data": 0.52, "forward": 0.48})
    assert list(shares) == ["data", "forward"]


def test_the_cost_of_telemetry_is_a_share_of_the_age() -> None:
    counted = {catalog.HOOK_SECONDS_TOTAL.name: 3.6, catalog.HOOK_ERRORS_TOTAL.name: 2.0}

    assert [tuple(each) for each in findings.cost(data(counted=counted))] == [
        ("Time in the hook", "0.1 %", "7.2 ms a step"),
        ("Hook, in all", "4 s", ""),
        ("Its own faults", "2", ""),
    ]
    assert findings.cost(data()) == []


def test_a_run_without_trouble_has_no_incidents() -> None:
    events = [
        an_event("state", NOW, before=None, state="running", reason=None),
        an_event("checkpoint", NOW, seconds=1.0),
        an_event("evaluation", NOW, loss=2.0),
        an_event("state", NOW, before="running", state="finished", reason="completed"),
    ]

    assert findings.incidents(data(events=events)) == []


def test_states_are_told_in_sentences() -> None:
    events = [
        an_event("state", NOW, before=None, state="running", reason=None),
        an_event("state", NOW + 1, before="running", state="stalled", reason=None),
        an_event("state", NOW + 2, before="stalled", state="running", reason=None),
        an_event("state", NOW + 3, before="running", state="killed", reason="out_of_memory"),
        an_event("state", NOW + 4, before="killed", state="running", reason=None),
        an_event("state", NOW + 5, before="running", state="finished", reason="early_stopping"),
    ]

    assert texts(data(events=events)) == [
        "It made no progress any more, and was held to be stalled.",
        "It went on.",
        "It was killed: out_of_memory.",
        "It was started again, after it was killed.",
        "It finished early: early_stopping.",
    ]


def test_the_same_exception_of_many_ranks_is_one_and_the_cause_comes_before_the_end() -> None:
    what: dict[str, Any] = {"type": "ValueError", "place": "train.py:7 in step"}
    events = [
        an_event("state", NOW, before="running", state="failed", reason="ValueError"),
        *(an_event("exception", NOW + 0.1, rank=rank, step=5, **what) for rank in range(10)),
        an_event("exception", NOW + 300, rank=0, step=9, **what),
        an_event("oom", NOW + 400, rank=1, step=12, type="OutOfMemoryError"),
        an_event("exception", NOW + 500, rank=0, type="KeyError", place="x.py:1 in f", message="'a'"),
    ]

    assert texts(data(events=events)) == [
        "ValueError at train.py:7 in step on ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more, at step 5.",
        "It failed: ValueError.",
        "ValueError at train.py:7 in step on rank 0, at step 9.",
        "Out of memory (OutOfMemoryError) on rank 1, at step 12.",
        "KeyError at x.py:1 in f on rank 0: \"'a'\".",
    ]


def test_work_that_was_lost_is_counted_from_the_step_that_was_taken_up() -> None:
    events = [
        an_event("checkpoint", NOW, step=400),
        an_event("evaluation", NOW + 1, step=480, loss=1.0),
        an_event("resume", NOW + 2, step=400, attempt=2),
        an_event("resume", NOW + 2, rank=1, step=400, attempt=2),
    ]

    assert texts(data(events=events)) == ["It was resumed from step 400. 80 steps had to be made again."]


def test_the_steps_of_a_curve_are_lost_work_too_each_attempt_for_itself() -> None:
    loss = a_curve("loss", [4.0] * 6, step=[500, 990, 700, 700, 701, 702], attempt=[1, 1, 2, 2, 3, 3])
    events = [
        an_event("resume", NOW, step=900, attempt=2),
        an_event("resume", NOW + 1, step=600, attempt=3),
        an_event("resume", NOW + 2, step=702, attempt=4),
        an_event("resume", NOW + 3, step=702, attempt=5),
    ]
    known = data(series=[loss], events=events[1:])
    assert texts(known) == [
        "It was resumed from step 600. 100 steps had to be made again.",
        *["It was resumed from step 702."] * 2,
    ]
    assert texts(data(series=[loss], events=events[:1])) == [
        "It was resumed from step 900. 90 steps had to be made again."
    ]


def test_checkpoints_alerts_and_counts_have_their_sentences() -> None:
    alert = {
        "fingerprint": "f",
        "status": "resolved",
        "labels": {"alertname": "TrainingStalled"},
        "annotations": {"summary": "Run a-run has stopped."},
        "starts_at": NOW + 3,
        "ends_at": NOW + 723,
        "received_at": NOW,
        "notifications": 1,
        "generator_url": "",
    }
    events = [
        an_event("checkpoint_failed", NOW, step=100, seconds=1.0, type="PermissionError"),
        an_event("evaluation", NOW + 1, step=120, tokens=0),  # which may have had no loss to tell
    ]
    counted = {catalog.TRAINING_NONFINITE_TOTAL.name: 3.0}

    assert texts(
        data(events=events, alerts=[Alert.model_validate(alert)], counted=counted, ended_at=NOW + 2)
    ) == [
        "A checkpoint could not be written, at step 100: PermissionError.",
        "Up to here 3 losses or gradients were not finite.",
        "Alert TrainingStalled fired: Run a-run has stopped; resolved after 12 min.",
    ]


def test_runs_are_compared_in_what_they_came_to_and_where_they_differ() -> None:
    one = data(series=[a_curve("loss", [4.0, 2.0])], info={"model": "gpt2", "precision": "bf16"}, loss=2.5)
    two = data(series=[a_curve("loss", [4.0, 3.0])], info={"model": "gpt2"}, state="killed", reason="SIGKILL")

    rows = {row[0]: row[1:] for row in findings.comparison([one, two])}
    assert rows["State"] == ["finished", "killed, SIGKILL"]
    assert rows["Last loss"] == ["2.5", "2.346"]
    assert rows["Least loss"] == ["2", "3"]
    assert rows["precision"] == ["bf16", UNKNOWN]
    assert "model" not in rows
    assert "Least validation loss" not in rows
