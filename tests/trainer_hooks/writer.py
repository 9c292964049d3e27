"""A trainer that does nothing but record, until it is killed.

    python -m tests.trainer_hooks.writer DIRECTORY COUNTER mapped|unmapped|monitor STEPS_PER_SECOND

Every number of a step's record follows from the step's own (see `intact`). After each complete step the
writer counts it in the file COUNTER, which shares nothing with the recording.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import (
    BODY,
    PHASE_MASK,
    PHASES,
    SLOT,
    Recorder,
    StepRecord,
    this_process,
)

COUNTER = struct.Struct("@QQ")  # steps that are complete, monotonic ns at the first


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        time_ns=step << 20,
        duration_ns=step * 17,
        phase_ns=tuple(step * factor for factor in range(len(PHASES))),
        batches=step,
        samples=3 * step,
        tokens_all=7 * step,
        tokens_trained=5 * step,
        loss_tokens=5 * step,
        loss_token_sum=5.0 * step * (step + 1) / 2,
        loss=float(step),
        learning_rate=1.0 / step,
        gradient_norm=step**0.5,
    )


def intact(read: StepRecord, kind: str) -> bool:
    """Whether the record is what the writer wrote as this step, in every number that follows from it."""
    wrote = record(read.step)
    if kind == "monitor":  # times are real there, and it knows no rates and norms
        wrote = wrote._replace(
            time_ns=read.time_ns,
            duration_ns=read.duration_ns,
            phase_ns=read.phase_ns,
            learning_rate=0.5,
            gradient_norm=1.5,
        )
    return read == wrote


def main(directory: Path, counter: Path, kind: str, steps_per_second: float) -> None:
    with counter.open("r+b") as file:
        count = memoryview(mmap.mmap(file.fileno(), COUNTER.size)).cast("Q")
    write = _with_monitor(directory) if kind == "monitor" else _with_recorder(directory, kind == "mapped")
    count[1] = time.monotonic_ns()
    began = time.monotonic()
    step = 0
    while True:
        step += 1
        write(step)
        count[0] = step
        early = began + step / steps_per_second - time.monotonic()
        if early > 0:
            time.sleep(early)


def _with_monitor(directory: Path) -> Callable[[int], None]:
    monitor = Monitor(run="written", directory=directory)

    def write(step: int) -> None:
        with monitor.phase("data"):
            pass
        with monitor.step():
            monitor.log(gradient_norm=1.5)
            monitor.learning_rates([0.5])
            monitor.batch(loss=float(step), samples=3, tokens=7, trained_tokens=5)

    return write


def _with_recorder(directory: Path, mapped: bool) -> Callable[[int], None]:
    static = this_process(run="written", node="here", rank=0, local_rank=0, world_size=1, info={})
    recorder = Recorder(directory, static, mapped=mapped)
    unsigned = recorder.unsigned
    since_ns, phase, phase_ns = static.start_monotonic_ns, 0, [0] * len(PHASES)

    def write(step: int) -> None:
        nonlocal since_ns, phase
        for following in ((phase + 1) % len(PHASES), (phase + 2) % len(PHASES)):
            now_ns = time.monotonic_ns() & ~PHASE_MASK
            phase_ns[phase] += now_ns - since_ns
            unsigned[SLOT["phase_ns"] + phase] = phase_ns[phase]
            unsigned[SLOT["phase_word"]] = now_ns | following
            since_ns, phase = now_ns, following
        head, phases, rest = record(step)[:3], record(step).phase_ns, record(step)[4:]
        recorder.append(BODY.pack(*head, *phases, *rest))
        unsigned[SLOT["steps"]] = step
        recorder.publish()

    return write


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
