"""A tiny training with the hook, which something may go wrong with: `python -m trainvitals.drill.trainer`.

It learns one weight by gradient descent, the mean of its labels, and sleeps where a larger one would compute.
Nothing it tells the hook is made up: its loss, its gradient and its validation loss are those of the weight.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import math
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer_hooks.monitor import Monitor

CHECKPOINT_FILE = "checkpoint.txt"

_BATCH = 16
_LABEL = 4.0
_LABEL_NOISE = 0.01
_VALIDATION_LABEL = 1.0
_LEARNING_RATE = 0.005
# How far the labels move, which is a thousand times as far as they were; and again, a thousand times as far
# as that, once the weights have learned much of it.
_SHIFT = 4000.0
_SHIFT_RATIO = 1000.0
_SHIFT_EVERY_SECONDS = 40.0
# Of half the squared error any learning rate above 2 leads away from the label.
_TOO_HIGH_LEARNING_RATE = 2.05
_TOO_LOW_LEARNING_RATE = 1e-9
# Of a step's time; the rest is the backward pass, and a straggler's passes change places.
_FORWARD_RATIO = 0.3
_SLOWER = 3
# Less than half of the time: what is usual stays what it was.
_SLOW_SECONDS = 20.0
_SLOW_EVERY_SECONDS = 60.0
_EVALUATION_SECONDS = 0.05
_TOO_LARGE_RATIO = 1.25  # of what is free


class Fault(enum.StrEnum):
    """What goes wrong, from `--after` on: for good, or again and again where it would become usual."""

    exception = "exception"
    hang = "hang"
    out_of_memory = "out-of-memory"
    nan_label = "nan-label"
    other_labels = "other-labels"
    too_high_learning_rate = "too-high-learning-rate"
    too_low_learning_rate = "too-low-learning-rate"
    no_learning_rate = "no-learning-rate"
    overflow = "overflow"
    slow = "slow"
    slow_data = "slow-data"
    straggle = "straggle"
    no_more_checkpoints = "no-more-checkpoints"


class TrainingError(Exception):
    """What the training ends with that is told to end with an exception."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the options say; raises what the training ends with."""
    _Training(_parser().parse_args(arguments)).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainvitals.drill.trainer", description=__doc__)
    parser.add_argument("--run", required=True, help="Name of the run.")
    parser.add_argument("--steps", type=int, default=0, help="End after so many steps; 0 is never.")
    parser.add_argument("--step-seconds", type=float, default=0.1, help="Time of a step.")
    parser.add_argument("--fault", type=Fault, choices=list(Fault), help="What goes wrong.")
    parser.add_argument("--after", type=float, default=0.0, help="Seconds of training until it does.")
    parser.add_argument("--evaluate-every", type=float, default=math.inf, help="Seconds between evaluations.")
    parser.add_argument("--checkpoints", type=Path, help=f"Folder that {CHECKPOINT_FILE} is written to.")
    parser.add_argument("--checkpoint-every", type=float, default=1.0, help="Seconds between checkpoints.")
    parser.add_argument("--checkpoint-seconds", type=float, default=0.0, help="Time that one takes.")
    parser.add_argument(
        "--too-large-checkpoints",
        action="store_true",
        help="Let them be larger than what is free: sparse files, which take no room.",
    )
    parser.add_argument("--expected-steps", type=int, help="Steps that it says it is to make.")
    parser.add_argument("--deadline", type=float, help="Seconds that it says it has for them.")
    return parser


