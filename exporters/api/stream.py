"""The live stream: a WebSocket that tells at most twice a second what has changed.

One task looks for all clients; what is alike for several is looked up and written as JSON once. A client that
does not read fast enough is parted from, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect, status
from pydantic import BaseModel, TypeAdapter, ValidationError

from exporters import exposition
from exporters.access.roles import Caller
from exporters.api import models
from exporters.collector import Runner, problems
from exporters.gpu.node import GpuStatus, gpu_statuses
from exporters.history import alerts as alert_store
from exporters.history import events as event_store
from exporters.history import newest, series
from exporters.history.curves import CURVES
from exporters.history.known import KnownRuns
from exporters.runs import RunStatus

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
SIGN_OF_LIFE_SECONDS = 10.0
AUTHENTICATE_WITHIN_SECONDS = 10.0
MOST_CLIENTS = 500
MOST_STRANGERS = 50  # who have yet to authenticate
MOST_RUNS = 8  # of one client
MOST_WAITING = 20  # messages for one client, then it is too slow
STREAMED = ("loss", "learning_rate", "gradient_norm", "step_seconds", "tokens_per_second", "perplexity")
_OF_ALL = tuple(name for name in STREAMED if CURVES[name].over_ranks)
_OF_LEADER = tuple(name for name in STREAMED if name not in _OF_ALL)
_RUNS_OF_A_SNAPSHOT = 100
_ALERTS_OF_A_SNAPSHOT = 50
_POINTS_OF_AN_UPDATE = 100
_A_MICROSECOND = 1e-6
_GPUS = TypeAdapter(list[GpuStatus])

Wanted = tuple[str, ...]  # the runs a client asked for; none are all


class Authentication(BaseModel):
    """What a client sends first that could not send its token in a header."""

    type: str
    token: str


class _Client:
    """Who listens to which runs, and what is to be sent to it."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.has_begun = False  # it has its snapshot
        self.messages: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self.is_too_slow = asyncio.Event()

    def tell(self, message: str) -> None:
        try:
            self.messages.put_nowait(message)
        except asyncio.QueueFull:
            self.is_too_slow.set()


class _Look:
    """What the last look found, so that the next one knows what is new."""

    def __init__(self, known: KnownRuns, runners: Sequence[Runner]) -> None:
        self._known = known
        self._runners = runners
        self._runs = {each.run: each for each in known.current}
        self._gpus: list[GpuStatus] = []
        self._problems = problems(runners)
        self._newest_event = event_store.newest_id(known.database)
        self._newest_change = alert_store.newest_change(known.database)
        # Of runs somebody listens to, the end of the newest step that was told.
        self._told_until: dict[str, _Until] = {}

    def snapshot(self, wanted: Wanted) -> str:
        """What a client is told first."""
        if wanted:
            found = [run for name in wanted if (run := self._known.one(name)) is not None]
            with self._known.database.read() as connection:
                # Of a run that is not there yet everything is new.
                for name in set(wanted) - self._told_until.keys():
                    of_leader = newest.of_leading_rank(connection, name)
                    by_all = min(of_leader, newest.of_every_rank(connection, name))
                    self._told_until[name] = _Until(of_leader, by_all)
        else:
            found = self._known.listed(limit=_RUNS_OF_A_SNAPSHOT).runs
        return _message(
            "snapshot",
            runs=[_run(each, wanted) for each in found],
            alerts=[
                models.alert(each)
                for each in alert_store.listed(self._known.database, most=_ALERTS_OF_A_SNAPSHOT)
            ],
            gpus=_GPUS.dump_python(gpu_statuses(exposition.gather(self._runners)), mode="json"),
            problems=problems(self._runners),
        )

    def updates(self, wanted: Iterable[Wanted]) -> dict[Wanted, str]:
        """What has changed since the last look, for those who want these runs; nothing where nothing has.

        A look that fails has not been: the next one tells of everything.
        """
        wanted = set(wanted)
        runs = {each.run: each for each in self._known.current}
        changed_runs = [each for name, each in runs.items() if self._runs.get(name) != each]
        events = event_store.newer(self._known.database, self._newest_event)
        alerts, newest_change = alert_store.changed(self._known.database, self._newest_change)
        gpus = gpu_statuses(exposition.gather(self._runners))
        failing = problems(self._runners)
        listened_to = {run for each in wanted for run in each}
        told_until = {run: until for run, until in self._told_until.items() if run in listened_to}
        curves, told_until = self._new_steps(told_until)
        found = {}
        told_alerts = [models.alert(each) for each in alerts]
        told_gpus = [] if gpus == self._gpus else _GPUS.dump_python(gpus, mode="json")
        for each in wanted:
            parts: dict[str, Any] = {
                "runs": [_run(run, each) for run in changed_runs if not each or run.run in each],
                "events": [models.event(event) for event in events if not each or event.run in each],
                "series": [curves[run] for run in each if run in curves],
                "alerts": told_alerts,
                "gpus": told_gpus,
            }
            news = {name: value for name, value in parts.items() if value}
            if failing != self._problems:
                news["problems"] = failing
            if news:
                found[each] = _message("update", **news)
        self._runs, self._gpus, self._problems = runs, gpus, failing
        self._newest_event = events[-1].id if events else self._newest_event
        self._newest_change, self._told_until = newest_change, told_until
        return found

    def _new_steps(
        self, told_until: dict[str, _Until]
    ) -> tuple[dict[str, models.CurvesOfRun], dict[str, _Until]]:
        """The curves of these runs since then, and until when they are told with that."""
        found, now_until = {}, {}
        with self._known.database.read() as connection:
            for run, until in told_until.items():
                of_leader = _of_steps(connection, run, _OF_LEADER, until.of_leader)
                by_all = newest.of_every_rank(connection, run)
                of_all = [_cut(each, by_all) for each in _of_steps(connection, run, _OF_ALL, until.of_all)]
                now_until[run] = _Until(
                    _end(of_leader, until.of_leader),
                    _end(of_all, until.of_all),
                )
                curves = [each for each in (*of_leader, *of_all) if each.points.time]
                if curves:
                    found[run] = models.CurvesOfRun(run=run, series=[models.curve(each) for each in curves])
        return found, now_until


