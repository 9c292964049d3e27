"""Asks Prometheus what a dashboard's variables, panels and annotations ask, and lays out what it shows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from dashboards.preview import frames, queries
from dashboards.preview.annotations import events
from dashboards.preview.layout import Box, box, placed
from dashboards.preview.queries import Choice, Window

Json = dict[str, Any]

AT_ONCE = 8
TIMEOUT_SECONDS = 60
ANNOTATION_STEP_SECONDS = 60.0
_GRAFANAS_OWN = "-- Grafana --"


class AnswerError(Exception):
    """Prometheus could not be asked, or refused a query; the message is its own."""


class Prometheus:
    """A Prometheus that is asked a few queries at once, and each only once."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._answers: dict[str, asyncio.Task[Any]] = {}

    async def get(self, path: str, **parameters: str) -> Any:
        """What lies under `data` in the answer. Raises AnswerError."""
        address = f"{path}?{httpx.QueryParams(parameters)}"
        if address not in self._answers:
            self._answers[address] = asyncio.create_task(self._fetch(path, parameters))
        return await self._answers[address]

    async def _fetch(self, path: str, parameters: Mapping[str, str]) -> Any:
        async with self._at_once:
            try:
                if "/query" in path:  # may be too long for an address
                    answer = await self._client.post(path, data=parameters)
                else:
                    answer = await self._client.get(path, params=parameters)
                body = answer.json()
            except (httpx.HTTPError, ValueError) as error:
                raise AnswerError(
                    f"{self._client.base_url} does not answer as a Prometheus: {error!r}"
                ) from error
        if body.get("status") != "success":
            raise AnswerError(body.get("error", f"{self._client.base_url} answered {answer.status_code}"))
        return body["data"]


async def pages(
    dashboards: Sequence[Json],
    url: str,
    window: Window,
    widths: Sequence[int],
    *,
    choices: Mapping[str, Sequence[str]],
    open_rows: bool,
) -> list[Json]:
    """What the page needs to draw each dashboard at each width, in that order.

    What a panel's query does wrong stands in that panel's `errors`. Raises AnswerError where there is no
    Prometheus.
    """
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS) as client:
        prometheus = Prometheus(client)
        await prometheus.get("/api/v1/query", query="1")
        asked = [
            page(prometheus, dashboard, window, width, choices, open_rows)
            for dashboard in dashboards
            for width in widths
        ]
        return list(await asyncio.gather(*asked))


async def variables(
    prometheus: Prometheus, dashboard: Json, window: Window, choices: Mapping[str, Sequence[str]]
) -> list[Choice]:
    """What each variable stands for, in order: a later one's query may name those before it.

    Raises AnswerError.
    """
    made: list[Choice] = []
    for variable in dashboard.get("templating", {}).get("list", []):
        wanted = choices.get(variable["name"], ())
        kind = variable["type"]
        if kind == "datasource":
            hidden = variable.get("hide", 0) == 2
            label = variable.get("label") or variable["name"]
            made.append(Choice(variable["name"], label, "prometheus", "Prometheus", hidden))
        elif kind == "query":
            known = {choice.name: choice.promql for choice in made}
            found = await _values(prometheus, variable, known | queries.built_in(window, 60), window)
            made.append(queries.chosen(variable, queries.ordered(found, variable), wanted))
        else:
            listed = re.split(r"\s*,\s*", variable.get("query") or "")
            made.append(queries.chosen(variable, [value.split(" : ")[-1] for value in listed], wanted))
    return made


async def _values(
    prometheus: Prometheus, variable: Json, known: Mapping[str, str], window: Window
) -> list[str]:
    query = variable["query"]
    text = queries.fill_in(query["query"] if isinstance(query, dict) else query, known)
    if call := re.fullmatch(r"label_values\((?:(.+),)?\s*(\w+)\s*\)", text.strip(), re.DOTALL):
        matches = {"match[]": call[1].strip()} if call[1] else {}
        times = {"start": f"{window.start:.3f}", "end": f"{window.end:.3f}"}
        return list(await prometheus.get(f"/api/v1/label/{call[2]}/values", **matches, **times))
    if call := re.fullmatch(r"query_result\((.+)\)", text.strip(), re.DOTALL):
        answer = await prometheus.get("/api/v1/query", query=call[1], time=f"{window.end:.3f}")
        return [
            f"{frames.name_of(one.labels, '')} {value:g} {moment * 1000:.0f}"
            for one in frames.series_of(answer)
            for moment, value in one.points
        ]
    raise AnswerError(
        f"variable {variable['name']}: the preview reads label_values(…) and query_result(…), not {text}"
    )


