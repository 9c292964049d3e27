"""Runs over HTTP: their states, progress, curves, events, ranks and GPUs, and one beside another."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from exporters import abort
from exporters.abort import NotOursError
from exporters.api import models
from exporters.api.models import (
    Aborted,
    Comparison,
    CurvesOfRun,
    EventList,
    GpuOfRun,
    GpusOfRun,
    Progress,
    RankList,
    Run,
    RunList,
)
from exporters.api.times import FAR_FUTURE_SECONDS, Moment
from exporters.history import cursors, gauges, series
from exporters.history import events as event_store
from exporters.history.bins import Axis
from exporters.history.curves import CURVES
from exporters.history.known import KnownRuns
from exporters.history.runs import START, Wanted
from exporters.history.series import EVALUATIONS
from exporters.runs import RunStatus, State

MOST_NAMES = 64
MOST_COMPARED = 8
_TOLD_NAMES = 20
OF_RUNS = tuple(metric.name for metric in gauges.OF_RUNS)
NAMES = (*CURVES, *EVALUATIONS, *OF_RUNS)

_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such run; the answer names some that there are."}
}
RunName = Annotated[str, Path(min_length=1, max_length=128, examples=["tiny-gpt2"])]
CurveName = Literal[NAMES]  # type: ignore[valid-type]
CurveNames = Annotated[list[CurveName], Query(min_length=1, max_length=MOST_NAMES, examples=[["loss"]])]
MostPoints = Annotated[int, Query(ge=10, le=5000, description="Least and greatest values are kept.")]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=300, description="The `next_cursor` of the page before.")]
From = Annotated[Moment, Query(alias="from")]
To = Annotated[Moment, Query(alias="to")]


def routes(known: KnownRuns) -> APIRouter:
    router = APIRouter(tags=["runs"])
    database = known.database

    def one(run: str) -> RunStatus:
        status = known.one(run)
        if status is None:
            names = [each.run for each in known.listed(limit=_TOLD_NAMES).runs]
            told = ", ".join(names) or "none"
            raise HTTPException(404, {"message": f"no run {run!r}; known are: {told}", "known_runs": names})
        return status

    @router.get("/runs")
    def runs(
        state: Annotated[Sequence[State], Query(max_length=6)] = (),
        name: Annotated[str, Query(max_length=128, description="Part of the name.")] = "",
        started_after: Moment = 0.0,
        started_before: Moment = FAR_FUTURE_SECONDS,
        limit: Limit = 100,
        cursor: Cursor = None,
        sparkline_points: Annotated[int, Query(ge=0, le=200)] = 0,
    ) -> RunList:
        """The runs of this node, those too whose recordings are gone, the newest start first."""
        wanted = Wanted(state, name, started_after, started_before)
        behind = START if cursor is None else _behind(cursor, str)
        page = known.listed(wanted=wanted, limit=limit, behind=behind)
        losses = known.sparklines([each.run for each in page.runs], sparkline_points)
        return RunList(
            runs=[models.summary(each, losses.get(each.run)) for each in page.runs],
            next_cursor=page.next_cursor,
        )

    @router.get("/runs/{run}", responses=_UNKNOWN)
    def run(run: RunName) -> Run:
        """One run, with its ranks."""
        return models.run(one(run))

    @router.delete("/runs/{run}", responses={**_UNKNOWN, 409: {"description": "It is not for us to end."}})
    def end(run: RunName, request: Request) -> Aborted:
        """End a run that lives, by SIGTERM to its ranks on this node; of a dead one take note that it is."""
        status = one(run)
        living = [each for each in known.processes() if each.run == run]
        if not living and status.state == "finished":
            raise HTTPException(409, f"run {run!r} has finished; there is nothing to end")
        if not living and status.state == "running":
            raise HTTPException(409, f"no process of run {run!r} is known on this node; end it where it runs")
        caller = request.scope["state"]["caller"].name
        try:
            with abort.descriptors(living) as opened:
                # Before they die of it: or it might look like a death of its own.
                known.acknowledge(status, caller)
                abort.end(opened)
        except NotOursError as error:
            raise HTTPException(409, str(error)) from None
        action: Literal["signalled", "acknowledged"] = "signalled" if living else "acknowledged"
        return Aborted(run=run, action=action, pids=[each.pid for each in living])

    @router.get("/runs/{run}/progress", responses=_UNKNOWN)
    def progress(run: RunName) -> Progress:
        """How far it is, and when it will end."""
        status = one(run)
        return models.progress(status, event_store.stage(database, run, status.attempt), database.wall())

    @router.get("/runs/{run}/ranks", responses=_UNKNOWN)
    def ranks(run: RunName) -> RankList:
        """Its ranks, as far as they record on this node."""
        return RankList(ranks=models.run(one(run)).ranks)

    @router.get("/runs/{run}/series", responses=_UNKNOWN, response_model=CurvesOfRun)
    def curves(
        run: RunName,
        name: CurveNames,
        max_points: MostPoints = 1000,
        since: From = 0.0,
        until: To = FAR_FUTURE_SECONDS,
        rank: Annotated[int | None, Query(ge=0, le=2**31)] = None,
        by: Axis = "time",
    ) -> Response:
        """Curves over all attempts, of the run or of one rank; by step or token what was done twice once."""
        one(run)
        with database.read() as connection:
            found = _curves(connection, run, name, max_points, (since, until), rank, by)
        return direct(CurvesOfRun(run=run, series=[models.curve(each) for each in found]))

    @router.get("/runs/{run}/events", responses=_UNKNOWN)
    def events(
        run: RunName,
        kind: Annotated[list[str], Query(max_length=32, examples=[["checkpoint"]])] = [],  # noqa: B006
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> EventList:
        """What happened in it, the newest first."""
        one(run)
        behind = None if cursor is None else _behind(cursor, int)
        found, next_cursor = event_store.listed(database, run, kinds=kind, limit=limit, behind=behind)
        return EventList(events=[models.event(each) for each in found], next_cursor=next_cursor)

    @router.get("/runs/{run}/gpus", responses=_UNKNOWN)
    def gpus(run: RunName) -> GpusOfRun:
        """The GPUs on which its ranks were seen."""
        one(run)
        return GpusOfRun(gpus=[GpuOfRun.model_validate(each) for each in gauges.of_run(database, run)])

    @router.get("/compare", responses=_UNKNOWN, response_model=Comparison)
    def compare(
        run: Annotated[list[str], Query(min_length=1, max_length=MOST_COMPARED, examples=[["a", "b"]])],
        name: CurveNames = ["loss"],  # noqa: B006
        by: Axis = "step",
        max_points: MostPoints = 1000,
    ) -> Response:
        """The curves of several runs, each along its steps or tokens, or by the time since it began."""
        compared = []
        for each in dict.fromkeys(run):
            one(each)
            with database.read() as connection:
                began = series.began_at(connection, each)
                found = _curves(connection, each, name, max_points, (0.0, FAR_FUTURE_SECONDS), None, by)
            if by == "time":
                found = [series.since(curve, began) for curve in found]
            compared.append(CurvesOfRun(run=each, series=[models.curve(curve) for curve in found]))
        return direct(Comparison(by=by, runs=compared))

    return router


def _curves(
    connection: sqlite3.Connection,
    run: str,
    names: Sequence[str],
    max_points: int,
    between: tuple[float, float],
    rank: int | None,
    by: Axis,
) -> list[series.Series]:
    """Of steps, evaluations and gauges, in this order; gauges of all ranks unless one is asked for."""
    of_steps = [name for name in dict.fromkeys(names) if name in CURVES]
    of_evaluations = [name for name in dict.fromkeys(names) if name in EVALUATIONS]
    of_gauges = [name for name in dict.fromkeys(names) if name in OF_RUNS]
    found: list[series.Series] = []
    if of_steps:
        found += series.of_steps(
            *(connection, run, of_steps), rank=rank, between=between, axis=by, most_points=max_points
        )
    if of_evaluations:
        found += series.of_evaluations(connection, run, of_evaluations, rank=rank, between=between, axis=by)
    if of_gauges:
        found += [
            each
            for each in series.of_gauges(
                connection, of_gauges, run=run, between=between, most_points=max_points
            )
            if rank is None or each.labels.get("rank", str(rank)) == str(rank)
        ]
    return found


def _behind(cursor: str, kind: type[cursors.Name]) -> tuple[float, cursors.Name]:
    """Where a list goes on; an answer of 422 where the cursor is none of this list."""
    try:
        return cursors.decoded(cursor, kind)
    except ValueError as error:
        raise not_valid("cursor", error) from None


def not_valid(parameter: str, error: ValueError) -> RequestValidationError:
    """The answer to a parameter of a query that only its use shows to be wrong."""
    return RequestValidationError([{"type": "value_error", "loc": ("query", parameter), "msg": str(error)}])


def direct(answer: BaseModel) -> Response:
    """The answer as it is: of many thousand numbers none is to be looked at again."""
    return Response(answer.model_dump_json(), media_type="application/json")