class _Until(NamedTuple):
    """Until when the curves of the leading rank were told, and those that are made of all ranks."""

    of_leader: float
    of_all: float


def _of_steps(
    connection: sqlite3.Connection, run: str, names: Sequence[str], since: float
) -> list[series.Series]:
    between = (since + _A_MICROSECOND, series.FAR_FUTURE)
    return series.of_steps(connection, run, names, between=between, most_points=_POINTS_OF_AN_UPDATE)


def _cut(curve: series.Series, until: float) -> series.Series:
    """The curve up to then."""
    length = bisect.bisect_right(curve.points.time, until)
    columns = {each.name: getattr(curve.points, each.name)[:length] for each in fields(curve.points)}
    return replace(curve, points=series.Points(**columns))


def _end(curves: Iterable[series.Series], before: float) -> float:
    return max((each.points.time[-1] for each in curves if each.points.time), default=before)


class Stream:
    """The clients, and the task that looks for them as long as there are any."""

    def __init__(self, known: KnownRuns, runners: Sequence[Runner]) -> None:
        self._known = known
        self._runners = runners
        self._clients: set[_Client] = set()
        self._looking: asyncio.Task[None] | None = None
        self._look: _Look | None = None
        self._snapshots: dict[Wanted, str] = {}
        self._one_at_a_time = asyncio.Lock()
        self._strangers = 0

    async def caller(self, websocket: WebSocket) -> Caller | None:
        """Who listens: known from the handshake, or from the first message, within ten seconds."""
        known: Caller | None = websocket.scope["state"]["caller"]
        if known is not None or self._strangers >= MOST_STRANGERS:
            return known
        self._strangers += 1
        try:
            return await _authenticated(websocket)
        finally:
            self._strangers -= 1

    async def serve(self, websocket: WebSocket, wanted: Wanted) -> None:
        """Tell a client, whose connection is accepted, until one of both ends it."""
        if len(self._clients) >= MOST_CLIENTS:
            await websocket.close(status.WS_1013_TRY_AGAIN_LATER, "too many clients")
            return
        client = _Client(wanted)
        self._clients.add(client)
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_for_all())
            snapshot = await self._snapshot(client)
            await _tell(websocket, client, snapshot, websocket.scope["state"]["still_allowed"])
        except sqlite3.Error as error:
            _log(error)
            await _close(websocket, status.WS_1011_INTERNAL_ERROR, "the database cannot be used")
        finally:
            self._clients.discard(client)

    async def _snapshot(self, client: _Client) -> str:
        """What it is told first; it misses nothing that comes after."""
        async with self._one_at_a_time:  # many who come at once are told the same
            if self._look is None:
                self._look = await asyncio.to_thread(_Look, self._known, self._runners)
            snapshot = self._snapshots.get(client.wanted)
            if snapshot is None:
                snapshot = await asyncio.to_thread(self._look.snapshot, client.wanted)
                self._snapshots[client.wanted] = snapshot
            client.has_begun = True
            return snapshot

    async def _look_for_all(self) -> None:
        """Look twice a second while there are clients."""
        told_at: dict[Wanted, float] = {}
        failed = False
        try:
            while self._clients:
                await asyncio.sleep(INTERVAL_SECONDS)
                async with self._one_at_a_time:
                    try:
                        await self._tell_all(told_at)
                        failed = False
                    except Exception as error:
                        if not failed:
                            _log(error)
                        failed = True
        finally:
            self._look = None
            self._snapshots.clear()

    async def _tell_all(self, told_at: dict[Wanted, float]) -> None:
        """Look once. `told_at` is when those who want these runs were told anything last."""
        self._snapshots.clear()
        wanted = {client.wanted for client in self._clients}
        if self._look is None:  # nobody has a snapshot yet
            return
        updates = await asyncio.to_thread(self._look.updates, wanted)
        now = time.monotonic()
        for each in told_at.keys() - wanted:
            del told_at[each]
        for each in wanted:
            if now - told_at.setdefault(each, now) >= SIGN_OF_LIFE_SECONDS:
                updates.setdefault(each, _message("update"))
        told_at |= dict.fromkeys(updates, now)
        for client in self._clients:
            if client.has_begun and client.wanted in updates:
                client.tell(updates[client.wanted])


