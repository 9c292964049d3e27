"""The hook for Hugging Face's Trainer, and so TRL's: `Trainer(callbacks=[TelemetryCallback()])`.

Or `TrainingArguments(report_to="trainvitals")`, once this module was imported. A recording opens where the
training loop begins and closes where it ends, however that is; a second `train()` is the next attempt. A
Trainer's callbacks show neither data nor losses: for the time of a training, methods of this Trainer and of
its Accelerator are wrapped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import transformers
from transformers import Trainer, TrainerCallback
from transformers.integrations import integration_utils

from trainer_hooks.batches import TokenCounter
from trainer_hooks.monitor import Monitor, warn
from trainer_hooks.options import Options
from trainer_hooks.torch_calls import precision
from trainer_hooks.transformers_loss import TrainerLoss, inner_model
from trainer_hooks.transformers_training import Training
from trainer_hooks.wrapping import put_around

_LOOP = "_inner_training_loop"  # of Trainer; may run several times in one train(), each with smaller batches


class TelemetryCallback(TrainerCallback):
    """Records the vital signs of `Trainer.train`.

    Args:
        run, name, record_messages: see Monitor. Default name: `run_name` of the TrainingArguments.
        loss_kind: see Monitor. Default: "cross_entropy" where the Trainer's loss is known to be that of a
            language model and nothing else.
        model, dataset: what is trained on what; for the run's info.
        count_tokens: of a batch, its tokens without padding and those whose label counts in the loss, numbers
            or tensors. Default: from `attention_mask` or `input_ids`, and from `labels`.
    """

    def __init__(
        self,
        *,
        run: str | None = None,
        name: str | None = None,
        loss_kind: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        count_tokens: TokenCounter | None = None,
        record_messages: bool = False,
    ) -> None:
        self._options = Options(run, name, loss_kind, model, dataset, record_messages)
        self._count_tokens = count_tokens
        self._training: Training | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_training": None}  # a copy records nothing of this training

    @property
    def monitor(self) -> Monitor | None:
        """The Monitor that records; None outside a training and where nothing can be recorded."""
        return self._training.monitor if self._training is not None else None

    def _open(self, trainer: Any) -> bool:
        """Begin the recording of this Trainer's training; False where nothing can be recorded."""
        loss = TrainerLoss(trainer, self._count_tokens)
        args = trainer.args
        monitor = self._options.monitor(
            framework=_framework(trainer),
            name=args.run_name if args.run_name != args.output_dir else None,
            loss_kind=loss.kind,
            model=type(inner_model(trainer.model)).__name__,
            precision=precision(trainer.accelerator.mixed_precision, [trainer.model]),
            rank=args.process_index,
            world_size=args.world_size,
        )
        if monitor.recording:
            monitor.measured |= {"epoch", "validation_loss", "validation_accuracy"}
            self._training = Training(trainer, monitor, loss)
        return monitor.recording

    def _close(self, trainer: Any, error: BaseException | None) -> None:
        training, self._training = self._training, None
        if training is not None:
            monitor = training.monitor
            monitor.guard(training.unwatch)
            reason = "unknown"
            try:
                reason = _reason(trainer) if error is None else "completed"
            except Exception as fault:  # of a stranger's callback: the training has ended all the same
                monitor.fault(fault)
            monitor.end(error, reason)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has prepared everything."""
        if self._training is not None:
            self._training.monitor.guard(self._training.begin, kwargs.get("train_dataloader"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One optimizer step is done, or was left out."""
        if self._training is not None:
            self._training.monitor.guard(self._training.end_step, state)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One batch of an evaluation is done."""
        if self._training is not None:
            self._training.monitor.progress()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The Trainer logs, its evaluations too."""
        if self._training is not None:
            self._training.monitor.guard(self._training.log, logs or {})


def _framework(trainer: Any) -> str:
    if type(trainer).__module__.startswith("trl."):
        return f"trl {getattr(sys.modules.get('trl'), '__version__', '')}"
    return f"transformers {transformers.__version__}"


def _reason(trainer: Any) -> str:
    if trainer.state.global_step < trainer.state.max_steps:
        for callback in trainer.callback_handler.callbacks:
            patience = getattr(callback, "early_stopping_patience", None)
            counter = getattr(callback, "early_stopping_patience_counter", None)
            if patience is not None and counter is not None and counter >= patience:
                return "early_stopping"
    return "completed"


_automatic: Callable[[], TelemetryCallback] | None = None


def install(**options: Any) -> Callable[[], None]:
    """From now on record every Trainer that has no TelemetryCallback, as by `TelemetryCallback(**options)`.

    Returns what takes that back.
    """
    global _automatic
    _automatic = functools.partial(TelemetryCallback, **options)
    return _uninstall


def _uninstall() -> None:
    global _automatic
    _automatic = None


def _begin(trainer: Any) -> Callable[[BaseException | None], None]:
    """Begin the recording of the training that begins; what ends it. Neither raises."""
    try:
        callbacks = trainer.callback_handler.callbacks
        told = [each for each in callbacks if isinstance(each, TelemetryCallback)]
        if not told and _automatic is None:
            return _nothing
        # One that was given comes after that of `report_to`.
        callback = told[-1] if told or _automatic is None else _automatic()
        if not callback._open(trainer):
            return _nothing
        if not told:
            callbacks.append(callback)
    except Exception as error:
        warn("telemetry is off for this training: %s", type(error).__name__)
        return _nothing

    def end(error: BaseException | None) -> None:
        try:
            callback._close(trainer, error)
            if not told:
                callbacks.remove(callback)
        except Exception as fault:
            warn("a fault at the end of the telemetry: %s", type(fault).__name__)

    return end


def _nothing(error: BaseException | None) -> None:
    """Nothing is recorded."""


def _recorded(original: Callable[..., Any]) -> Callable[..., Any]:
    def training(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        end = _begin(trainer)
        try:
            result = original(trainer, *args, **kwargs)
        except BaseException as error:
            end(error)
            raise
        end(None)
        return result

    return training


def _register() -> None:
    integration_utils.INTEGRATION_TO_CALLBACK["trainvitals"] = TelemetryCallback
    put_around(Trainer, _LOOP, _recorded)


_register()
