"""Steps of one recording in few bins, each with its mean, least and greatest: no spike is lost.

They are read at the finest resolution that is kept for all of the stretch and needs no more rows than it is
worth, so that what is asked of twelve hours takes no longer than of one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from exporters.history.steps import WIDTHS_SECONDS

_WIDEST = WIDTHS_SECONDS[-1]
_BUCKETS_TO_COUNT = 1000
_A_CURVE = 60  # rows that it takes at least
Axis = Literal["time", "step", "tokens"]
_POSITIONS: dict[Axis, str] = {"time": "end_ns", "step": "step", "tokens": "tokens_all"}


class Recording(NamedTuple):
    """One attempt of one rank as the database knows it; times are monotonic ns of its boot."""

    id: int
    rank: int
    attempt: int
    start_ns: int
    wall_offset_seconds: float
    bucketed_ns: int

    @property
    def began_at(self) -> float:
        """Unix seconds."""
        return self.at(self.start_ns)

    def at(self, monotonic_ns: int) -> float:
        """Unix seconds."""
        return round(self.wall_offset_seconds + monotonic_ns / 1e9, 6)


class Stretch(NamedTuple):
    """A part of a recording, by the ends of its steps; both its own ends are in it."""

    first_ns: int
    last_ns: int


class Grid(NamedTuple):
    """Bins of equal width on an axis: ns, steps or tokens. Bin 0 begins at `origin`."""

    axis: Axis
    origin: int
    width: int


class Bins(NamedTuple):
    """Steps that lie together, in columns with an entry a bin; what is not known is None.

    Of each bin its number on the grid, the place and the totals of its last step, and of what its steps had
    themselves the means, the least and the greatest values, by quantity.
    """

    number: Sequence[int]
    end_ns: Sequence[int]
    step: Sequence[int]
    totals: Mapping[str, Sequence[float | None]]
    own: Mapping[str, tuple[Sequence[float | None], Sequence[float | None], Sequence[float | None]]]


class Totals(NamedTuple):
    """The totals of an attempt when a step of it ended."""

    end_ns: int
    values: dict[str, float | None]


def resolution_seconds(
    connection: sqlite3.Connection, recording: Recording, stretch: Stretch, most: int
) -> int:
    """The width of the buckets of which so many hold the stretch; 0 is the steps themselves.

    Up to ten times as many are read where buckets would be so few that they make no curve.
    """
    if stretch.first_ns > recording.bucketed_ns:
        return 0
    oldest_ns = _oldest_ns(connection, recording, _WIDEST)
    steps = count(connection, recording, stretch)
    finer: int | None = None
    for width in (0, *WIDTHS_SECONDS):
        first_ns = _oldest_ns(connection, recording, width)
        rows = min(steps, (stretch.last_ns - stretch.first_ns) // (width * 10**9)) if width else steps
        if first_ns is None or (oldest_ns is not None and first_ns > max(stretch.first_ns, oldest_ns)):
            continue
        if rows <= most:
            return width if rows >= _A_CURVE or finer is None else finer
        finer = width if rows <= 10 * most else None
    return _WIDEST


def _oldest_ns(connection: sqlite3.Connection, recording: Recording, width: int) -> int | None:
    """The end of the oldest step, or of the last step in the oldest bucket, that is kept."""
    row = connection.execute(
        "SELECT end_ns FROM buckets WHERE recording = ? AND width_seconds = ? ORDER BY bucket LIMIT 1"
        if width
        else "SELECT end_ns FROM steps WHERE recording = ? AND ? = 0 ORDER BY end_ns LIMIT 1",
        (recording.id, width),
    ).fetchone()
    return None if row is None else int(row[0])


def count(connection: sqlite3.Connection, recording: Recording, stretch: Stretch) -> int:
    """How many steps ended in the stretch, or in a bucket that is partly in it; those not kept count, too."""
    seconds = (stretch.last_ns - stretch.first_ns) / 1e9
    width = next((each for each in WIDTHS_SECONDS if seconds / each <= _BUCKETS_TO_COUNT), _WIDEST)
    ends = [ns // (width * 10**9) for ns in stretch]
    (in_buckets,) = connection.execute(
        "SELECT ifnull(sum(duration_ns_count), 0) FROM buckets "
        "WHERE recording = ? AND width_seconds = ? AND bucket BETWEEN ? AND ?",
        (recording.id, width, *ends),
    ).fetchone()
    (newer,) = connection.execute(
        "SELECT count(*) FROM steps WHERE recording = ? AND end_ns BETWEEN ? AND ?",
        (recording.id, max(recording.bucketed_ns + 1, stretch.first_ns), stretch.last_ns),
    ).fetchone()
    return int(in_buckets + newer)


def read(
    connection: sqlite3.Connection,
    recording: Recording,
    stretch: Stretch,
    grid: Grid,
    resolution: int,
    *,
    quantities: Sequence[str] = (),
    totals: Sequence[str] = (),
) -> Bins:
    """The bins of the grid that hold steps of the stretch, in order."""
    totals = [*totals, *(() if "tokens_all" in totals else ("tokens_all",))]
    columns = ["max(end_ns)", "max(step)", *(f"max({name})" for name in totals)]
    for name in quantities:
        columns += [f"1.0 * sum({name}_sum) / sum({name}_count)", f"min({name}_min)", f"max({name}_max)"]
    rows = connection.execute(
        f"SELECT ({_POSITIONS[grid.axis]} - :origin) / :bin_width AS bin, {', '.join(columns)} "
        f"FROM ({_rows(resolution, quantities, totals)}) GROUP BY bin ORDER BY bin",
        {
            "recording": recording.id,
            "width": resolution,
            "origin": grid.origin,
            "bin_width": grid.width,
            "first": stretch.first_ns,
            "last": stretch.last_ns,
            **_borders(connection, recording, stretch, resolution),
        },
    ).fetchall()
    number, end_ns, step, *values = zip(*rows, strict=True) if rows else [()] * (1 + len(columns))
    of_own = iter(values[len(totals) :])
    return Bins(
        *(number, end_ns, step),
        dict(zip(totals, values[: len(totals)], strict=True)),
        {name: (next(of_own), next(of_own), next(of_own)) for name in quantities},
    )


def _borders(
    connection: sqlite3.Connection, recording: Recording, stretch: Stretch, resolution: int
) -> dict[str, int]:
    """Which buckets are read, and from where on steps.

    The bucket in which the stretch ends is read step by step; where these are kept no longer, whole.
    """
    if not resolution:
        return {"first_step": stretch.first_ns, "first_bucket": 0, "last_bucket": 0}
    width_ns = resolution * 10**9
    last = stretch.last_ns // width_ns
    borders = {
        "first_bucket": stretch.first_ns // width_ns,
        "last_bucket": last,
        "first_step": max(recording.bucketed_ns + 1, stretch.first_ns),
    }
    begins_ns = max(last * width_ns, stretch.first_ns)
    oldest_ns = _oldest_ns(connection, recording, 0)
    if recording.bucketed_ns >= begins_ns and oldest_ns is not None and oldest_ns <= begins_ns:
        borders |= {"last_bucket": last - 1, "first_step": begins_ns}
    return borders


def totals_before(
    connection: sqlite3.Connection, recording: Recording, moment_ns: int, totals: Sequence[str]
) -> Totals | None:
    """Of the last step known to have ended before a moment; None where there is none."""
    columns = ", ".join(("end_ns", *totals))
    newest: tuple[float, ...] | None = None
    for width in (0, *WIDTHS_SECONDS):
        row = connection.execute(
            f"SELECT {columns} FROM buckets WHERE recording = ? AND width_seconds = ? AND end_ns < ? "
            "AND bucket <= ? ORDER BY bucket DESC LIMIT 1"
            if width
            else f"SELECT {columns} FROM steps WHERE recording = ? AND ? = 0 AND end_ns < ? AND ? = 0 "
            "ORDER BY end_ns DESC LIMIT 1",
            (recording.id, width, moment_ns, moment_ns // (width * 10**9) if width else 0),
        ).fetchone()
        if row is not None and (newest is None or row[0] > newest[0]):
            newest = tuple(row)
    if newest is None:
        return None
    return Totals(int(newest[0]), dict(zip(totals, newest[1:], strict=True)))


def _rows(resolution: int, quantities: Sequence[str], totals: Sequence[str]) -> str:
    """SQL for the steps as if each were a bucket, or for buckets and the steps that are in none yet."""
    of_steps = ["end_ns", "step", *totals]
    of_buckets = list(of_steps)
    for name in quantities:
        of_steps += [
            *(f"{name} AS {name}_{what}" for what in ("min", "max", "sum")),
            f"{name} IS NOT NULL AS {name}_count",
        ]
        of_buckets += [f"{name}_{what}" for what in ("min", "max", "sum", "count")]
    steps = (
        f"SELECT {', '.join(of_steps)} FROM steps "
        "WHERE recording = :recording AND end_ns BETWEEN :first_step AND :last"
    )
    if resolution == 0:
        return steps
    return (
        f"SELECT {', '.join(of_buckets)} FROM buckets "
        "WHERE recording = :recording AND width_seconds = :width "
        f"AND bucket BETWEEN :first_bucket AND :last_bucket AND end_ns >= :first UNION ALL {steps}"
    )
