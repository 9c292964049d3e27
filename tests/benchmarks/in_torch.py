"""A step of a plain torch loop: the hook said by hand, `watch`, `run`, and what others take for the same.

Beside the loop: the hook's calls with nothing between them.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import traceml_ai
import wandb
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from tests.benchmarks import footprint, measuring, traceml
from tests.benchmarks.measuring import Cost, no_collector
from trainer_hooks import tee, torch_process
from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, Monitor

NOTHING = "nothing"
TIGHT = "Monitor, a full record, tight loop"
README = "Monitor, the README's calls"
EVERY_CALL = "Monitor, every call of an adapter"
WATCH = "Monitor.watch"
RUN = "trainvitals run"
SCALAR = "one SummaryWriter.add_scalar"
SCALAR_TIGHT = "one SummaryWriter.add_scalar, tight loop"
SCALAR_TEED = "one SummaryWriter.add_scalar, with the tee"
WANDB = "W&B offline, Run.log of two numbers"
TRACEML = "TraceML, init and trace_step"
README_BESIDE_TRACEML = f"{README}, beside TraceML"
EVERY_CALL_BESIDE_TRACEML = f"{EVERY_CALL}, beside TraceML"
ON_CUDA = " (cuda)"
COUNTED_ON_DEVICE = "every call, trained tokens counted on the device"

LEARNING_RATES = [1e-3]
TRAINED_TOKENS = 500


def tight_loop(folder: Path, blocks: int = 60, steps: int = 500) -> list[Cost]:
    """The hook's calls, and one add_scalar, with nothing between them; blocks of each by turns."""
    with Monitor(run="tight", directory=folder) as monitor, SummaryWriter(str(folder / "tight")) as writer:
        calls: dict[str, tuple[Callable[[], object], int]] = {
            NOTHING: (lambda: None, steps),
            TIGHT: (lambda: footprint.step(monitor), steps),
            SCALAR_TIGHT: (lambda: writer.add_scalar("loss", 1.5, 7), steps // 10),
        }
        taken: dict[str, list[float]] = {name: [] for name in calls}
        with no_collector():
            for _ in range(blocks):
                for name, (call, times) in calls.items():
                    began = measuring.clock()
                    for _ in range(times):
                        call()
                    taken[name].append((measuring.clock() - began) / times / 1e3)
            longest = max(
                measuring.longest_us(lambda: footprint.step(monitor)) for _ in range(blocks * steps)
            )
    costs = []
    for name, delay in ((TIGHT, longest), (SCALAR_TIGHT, None)):
        differences = [mine - empty for mine, empty in zip(taken[name], taken[NOTHING], strict=True)]
        lower, median, upper = statistics.quantiles(differences, n=4, method="inclusive")
        empty_us = statistics.median(taken[NOTHING])
        costs.append(Cost(name, NOTHING, empty_us, lower, median, upper, blocks, delay))
    return costs


class Training:
    """A perceptron fed by a loader: a step of some hundred microseconds, in which caches forget the hook."""

    def __init__(self, device: str = "cpu") -> None:
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        self.model = layers.to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.labels = torch.arange(512, device=device)
        data = [torch.randn(16, 64, device=device)]
        self.loader = DataLoader(data, batch_size=None, sampler=itertools.repeat(0))  # type: ignore[arg-type, var-annotated]
        self.batches = iter(self.loader)
        self.steps = 0

    def step(self) -> Any:
        loss = self.model(next(self.batches)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def step_of_readme(self, monitor: Monitor) -> None:
        with monitor.step():
            loss = self.step()
            monitor.batch(loss=loss, samples=16, trained_tokens=TRAINED_TOKENS)

    def step_with_every_call(self, monitor: Monitor, trained_tokens: Any = TRAINED_TOKENS) -> None:
        monitor.enter(DATA)
        data = next(self.batches)
        monitor.enter(FORWARD)
        loss = self.model(data).square().mean()
        monitor.enter(BACKWARD)
        loss.backward()
        monitor.enter(OPTIMIZER)
        monitor.learning_rates([group["lr"] for group in self.optimizer.param_groups])
        self.optimizer.step()
        self.optimizer.zero_grad()
        monitor.batch(loss=loss, samples=16, tokens=512, trained_tokens=trained_tokens)
        monitor.end_step()

    def step_counted_on_device(self, monitor: Monitor) -> None:
        self.step_with_every_call(monitor, trained_tokens=(self.labels != -100).sum())

    def step_with_add_scalar(self, writer: SummaryWriter) -> None:
        writer.add_scalar("loss", self.step().item(), self.steps)
        self.steps += 1

    def step_with_wandb(self, run: Any) -> None:
        run.log({"loss": self.step().item(), "lr": self.optimizer.param_groups[0]["lr"]})

    def step_with_traceml(self) -> None:
        with traceml_ai.trace_step(self.model):
            self.step()


def by(step: Callable[..., object], *arguments: Any) -> Callable[[], Any]:
    """A way in which nothing but the step differs."""
    return lambda: contextlib.nullcontext(partial(step, *arguments))


@contextlib.contextmanager
def watched(training: Training, folder: Path) -> Iterator[Callable[[], object]]:
    with Monitor(run="watch", directory=folder) as monitor:
        monitor.watch(training.model, training.optimizer)
        yield training.step


@contextlib.contextmanager
def instrumented(training: Training, folder: Path) -> Iterator[Callable[[], object]]:
    """As `trainvitals run` leaves an unchanged script: the first backward pass opens a recording."""
    monitors = []

    def open_monitor() -> Monitor:
        monitors.append(Monitor(run="run", directory=folder))
        return monitors[0]

    process = torch_process.install(open_monitor)
    try:
        yield training.step
    finally:
        process.remove()
        for monitor in monitors:
            monitor.finish()


def ours(folder: Path, rounds: int) -> list[Cost]:
    """What we ask of a step, said by hand or found out; the longest delay of a single call of ours."""
    training = Training()
    readme, every_call = (Monitor(run=name, directory=folder) for name in ("readme", "every-call"))
    turns = measuring.take_turns(
        {
            NOTHING: by(training.step),
            README: by(training.step_of_readme, readme),
            EVERY_CALL: by(training.step_with_every_call, every_call),
            WATCH: lambda: watched(training, folder),
            RUN: lambda: instrumented(training, folder),
        },
        rounds,
    )
    costs = []
    for name, monitor in ((README, readme), (EVERY_CALL, every_call)):
        delay = _longest_delay(training, _calls(name, monitor), rounds * measuring.STEPS)
        costs.append(turns.cost(name, NOTHING)._replace(longest=delay))
        monitor.finish()
    return [*costs, turns.cost(WATCH, NOTHING), turns.cost(RUN, NOTHING)]


def _calls(name: str, monitor: Monitor) -> Sequence[Callable[[], object]]:
    batch = partial(monitor.batch, loss=1.5, samples=16, tokens=512, trained_tokens=TRAINED_TOKENS)
    if name == README:
        step = monitor.step()
        return [step.__enter__, batch, lambda: step.__exit__(None, None, None)]
    return [
        lambda: monitor.enter(DATA),
        lambda: monitor.learning_rates(LEARNING_RATES),
        batch,
        monitor.end_step,
    ]


def _longest_delay(training: Training, calls: Sequence[Callable[[], object]], steps: int) -> float:
    longest = 0.0
    with no_collector():
        for _ in range(steps):
            training.step()
            longest = max(longest, *map(measuring.longest_us, calls))
    return longest


def loggers(folder: Path, rounds: int) -> list[Cost]:
    """What a trainer's loggers take in the same loop."""
    training = Training()
    run = wandb.init(mode="offline", dir=str(folder), project="overhead")

    @contextlib.contextmanager
    def teed() -> Iterator[Callable[[], object]]:
        tee.install()
        yield partial(training.step_with_add_scalar, writer)
        tee.remove()

    with (
        SummaryWriter(str(folder / "tensorboard")) as writer,
        Monitor(run="teed", directory=folder) as monitor,
    ):
        monitor.measured.clear()  # as of one that the tee opened: the loss is taken
        turns = measuring.take_turns(
            {
                NOTHING: by(training.step),
                SCALAR: by(training.step_with_add_scalar, writer),
                SCALAR_TEED: teed,
                WANDB: by(training.step_with_wandb, run),
            },
            rounds,
        )
    run.finish()
    costs = [turns.cost(name, NOTHING) for name in (SCALAR, WANDB)]
    return [*costs, turns.cost(SCALAR_TEED, SCALAR)]


def beside_traceml(
    folder: Path, rounds: int, average: Callable[[Iterable[float]], float] = statistics.median
) -> list[Cost]:
    """TraceML, which stays in the process once it is there, and the hook in the same turns.

    The steps without it read from a loader it has not wrapped; its patches of torch remain, disarmed. What
    its threads take from all steps alike is not seen.
    """
    training = Training()
    plain = training.batches
    with traceml.serving(folder), Monitor(run="beside-traceml", directory=folder) as monitor:
        traceml_ai.init(mode="auto")
        wrapped = iter(training.loader)

        @contextlib.contextmanager
        def traced() -> Iterator[Callable[[], object]]:
            training.batches = wrapped
            yield training.step_with_traceml
            training.batches = plain

        turns = measuring.take_turns(
            {
                NOTHING: by(training.step),
                README_BESIDE_TRACEML: by(training.step_of_readme, monitor),
                EVERY_CALL_BESIDE_TRACEML: by(training.step_with_every_call, monitor),
                TRACEML: traced,
            },
            rounds,
            average,
        )
    return [turns.cost(name, NOTHING) for name in (README_BESIDE_TRACEML, EVERY_CALL_BESIDE_TRACEML, TRACEML)]


def on_cuda(folder: Path, rounds: int) -> list[Cost]:
    """The same loop with model and data on the device: what the host spends on a step."""
    training = Training("cuda")
    with Monitor(run="cuda", directory=folder) as monitor:
        turns = measuring.take_turns(
            {
                NOTHING: by(training.step),
                README + ON_CUDA: by(training.step_of_readme, monitor),
                EVERY_CALL + ON_CUDA: by(training.step_with_every_call, monitor),
                COUNTED_ON_DEVICE + ON_CUDA: by(training.step_counted_on_device, monitor),
            },
            rounds,
        )
    names = (README + ON_CUDA, EVERY_CALL + ON_CUDA, COUNTED_ON_DEVICE + ON_CUDA)
    return [turns.cost(name, NOTHING) for name in names]


def measure(folder: Path, share: float) -> list[Cost]:
    torch.set_num_threads(1)
    rounds = max(4, int(200 * share))
    costs = tight_loop(folder, blocks=max(4, int(60 * share)))
    costs += ours(folder, rounds)
    costs += loggers(folder, rounds)
    if torch.cuda.is_available():
        costs += on_cuda(folder, rounds)
    return costs + beside_traceml(folder, rounds)


if __name__ == "__main__":
    measuring.write(measure)
