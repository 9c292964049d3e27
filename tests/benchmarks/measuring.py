"""How the benchmark measures: ways of training take turns within one loop, and neighbours are compared.

A machine that others use too is slower now than a second ago, and a second fit lies elsewhere in memory. So
every way gets a block of 20 steps in the same loop, one right after the other, there and back; a cost is the
difference of two blocks of one round, and what is reported are the quartiles of all these differences.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Nanoseconds. With --cpu-time that of the training thread alone, which a busy machine cannot stretch so much;
# but what a thread waits for is no part of it.
clock: Callable[[], int] = time.perf_counter_ns

STEPS = 20
FIRST_STEPS = 5  # of a block, not counted: they began in the way before, or fill the caches again
FIRST_ROUNDS = 2  # not counted either


def empty_callback(base: type, ours: type) -> Any:
    """A callback of a framework that overrides the methods of `base` that ours does, and does nothing."""

    def nothing(self: Any, *arguments: Any, **keywords: Any) -> None:
        pass

    hooks = [name for name in vars(base) if getattr(ours, name) is not getattr(base, name)]
    hooks = [name for name in hooks if name.startswith("on_") or name in ("setup", "teardown")]
    return type("Empty", (base,), dict.fromkeys(hooks, nothing))()


class Cost(NamedTuple):
    """What a step costs more this way than another, in microseconds; quartiles of the blocks' differences.

    `other_us` is the median step the other way; `longest` the longest single delay, where it can be told.
    """

    way: str
    other: str
    other_us: float
    lower: float
    median: float
    upper: float
    blocks: int
    longest: float | None = None


class Turns:
    """The ways of one loop, each for a block of steps; and how long their steps took.

    Args:
        ways: by name, what makes a context in which steps are made this way; it opens and closes between
            two steps, untimed.
        rounds: how many blocks of each way.
        steps: of a block.
        average: of the steps of a block. The median leaves out what another process, or a step now and then,
            took; where the latter is to be counted, take the mean; on a crowded machine, the minimum.
    """

    def __init__(
        self,
        ways: Mapping[str, Callable[[], contextlib.AbstractContextManager[Any]]],
        rounds: int,
        steps: int = STEPS,
        average: Callable[[Iterable[float]], float] = statistics.median,
    ) -> None:
        self.given: Any = None  # what the context of the present way gave
        self._ways = ways
        self._steps = steps
        self._average = average
        self._blocks: dict[str, list[float]] = {name: [] for name in ways}
        self._order = _there_and_back(list(ways), rounds + FIRST_ROUNDS)
        self._durations: list[float] = []
        self._way: str | None = None
        self._open = contextlib.ExitStack()
        self._began_ns = 0

    def next(self) -> bool:
        """Between two steps: end the one and begin the other, in the next way where it is its turn.

        False when all blocks were made.
        """
        now = clock()
        if self._way is not None:
            self._durations.append((now - self._began_ns) / 1e3)
        if self._way is None or len(self._durations) == FIRST_STEPS + self._steps:
            self._next_block()
        self._began_ns = clock()
        return self._way is not None

    def _next_block(self) -> None:
        if self._way is not None:
            self._blocks[self._way].append(self._average(self._durations[FIRST_STEPS:]))
            self._durations.clear()
        self._open.close()
        self._way = next(self._order, None)
        if self._way is not None:
            self.given = self._open.enter_context(self._ways[self._way]())

    def cost(self, way: str, other: str) -> Cost:
        """What this way costs above the other one."""
        others = self._blocks[other][FIRST_ROUNDS:]
        differences = [
            mine - theirs for mine, theirs in zip(self._blocks[way][FIRST_ROUNDS:], others, strict=True)
        ]
        lower, median, upper = statistics.quantiles(differences, n=4, method="inclusive")
        return Cost(way, other, statistics.median(others), lower, median, upper, len(differences))


def _there_and_back(names: list[str], rounds: int) -> Iterator[str]:
    for number in range(rounds):
        yield from names if number % 2 == 0 else reversed(names)


def take_turns(
    ways: Mapping[str, Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]],
    rounds: int,
    average: Callable[[Iterable[float]], float] = statistics.median,
) -> Turns:
    """Turns in a loop of one's own: the context of each way gives the function that makes one step."""
    turns = Turns(ways, rounds, average=average)
    with no_collector():
        while turns.next():
            turns.given()
    return turns


def longest_us(call: Callable[[], object]) -> float:
    """Microseconds of this one call."""
    began = clock()
    call()
    return (clock() - began) / 1e3


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Without the garbage collector, whose pauses would land on whoever is measured at the moment."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def write(measure: Callable[[Path, float], list[Cost]]) -> None:
    """Be a process of the benchmark: measure as the arguments say, and write the costs to a file."""
    global clock
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("folder", type=Path, help="to work in")
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of rounds")
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        clock = time.thread_time_ns
    costs = measure(arguments.folder, arguments.share)
    arguments.output.write_text(json.dumps(costs))


def read(path: Path) -> list[Cost]:
    """The costs that `write` wrote."""
    return [Cost(*fields) for fields in json.loads(path.read_text())]


def environment(folder: Path) -> dict[str, str]:
    """For a process of the benchmark: one thread, no network, recordings below this folder, no launcher."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRAINVITALS", "TORCHELASTIC", "SLURM", "TRACEML", "WANDB"))
        and name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    }
    return {
        **kept,
        "TRAINVITALS_DIR": str(folder / "recordings"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
    }
