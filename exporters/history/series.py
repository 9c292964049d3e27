"""Curves of a run out of the history: of its steps over attempts and ranks, its evaluations, its gauges."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import NamedTuple

from exporters.history import attempts, bins, gauges
from exporters.history.attempts import Attempt, Column, Part
from exporters.history.bins import Axis
from exporters.history.curves import CURVES
from exporters.history.ranks import Places, over_ranks

EVALUATIONS = {"validation_loss": "loss", "validation_accuracy": "accuracy"}
FAR_FUTURE = 1e12  # SQLite has no infinite numbers
ALWAYS = (0.0, FAR_FUTURE)
_EVENT_ROUNDING_NS = 500_000  # the time of an event is kept in milliseconds


@dataclass(frozen=True)
class Points:
    """Columns of equal length, in the order of time. `min` and `max` are of the steps within a point.

    `time` is in unix seconds; `tokens` are of all attempts, or of one rank's where the curve is one rank's.
    """

    time: list[float] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    attempt: list[int] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    min: list[float] = field(default_factory=list)
    max: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Series:
    """One curve. `labels` say whose it is; `resolution_seconds` is 0 where every step was looked at."""

    name: str
    unit: str
    labels: dict[str, str]
    resolution_seconds: int
    points: Points


def ranks_of(connection: sqlite3.Connection, run: str) -> list[int]:
    rows = connection.execute("SELECT DISTINCT rank FROM recordings WHERE run = ? ORDER BY rank", (run,))
    return [rank for (rank,) in rows]


def _is_cross_entropy(connection: sqlite3.Connection, run: str) -> bool:
    """False where the run has said that its loss is another: exp of it means nothing."""
    row = connection.execute(
        "SELECT json_extract(status, '$.info.loss_kind') FROM runs WHERE run = ?", (run,)
    )
    kind = row.fetchone()
    return kind is None or kind[0] in (None, "cross_entropy")


def of_steps(
    connection: sqlite3.Connection,
    run: str,
    names: Sequence[str],
    *,
    rank: int | None = None,
    between: tuple[float, float] = ALWAYS,
    axis: Axis = "time",
    most_points: int = 1000,
) -> list[Series]:
    """Curves of CURVES, of one rank or, without it, of the run; of what lies between two moments.

    Along steps or tokens an attempt ends where the next one took up: what was done twice is told once.
    """
    ranks = ranks_of(connection, run)
    if not ranks:
        return []
    if not _is_cross_entropy(connection, run):
        names = [name for name in names if name != "perplexity"]
    whose = ranks[0] if rank is None else rank
    pooled = [name for name in names if rank is None and CURVES[name].over_ranks and len(ranks) > 1]
    single = [name for name in names if name not in pooled]
    found: dict[str, Series] = {}
    if single:
        of_rank = attempts.of_rank(connection, run, whose, between, axis)
        found |= _of_one_rank(connection, of_rank, single, axis, most_points, {"rank": str(whose)})
    if pooled:
        of_all = [attempts.of_rank(connection, run, each, between, axis) for each in ranks]
        found |= _of_all_ranks(connection, of_all, pooled, axis, most_points)
    return [found[name] for name in names if name in found]


def _of_one_rank(
    connection: sqlite3.Connection,
    of_rank: Sequence[Attempt],
    names: Sequence[str],
    axis: Axis,
    most_points: int,
    labels: Mapping[str, str],
) -> dict[str, Series]:
    curves = {name: CURVES[name] for name in names}
    found = {name: Points() for name in names}
    plan = attempts.plan_for(connection, of_rank, axis, most_points)
    coarsest = 0
    for part in attempts.read(connection, of_rank, list(curves.values()), plan):
        coarsest = max(coarsest, part.resolution_seconds)
        places = _places(part, part.tokens)
        for name, curve in curves.items():
            _extend(found[name], places, *part.values(curve))
    return {
        name: Series(name, curve.unit, dict(labels), coarsest, found[name]) for name, curve in curves.items()
    }


def _of_all_ranks(
    connection: sqlite3.Connection,
    of_ranks: Sequence[Sequence[Attempt]],
    names: Sequence[str],
    axis: Axis,
    most_points: int,
) -> dict[str, Series]:
    """Curves that are made of all ranks, at the places where the first of them has steps."""
    curves = {name: CURVES[name] for name in names}
    # Ranks have their own tokens: what belongs together is told by the step.
    shared: Axis = "step" if axis == "tokens" else axis
    plan = attempts.plan_for(connection, of_ranks[0], shared, most_points, ranks=len(of_ranks))
    read = [list(attempts.read(connection, each, list(curves.values()), plan)) for each in of_ranks]
    coarsest = max((part.resolution_seconds for rank in read for part in rank), default=0)
    tokens = [Places.of(rank, [part.tokens for part in rank]) for rank in read]
    found = {name: Points() for name in names}
    columns = {name: [Places.of_curve(rank, curve) for rank in read] for name, curve in curves.items()}
    for part in read[0]:
        done = [int(sum(rank.until(place) for rank in tokens)) for place in part.places]
        places = _places(part, done)
        for name, curve in curves.items():
            values = [over_ranks(curve, columns[name], place) for place in part.places]
            _extend(found[name], places, values, values, values)
    return {name: Series(name, curve.unit, {}, coarsest, found[name]) for name, curve in curves.items()}


def _places(part: Part, tokens: Sequence[int]) -> Points:
    """Where the bins of a part lie on each axis, without values."""
    recording = part.attempt.recording
    return Points(
        time=[recording.at(end_ns) for end_ns in part.bins.end_ns],
        step=list(part.bins.step),
        tokens=list(tokens),
        attempt=[recording.attempt] * len(part.bins.step),
    )


def _extend(points: Points, places: Points, mean: Column, least: Column, greatest: Column) -> None:
    """Go on with what is known of these."""
    known = [value is not None for value in mean]
    columns = (
        *((points.time, places.time), (points.step, places.step), (points.tokens, places.tokens)),
        *((points.attempt, places.attempt), (points.mean, mean), (points.min, least), (points.max, greatest)),
    )
    for column, more in columns:
        column.extend(more if all(known) else compress(more, known))  # type: ignore[arg-type]


def since(curve: Series, moment: float) -> Series:
    """The curve with its times counted from this moment."""
    return replace(curve, points=replace(curve.points, time=[at - moment for at in curve.points.time]))


def began_at(connection: sqlite3.Connection, run: str) -> float:
    """When the first attempt of the run began, in unix seconds; 0 where it has none."""
    (began,) = connection.execute(
        "SELECT min(wall_offset_seconds + start_ns / 1e9) FROM recordings WHERE run = ?", (run,)
    ).fetchone()
    return float(began or 0.0)


def of_evaluations(
    connection: sqlite3.Connection,
    run: str,
    names: Sequence[str],
    *,
    rank: int | None = None,
    between: tuple[float, float] = ALWAYS,
    axis: Axis = "time",
) -> list[Series]:
    """Curves of EVALUATIONS: what each evaluation came to, of the leading rank where none is asked for.

    Along steps and tokens those of steps that a later attempt made again are left out.
    """
    ranks = ranks_of(connection, run)
    whose = rank if rank is not None else ranks[0] if ranks else 0
    rows = connection.execute(
        "SELECT at, step, attempt, fields FROM events WHERE run = ? AND kind = 'evaluation' AND rank = ? "
        "AND at BETWEEN ? AND ? ORDER BY at, id",
        (run, whose, *(min(moment, FAR_FUTURE) for moment in between)),
    ).fetchall()
    done = attempts.of_rank(connection, run, whose, ALWAYS, axis)
    places = [_place_of_evaluation(connection, done, *row[:3]) for row in rows]
    found = []
    for name in names:
        points = Points()
        for (at, step, attempt, text), tokens in zip(rows, places, strict=True):
            value = json.loads(text).get(EVALUATIONS[name])
            if value is not None and tokens is not None:
                of_place = ((points.time, at), (points.step, step or 0), (points.attempt, attempt))
                values = ((points.mean, value), (points.min, value), (points.max, value))
                for column, each in (*of_place, (points.tokens, tokens), *values):
                    column.append(each)
        found.append(Series(name, "", {"rank": str(whose)} if ranks else {}, 0, points))
    return found


def _place_of_evaluation(
    connection: sqlite3.Connection, done: Sequence[Attempt], at: float, step: int | None, attempt: int
) -> int | None:
    """The tokens that had been done by then; None for an evaluation of steps that were made again."""
    own = [each for each in done if each.recording.attempt == attempt and each.recording.began_at <= at]
    if not own:
        return 0 if not done or at < done[0].recording.began_at else None
    recording, stretch, before = own[-1]
    last = bins.totals_before(connection, recording, stretch.last_ns + 1, ["step"])
    if last is not None and step is not None and step > (last.values["step"] or 0):
        return None
    done_ns = round((at - recording.wall_offset_seconds) * 1e9) + _EVENT_ROUNDING_NS
    if step is not None:
        done_ns = attempts.end_of_step(connection, recording, step)
    moment_ns = min(done_ns, stretch.last_ns) + 1
    totals = bins.totals_before(connection, recording, moment_ns, ["tokens_all"])
    return before + int((totals.values["tokens_all"] if totals else 0) or 0)


def of_gauges(
    connection: sqlite3.Connection,
    names: Sequence[str],
    *,
    run: str | None = None,
    gpu_uuid: str | None = None,
    between: tuple[float, float] = ALWAYS,
    most_points: int = 1000,
) -> list[Series]:
    """Curves of the gauges kept of a run or of a GPU, one for each set of labels, over time."""
    rows = connection.execute(
        "SELECT id, metric, labels FROM series "
        "WHERE run IS ifnull(?, run) AND gpu_uuid IS ifnull(?, gpu_uuid) "
        f"AND metric IN ({', '.join('?' * len(names))}) ORDER BY metric, labels",
        (run, gpu_uuid, *names),
    ).fetchall()
    return [
        _of_gauge(connection, series, metric, json.loads(labels), between, most_points)
        for series, metric, labels in rows
    ]


def _of_gauge(
    connection: sqlite3.Connection,
    series: int,
    metric: str,
    labels: dict[str, str],
    between: tuple[float, float],
    most_points: int,
) -> Series:
    """At the finest width that is kept for all of the time and has not many more buckets than points."""
    points = Points()
    kept = {width: _kept(connection, series, width, between) for width in gauges.WIDTHS_SECONDS}
    oldest = min((stretch.first_at for stretch in kept.values() if stretch), default=0.0)
    widest = gauges.WIDTHS_SECONDS[-1]
    for width, stretch in kept.items():
        if stretch is None or stretch.first_at > oldest + widest:
            continue
        if stretch.rows <= 2 * most_points or width == widest:
            for bucket, least, greatest, mean in _gauge_bins(connection, series, width, stretch, most_points):
                points.time.append(float(bucket * width))
                points.mean.append(mean)
                points.min.append(least)
                points.max.append(greatest)
            return Series(metric, gauges.KEPT[metric].unit, labels, width, points)
    return Series(metric, gauges.KEPT[metric].unit, labels, 0, points)


class _Kept(NamedTuple):
    """What there is of a gauge at one width: how many buckets, from which one to which."""

    rows: int
    first: int
    last: int
    first_at: float


def _kept(
    connection: sqlite3.Connection, series: int, width: int, between: tuple[float, float]
) -> _Kept | None:
    first, last = (int(max(0.0, min(FAR_FUTURE, moment)) // width) for moment in between)
    rows, first, last = connection.execute(
        "SELECT count(*), min(bucket), max(bucket) FROM samples "
        "WHERE series = ? AND width_seconds = ? AND bucket BETWEEN ? AND ?",
        (series, width, first, last),
    ).fetchone()
    return _Kept(rows, first, last, float(first * width)) if rows else None


def _gauge_bins(
    connection: sqlite3.Connection, series: int, width: int, kept: _Kept, most_points: int
) -> list[tuple[int, float, float, float]]:
    """First bucket, least, greatest and mean of each of so many bins."""
    together = math.ceil((kept.last - kept.first + 1) / most_points)
    return connection.execute(
        "SELECT min(bucket), min(min), max(max), sum(sum) / sum(count) FROM samples "
        "WHERE series = ? AND width_seconds = ? AND bucket BETWEEN ? AND ? "
        "GROUP BY (bucket - ?) / ? ORDER BY bucket",
        (series, width, kept.first, kept.last, kept.first, together),
    ).fetchall()
