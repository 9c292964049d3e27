"""Kubeflow's status protocol: a training that has nothing of ours in it posts how far it is.

transformers 5 speaks it wherever KUBEFLOW_TRAINER_SERVER_URL names a service, and
KUBEFLOW_TRAINER_SERVER_TOKEN the file of a token: `/api/v1/kubeflow/my-run` of this one makes it `my-run`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from exporters.kubeflow import KubeflowCollector, TooManyRunsError
from exporters.kubeflow_attempt import LOGGED, Report
from trainer_hooks.names import Names
from trainer_hooks.recording import NAME_PATTERN

MOST_METRICS = 1024
LONGEST_TEXT = 256
MOST_SECONDS = 10**10
MOST_STEPS = 10**15
MOST_EPOCHS = 1e9
_STEP, _STEPS_EXPECTED, _EPOCH = "current_step", "total_steps", "current_epoch"
_OF_A_SUMMARY = "train_runtime"  # at the end transformers logs the mean of all losses as `train_loss`


def _named(run: str) -> str:
    if not NAME_PATTERN.fullmatch(run):
        raise ValueError(
            "no name of a run: that is a letter or digit, then up to 63 letters, digits, dots, dashes or "
            "underscores"
        )
    return run


RunName = Annotated[
    str,
    AfterValidator(_named),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$", "example": "tiny-gpt2"}),
]


class _FromKubeflow(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", coerce_numbers_to_str=True
    )


class Metric(_FromKubeflow):
    """A number that was logged, as text."""

    name: str = Field(min_length=1, max_length=LONGEST_TEXT, examples=["loss"])
    value: str = Field(max_length=LONGEST_TEXT, examples=["2.5"])


def _countable(metrics: list[Metric]) -> list[Metric]:
    for metric in metrics:
        if metric.name in (_STEP, _STEPS_EXPECTED) and _whole(metric.value) is None:
            raise ValueError(f"{metric.name} is no whole number from 0 to {MOST_STEPS}")
    return metrics


class TrainerStatus(_FromKubeflow):
    """How far a training is; a number that is left out is unknown."""

    progress_percentage: int | None = Field(default=None, ge=0, le=100)
    estimated_remaining_seconds: int | None = Field(default=None, ge=0, le=MOST_SECONDS)
    metrics: Annotated[list[Metric], AfterValidator(_countable)] = Field(
        default_factory=list, max_length=MOST_METRICS
    )
    last_updated_time: str = Field(default="", max_length=64)


class Update(_FromKubeflow):
    trainer_status: TrainerStatus


class Heard(BaseModel):
    run: str


def routes(reports: KubeflowCollector, *, wall: Callable[[], float] = time.time) -> APIRouter:
    router = APIRouter(tags=["kubeflow"])

    # Not in a thread: it waits for nothing, and the training waits for it.
    @router.post("/kubeflow/{run}", responses={503: {"description": "Too many runs report."}})
    async def tell(run: RunName, update: Update) -> Heard:
        """Kubeflow's status of a training, under the name the run is to have."""
        try:
            reports.tell(run, report(update.trainer_status, wall()))
        except TooManyRunsError as error:
            raise HTTPException(503, str(error)) from None
        return Heard(run=run)

    return router


def report(status: TrainerStatus, now: float) -> Report:
    """What a status says, that came at `now` in unix seconds."""
    values = {metric.name: metric.value for metric in status.metrics}
    percent, seconds = status.progress_percentage, status.estimated_remaining_seconds
    return Report(
        at=now,
        said_at=status.last_updated_time,
        progress_ratio=None if percent is None else percent / 100,
        eta_seconds=None if seconds is None else float(seconds),
        step=_whole(values.get(_STEP)),
        steps_expected=_whole(values.get(_STEPS_EXPECTED)) or None,
        epoch=_epoch(_number(values.get(_EPOCH))),
        logged=dict(_logged(status.metrics)),
    )


def _logged(metrics: Iterable[Metric]) -> Iterable[tuple[str, float]]:
    ours = Names()
    is_summary = any(metric.name == _OF_A_SUMMARY for metric in metrics)
    for metric in metrics:
        if metric.name in (_STEP, _STEPS_EXPECTED, _EPOCH) or (is_summary and metric.name == "train_loss"):
            continue
        name, value = ours(metric.name), _number(metric.value)
        if name == "epoch":
            value = _epoch(value)
        if name in LOGGED and value is not None:
            yield name, value


def _number(text: str | None) -> float | None:
    """The number of a text; None where it is none, or none that is finite."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str | None) -> int | None:
    value = _number(text)
    return int(value) if value is not None and 0 <= value <= MOST_STEPS and value == int(value) else None


def _epoch(value: float | None) -> float | None:
    return value if value is not None and 0 <= value <= MOST_EPOCHS else None