async def page(
    prometheus: Prometheus,
    dashboard: Json,
    window: Window,
    width: int,
    choices: Mapping[str, Sequence[str]],
    open_rows: bool,
) -> Json:
    errors = []
    made: list[Choice] = []
    try:
        made = await variables(prometheus, dashboard, window, choices)
    except AnswerError as error:
        errors.append(str(error))
    known = {choice.name: choice.promql for choice in made}
    shown = list(placed(dashboard["panels"], open_rows=open_rows))
    boxes = [box(panel["gridPos"], width) for panel in shown]
    panels = await asyncio.gather(
        *(_panel(prometheus, panel, place, window, known) for panel, place in zip(shown, boxes, strict=True))
    )
    marks, mark_errors = await _marks(prometheus, dashboard, window, known)
    return {
        "uid": dashboard["uid"],
        "title": dashboard["title"],
        "links": dashboard.get("links", []),
        "variables": [choice._asdict() for choice in made if not choice.hidden],
        "texts": {choice.name: choice.text for choice in made},
        "window": {"start": window.start * 1000, "end": window.end * 1000},
        "width": width,
        "height": max((place.top + place.height for place in boxes), default=0),
        "panels": panels,
        "annotations": marks,
        "errors": [*errors, *mark_errors],
    }


async def _panel(
    prometheus: Prometheus, panel: Json, place: Box, window: Window, known: Mapping[str, str]
) -> Json:
    targets = [target for target in panel.get("targets", []) if not target.get("hide")]
    points = panel.get("maxDataPoints") or place.width
    tables = sum(target.get("format") == "table" for target in targets)
    answers = await asyncio.gather(
        *(_frames(prometheus, target, panel, window, points, known, tables == 1) for target in targets),
        return_exceptions=True,
    )
    found: list[Json] = []
    errors = []
    if panel.get("repeat"):
        errors.append(f"the preview repeats no panels, and this one is to be by {panel['repeat']}")
    for target, answer in zip(targets, answers, strict=True):
        if isinstance(answer, AnswerError | ValueError):
            errors.append(f"{target['refId']}: {answer}")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found += answer
    return {
        "panel": panel,
        "place": place._asdict(),
        "frames": found,
        "errors": errors,
        "empty": bool(targets) and not found and not errors,
    }


async def _frames(
    prometheus: Prometheus,
    target: Json,
    panel: Json,
    window: Window,
    points: float,
    known: Mapping[str, str],
    alone: bool,
) -> list[Json]:
    least = target.get("interval") or panel.get("interval")
    least_seconds = queries.seconds(queries.fill_in(least, known)) if least else queries.SCRAPE_SECONDS
    step = queries.step_seconds(window, points, least_seconds)
    expr = queries.fill_in(target["expr"], dict(known) | queries.built_in(window, step))
    if target.get("instant"):
        answer = await prometheus.get("/api/v1/query", query=expr, time=f"{window.end:.3f}")
    else:
        answer = await _over(prometheus, expr, window.aligned(step), step)
    series = frames.series_of(answer)
    if target.get("format") == "table":
        return frames.as_table(series, target, alone=alone)
    if target.get("format") == "heatmap":
        return frames.as_heatmap(series, target, step)
    return frames.over_time(series, target | {"expr": expr}, step)


async def _marks(
    prometheus: Prometheus, dashboard: Json, window: Window, known: Mapping[str, str]
) -> tuple[list[Json], list[str]]:
    found: list[Json] = []
    errors = []
    for annotation in dashboard.get("annotations", {}).get("list", []):
        source = annotation.get("datasource") or {}
        own = isinstance(source, dict) and source.get("uid") == _GRAFANAS_OWN
        if not annotation.get("enable", True) or own or not annotation.get("expr"):
            continue
        step = queries.seconds(annotation["step"]) if annotation.get("step") else ANNOTATION_STEP_SECONDS
        expr = queries.fill_in(annotation["expr"], dict(known) | queries.built_in(window, step))
        try:
            answer = await _over(prometheus, expr, window.aligned(step), step)
        except AnswerError as error:
            errors.append(f"annotation {annotation['name']}: {error}")
        else:
            found += events(frames.series_of(answer), annotation, window, step)
    return found, errors


async def _over(prometheus: Prometheus, expr: str, window: Window, step: float) -> Any:
    return await prometheus.get(
        "/api/v1/query_range",
        query=expr,
        start=f"{window.start:.3f}",
        end=f"{window.end:.3f}",
        step=f"{step:g}",
    )
