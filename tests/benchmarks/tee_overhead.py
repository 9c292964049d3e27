"""What the tee adds to one `add_scalar`: `python -m tests.benchmarks.tee_overhead`.

Microseconds of the calling thread's processor time, medians over blocks of calls with and without it in turn,
in one process. Not of the clock: the writer's own thread takes its turn whenever the interpreter lets it.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import thread_time_ns
from typing import Any, NamedTuple

import tensorboardX
import torch
from torch.utils.tensorboard import SummaryWriter

from trainer_hooks import tee
from trainer_hooks.monitor import Monitor

BLOCKS = 40
CALLS = 200


class Added(NamedTuple):
    """Microseconds of one call without the tee, and what it adds: the median and the quartiles."""

    without: float
    tee: float
    quartiles: tuple[float, float]


def added(call: Callable[[int], None], *, blocks: int = BLOCKS, calls: int = CALLS) -> Added:
    """The cost of `call(number)`, which logs one number, with and without."""
    done, without, differences = 0, [], []
    for _ in range(blocks):
        took: list[float] = []
        for change in (tee.remove, tee.install):
            change()
            began = thread_time_ns()
            for step in range(done, done + calls):
                call(step)
            took.append((thread_time_ns() - began) / calls / 1000)
            done += calls
        without.append(took[0])
        differences.append(took[1] - took[0])
    tee.remove()
    low, middle, high = statistics.quantiles(differences, n=4)
    return Added(statistics.median(without), middle, (low, high))


def _log(writer: Any, tag: str, value: Any, step: int) -> None:
    writer.add_scalar(tag, value, step)  # looked up at each call: it is what changes


def main() -> None:
    """Print a line for each writer and kind of value, where a Monitor measures and where none does."""
    with tempfile.TemporaryDirectory() as folder:
        writers: dict[str, Any] = {
            "torch": SummaryWriter(f"{folder}/torch"),
            "tensorboardX": tensorboardX.SummaryWriter(f"{folder}/tensorboardX"),
        }
        with Monitor(name="benchmark", directory=Path(folder, "recordings")) as monitor:
            for tag in ("success_rate", "loss"):
                if tag == "loss":
                    monitor.measured.clear()  # as one that the tee opened itself
                for name, writer in writers.items():
                    for value in (0.5, torch.tensor(0.5)):
                        cost = added(functools.partial(_log, writer, tag, value))
                        print(
                            f"{name}, {tag}, {type(value).__name__}: {cost.without:.1f} us without, "
                            f"{cost.tee:+.1f} with ({cost.quartiles[0]:+.1f} to {cost.quartiles[1]:+.1f})"
                        )
        for writer in writers.values():
            writer.close()


if __name__ == "__main__":
    main()
