"""A step of a small Lightning fit: the callback, an empty callback with the same hooks, and its loggers."""

from __future__ import annotations

import contextlib
import logging
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset
from traceml_ai.instrumentation.patches.dataloader_patch import (
    dataloader_timing_scope,
)
from traceml_ai.integrations import lightning as traceml_lightning

from tests.benchmarks import measuring, traceml
from tests.benchmarks.measuring import Cost, Turns
from trainer_hooks.lightning import TelemetryCallback

NOTHING = "nothing"
NO_OP = "Lightning, an empty callback of the same hooks"
CALLBACK = "Lightning, TelemetryCallback"
CALLBACK_TOKENS = "Lightning, TelemetryCallback, batches with labels"
CALLBACK_BESIDE_TRACEML = f"{CALLBACK}, beside TraceML"
TRACEML = "Lightning, TraceMLCallback"
CSV = "Lightning, CSVLogger"
TENSORBOARD = "Lightning, TensorBoardLogger"
EVERY_STEP = ", log_every_n_steps=1"
EVERY_50TH = ", log_every_n_steps=50, the default (mean)"


class _Perceptron(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layers(batch["inputs"]).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class _Rows(TensorDataset):
    """Rows of inputs, and labels where there are any, as dicts."""

    def __init__(self, with_labels: bool) -> None:
        super().__init__(
            torch.randn(16 * 5000, 64), *[torch.ones(16 * 5000, 64, dtype=torch.long)] * with_labels
        )

    def __getitems__(self, at: list[int]) -> list[dict[str, Any]]:
        return [dict(zip(("inputs", "labels"), self[each], strict=False)) for each in at]


class _Swapping(pl.Callback):
    """Lets the ways take turns at the start of each batch, and ends the fit after the last."""

    def __init__(self) -> None:
        self.turns: Turns | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        assert self.turns is not None
        if not self.turns.next():
            trainer.should_stop = True


class Fit:
    """A fit to come, and the ways its steps can be made."""

    def __init__(self, log_every_n_steps: int = 50, with_labels: bool = False) -> None:
        self._swapping = _Swapping()
        self.module = _Perceptron()
        self.trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=-1,
            logger=False,
            log_every_n_steps=log_every_n_steps,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self._swapping],
        )
        self._loader = DataLoader(_Rows(with_labels), batch_size=16)

    @contextlib.contextmanager
    def nothing(self) -> Iterator[None]:
        with dataloader_timing_scope(lambda: False):  # nothing where TraceML is not there
            yield

    @contextlib.contextmanager
    def with_callback(self, callback: pl.Callback) -> Iterator[None]:
        """From its setup to its teardown: what it puts around the trainer's parts is gone afterwards."""
        callback.setup(self.trainer, self.module, "fit")
        callback.on_train_start(self.trainer, self.module)
        self.trainer.callbacks = [self._swapping, callback]  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.trainer.callbacks = [self._swapping]  # type: ignore[attr-defined]
            callback.on_train_end(self.trainer, self.module)
            callback.teardown(self.trainer, self.module, "fit")

    @contextlib.contextmanager
    def with_logger(self, logger: Logger) -> Iterator[None]:
        self.trainer.loggers = [logger]
        try:
            yield
        finally:
            self.trainer.loggers = []

    def take_turns(
        self,
        ways: dict[str, Callable[[], Any]],
        rounds: int,
        steps: int = measuring.STEPS,
        average: Callable[[Iterable[float]], float] = statistics.median,
    ) -> Turns:
        self._swapping.turns = turns = Turns(ways, rounds, steps, average)
        with measuring.no_collector():
            self.trainer.fit(self.module, self._loader)
        return turns


def _empty() -> pl.Callback:
    return measuring.empty_callback(pl.Callback, TelemetryCallback)  # type: ignore[no-any-return]


def ours(rounds: int) -> list[Cost]:
    fit = Fit()
    telemetry, empty = TelemetryCallback(run="lightning"), _empty()
    turns = fit.take_turns(
        {
            NOTHING: fit.nothing,
            NO_OP: lambda: fit.with_callback(empty),
            CALLBACK: lambda: fit.with_callback(telemetry),
        },
        rounds,
    )
    return [turns.cost(NO_OP, NOTHING), turns.cost(CALLBACK, NOTHING), turns.cost(CALLBACK, NO_OP)]


def ours_counting_tokens(rounds: int) -> list[Cost]:
    fit = Fit(with_labels=True)
    telemetry, empty = TelemetryCallback(run="lightning-tokens"), _empty()
    turns = fit.take_turns(
        {
            NO_OP: lambda: fit.with_callback(empty),
            CALLBACK_TOKENS: lambda: fit.with_callback(telemetry),
        },
        rounds,
    )
    return [turns.cost(CALLBACK_TOKENS, NO_OP)]


def loggers(folder: Path, rounds: int, every: int) -> list[Cost]:
    """Lightning's loggers. Where they log now and then, a block is that long, and its mean what counts."""
    fit = Fit(log_every_n_steps=every)
    label = EVERY_STEP if every == 1 else EVERY_50TH
    made: dict[str, Logger] = {
        CSV + label: CSVLogger(str(folder), name=f"csv-{every}"),
        TENSORBOARD + label: TensorBoardLogger(str(folder), name=f"tensorboard-{every}"),
    }
    ways: dict[str, Callable[[], Any]] = {NOTHING: fit.nothing}
    ways |= {name: lambda logger=logger: fit.with_logger(logger) for name, logger in made.items()}  # type: ignore[misc]
    if every == 1:
        turns = fit.take_turns(ways, rounds)
    else:
        turns = fit.take_turns(ways, rounds, steps=every, average=statistics.fmean)
    return [turns.cost(name, NOTHING) for name in made]


def beside_traceml(folder: Path, rounds: int) -> list[Cost]:
    """TraceML's own callback, and ours in the same turns: see in_torch.beside_traceml."""
    with traceml.serving(folder):
        traceml_lightning.init()
        fit = Fit()
        telemetry = TelemetryCallback(run="lightning-beside-traceml")
        traced: Any = traceml_lightning.TraceMLCallback()
        turns = fit.take_turns(
            {
                NOTHING: fit.nothing,
                CALLBACK_BESIDE_TRACEML: lambda: _without_traceml(fit, telemetry),
                TRACEML: lambda: fit.with_callback(traced),
            },
            rounds,
        )
    return [turns.cost(name, NOTHING) for name in (CALLBACK_BESIDE_TRACEML, TRACEML)]


@contextlib.contextmanager
def _without_traceml(fit: Fit, callback: pl.Callback) -> Iterator[None]:
    with fit.nothing(), fit.with_callback(callback):
        yield


def measure(folder: Path, share: float) -> list[Cost]:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rounds, few = max(4, int(150 * share)), max(4, int(40 * share))
    return [
        *ours(rounds),
        *ours_counting_tokens(rounds),
        *loggers(folder, few, every=1),
        *loggers(folder, few, every=50),
        *beside_traceml(folder, few),
    ]


if __name__ == "__main__":
    measuring.write(measure)
