"""Runs that report by Kubeflow's protocol, kept as if they had recordings: steps, events, how far each is.

Their times are unix nanoseconds where a recording has those of its boot. Of a step only what was reported is
there; running totals are unknown, and that of tokens, which is a place on an axis, is 0.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator

from pydantic import TypeAdapter, ValidationError

from exporters.collector import Sample
from exporters.history import steps
from exporters.history.database import Database
from exporters.kubeflow import KubeflowCollector, Restored
from exporters.kubeflow_attempt import Attempt, Change

logger = logging.getLogger(__name__)

_ATTEMPT: TypeAdapter[Attempt] = TypeAdapter(Attempt)
_BOOT_ID = "kubeflow"  # none that a kernel has
_NODE = ""  # none that a recording can have
_OF_ATTEMPT = "run = ? AND node = ? AND rank = 0 AND attempt = ? AND boot_id = ? AND start_ns = ?"


class KubeflowHistoryCollector:
    """Writes down what has been reported since the last round."""

    name = "history_kubeflow"
    interval_seconds = 1.0
    deadline_seconds = 30.0

    def __init__(
        self,
        reports: KubeflowCollector,
        database: Database,
        *,
        buckets_every_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reports = reports
        self._database = database
        self._buckets_every_seconds = buckets_every_seconds
        self._monotonic = monotonic
        self._bucketed_at = 0.0

    def collect(self) -> Iterator[Sample]:
        """Raises sqlite3.Error where the database cannot be used; then a run's newest 512 reports wait."""
        now = self._monotonic()
        is_due = now - self._bucketed_at >= self._buckets_every_seconds
        known = self._reports.known
        with self._reports.unwritten() as changes:
            if changes or is_due:
                with self._database.write() as connection:
                    for each in changes:
                        _keep(connection, each)
                    if is_due:
                        _bucket(connection)
                        _forget(connection, known)
        if is_due:
            self._bucketed_at = now
        yield from ()

    def close(self) -> None:
        """Write what came since the last round, of runs too that are still held back."""
        try:
            with (
                self._reports.unwritten(with_held_back=True) as changes,
                self._database.write() as connection,
            ):
                for each in changes:
                    _keep(connection, each)
        except sqlite3.Error as error:
            logger.error("the last reports of runs could not be kept: %s", error)


def restored(database: Database) -> list[Restored]:
    """The attempts that were kept. Raises sqlite3.Error where the database cannot be read."""
    with database.read() as connection:
        rows = connection.execute(
            "SELECT run, attempt, ifnull(state, 'running') FROM kubeflow_runs LEFT JOIN runs USING (run)"
        ).fetchall()
    found = []
    for run, text, state in rows:
        try:
            found.append(Restored(_ATTEMPT.validate_json(text), was_running=state == "running"))
        except ValidationError as error:
            logger.error("what is kept of the run %r cannot be read: %s", run, error)
    return found


def attempts_before(database: Database, run: str) -> int:
    """How many attempts of a run are known. Raises sqlite3.Error where the database cannot be read."""
    with database.read() as connection:
        (most,) = connection.execute("SELECT max(attempt) FROM recordings WHERE run = ?", (run,)).fetchone()
    return int(most or 0)


def _keep(connection: sqlite3.Connection, change: Change) -> None:
    attempt, step = change.attempt, change.step
    recording = _recording(connection, attempt)
    if step is not None:
        duration_ns = step.seconds * 1e9  # NaN, which is unknown, is NULL
        connection.execute(
            "INSERT OR IGNORE INTO steps (recording, end_ns, step, tokens_all, duration_ns, loss, "
            "learning_rate, gradient_norm) VALUES (?, ?, ?, 0, ?, ?, ?, ?)",
            (
                *(recording, int(step.at * 1e9), step.step, duration_ns),
                *(step.loss, step.learning_rate, step.gradient_norm),
            ),
        )
    for event in change.events:
        connection.execute(
            "INSERT INTO events (run, at, kind, rank, attempt, step, fields) VALUES (?, ?, ?, 0, ?, ?, ?)",
            (
                *(attempt.run, round(event.at, 3), event.kind, attempt.number_of_all, event.step),
                json.dumps(event.fields),
            ),
        )
    connection.execute(
        "INSERT OR REPLACE INTO kubeflow_runs (run, attempt) VALUES (?, ?)",
        (attempt.run, _ATTEMPT.dump_json(attempt).decode()),
    )


def _recording(connection: sqlite3.Connection, attempt: Attempt) -> int:
    identity = (attempt.run, _NODE, attempt.number_of_all, _BOOT_ID, int(attempt.started_at * 1e9))
    select = f"SELECT id FROM recordings WHERE {_OF_ATTEMPT}"
    row = connection.execute(select, identity).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO recordings (run, node, rank, attempt, boot_id, start_ns, wall_offset_seconds) "
            "VALUES (?, ?, 0, ?, ?, ?, 0.0)",
            identity,
        )
        row = connection.execute(select, identity).fetchone()
    return int(row[0])


def _bucket(connection: sqlite3.Connection) -> None:
    """Bring the buckets of what reports up to its newest step."""
    rows = connection.execute(
        "SELECT id, bucketed_ns FROM recordings WHERE boot_id = ? AND run IN (SELECT run FROM kubeflow_runs)",
        (_BOOT_ID,),
    ).fetchall()
    for recording, before_ns in rows:
        bucketed_ns = steps.bucket(connection, recording, before_ns)
        if bucketed_ns != before_ns:
            connection.execute("UPDATE recordings SET bucketed_ns = ? WHERE id = ?", (bucketed_ns, recording))


def _forget(connection: sqlite3.Connection, known: frozenset[str]) -> None:
    """How far a run is that is followed no more; its steps and events stay."""
    rows = connection.execute("SELECT run FROM kubeflow_runs").fetchall()
    gone = [(run,) for (run,) in rows if run not in known]
    connection.executemany("DELETE FROM kubeflow_runs WHERE run = ?", gone)
