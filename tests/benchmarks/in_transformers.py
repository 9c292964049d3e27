"""A step of a small fit by transformers' Trainer: the callback, an empty one, TensorBoard's, TraceML's."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import IterableDataset
from traceml_ai.instrumentation.patches.dataloader_patch import (
    dataloader_timing_scope,
)
from traceml_ai.integrations import huggingface as traceml_huggingface
from transformers.integrations import integration_utils

from tests.benchmarks import measuring, traceml
from tests.benchmarks.measuring import Cost, Turns
from trainer_hooks.transformers import TelemetryCallback

NOTHING = "nothing"
NO_OP = "transformers, an empty callback of the same hooks"
CALLBACK = "transformers, TelemetryCallback"
CALLBACK_BESIDE_TRACEML = f"{CALLBACK}, beside TraceML"
TRACEML = "transformers, TraceMLTrainerCallback"
TENSORBOARD = "transformers, TensorBoardCallback, logging_steps=1"


class _Sequences(IterableDataset[dict[str, Any]]):
    """Ever the same sequence of 32 tokens."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        tokens = torch.arange(32)
        return itertools.repeat({"input_ids": tokens, "labels": tokens})


class _Swapping(transformers.TrainerCallback):
    """Lets the ways take turns before each step, and ends the training after the last."""

    def __init__(self) -> None:
        self.turns: Turns | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        assert self.turns is not None
        if not self.turns.next():
            control.should_training_stop = True


class Fit:
    """A fit to come, and the ways its steps can be made."""

    def __init__(self, folder: Path, logging_steps: int = 500) -> None:
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
        arguments = transformers.TrainingArguments(
            output_dir=str(folder / "output"),
            max_steps=10**9,
            per_device_train_batch_size=2,
            logging_steps=logging_steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        self._swapping = _Swapping()
        self.trainer = transformers.Trainer(
            model=transformers.LlamaForCausalLM(config),
            args=arguments,
            train_dataset=_Sequences(),
            callbacks=[self._swapping],
        )
        self.trainer.remove_callback(transformers.PrinterCallback)
        self._handler: Any = self.trainer.callback_handler
        self._others = list(self._handler.callbacks)

    @contextlib.contextmanager
    def with_callback(self, callback: Any) -> Iterator[None]:
        """From its on_train_begin to its on_train_end."""
        self._handler.callbacks = [callback]
        self._tell("on_train_begin")
        self._handler.callbacks = [*self._others, callback]
        try:
            yield
        finally:
            self._handler.callbacks = [callback]
            self._tell("on_train_end")
            self._handler.callbacks = self._others

    def _tell(self, event: str) -> None:
        self._handler.call_event(event, self.trainer.args, self.trainer.state, self.trainer.control)

    @contextlib.contextmanager
    def with_telemetry(self, callback: Any) -> Iterator[None]:
        """As in a training of its own: what it puts around the trainer's methods is gone afterwards."""
        callback._open(self.trainer)
        try:
            with self.with_callback(callback):
                yield
        finally:
            callback._close(self.trainer, None)

    def take_turns(self, ways: dict[str, Callable[[], Any]], rounds: int) -> Turns:
        self._swapping.turns = turns = Turns(ways, rounds)
        # TraceML does the same for a trainer that has its callback from the start.
        with measuring.no_collector(), dataloader_timing_scope(lambda: False):
            self.trainer.train()
        return turns


def ours(folder: Path, rounds: int) -> list[Cost]:
    fit = Fit(folder)
    callback = TelemetryCallback(run="transformers")
    empty = measuring.empty_callback(transformers.TrainerCallback, TelemetryCallback)
    turns = fit.take_turns(
        {
            NOTHING: contextlib.nullcontext,
            NO_OP: lambda: fit.with_callback(empty),
            CALLBACK: lambda: fit.with_telemetry(callback),
        },
        rounds,
    )
    return [turns.cost(NO_OP, NOTHING), turns.cost(CALLBACK, NOTHING), turns.cost(CALLBACK, NO_OP)]


def tensorboard(folder: Path, rounds: int) -> list[Cost]:
    """Above a trainer that makes its logs as often, for nobody. By default they are made every 500 steps."""
    fit = Fit(folder, logging_steps=1)
    callback: Any = integration_utils.TensorBoardCallback()  # type: ignore[no-untyped-call]
    turns = fit.take_turns(
        {NOTHING: contextlib.nullcontext, TENSORBOARD: lambda: fit.with_callback(callback)}, rounds
    )
    return [turns.cost(TENSORBOARD, NOTHING)]


def beside_traceml(folder: Path, rounds: int) -> list[Cost]:
    """TraceML's own callback, and ours in the same turns: see in_torch.beside_traceml."""
    with traceml.serving(folder):
        traceml_huggingface.init()
        fit = Fit(folder)
        callback = TelemetryCallback(run="transformers-beside-traceml")
        traced = traceml_huggingface.TraceMLTrainerCallback()
        turns = fit.take_turns(
            {
                NOTHING: contextlib.nullcontext,
                CALLBACK_BESIDE_TRACEML: lambda: fit.with_telemetry(callback),
                TRACEML: lambda: fit.with_callback(traced),
            },
            rounds,
        )
    return [turns.cost(name, NOTHING) for name in (CALLBACK_BESIDE_TRACEML, TRACEML)]


def measure(folder: Path, share: float) -> list[Cost]:
    torch.set_num_threads(1)
    rounds, few = max(4, int(100 * share)), max(4, int(40 * share))
    return [*ours(folder, rounds), *tensorboard(folder, few), *beside_traceml(folder, few)]


if __name__ == "__main__":
    measuring.write(measure)
