"""GPUs over HTTP: what they do, what they did, and letting go of the driver."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Response
from pydantic import BaseModel, Field

from exporters import exposition
from exporters.api import models
from exporters.api.models import CurveList, GpuList
from exporters.api.runs import MOST_NAMES, From, MostPoints, To, direct
from exporters.api.times import FAR_FUTURE_SECONDS
from exporters.collector import Runner, problems
from exporters.gpu.node import Gpus, gpu_statuses
from exporters.history import gauges, series
from exporters.history.database import Database

logger = logging.getLogger(__name__)

NAMES = tuple(metric.name for metric in gauges.OF_GPUS)
_CLOSED = {True: "closed", False: "open yet: a call into NVML has not returned"}
_SIMULATED: dict[int | str, dict[str, Any]] = {409: {"description": "The GPUs are simulated."}}


class Release(BaseModel):
    """For how long NVML is to be let go of."""

    seconds: float = Field(gt=0, le=3600, allow_inf_nan=False, examples=[120])


class Released(BaseModel):
    """Whether the session is closed, which lets the driver be unloaded, and for how long none is opened."""

    closed: bool = Field(examples=[True])
    seconds_left: float = Field(examples=[117.5])


def routes(gpus: Gpus, runners: Sequence[Runner]) -> APIRouter:
    router = APIRouter(tags=["gpus"])

    @router.get("/gpus")
    def statuses() -> GpuList:
        """Every GPU of this node, the means of the last window, and the ranks that train on it."""
        of_gpus = [runner for runner in runners if runner.collector in gpus.collectors]
        return GpuList(gpus=gpu_statuses(exposition.gather(runners)), problems=problems(of_gpus))

    @router.post("/gpus/release", responses=_SIMULATED)
    def release(wanted: Release) -> Released:
        """Close NVML, so that the driver can be reloaded or MIG changed; it is opened again by itself."""
        if gpus.nvml is None:
            raise HTTPException(409, "these GPUs are simulated: no driver is held")
        closed = gpus.nvml.release(wanted.seconds)
        logger.info("NVML is released for %g s; the session is %s", wanted.seconds, _CLOSED[closed])
        return Released(closed=closed, seconds_left=gpus.nvml.released_seconds)

    @router.delete("/gpus/release", responses=_SIMULATED)
    def resume() -> Released:
        """Take NVML up again before its time."""
        if gpus.nvml is None:
            raise HTTPException(409, "these GPUs are simulated: no driver is held")
        gpus.nvml.resume()
        return Released(closed=gpus.nvml.is_closed, seconds_left=0.0)

    return router


def history_routes(database: Database) -> APIRouter:
    router = APIRouter(tags=["gpus"])

    @router.get("/gpus/{uuid}/series", response_model=CurveList)
    def curves(
        uuid: Annotated[str, Path(max_length=128)],
        name: Annotated[list[Literal[NAMES]], Query(min_length=1, max_length=MOST_NAMES)],  # type: ignore[valid-type]
        max_points: MostPoints = 1000,
        since: From = 0.0,
        until: To = FAR_FUTURE_SECONDS,
    ) -> Response:
        """What a GPU did; no curves of one that was never seen."""
        with database.read() as connection:
            found = series.of_gauges(
                connection, name, gpu_uuid=uuid, between=(since, until), most_points=max_points
            )
        return direct(CurveList(series=[models.curve(each) for each in found]))

    return router
