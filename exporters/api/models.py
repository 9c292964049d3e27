"""What the API answers with. Times are unix seconds, `_iso` beside each the same as text; null is unknown."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from exporters.alert_inbox import StoredAlert
from exporters.api.times import iso_of
from exporters.gpu.node import GpuStatus
from exporters.history.events import Event as KeptEvent
from exporters.history.series import Series
from exporters.runs import OVER, RunStatus, State


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON has no number for what overflowed, a perplexity for example.
Number = Annotated[float | None, BeforeValidator(_finite)]


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Failure(_Answer):
    """The last exception a rank told of; the message only where the run asked for it to be recorded."""

    type: str = Field(examples=["RuntimeError"])
    place: str = Field(examples=["train.py:81 in step"])
    message: str | None = None


class Acknowledgement(_Answer):
    """Who ended the run, or took note that it is dead."""

    by: str = Field(examples=["on-call"])
    at: float
    at_iso = iso_of("at")


class Rank(_Answer):
    """The newest attempt of one rank."""

    rank: int
    node: str = Field(examples=["node-7"])
    pid: int
    state: State
    attempt: int
    phase: str = Field(examples=["backward"])
    phase_since: float
    phase_since_iso = iso_of("phase_since")
    started_at: float
    started_at_iso = iso_of("started_at")
    ended_at: float | None
    ended_at_iso = iso_of("ended_at")
    last_step_at: float
    last_step_at_iso = iso_of("last_step_at")
    last_progress_at: float
    last_progress_at_iso = iso_of("last_progress_at")
    silent_seconds: float
    reason: str | None
    failure: Failure | None


class RunSummary(_Answer):
    """A run without its ranks. `phase` is the leading rank's, `sparkline` the loss in a few numbers."""

    run: str = Field(examples=["tiny-gpt2"])
    state: State
    reason: str | None = Field(examples=["early_stopping"])
    attempt: int
    started_at: float
    started_at_iso = iso_of("started_at")
    ended_at: float | None
    ended_at_iso = iso_of("ended_at")
    step: int
    steps_expected: int | None
    resumed_from_step: int | None
    epoch: Number
    epochs_expected: Number
    progress_ratio: Number
    eta_seconds: Number
    tokens_per_second: Number
    loss: Number
    perplexity: Number
    validation_loss: Number
    validation_loss_best: Number
    validation_perplexity: Number
    world_size: int
    ranks_known: int
    phase: str | None
    silent_seconds: float
    first_silent_rank: int | None
    failure: Failure | None
    deadline_at: float | None
    deadline_at_iso = iso_of("deadline_at")
    acknowledged: Acknowledgement | None
    info: dict[str, str] = Field(examples=[{"model": "gpt2", "framework": "transformers"}])
    sparkline: list[Number] = []


class Run(RunSummary):
    """A run, and its ranks."""

    ranks: list[Rank]


class RunList(BaseModel):
    """Some runs, the newest start first; `next_cursor` asks for those that follow, null at the end."""

    runs: list[RunSummary]
    next_cursor: str | None


class Progress(_Answer):
    """How far a run is, and when it will end: at the mean, the fastest and the slowest pace of late.

    Elapsed is the time of the newest attempt. `on_track` says whether it ends before its deadline, where it
    has one; of a run that died it is null.
    """

    run: str = Field(examples=["tiny-gpt2"])
    state: State
    phase: str | None = Field(examples=["evaluation"])
    stage: str | None
    step: int
    steps_expected: int | None
    epoch: Number
    epochs_expected: Number
    progress_ratio: Number
    elapsed_seconds: float
    eta_seconds: Number
    eta_least_seconds: Number
    eta_most_seconds: Number
    ends_at: float | None
    ends_at_iso = iso_of("ends_at")
    deadline_at: float | None
    deadline_at_iso = iso_of("deadline_at")
    on_track: bool | None


class Event(_Answer):
    """Something rare that happened in a run. Those of kind `state` are what the service saw."""

    id: int
    run: str
    at: float
    at_iso = iso_of("at")
    kind: str = Field(examples=["checkpoint"])
    rank: int | None
    attempt: int | None
    step: int | None
    fields: dict[str, str | Number] = Field(examples=[{"seconds": 1.5}])


class EventList(BaseModel):
    """Some events, the newest first; `next_cursor` asks for those that follow, null at the end."""

    events: list[Event]
    next_cursor: str | None


class RankList(BaseModel):
    ranks: list[Rank]


