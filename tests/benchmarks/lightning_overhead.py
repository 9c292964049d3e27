"""What our callback costs a step above an empty one: `python -m tests.benchmarks.lightning_overhead`.

One small fit whose Trainer has by turns, for 20 steps each, no callback, an empty one that overrides the same
hooks, and ours: Lightning's own way to a hook is in the second figure, what we do in it in the third. It is
the thread's own time, without the moments in which others had the processor.
"""

from __future__ import annotations

import gc
import logging
import os
import statistics
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from time import thread_time_ns
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from trainer_hooks.lightning import TelemetryCallback

SWAP_STEPS = 20
WARM_UP_ROUNDS = 2
BATCH = 16


class LightningCost(NamedTuple):
    """Microseconds: the median step without a callback, and what the empty one, then ours, adds to it.

    The additions are medians over rounds of neighbouring blocks, `spread` half the distance of the quartiles.
    """

    without: float
    empty: float
    ours_above_empty: float
    spread: float
    rounds: int


def lightning_cost(directory: Path, rounds: int = 100) -> LightningCost:
    """Run the fit, which records below `directory`."""
    telemetry = TelemetryCallback(run="lightning")
    turns = _Turns([[], [empty_callback()], [telemetry]], rounds)
    data = TensorDataset(torch.randn(BATCH * 500, 64))
    chosen = os.environ.get("TRAINVITALS_DIR")
    os.environ["TRAINVITALS_DIR"] = str(directory)
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pl.Trainer(
                accelerator="cpu",
                max_steps=turns.steps,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[turns, telemetry],
            ).fit(Regression(), DataLoader(data, batch_size=BATCH))
    finally:
        gc.enable()
        if chosen is None:
            del os.environ["TRAINVITALS_DIR"]
        else:
            os.environ["TRAINVITALS_DIR"] = chosen
    without, empty, ours = turns.blocks_us
    differences = [mine - nothing for mine, nothing in zip(ours, empty, strict=True)]
    low, _, high = statistics.quantiles(differences, n=4)
    return LightningCost(
        statistics.median(without),
        statistics.median(each - none for each, none in zip(empty, without, strict=True)),
        statistics.median(differences),
        (high - low) / 2,
        len(differences),
    )


class Regression(pl.LightningModule):
    """A perceptron that logs its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layers(batch[0]).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def empty_callback() -> pl.Callback:
    """A callback with the hooks that ours overrides, and nothing in them."""

    def nothing(*arguments: Any, **keywords: Any) -> None:
        pass

    hooks = [name for name in vars(pl.Callback) if name.startswith("on_train_batch") or "_backward" in name]
    hooks += ["on_before_optimizer_step"]
    overridden = [
        name for name in hooks if getattr(TelemetryCallback, name) is not getattr(pl.Callback, name)
    ]
    kind: type[pl.Callback] = type("Empty", (pl.Callback,), dict.fromkeys(overridden, nothing))
    return kind()


class _Turns(pl.Callback):
    """Gives its Trainer other callbacks every 20 steps, and times the steps."""

    def __init__(self, others: list[list[pl.Callback]], rounds: int) -> None:
        self.others = others
        self.steps = SWAP_STEPS * len(others) * (WARM_UP_ROUNDS + rounds) + 1
        self.blocks_us: list[list[float]] = [[] for _ in others]
        self._durations_us: list[float] = []
        self._began_ns = 0
        self._step = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        now = thread_time_ns()
        self._durations_us.append((now - self._began_ns) / 1e3)
        block, within = divmod(self._step, SWAP_STEPS)
        if within == 0:
            if block > WARM_UP_ROUNDS * len(self.others):
                # The first step of a block began in the other mode, as far as the wait for data goes.
                self.blocks_us[(block - 1) % len(self.others)].append(
                    statistics.median(self._durations_us[1:])
                )
            self._durations_us = []
            trainer.callbacks = [self, *self.others[block % len(self.others)]]  # type: ignore[attr-defined]
        self._step += 1
        self._began_ns = thread_time_ns()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.callbacks = [self, *self.others[-1]]  # type: ignore[attr-defined]


def main() -> int:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        cost = lightning_cost(Path(folder))
    print(
        f"Lightning {version('lightning')}, one fit, {cost.rounds} rounds of 3 x {SWAP_STEPS} steps; "
        f"microseconds a step, medians:\nwithout a callback {cost.without:.0f}, an empty one adds "
        f"{cost.empty:.1f}, ours adds {cost.ours_above_empty:.1f} to that (half the quartiles' distance "
        f"{cost.spread:.1f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