class _Training:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._weight = 0.0
        self._random = random.Random(0)
        self._began = self._evaluated_at = self._saved_at = 0.0
        self._ran_out = False

    def run(self) -> None:
        options = self._options
        with Monitor(run=options.run, loss_kind="mean_squared_error") as monitor:
            deadline = None if options.deadline is None else time.time() + options.deadline
            monitor.expect(steps=options.expected_steps or options.steps or None, deadline=deadline)
            self._began = self._evaluated_at = self._saved_at = time.monotonic()
            for number, labels in enumerate(monitor.batches(self._labels()), start=1):
                self._step(monitor, number, labels)
                self._evaluate(monitor)
                self._save(monitor)
                if number == options.steps:
                    return

    def _has(self, fault: Fault) -> bool:
        """Whether this fault has begun."""
        return self._options.fault is fault and self._faulty_seconds >= 0

    @property
    def _faulty_seconds(self) -> float:
        """How long ago the fault began; negative before that."""
        after: float = self._options.after
        return time.monotonic() - self._began - after

    @property
    def _is_slow(self) -> bool:
        return self._has(Fault.slow) and self._faulty_seconds % _SLOW_EVERY_SECONDS < _SLOW_SECONDS

    @property
    def _label(self) -> float:
        if not self._has(Fault.other_labels):
            return _LABEL
        times_before = int(self._faulty_seconds // _SHIFT_EVERY_SECONDS)
        return _LABEL + _SHIFT * math.pow(_SHIFT_RATIO, times_before)

    def _labels(self) -> Iterator[list[float]]:
        while True:
            if self._has(Fault.slow_data):
                time.sleep(2 * self._options.step_seconds)
            label = self._label
            labels = [self._random.gauss(label, _LABEL_NOISE) for _ in range(_BATCH)]
            if self._has(Fault.nan_label):
                labels[0] = math.nan
            yield labels

    def _step(self, monitor: Monitor, number: int, labels: list[float]) -> None:
        seconds = self._options.step_seconds * (_SLOWER if self._is_slow else 1)
        forward, backward = _FORWARD_RATIO * seconds, (1 - _FORWARD_RATIO) * seconds
        if self._has(Fault.straggle):
            forward, backward = backward, forward
        self._run_out_of_memory(monitor)
        with monitor.phase("forward"):
            time.sleep(forward)
            loss = _half_squared_error(self._weight, labels)
        with monitor.phase("backward"):
            self._break_down()
            time.sleep(backward)
            gradient = math.fsum(self._weight - label for label in labels) / len(labels)
        monitor.batch(loss=loss, samples=len(labels), tokens=len(labels), trained_tokens=len(labels))
        monitor.learning_rates([self._learning_rate])
        if self._has(Fault.overflow) and number % 2:  # every other, as of a scale that never fits
            monitor.skip_step()
            return
        with monitor.phase("optimizer"):
            self._weight -= self._learning_rate * gradient
        monitor.log(gradient_norm=abs(gradient))
        monitor.end_step()

    def _break_down(self) -> None:
        if self._has(Fault.exception):
            raise TrainingError("the training was told to end with an exception")
        if self._has(Fault.hang):
            while True:
                signal.pause()

    def _run_out_of_memory(self, monitor: Monitor) -> None:
        """Once; it catches the error and goes on, as one does that tries a smaller batch."""
        if self._ran_out or not self._has(Fault.out_of_memory):
            return
        self._ran_out = True
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, limits[1]))
        with contextlib.suppress(MemoryError), monitor.step():
            bytearray(1 << 40)
        resource.setrlimit(resource.RLIMIT_AS, limits)

    @property
    def _learning_rate(self) -> float:
        if self._has(Fault.too_high_learning_rate):
            return _TOO_HIGH_LEARNING_RATE
        if self._has(Fault.too_low_learning_rate):
            return _TOO_LOW_LEARNING_RATE
        return 0.0 if self._has(Fault.no_learning_rate) else _LEARNING_RATE

    def _evaluate(self, monitor: Monitor) -> None:
        """By other labels than it learns: it comes to them, and leaves them behind."""
        if time.monotonic() - self._evaluated_at < self._options.evaluate_every:
            return
        with monitor.phase("evaluation"):
            time.sleep(_EVALUATION_SECONDS)
            loss = _half_squared_error(self._weight, [_VALIDATION_LABEL])
            monitor.evaluated(loss=loss, tokens=1)
        self._evaluated_at = time.monotonic()

    def _save(self, monitor: Monitor) -> None:
        """One that cannot be written is tried again when the next is due."""
        options = self._options
        if options.checkpoints is None or self._has(Fault.no_more_checkpoints):
            return
        if time.monotonic() - self._saved_at < options.checkpoint_every:
            return
        path: Path = options.checkpoints / CHECKPOINT_FILE
        with contextlib.suppress(OSError), monitor.checkpoint(path):
            time.sleep(options.checkpoint_seconds)
            path.write_text(f"{self._weight}\n", encoding="ascii")
            if options.too_large_checkpoints:
                os.truncate(path, round(_TOO_LARGE_RATIO * shutil.disk_usage(path).free))
        self._saved_at = time.monotonic()


def _half_squared_error(weight: float, labels: Sequence[float]) -> float:
    return math.fsum((weight - label) ** 2 for label in labels) / (2 * len(labels))


if __name__ == "__main__":
    main()
