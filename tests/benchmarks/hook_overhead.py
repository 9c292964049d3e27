"""What the hook costs a training step: `python -m tests.benchmarks.hook_overhead`.

Six figures of one run: a full step of hook calls in a tight loop; the README's calls, and every call an
adapter makes, in a small torch loop, and the Lightning callback in a small fit, modes swapped every 20 steps;
one `SummaryWriter.add_scalar`; imports.
Exit status 1 when the tight figure is not below a fourth of that one call: only this ratio, of two figures
taken moments apart on one machine, is a promise a busy machine can hold.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from trainer_hooks.lightning import TelemetryCallback
from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, Monitor

TIGHT_TARGET_US = 10.0
TORCH_TARGET_US = 30.0
IMPORT_TARGET_MS = 50.0
SWAP_STEPS = 20

LEARNING_RATES = [1e-3]


class Cost(NamedTuple):
    """Microseconds a step; `largest` is the longest single delay, None where it cannot be told apart."""

    without: float
    hook: float
    largest: float | None


def hook_calls(monitor: Monitor, loss: Any = 1.5) -> None:
    """What a trainer says of one step: four phases, a batch, the learning rate, the end."""
    monitor.enter(DATA)
    monitor.enter(FORWARD)
    monitor.enter(BACKWARD)
    monitor.enter(OPTIMIZER)
    monitor.learning_rates(LEARNING_RATES)
    monitor.batch(loss=loss, samples=4, tokens=512, trained_tokens=500)
    monitor.end_step()


def tight_loop(directory: Path, blocks: int = 60, steps: int = 500) -> Cost:
    """The hook's calls with nothing between them: the median block, less an empty one."""
    monitor = Monitor(run="tight", directory=directory)
    with _no_collector():
        empty = _median_us(lambda: None, blocks, steps)
        called = _median_us(lambda: hook_calls(monitor), blocks, steps)
        largest = max(_elapsed_us(lambda: hook_calls(monitor)) for _ in range(blocks * steps))
    monitor.finish()
    return Cost(empty, called - empty, largest)


def add_scalar(directory: Path, blocks: int = 60, calls: int = 50) -> float:
    """Microseconds of one `SummaryWriter.add_scalar`: the median block."""
    with SummaryWriter(str(directory / "tensorboard")) as writer, _no_collector():
        return _median_us(lambda: writer.add_scalar("loss", 1.5, 7), blocks, calls)


class Training:
    """A step of a perceptron: some hundred microseconds, in which the hook's memory leaves the caches."""

    def __init__(self, monitor: Monitor) -> None:
        torch.manual_seed(0)
        self.monitor = monitor
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.data = torch.randn(16, 64)

    def step(self) -> None:
        loss = self.model(self.data).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step_with_hook(self) -> None:
        raise NotImplementedError

    def calls_of_the_hook(self) -> Sequence[Callable[[], object]]:
        raise NotImplementedError


class ReadmeTraining(Training):
    """The hook as the README puts it into a loop of one's own."""

    def step_with_hook(self) -> None:
        with self.monitor.step():
            loss = self.model(self.data).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.monitor.batch(loss=loss, samples=16, trained_tokens=500)

    def calls_of_the_hook(self) -> Sequence[Callable[[], object]]:
        step = self.monitor.step()
        return [
            step.__enter__,
            lambda: self.monitor.batch(loss=1.5, samples=16, trained_tokens=500),
            lambda: step.__exit__(None, None, None),
        ]


class AdaptedTraining(Training):
    """Every call an adapter makes: four phases, the optimizer's learning rates, a batch, the end."""

    def step_with_hook(self) -> None:
        monitor = self.monitor
        monitor.enter(DATA)
        monitor.enter(FORWARD)
        loss = self.model(self.data).square().mean()
        monitor.enter(BACKWARD)
        loss.backward()
        monitor.enter(OPTIMIZER)
        monitor.learning_rates([group["lr"] for group in self.optimizer.param_groups])
        self.optimizer.step()
        self.optimizer.zero_grad()
        monitor.batch(loss=loss, samples=16, tokens=512, trained_tokens=500)
        monitor.end_step()

    def calls_of_the_hook(self) -> Sequence[Callable[[], object]]:
        return [
            lambda: self.monitor.enter(DATA),
            lambda: self.monitor.learning_rates(LEARNING_RATES),
            lambda: self.monitor.batch(loss=1.5, samples=16, tokens=512, trained_tokens=500),
            self.monitor.end_step,
        ]


def torch_loop(directory: Path, kind: type[Training], swaps: int = 200) -> Cost:
    """A small training on the CPU, with the hook and without by turns: median difference of neighbours.

    The largest delay is that of one call, all of them made after a step without the hook.
    """
    monitor = Monitor(run=kind.__name__, directory=directory)
    training = kind(monitor)
    blocks: dict[bool, list[float]] = {False: [], True: []}
    largest = 0.0
    with _no_collector():
        for swap in range(2 * swaps + 4):
            with_hook = bool(swap % 2)
            step = training.step_with_hook if with_hook else training.step
            durations = [_elapsed_us(step) for _ in range(SWAP_STEPS)]
            if swap >= 4:  # the first are warm-up
                blocks[with_hook].append(statistics.median(durations))
        calls = training.calls_of_the_hook()
        for _ in range(swaps * SWAP_STEPS):
            training.step()
            largest = max(largest, *map(_elapsed_us, calls))
    monitor.finish()
    differences = [hook - none for none, hook in zip(blocks[False], blocks[True], strict=True)]
    return Cost(statistics.median(blocks[False]), statistics.median(differences), largest)


