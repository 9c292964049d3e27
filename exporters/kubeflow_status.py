"""The state of a run that reports by Kubeflow's protocol, and what is published of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.kubeflow_attempt import Attempt
from exporters.progress import StepWindow
from exporters.recordings import LIFECYCLE_AFTER_END_SECONDS
from exporters.runs import OVER, RUN_STATES, Acknowledgement, RankStatus, RunStatus, State, acknowledged

GIVEN_UP_SECONDS = LIFECYCLE_AFTER_END_SECONDS
GIVEN_UP = "no word for 25 hours"
INFO = {"told_by": "kubeflow"}


def run_status(
    attempt: Attempt,
    window: StepWindow,
    *,
    now: float,
    is_stalled: bool,
    acknowledgement: Acknowledgement | None = None,
) -> RunStatus:
    """The run at `now`, in unix seconds; `window` has its reported steps."""
    state: State = "stalled" if is_stalled else "running"
    ended_at, reason = attempt.ended_at, attempt.reason
    if ended_at is not None:
        state = "finished"
    elif now - attempt.told_at > GIVEN_UP_SECONDS:
        state, ended_at, reason = "killed", round(attempt.told_at, 3), GIVEN_UP
    if acknowledgement is not None and ended_at is None:
        if acknowledgement.at < attempt.told_at:
            acknowledgement = None  # it has reported since
        else:
            state, ended_at = "aborted", round(attempt.told_at, 3)
    ratio, expected = attempt.progress_ratio, attempt.steps_expected
    if expected:
        ratio = min(1.0, attempt.step / expected)
    eta, eta_range = None, None
    if state not in OVER:
        eta = _eta_seconds(attempt, window, now)
        eta_range = window.seconds_left_range(expected or 0, int(now * 1e9))
    least, most = eta_range or (None, None)
    rank = RankStatus(
        rank=0,
        node="",
        pid=0,
        state=state,
        attempt=attempt.number_of_all,
        phase="init" if attempt.step_at is None and not ratio else "other",
        phase_since=attempt.started_at,
        started_at=attempt.started_at,
        ended_at=ended_at,
        last_step_at=round(attempt.step_at or attempt.started_at, 3),
        last_progress_at=round(attempt.told_at, 3),
        silent_seconds=max(0.0, now - attempt.told_at) if state not in OVER else 0.0,
        reason=reason,
    )
    status = RunStatus(
        run=attempt.run,
        state=state,
        reason=reason,
        attempt=attempt.number_of_all,
        started_at=attempt.started_at,
        ended_at=ended_at,
        step=attempt.step,
        steps_expected=expected,
        resumed_from_step=None,
        epoch=attempt.epoch,
        epochs_expected=None,
        progress_ratio=ratio,
        eta_seconds=eta,
        tokens_per_second=None,
        loss=attempt.logged.get("loss"),
        perplexity=None,
        validation_loss=attempt.logged.get("validation_loss"),
        validation_loss_best=attempt.validation_loss_best,
        validation_perplexity=None,
        world_size=1,
        info=dict(INFO),
        ranks=(rank,),
        first_silent_rank=0 if state == "stalled" else None,
        eta_least_seconds=least,
        eta_most_seconds=most,
    )
    return acknowledged(status, acknowledgement)


def _eta_seconds(attempt: Attempt, window: StepWindow, now: float) -> float | None:
    """At the pace of the reports, as for every other run; its own word while there are too few of them."""
    left = window.seconds_left(attempt.steps_expected or 0, int(now * 1e9))
    if left is None and attempt.eta_seconds is not None:
        left = max(0.0, attempt.eta_seconds - (now - attempt.told_at))
    return left


def samples(status: RunStatus, logged: Mapping[str, float]) -> Iterator[Sample]:
    """The series of a run; `logged` are its newest numbers by the names of LOGGED."""
    run = {"run": status.run}
    known: list[tuple[Metric, float | None]] = [
        (catalog.TRAINING_EPOCH_CURRENT, status.epoch),
        (catalog.TRAINING_STEP_CURRENT, status.step),
        (catalog.TRAINING_STEPS_EXPECTED, status.steps_expected),
        (catalog.TRAINING_PROGRESS_RATIO, status.progress_ratio),
        (catalog.TRAINING_ETA_SECONDS, status.eta_seconds),
        (catalog.TRAINING_LOSS, status.loss),
        (catalog.VALIDATION_LOSS, status.validation_loss),
        (catalog.VALIDATION_LOSS_BEST, status.validation_loss_best),
        (catalog.VALIDATION_ACCURACY, logged.get("validation_accuracy")),
        (catalog.TRAINING_GRADIENT_NORM, logged.get("gradient_norm")),
        (catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS, status.started_at),
        (catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS, status.ended_at),
        (catalog.TRAINING_RESTARTS_TOTAL, status.attempt - 1),
    ]
    for metric, value in known:
        if value is not None:
            yield Sample(metric, run, value)
    if "learning_rate" in logged:
        yield Sample(catalog.TRAINING_LEARNING_RATE, {**run, "group": "0"}, logged["learning_rate"])
    for state in RUN_STATES:
        yield Sample(catalog.TRAINING_RUN_STATE, {**run, "state": state}, float(state == status.state))
    yield Sample(catalog.TRAINING_RUN_INFO, {**run, **status.info, "attempt": str(status.attempt)}, 1)
    of_rank = {**run, "rank": "0"}
    (rank,) = status.ranks
    yield Sample(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS, of_rank, rank.last_step_at)
    yield Sample(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS, of_rank, rank.last_progress_at)
