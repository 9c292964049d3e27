"""Step records as rows, and the buckets they are thinned to.

A bucket holds the steps that ended within so many seconds: of what is a step's own the least, greatest, sum
and number, of running totals those of its last step. So a mean and a rate over any stretch of buckets are
exact, and no spike is lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from exporters.history.database import OF_A_BUCKET, QUANTITIES, TOTALS
from trainer_hooks.recording import StepRecord

WIDTHS_SECONDS = (10, 60, 600)

_COLUMNS = ("recording", "end_ns", "step", *TOTALS, *QUANTITIES)
_INSERT = f"INSERT OR IGNORE INTO steps ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"

_LAST = ", ".join(f"last.{name}" for name in ("end_ns", "step", *TOTALS))
# What is whole is stored as an integer, also of a double, and a sum of integers may be too great for one.
_OF_STEPS = ", ".join(
    f"min({name}) AS {name}_min, max({name}) AS {name}_max, "
    f"sum(CAST({name} AS REAL)) AS {name}_sum, count({name}) AS {name}_count"
    for name in QUANTITIES
)
_AGGREGATES = {"min": "min({})", "max": "max({})", "sum": "sum(CAST({} AS REAL))", "count": "sum({})"}
_OF_BUCKETS = ", ".join(
    f"{_AGGREGATES[name.rpartition('_')[2]].format(name)} AS {name}" for name in OF_A_BUCKET
)


def _bucketing(source: str, key: str, aggregates: str, narrower: str = "") -> str:
    """Makes the buckets of one width, anew where they are there, out of narrower rows."""
    return f"""
        INSERT OR REPLACE INTO buckets
            (recording, width_seconds, bucket, end_ns, step, {", ".join((*TOTALS, *OF_A_BUCKET))})
        SELECT :recording, :width, wide, {_LAST}, {", ".join(f"summed.{name}" for name in OF_A_BUCKET)}
        FROM (
            SELECT end_ns / (:width * 1000000000) AS wide, max({key}) AS last_key, {aggregates}
            FROM {source} WHERE recording = :recording {narrower} AND {key} >= :first_key GROUP BY wide
        ) AS summed
        JOIN {source} AS last ON last.recording = :recording {narrower and "AND last." + narrower[4:]}
            AND last.{key} = last_key
    """


_FROM_STEPS = _bucketing("steps", "end_ns", _OF_STEPS)
_FROM_BUCKETS = _bucketing("buckets", "bucket", _OF_BUCKETS, "AND width_seconds = :narrower")


def add(connection: sqlite3.Connection, recording: int, records: Sequence[StepRecord]) -> int:
    """Store records, and return how many; one that is there already is left as it is.

    A record with a number that is none of a training, which SQLite could not hold, is left out.
    """
    try:
        connection.executemany(_INSERT, (_row(recording, each) for each in records))
    except OverflowError:
        records = [each for each in records if _fits(each)]
        connection.executemany(_INSERT, (_row(recording, each) for each in records))
    return len(records)


def _row(recording: int, record: StepRecord) -> tuple[float, ...]:
    return (
        *(recording, record.time_ns, record.step),
        *(record.batches, record.samples, record.tokens_all, record.tokens_trained),
        *(record.loss_tokens, record.loss_token_sum, *record.phase_ns),
        *(record.duration_ns, record.loss, record.learning_rate, record.gradient_norm),
    )


def _fits(record: StepRecord) -> bool:
    return all(value < 2**63 for value in _row(0, record) if isinstance(value, int))


def bucket(connection: sqlite3.Connection, recording: int, bucketed_ns: int) -> int:
    """Bring a recording's buckets, which hold its steps up to `bucketed_ns`, up to the newest.

    Returns when that one ended.
    """
    (newest_ns,) = connection.execute(
        "SELECT max(end_ns) FROM steps WHERE recording = ?", (recording,)
    ).fetchone()
    if newest_ns is None or newest_ns <= bucketed_ns:
        return bucketed_ns
    (first_ns,) = connection.execute(
        "SELECT min(end_ns) FROM steps WHERE recording = ? AND end_ns > ?", (recording, bucketed_ns)
    ).fetchone()
    narrower_ns, narrower = 1, 0
    for width in WIDTHS_SECONDS:
        width_ns = width * 10**9
        values = {
            "recording": recording,
            "width": width,
            "narrower": narrower,
            "first_key": first_ns // width_ns * width_ns // narrower_ns,
        }
        connection.execute(_FROM_BUCKETS if narrower else _FROM_STEPS, values)
        narrower_ns, narrower = width_ns, width
    return int(newest_ns)