class GpuOfRun(_Answer):
    """A GPU on which a rank was seen to train."""

    gpu_uuid: str = Field(examples=["GPU-1472f18e-8252-1f6c-7439-df6e4164416d"])
    rank: int
    first_seen_at: float
    first_seen_at_iso = iso_of("first_seen_at")
    last_seen_at: float
    last_seen_at_iso = iso_of("last_seen_at")


class GpusOfRun(BaseModel):
    gpus: list[GpuOfRun]


class Points(_Answer):
    """Columns of equal length; `min` and `max` are of the steps within a point. Gauges have only times."""

    time: list[float]
    step: list[int]
    tokens: list[int]
    attempt: list[int]
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]


class Curve(_Answer):
    """A curve; `labels` say whose, and `resolution_seconds` is 0 where every step was looked at."""

    name: str = Field(examples=["loss"])
    unit: str = Field(examples=["tokens/second"])
    labels: dict[str, str] = Field(examples=[{"rank": "0"}])
    resolution_seconds: int = Field(examples=[60])
    points: Points


class CurveList(BaseModel):
    series: list[Curve]


class CurvesOfRun(CurveList):
    run: str = Field(examples=["tiny-gpt2"])


class Comparison(BaseModel):
    by: str = Field(examples=["step"])
    runs: list[CurvesOfRun]


class Aborted(BaseModel):
    """What was done: the processes of these pids were asked to end, or it was noted that the run is dead."""

    run: str = Field(examples=["tiny-gpt2"])
    action: Literal["signalled", "acknowledged"]
    pids: list[int]


def _unix_seconds(moment: Any) -> Any:
    """Of a time of Alertmanager, which tells of none by its year 1."""
    if not isinstance(moment, datetime):
        return moment
    return moment.timestamp() if moment.year > 1970 else None


class Alert(_Answer):
    """An alert as it came last, and how often it came: twice from a pair of Prometheus servers is once."""

    fingerprint: str = Field(examples=["3d1c9bf1a6c4b9a4"])
    status: Literal["firing", "resolved"]
    labels: dict[str, str] = Field(examples=[{"alertname": "TrainingStalled", "run": "tiny-gpt2"}])
    annotations: dict[str, str]
    starts_at: Annotated[float | None, BeforeValidator(_unix_seconds)]
    starts_at_iso = iso_of("starts_at")
    ends_at: Annotated[float | None, BeforeValidator(_unix_seconds)]
    ends_at_iso = iso_of("ends_at")
    received_at: float
    received_at_iso = iso_of("received_at")
    notifications: int
    generator_url: str


class AlertList(BaseModel):
    """Alerts, the last received first."""

    alerts: list[Alert]


class GpuList(BaseModel):
    """The GPUs, and why something of them is missing at present: `gpu, gpu_mig: the driver is not loaded`."""

    gpus: list[GpuStatus]
    problems: list[str] = Field(examples=[["gpu, gpu_mig: the driver is not loaded"]])


def summary(status: RunStatus, sparkline: list[float] | None = None) -> RunSummary:
    return RunSummary.model_validate(_columns(status) | {"sparkline": sparkline or []})


def run(status: RunStatus) -> Run:
    return Run.model_validate(_columns(status))


def progress(status: RunStatus, stage: str | None, now: float) -> Progress:
    """`now` is in unix seconds."""
    ends_at = status.ended_at if status.eta_seconds is None else now + status.eta_seconds
    on_track = None
    died = status.state in OVER and status.state != "finished"
    if status.deadline_at is not None and ends_at is not None and not died:
        on_track = ends_at <= status.deadline_at
    more = {
        "stage": stage,
        "elapsed_seconds": max(0.0, (status.ended_at or now) - status.started_at),
        "ends_at": ends_at,
        "on_track": on_track,
    }
    return Progress.model_validate(_columns(status) | more)


def alert(stored: StoredAlert) -> Alert:
    return Alert.model_validate(stored)


def event(kept: KeptEvent) -> Event:
    return Event.model_validate(kept)


def curve(series: Series) -> Curve:
    return Curve.model_validate(series)


def _columns(status: RunStatus) -> dict[str, Any]:
    leading = status.ranks[0] if status.ranks else None
    return {
        **vars(status),
        "ranks_known": len(status.ranks),
        "phase": leading.phase if leading else None,
        "silent_seconds": max((rank.silent_seconds for rank in status.ranks), default=0.0),
    }
