"""The attempts of a rank on one axis, read in bins that all of them share."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from exporters.history import bins
from exporters.history.bins import Axis, Bins, Grid, Recording, Stretch, Totals
from exporters.history.curves import Curve

_ROWS_A_BIN = 10
_STEPS_A_BIN = 5  # where ranks are put together, so that a step that ends a little later on one is no dip

Column = Sequence[float | None]


class Attempt(NamedTuple):
    """A recording, which part of it is asked for, and what its rank had done before it."""

    recording: Recording
    stretch: Stretch
    tokens_before: int


def of_rank(
    connection: sqlite3.Connection, run: str, rank: int, between: tuple[float, float], axis: Axis
) -> list[Attempt]:
    """The attempts of a rank, the oldest first, that have steps between two moments."""
    rows = connection.execute(
        "SELECT id, rank, attempt, start_ns, wall_offset_seconds, bucketed_ns FROM recordings "
        "WHERE run = ? AND rank = ? ORDER BY wall_offset_seconds + start_ns / 1e9, attempt",
        (run, rank),
    )
    recordings = [Recording(*row) for row in rows]
    ends = _ends(connection, recordings, axis)
    attempts, tokens = [], 0
    for recording, newest_ns in zip(recordings, ends, strict=True):
        before = tokens
        if newest_ns is None:
            continue
        done = bins.totals_before(connection, recording, newest_ns + 1, ["tokens_all"])
        tokens += int(done.values["tokens_all"] or 0) if done else 0
        stretch = _clipped(recording, between, newest_ns)
        if stretch is not None:
            attempts.append(Attempt(recording, stretch, before))
    return attempts


def _ends(connection: sqlite3.Connection, recordings: Sequence[Recording], axis: Axis) -> list[int | None]:
    """Of each attempt the end of its newest step, None where it has made none.

    Along steps and tokens that of the last step that no later attempt made again.
    """
    ends: list[int | None] = []
    taken_up: int | None = None  # by the later attempts: the step they went on from
    for recording in reversed(recordings):
        newest_ns = _newest_ns(connection, recording)
        if newest_ns is not None and axis != "time":
            if taken_up is not None:
                newest_ns = end_of_step(connection, recording, taken_up)
            began_at = _step_before(connection, recording)
            taken_up = began_at if taken_up is None else min(taken_up, began_at)
        ends.append(newest_ns)
    return ends[::-1]


def _step_before(connection: sqlite3.Connection, recording: Recording) -> int:
    """The number of the step before the first one of a recording that has some."""
    firsts = connection.execute(
        "SELECT * FROM (SELECT end_ns, step - 1 FROM steps WHERE recording = :recording "
        "ORDER BY end_ns LIMIT 1) UNION ALL "
        "SELECT * FROM (SELECT end_ns, step - duration_ns_count FROM buckets WHERE recording = :recording "
        "ORDER BY end_ns LIMIT 1) ORDER BY end_ns LIMIT 1",
        {"recording": recording.id},
    ).fetchone()
    return int(firsts[1])


def _clipped(recording: Recording, between: tuple[float, float], newest_ns: int) -> Stretch | None:
    """What lies between two moments, in unix seconds, of the recording up to its newest step."""
    first, last = ((moment - recording.wall_offset_seconds) * 1e9 for moment in between)
    stretch = Stretch(int(max(first, recording.start_ns)), int(min(last, newest_ns)))
    return stretch if stretch.first_ns <= stretch.last_ns else None


def _newest_ns(connection: sqlite3.Connection, recording: Recording) -> int | None:
    (newest,) = connection.execute(
        "SELECT max(end_ns) FROM steps WHERE recording = ?", (recording.id,)
    ).fetchone()
    return None if newest is None else int(newest)


def end_of_step(connection: sqlite3.Connection, recording: Recording, step: int) -> int:
    """When the last step up to this number ended; before the recording began where it has none."""
    ends = [
        connection.execute(
            f"SELECT max(end_ns) FROM {table} WHERE recording = ? AND step <= ?", (recording.id, step)
        ).fetchone()[0]
        for table in ("steps", "buckets")
    ]
    return max((end for end in ends if end is not None), default=recording.start_ns - 1)


class Plan(NamedTuple):
    """How finely to read: bins of which width, from at most how many rows of an attempt."""

    axis: Axis
    width: int
    rows: int


class Part(NamedTuple):
    """The bins of an attempt, what it had done before them, and at which resolution they were read."""

    attempt: Attempt
    resolution_seconds: int
    first_bin: int  # of the axis as a whole, that bin 0 is
    before: Totals | None
    bins: Bins

    @property
    def places(self) -> list[int]:
        """The numbers of the bins on the axis as a whole."""
        return [self.first_bin + number for number in self.bins.number]

    @property
    def tokens(self) -> list[int]:
        """Those that the rank had done at the end of each bin, in all attempts."""
        return [self.attempt.tokens_before + int(tokens or 0) for tokens in self.bins.totals["tokens_all"]]

    def grown(self, curve: Curve) -> list[tuple[float, ...] | None]:
        """What the totals of a curve grew by in each bin; None where that is not known."""
        by_total = []
        for total in curve.totals:
            column = self.bins.totals[total]
            was = 0.0 if self.before is None else self.before.values[total]
            by_total.append(
                [
                    None if after is None or earlier is None else after - earlier
                    for earlier, after in zip((was, *column), column, strict=False)
                ]
            )
        return [None if None in values else values for values in zip(*by_total, strict=True)]

    def values(self, curve: Curve) -> tuple[Column, Column, Column]:
        """Mean, least and greatest of a curve in each bin; None where they are not known."""
        if curve.quantity:
            mean, least, greatest = (_scaled(column, curve.scale) for column in self.bins.own[curve.quantity])
            return mean, least, greatest
        if curve.over_ranks == "sum" and not any(self.bins.totals[curve.totals[0]][-1:]):
            unknown = [None] * len(self.bins.number)  # of tokens that nobody counted there is no rate
            return unknown, unknown, unknown
        since_ns = self.attempt.recording.start_ns if self.before is None else self.before.end_ns
        ends_ns = self.bins.end_ns
        column: list[float | None] = [
            None if grown is None else curve.value(grown, (end_ns - began_ns) / 1e9)
            for grown, began_ns, end_ns in zip(self.grown(curve), (since_ns, *ends_ns), ends_ns, strict=False)
        ]
        if self.before is None and not curve.from_start and column:
            column[0] = None
        return column, column, column


def plan_for(
    connection: sqlite3.Connection,
    attempts: Sequence[Attempt],
    axis: Axis,
    most_points: int,
    *,
    ranks: int = 1,
) -> Plan:
    """So many bins that all attempts fit into them; each step is alone where there are no more.

    `ranks` is how many are read alike and put together: the more, the fewer rows of each.
    """
    least_steps = 1 if ranks == 1 else _STEPS_A_BIN
    steps = sum(bins.count(connection, each.recording, each.stretch) for each in attempts)
    points = max(1, min(most_points, steps // least_steps))
    alone = points == steps
    rows = max(points, _ROWS_A_BIN * most_points // ranks)
    return Plan(axis, 1 if alone else _width(connection, attempts, axis, points), rows)


def read(
    connection: sqlite3.Connection, attempts: Sequence[Attempt], curves: Sequence[Curve], plan: Plan
) -> Iterator[Part]:
    quantities = sorted({curve.quantity for curve in curves if curve.quantity})
    totals = sorted({total for curve in curves for total in curve.totals})
    for attempt in attempts:
        recording, stretch, tokens_before = attempt
        resolution = bins.resolution_seconds(connection, recording, stretch, plan.rows)
        # Where the axis as a whole, unix time or the tokens of all attempts, has its zero.
        zero = {"time": -round(recording.wall_offset_seconds * 1e9), "step": 0, "tokens": -tokens_before}[
            plan.axis
        ]
        origin = zero % plan.width - plan.width  # so that none lies before it: SQLite divides towards zero
        known = bins.totals_before(connection, recording, stretch.first_ns, totals)
        grid = Grid(plan.axis, origin, plan.width)
        yield Part(
            attempt,
            resolution,
            (origin - zero) // plan.width,
            known,
            bins.read(
                *(connection, recording, stretch, grid, resolution), quantities=quantities, totals=totals
            ),
        )


def _width(connection: sqlite3.Connection, attempts: Sequence[Attempt], axis: Axis, points: int) -> int:
    """Of bins on this axis, so that so many hold all attempts."""
    length = 0
    for recording, stretch, _ in attempts:
        if axis == "time":
            length += stretch.last_ns - stretch.first_ns + 1
        else:
            column = {"step": "step", "tokens": "tokens_all"}[axis]
            first = bins.totals_before(connection, recording, stretch.first_ns, [column])
            last = bins.totals_before(connection, recording, stretch.last_ns + 1, [column])
            length += int(
                ((last.values[column] if last else 0) or 0) - ((first.values[column] if first else 0) or 0)
            )
    return max(1, math.ceil(length / points))


def _scaled(column: Column, scale: float) -> Column:
    return column if scale == 1.0 else [None if value is None else value * scale for value in column]