def _log(error: Exception) -> None:
    if isinstance(error, sqlite3.Error):
        logger.error("the stream: the database cannot be used: %s", error)
    else:
        logger.error("the stream: a look failed", exc_info=error)


async def _tell(
    websocket: WebSocket, client: _Client, snapshot: str, still_allowed: Callable[[], bool]
) -> None:
    """Send what there is for a client, until it goes, sends something itself, or is too slow."""

    async def send() -> None:
        """Ends when the client may not listen any more."""
        await websocket.send_text(snapshot)
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            message = await client.messages.get()
            if not still_allowed():
                return
            await websocket.send_text(message)

    sending = asyncio.create_task(send())
    receiving = asyncio.create_task(websocket.receive())
    slow = asyncio.create_task(client.is_too_slow.wait())
    try:
        await asyncio.wait((sending, receiving, slow), return_when=asyncio.FIRST_COMPLETED)
        if slow.done():
            await _close(websocket, status.WS_1013_TRY_AGAIN_LATER, "too slow for what there is to tell")
        elif sending.done() and sending.exception() is None:
            await _close(websocket, status.WS_1008_POLICY_VIOLATION, "no longer allowed")
        elif receiving.done() and receiving.result()["type"] != "websocket.disconnect":
            await _close(websocket, status.WS_1008_POLICY_VIOLATION, "nothing is to be sent here")
    finally:
        for task in (sending, receiving, slow):
            task.cancel()
        await asyncio.gather(sending, receiving, slow, return_exceptions=True)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
        await asyncio.wait_for(websocket.close(code, reason), 1.0)


async def _authenticated(websocket: WebSocket) -> Caller | None:
    try:
        text = await asyncio.wait_for(websocket.receive_text(), AUTHENTICATE_WITHIN_SECONDS)
        told = Authentication.model_validate_json(text)
    except (TimeoutError, ValidationError, KeyError):
        return None
    if told.type != "authenticate":
        return None
    caller: Caller | None = await websocket.scope["state"]["authenticate"](told.token)
    return caller


def routes(stream: Stream) -> APIRouter:
    router = APIRouter(tags=["stream"])

    @router.websocket("/stream")
    async def listen(websocket: WebSocket, run: list[str] = Query(default=[])) -> None:  # noqa: B008
        """A snapshot, and from then on what changes: of all runs, or of those named, with their steps."""
        await websocket.accept()
        try:
            if await stream.caller(websocket) is None:
                await websocket.close(status.WS_1008_POLICY_VIOLATION, "not authenticated")
            elif len(run) > MOST_RUNS:
                reason = f"at most {MOST_RUNS} runs"
                await websocket.close(status.WS_1008_POLICY_VIOLATION, reason)
            else:
                await stream.serve(websocket, tuple(sorted(set(run))))
        except WebSocketDisconnect:
            pass

    return router


def _run(status: RunStatus, wanted: Wanted) -> models.RunSummary:
    return models.run(status) if wanted else models.summary(status)


def _message(kind: str, **parts: Sequence[BaseModel] | Sequence[dict[str, Any]] | Sequence[str]) -> str:
    """As JSON; models are written by themselves."""

    def plain(each: BaseModel | dict[str, Any] | str) -> str:
        return each.model_dump_json() if isinstance(each, BaseModel) else json.dumps(each, allow_nan=False)

    lists = (f', "{name}": [{", ".join(map(plain, each))}]' for name, each in parts.items())
    return f'{{"type": "{kind}", "at": {time.time():.3f}{"".join(lists)}}}'
