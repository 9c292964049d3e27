"""What the reports of a training come to that speaks Kubeflow's status protocol.

Source: `KubeflowCallback` of transformers 5. It reports 0 % and the expected steps when a training begins, at
the ends of steps the step and what was logged last, at most every five seconds, and 100 % when it has ended
well: then it is held to have made all its steps, for it does not say whether it stopped early. What it logs
comes behind the step's own report, so a logged number is a report late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

# What is taken of the logged numbers, by the names that `trainer_hooks.names` gives them.
OF_STEPS = ("loss", "learning_rate", "gradient_norm")
OF_EVALUATIONS = ("validation_loss", "validation_accuracy")
LOGGED = (*OF_STEPS, *OF_EVALUATIONS, "epoch")

COMPLETED = "completed"
_LONGEST_SECONDS = 90 * 86_400.0
_SHORTEST_SECONDS = 1e-3

_T = TypeVar("_T")


@dataclass(frozen=True)
class Report:
    """One report. `at` is when it came, `said_at` the sender's own word for that, which tells a repeated one.

    `logged` has finite numbers under the names of LOGGED.
    """

    at: float
    said_at: str = ""
    progress_ratio: float | None = None
    eta_seconds: float | None = None
    step: int | None = None
    steps_expected: int | None = None
    epoch: float | None = None
    logged: Mapping[str, float] = field(default_factory=dict)

    @property
    def begins(self) -> bool:
        """Whether this is what a training says before its first step, and then only."""
        return self.progress_ratio == 0 and self.step is None and self.steps_expected is not None

    @property
    def ends(self) -> bool:
        return self.progress_ratio == 1


@dataclass(frozen=True)
class Attempt:
    """One training as far as it has reported. Times are unix seconds; `earlier` attempts are known otherwise.

    `step_at` is when the newest step was reported; None while none was.
    """

    run: str
    number: int
    started_at: float
    told_at: float
    earlier: int = 0
    said_at: str = ""
    ended_at: float | None = None
    reason: str | None = None
    progress_ratio: float | None = None
    eta_seconds: float | None = None
    step: int = 0
    step_at: float | None = None
    steps_expected: int | None = None
    epoch: float | None = None
    logged: Mapping[str, float] = field(default_factory=dict)
    validation_loss_best: float | None = None

    @property
    def number_of_all(self) -> int:
        return self.earlier + self.number


class Step(NamedTuple):
    """A report as a step: `seconds` is the mean of the steps since the one before. NaN is unknown."""

    at: float
    step: int
    seconds: float
    loss: float
    learning_rate: float
    gradient_norm: float


class Event(NamedTuple):
    at: float
    kind: str
    step: int
    fields: Mapping[str, str | float]


class Change(NamedTuple):
    """What a report brought: the attempt as it is since then, a step, and rare things."""

    attempt: Attempt
    step: Step | None = None
    events: tuple[Event, ...] = ()


def change_by(report: Report, run: str, before: Attempt | None) -> Change | None:
    """What the next report of a run brings; None where it was heard before."""
    if before is not None:
        if report.said_at and report.said_at == before.said_at:
            return None
        report = replace(report, at=max(report.at, before.told_at + _SHORTEST_SECONDS))
    if before is None or _is_of_another(before, report):
        began = _began(run, before, report)
        more = _continued(began, report)
        start = Event(began.started_at, "start", 0, {"told_by": "kubeflow"})
        return more._replace(events=(start, *more.events))
    if before.ended_at is not None:
        return None  # its end, said once more
    return _continued(before, report)


def _is_of_another(before: Attempt, report: Report) -> bool:
    """Whether another attempt reports: a step counter goes back only when a training starts again."""
    if report.begins or (report.step is not None and report.step < before.step):
        return True
    return before.ended_at is not None and not report.ends


def _began(run: str, before: Attempt | None, report: Report) -> Attempt:
    started_at = report.at if before is not None else report.at - _elapsed_seconds(report)
    return Attempt(
        run,
        number=1 if before is None else before.number + 1,
        earlier=0 if before is None else before.earlier,
        started_at=round(started_at, 3),
        told_at=report.at,
    )


def _elapsed_seconds(report: Report) -> float:
    """The age of a training whose beginning nobody heard: it reckons its ETA by that; 0 is unknown."""
    step, expected, eta = report.step, report.steps_expected, report.eta_seconds
    if not step or expected is None or eta is None or expected <= step:
        return 0.0
    return min(_LONGEST_SECONDS, eta * step / (expected - step))


def _continued(before: Attempt, report: Report) -> Change:
    """What a report of this attempt itself brings."""
    logged = {**before.logged, **report.logged}
    loss = logged.get("validation_loss")
    best = before.validation_loss_best
    attempt = replace(
        before,
        told_at=report.at,
        said_at=report.said_at,
        progress_ratio=_newer(report.progress_ratio, before.progress_ratio),
        eta_seconds=report.eta_seconds,
        step=_newer(report.step, before.step),
        steps_expected=_newer(report.steps_expected, before.steps_expected),
        epoch=_newer(report.epoch, before.epoch),
        logged=logged,
        validation_loss_best=best if loss is None else min(loss, math.inf if best is None else best),
    )
    if report.ends:
        attempt = replace(
            attempt,
            ended_at=round(report.at, 3),
            reason=COMPLETED,
            step=max(attempt.step, attempt.steps_expected or 0),
            eta_seconds=None,
        )
    events = []
    evaluation = {name: logged[name] for name in OF_EVALUATIONS if name in report.logged}
    if evaluation and any(before.logged.get(name) != value for name, value in evaluation.items()):
        fields = {name.removeprefix("validation_"): value for name, value in evaluation.items()}
        events.append(Event(report.at, "evaluation", attempt.step, fields))
    if attempt.ended_at is not None and attempt.reason is not None:
        events.append(Event(attempt.ended_at, "finish", attempt.step, {"reason": attempt.reason}))
    step = _step(before, attempt, report)
    if attempt.step > before.step or (before.step_at is None and report.step is not None):
        attempt = replace(attempt, step_at=report.at)
    return Change(attempt, step, tuple(events))


def _step(before: Attempt, attempt: Attempt, report: Report) -> Step | None:
    """The report as a step, where it tells of a newer one or of numbers not yet heard.

    A logged number is repeated until the next is logged: only once is it a point of a curve.
    """
    names = (*OF_STEPS, "epoch")
    of_now = [attempt.logged.get(name) for name in names]
    is_fresh = of_now != [before.logged.get(name) for name in names]
    has_values = is_fresh and any(name in report.logged for name in OF_STEPS)
    steps = attempt.step - before.step
    if steps <= 0 and not has_values:
        return None
    seconds = math.nan
    if steps > 0 and before.step_at is not None:
        seconds = (report.at - before.step_at) / steps
    values = [attempt.logged.get(name, math.nan) if has_values else math.nan for name in OF_STEPS]
    return Step(report.at, attempt.step, seconds, *values)


def _newer(value: _T | None, before: _T) -> _T:
    return before if value is None else value
