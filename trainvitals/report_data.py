"""What a report is made of: all that a source knows of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

import exporters.api.gpus
import exporters.api.runs
from exporters import catalog
from exporters.api.models import Alert, Curve, Event, GpuOfRun, Run
from exporters.runs import OVER
from trainer_hooks.recording import PHASES
from trainvitals.sources import Parameters, Source, SourceError, understood

MOST_RUNS = exporters.api.runs.MOST_COMPARED
MOST_EVENTS = 5_000
MOST_RANKS = 16
MOST_GPUS = 16
MOST_ALERTS = 500
POINTS, SLOW_POINTS = 1000, 400
_PAGE = 500

_OF_STEPS = ("loss", "perplexity", "tokens_per_second", "learning_rate", "gradient_norm")
_COMPARED = (*_OF_STEPS, "validation_loss")
_SLOW = (
    *(f"phase_{phase}_ratio" for phase in PHASES),
    *("samples_per_second", "step_seconds", "validation_loss", "validation_accuracy"),
    *(each.name for each in (catalog.TRAINING_ACCURACY, catalog.TRAINING_SCALAR)),
    *(
        each.name
        for each in (
            catalog.TRAINING_CUDA_MEMORY_ALLOCATED_BYTES,
            catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES,
            catalog.TRAINING_HOST_MEMORY_BYTES,
        )
    ),
)
# Of what is counted a service tells; the history may keep it, too.
COUNTED = (
    catalog.HOOK_SECONDS_TOTAL,
    catalog.HOOK_ERRORS_TOTAL,
    catalog.HOOK_DROPPED_TOTAL,
    catalog.TRAINING_NONFINITE_TOTAL,
    catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL,
)
_OF_GPUS = tuple(
    each.name
    for each in (
        catalog.NVIDIA_GPU_UTILIZATION_PERCENT,
        catalog.NVIDIA_GPU_MEMORY_USED_BYTES,
        catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES,
        catalog.NVIDIA_GPU_POWER_WATTS,
        catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS,
    )
)


@dataclass(frozen=True)
class GpuCurves:
    """A GPU on which a rank trained, and what it did meanwhile."""

    gpu: GpuOfRun
    series: list[Curve]

    def of(self, name: str) -> Curve | None:
        return next((each for each in self.series if each.name == name and each.points.mean), None)


@dataclass(frozen=True)
class RunData:
    """A run with its curves over time, its events, the oldest first, its alerts and its GPUs.

    `counted` holds counters by name, summed over ranks and labels: of the newest attempt where a service
    tells them, else as the history has them since its start; one that is not known is not in it. `now` is the
    moment it is told of, in unix seconds; `is_past` where that is when a run was last seen that lived then.
    The newest events and alerts are there, and more where they are as many as are asked for.
    """

    run: Run
    series: list[Curve]
    events: list[Event]
    alerts: list[Alert]
    gpus: list[GpuCurves]
    counted: dict[str, float]
    now: float
    is_past: bool = False
    gpus_known: int = 0

    def of(self, name: str) -> Curve | None:
        """The curve of the run, or of its leading rank; None where it has no point."""
        return next((each for each in self.series if each.name == name and each.points.mean), None)


def collected(source: Source, name: str, *, wall: Callable[[], float] = time.time) -> RunData:
    """All that is known of a run. Raises SourceError."""
    path = f"/runs/{quote(name, safe='')}"
    with understood(source):
        run = Run.model_validate(source.get(path))
        seen_at = None if run.state in OVER else source.seen_at(name)
        if seen_at is not None:
            run = run.model_copy(update={"eta_seconds": None})
        curves = _curves(source, path, {"name": _OF_STEPS, "max_points": POINTS})
        curves += _curves(source, path, {"name": _SLOW, "max_points": SLOW_POINTS})
        ranks = sorted(rank.rank for rank in run.ranks)
        if len(ranks) > 1:
            curves = [each for each in curves if each.name != "step_seconds"]
            for rank in ranks[:MOST_RANKS]:
                curves += _of_rank(source, path, rank)
        known = source.get(f"{path}/gpus")["gpus"]
        gpus = [_gpu(source, run, GpuOfRun.model_validate(each)) for each in known[:MOST_GPUS]]
        alerts = source.get("/alerts", {"run": name, "limit": MOST_ALERTS})["alerts"]
        return RunData(
            run=run,
            series=curves,
            events=_events(source, path),
            alerts=[Alert.model_validate(each) for each in alerts],
            gpus=gpus,
            counted=_counted(source, path, run),
            now=wall() if seen_at is None else seen_at,
            is_past=seen_at is not None,
            gpus_known=len(known),
        )


def compared(source: Source, names: Sequence[str]) -> list[tuple[str, list[Curve]]]:
    """The curves of several runs along their steps: no step is told twice. Raises SourceError."""
    answer = source.get("/compare", {"run": names, "name": _COMPARED, "by": "step", "max_points": POINTS})
    with understood(source):
        return [(each["run"], _validated(each["series"])) for each in answer["runs"]]


def _curves(source: Source, path: str, parameters: Parameters) -> list[Curve]:
    return _validated(source.get(f"{path}/series", parameters)["series"])


def _validated(series: Iterable[Any]) -> list[Curve]:
    return [Curve.model_validate(each) for each in series]


def _of_rank(source: Source, path: str, rank: int) -> list[Curve]:
    found = _curves(source, path, {"name": "step_seconds", "rank": rank, "max_points": SLOW_POINTS // 2})
    return [each.model_copy(update={"labels": {**each.labels, "rank": str(rank)}}) for each in found]


def _gpu(source: Source, run: Run, gpu: GpuOfRun) -> GpuCurves:
    wanted: dict[str, Any] = {"name": _OF_GPUS, "max_points": SLOW_POINTS, "from": run.started_at}
    if run.ended_at is not None:
        wanted["to"] = run.ended_at
    return GpuCurves(
        gpu, _validated(source.get(f"/gpus/{quote(gpu.gpu_uuid, safe='')}/series", wanted)["series"])
    )


def _events(source: Source, path: str) -> list[Event]:
    """The newest, in order of time."""
    found: list[Event] = []
    cursor: str | None = None
    while len(found) < MOST_EVENTS:
        more = {"cursor": cursor} if cursor else {}
        page = source.get(f"{path}/events", {"limit": _PAGE, **more})
        found += [Event.model_validate(each) for each in page["events"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return found[::-1]


def _counted(source: Source, path: str, run: Run) -> dict[str, float]:
    """What a service publishes at present, else what the history has of it."""
    kept = [each.name for each in COUNTED if each.name in exporters.api.runs.NAMES]
    found: dict[str, float] = {}
    for curve in _curves(source, path, {"name": kept, "max_points": SLOW_POINTS, "from": run.started_at}):
        newest = next((each for each in reversed(curve.points.max) if each is not None), None)
        if newest is not None:
            found[curve.name] = found.get(curve.name, 0.0) + newest
    try:
        page = source.text("/metrics")
    except SourceError:
        page = None
    published: dict[str, float] = {}
    wanted = {each.name for each in COUNTED}
    for family in text_string_to_metric_families(page or ""):
        for sample in family.samples:
            if sample.name in wanted and sample.labels.get("run") == run.run:
                published[sample.name] = published.get(sample.name, 0.0) + sample.value
    return found | published
