"""Recordings whose steps are written as a test wants them, and what the history has of them."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from exporters.collector import Histogram
from exporters.history.database import Database
from exporters.history.writer import HistoryCollector
from trainer_hooks.recording import (
    BODY,
    PHASE_CODES,
    PHASES,
    RING_CAPACITY,
    Recorder,
    StepRecord,
    this_process,
)

SECOND = 10**9
_UPTIME_SECONDS = 100  # a machine is taken to be up so long


def recorder(
    directory: Path,
    run: str = "a-run",
    *,
    rank: int = 0,
    ring_capacity: int = RING_CAPACITY,
    age_seconds: int = 0,
    info: Mapping[str, str] | None = None,
) -> Recorder:
    """One that began so long ago; in an earlier boot, and dead, where a machine may not be up so long."""
    static = this_process(
        run=run,
        node="here",
        rank=rank,
        local_rank=rank,
        world_size=1,
        info=info or {},
        start_ns=time.monotonic_ns() - min(age_seconds, _UPTIME_SECONDS) * SECOND,
    )
    if age_seconds > _UPTIME_SECONDS:
        began_ns = time.time_ns() - age_seconds * SECOND
        static = static._replace(boot_id="earlier", start_monotonic_ns=SECOND, start_wall_ns=began_ns)
    return Recorder(directory, static, ring_capacity=ring_capacity)


def steps(
    recorder: Recorder,
    losses: Iterable[float],
    *,
    seconds: float = 1.0,
    first: int = 1,
    before: StepRecord | None = None,
) -> list[StepRecord]:
    """Records of steps of equal length, one after the other, of 100 tokens and 2 samples each."""
    start_ns = recorder.static.start_monotonic_ns
    duration_ns = round(seconds * SECOND)
    records = []
    loss_sum = 0.0
    for index, loss in enumerate(losses, 1):
        loss_sum += 0.0 if math.isnan(loss) else loss * 100
        phases = [0] * len(PHASES)
        phases[PHASE_CODES["forward"]] = index * duration_ns * 3 // 4
        phases[PHASE_CODES["data"]] = index * duration_ns // 4
        records.append(
            StepRecord(
                step=first + index - 1,
                time_ns=start_ns + index * duration_ns,
                duration_ns=duration_ns,
                phase_ns=tuple(phases),
                batches=index,
                samples=2 * index,
                tokens_all=100 * index,
                tokens_trained=100 * index,
                loss_tokens=100 * index,
                loss_token_sum=loss_sum,
                loss=loss,
                learning_rate=0.1,
                gradient_norm=math.nan,
            )
        )
    return records


def write(recorder: Recorder, records: Iterable[StepRecord]) -> None:
    for record in records:
        recorder.append(packed(record))


def packed(record: StepRecord) -> bytes:
    return BODY.pack(*_flat(record))


def _flat(record: StepRecord) -> Iterator[float]:
    for value in record:
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Within it no file of this process grows beyond the size of this one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_all(collector: HistoryCollector) -> None:
    """Rounds until nothing new comes."""
    before = -1
    while True:
        taken = sum(int(each.value) for each in collector.collect() if not isinstance(each.value, Histogram))
        if taken == before:
            return
        before = taken


def rows(database: Database, query: str, *values: object) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(query, values)]