def lightning_fit(directory: Path, steps: int = 4000) -> Cost:
    """A small fit whose Trainer has the callback and has it not by turns: difference of the median steps."""
    watch = _Swapping(TelemetryCallback(run="lightning"))
    data = TensorDataset(torch.randn(16 * 500, 64))
    chosen = os.environ.get("TRAINVITALS_DIR")
    os.environ["TRAINVITALS_DIR"] = str(directory)
    try:
        with warnings.catch_warnings(), _no_collector():
            warnings.simplefilter("ignore")
            pl.Trainer(
                accelerator="cpu",
                max_steps=steps,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[watch, watch.telemetry],
            ).fit(_Regression(), DataLoader(data, batch_size=16))
    finally:
        if chosen is None:
            del os.environ["TRAINVITALS_DIR"]
        else:
            os.environ["TRAINVITALS_DIR"] = chosen
    without, hook = (statistics.median(watch.durations_us[mode]) for mode in (False, True))
    return Cost(without, hook - without, None)


class _Regression(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layers(batch[0]).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class _Swapping(pl.Callback):
    """Takes the telemetry out of its Trainer and puts it back, every 20 steps, and times the steps."""

    def __init__(self, telemetry: TelemetryCallback) -> None:
        self.telemetry = telemetry
        self.durations_us: dict[bool, list[float]] = {False: [], True: []}
        self._began_ns = 0
        self._steps = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        now = perf_counter_ns()
        within_block = self._steps % SWAP_STEPS
        with_hook = bool(self._steps // SWAP_STEPS % 2)
        if self._steps > 4 * SWAP_STEPS and within_block > 1:  # the first of a block began in the other mode
            self.durations_us[with_hook].append((now - self._began_ns) / 1e3)
        trainer.callbacks = [self, self.telemetry] if with_hook else [self]  # type: ignore[attr-defined]
        self._steps += 1
        self._began_ns = now

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.callbacks = [self, self.telemetry]  # type: ignore[attr-defined]


def import_milliseconds(module: str, runs: int = 9) -> list[float]:
    """Milliseconds of the import in each of several fresh interpreters."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return [
        1e3 * float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(runs)
    ]


def _median_us(call: Callable[[], object], blocks: int, calls: int) -> float:
    """Microseconds of one call: the median over blocks of calls."""
    means = []
    for _ in range(blocks):
        began = perf_counter_ns()
        for _ in range(calls):
            call()
        means.append((perf_counter_ns() - began) / calls / 1e3)
    return statistics.median(means)


def _elapsed_us(call: Callable[[], object]) -> float:
    began = perf_counter_ns()
    call()
    return (perf_counter_ns() - began) / 1e3


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Without the garbage collector, whose pauses would land on whoever is measured at the moment."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def _row(name: str, cost: Cost, target: str) -> list[str]:
    largest = "" if cost.largest is None else f"{cost.largest:.0f}"
    return [
        name,
        f"{cost.without:.1f}",
        f"{cost.without + cost.hook:.1f}",
        f"{cost.hook:.1f}",
        target,
        largest,
    ]


def main() -> int:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        directory = Path(folder)
        tight = tight_loop(directory)
        scalar_us = add_scalar(directory)
        as_in_readme = torch_loop(directory, ReadmeTraining)
        as_adapted = torch_loop(directory, AdaptedTraining)
        in_lightning = lightning_fit(directory)
    imports = {name: import_milliseconds(name) for name in ("trainer_hooks", "trainer_hooks.monitor")}

    print(
        f"Python {sys.version.split()[0]}, torch {torch.__version__}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    header = ["microseconds per step", "without", "with", "hook", "target", "largest single delay"]
    rows = [
        header,
        _row("tight loop", tight, f"{TIGHT_TARGET_US:.0f}"),
        _row("torch loop, the README's calls", as_in_readme, f"{TORCH_TARGET_US:.0f}"),
        _row("torch loop, every call an adapter makes", as_adapted, f"{TORCH_TARGET_US:.0f}"),
        _row("Lightning fit, the callback", in_lightning, ""),
        ["one SummaryWriter.add_scalar", "", f"{scalar_us:.1f}", "", "", ""],
    ]
    print(_table(rows) + "\n")
    import_rows = [["milliseconds of the import, fresh interpreters", "minimum", "median of 9", "target"]]
    for name, spent in imports.items():
        import_rows.append(
            [name, f"{min(spent):.1f}", f"{statistics.median(spent):.1f}", f"{IMPORT_TARGET_MS:.0f}"]
        )
    print(_table(import_rows) + "\n")
    ratio = tight.hook / scalar_us
    holds = ratio < 0.25
    print(
        "Medians: of 60 blocks of 500 steps (tight) and of 50 calls (add_scalar); of the differences of 200\n"
        "neighbouring blocks of 20 steps (torch); difference of the medians of all steps (Lightning).\n"
        "Largest single delay, preemption included: of 30,000 whole steps (tight), of the calls of\n"
        "4,000 steps, each by itself (torch)."
    )
    print(
        f"tight step / one add_scalar = {ratio:.3f}: "
        f"{'below' if holds else 'NOT below'} a fourth, as {'promised' if holds else 'was promised'}"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
