"""The hook for Hugging Face's Trainer, and so TRL's: `Trainer(callbacks=[TelemetryCallback()])`.

Or `TrainingArguments(report_to="trainvitals")`, once this module was imported. A recording opens where the
training loop begins and closes where it ends, however that is; a second `train()` is the next attempt. A
Trainer's callbacks show neither data nor losses: for the time of a training, methods of this Trainer and of
its Accelerator are wrapped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import transformers
from transformers import Trainer, TrainerCallback
from transformers.integrations import integration_utils

from trainer_hooks import names, readback
from trainer_hooks.batches import TokenCounter, on_host
from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, OTHER, Monitor, warn
from trainer_hooks.torch_calls import Call
from trainer_hooks.torch_window import Evaluation
from trainer_hooks.transformers_loss import TrainerLoss, inner_model

_LOOP = "_inner_training_loop"  # of Trainer; may run several times in one train(), each with smaller batches
_MEASURED = {
    *("loss", "learning_rate", "gradient_norm", "epoch", "step"),
    *("train_loss", "validation_loss", "validation_accuracy", "total_flos", "num_input_tokens_seen"),
}
_NAMES = {"mean_token_accuracy": "accuracy", "eval_mean_token_accuracy": "validation_accuracy"}
_SPEEDS = ("_runtime", "_per_second", "_model_preparation_time")


class TelemetryCallback(TrainerCallback):  # type: ignore[misc]
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
        self._run = run
        self._name = name
        self._loss_kind = loss_kind
        self._info = {"model": model or "", "dataset": dataset or ""}
        self._count_tokens = count_tokens
        self._record_messages = record_messages
        self._training: _Training | None = None

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
        name = self._name or (args.run_name if args.run_name != args.output_dir else None)
        monitor = Monitor(
            run=self._run,
            name=name,
            rank=args.process_index,
            world_size=args.world_size,
            loss_kind=self._loss_kind or loss.kind,
            info={
                "model": type(inner_model(trainer.model)).__name__,
                **{key: value for key, value in self._info.items() if value},
                "framework": _framework(trainer),
                "precision": _precision(trainer),
            },
            record_messages=self._record_messages,
        )
        if monitor.recording:
            self._training = _Training(trainer, monitor, loss)
        return monitor.recording

    def _close(self, trainer: Any, error: BaseException | None) -> None:
        training, self._training = self._training, None
        if training is not None:
            training.monitor.guard(training.unwatch)
            training.monitor._end(error, "completed" if error is not None else _reason(trainer))

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


class _Training:
    """One training that is followed: what is put around the Trainer's methods, and taken off again."""

    def __init__(self, trainer: Any, monitor: Monitor, loss: TrainerLoss) -> None:
        self.monitor = monitor
        self._trainer = trainer
        self._loss = loss
        self._restore: list[Callable[[], None]] = []
        self._scaler: Any = None
        self._overflowed = False
        self._overflows: list[readback.Pending] = []
        self._gradient_norm: Any = None
        self._evaluation: Evaluation | None = None

    def begin(self, loader: Any) -> None:
        """The Trainer is about to fetch its first batch."""
        trainer, monitor = self._trainer, self.monitor
        state = trainer.state
        if state.global_step:
            monitor.resume(state.global_step)
        monitor.expect(steps=state.max_steps, epochs=_epochs(trainer, loader))
        accelerator = trainer.accelerator
        self._scaler = accelerator.scaler
        if self._scaler is not None:
            optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
            self._restore.append(optimizer.register_step_post_hook(self._optimizer_stepped).remove)
        self._wrap(trainer, "get_batch_samples", self._get_batch_samples)
        self._wrap(trainer, "compute_loss", self._compute_loss)
        self._wrap(trainer, "evaluate", self._evaluate)
        self._wrap(trainer, "_save_checkpoint", self._save_checkpoint)
        self._wrap(accelerator, "backward", self._backward)
        self._wrap(accelerator, "clip_grad_norm_", self._clip_grad_norm)
        monitor.enter(DATA)

    def unwatch(self) -> None:
        """Give the Trainer its own methods back."""
        while self._restore:
            self._restore.pop()()

    def _wrap(self, owner: Any, name: str, around: Callable[[Any], Any]) -> None:
        """Put `around` around a method of this one object, until the end of the training."""
        method = getattr(owner, name, None)
        if method is None:
            return  # another version's
        before = vars(owner).get(name)
        replacement = functools.wraps(method)(around(method))

        def restore() -> None:
            if vars(owner).get(name) is not replacement:
                return  # somebody put theirs around ours, which records no more
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        setattr(owner, name, replacement)
        self._restore.append(restore)

    def _get_batch_samples(self, original: Any) -> Any:
        monitor = self.monitor

        def get_batch_samples(*args: Any, **kwargs: Any) -> Any:
            monitor.enter(DATA)
            result = original(*args, **kwargs)
            monitor.enter(OTHER)
            return result

        return get_batch_samples

    def _compute_loss(self, original: Any) -> Any:
        monitor, told_auxiliary = self.monitor, self._loss.auxiliary

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not monitor.recording:
                return original(model, inputs, *args, **kwargs)
            training = model.training
            if training:
                monitor.enter(FORWARD)
            items = kwargs.get("num_items_in_batch") if len(args) < 2 else args[1]
            call = Call()
            monitor.guard(self._count, call, inputs, items, training)
            if told_auxiliary:
                told: list[Any] = []
                with _listening(model, told):
                    result = original(model, inputs, *args, **kwargs)
                auxiliary = told[0] if told else None
            else:
                result = original(model, inputs, *args, **kwargs)
                auxiliary = None
            monitor.guard(self._computed, call, result, items, auxiliary, training)
            return result

        return compute_loss

    def _count(self, call: Call, inputs: Any, items: Any, training: bool) -> None:
        counted = self._loss.count(inputs, items, training=training)
        call.samples, call.tokens, call.trained_tokens = (
            counted.samples,
            counted.tokens,
            counted.trained_tokens,
        )

    def _computed(self, call: Call, result: Any, items: Any, auxiliary: Any, training: bool) -> None:
        monitor = self.monitor
        loss = result[0] if isinstance(result, tuple) else result
        weighted = self._loss.read(call, loss, items, auxiliary, training=training)
        if not training:
            if self._evaluation is not None and weighted:
                self._evaluation.add(call)
            return
        if weighted:
            monitor.batch(
                loss=call.loss,
                samples=call.samples,
                tokens=call.tokens,
                trained_tokens=call.trained_tokens,
                normalizer=call.normalizer,
            )
        else:
            monitor.batch(samples=call.samples, tokens=call.tokens, trained_tokens=call.trained_tokens)
            monitor.log(loss=call.loss)
        if auxiliary is not None:
            monitor.log(auxiliary_loss=auxiliary)

    def _backward(self, original: Any) -> Any:
        monitor, trainer = self.monitor, self._trainer
        gradient_state = trainer.accelerator.gradient_state

        def backward(*args: Any, **kwargs: Any) -> Any:
            monitor.enter(BACKWARD)
            result = original(*args, **kwargs)
            if gradient_state.sync_gradients:
                monitor.guard(self._rates)
                monitor.enter(OPTIMIZER)
            else:
                monitor.enter(OTHER)
            return result

        return backward

    def _rates(self) -> None:
        self.monitor.learning_rates([group["lr"] for group in self._trainer.optimizer.param_groups])

    def _clip_grad_norm(self, original: Any) -> Any:
        def clip_grad_norm_(*args: Any, **kwargs: Any) -> Any:
            norm = self._gradient_norm = original(*args, **kwargs)
            return norm

        return clip_grad_norm_

    def end_step(self, state: Any) -> None:
        """One optimizer step is done, or was left out; Trainer's count goes on in both cases."""
        monitor = self.monitor
        norm, self._gradient_norm = self._gradient_norm, None
        if self._scaler is not None and self._was_skipped():
            monitor.skip_step()  # and nobody used its gradients
        else:
            monitor.log(gradient_norm=norm, epoch=state.epoch)
            monitor.end_step(state.global_step)
        monitor.enter(OTHER)

    def _optimizer_stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.monitor.guard(self._note_overflow, optimizer)

    def _note_overflow(self, optimizer: Any) -> None:
        found = getattr(optimizer, "found_inf", None)
        number = None if found is None else readback.read(found)
        if isinstance(number, readback.Pending):
            self._overflows.append(number)
        else:
            self._overflowed = bool(number)

    def _was_skipped(self) -> bool:
        """Whether the loss scaler left out the step.

        A fused optimizer is called in any case, and finds itself that it must do nothing; Accelerate does not
        notice. On a device that is known only later: the step counts then, and as skipped as well.
        """
        self.monitor.log(loss_scale=getattr(self._scaler, "_scale", None))
        for pending in [each for each in self._overflows if each.arrived()]:
            self._overflows.remove(pending)
            if pending.take():
                self.monitor.skip_step()
        overflowed, self._overflowed = self._overflowed, False
        return overflowed or bool(self._trainer.accelerator.optimizer_step_was_skipped)

    def _evaluate(self, original: Any) -> Any:
        monitor = self.monitor

        def evaluate(*args: Any, **kwargs: Any) -> Any:
            if self._evaluation is not None:  # one of several data sets
                return original(*args, **kwargs)
            evaluation = self._evaluation = Evaluation()
            try:
                with monitor.phase("evaluation"):
                    metrics = original(*args, **kwargs)
                monitor.guard(self._evaluated, evaluation, metrics)
                return metrics
            finally:
                self._evaluation = None

        return evaluate

    def _evaluated(self, evaluation: Evaluation, metrics: Mapping[str, Any]) -> None:
        loss, tokens = evaluation.result()
        known = {_name(name): value for name, value in metrics.items()}
        if loss is None:
            loss = known.get("validation_loss")  # of samples, not of tokens
        self.monitor.evaluated(loss=loss, tokens=tokens, accuracy=known.get("validation_accuracy"))

    def _save_checkpoint(self, original: Any) -> Any:
        def save_checkpoint(model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
            with self.monitor.checkpoint(_folder(self._trainer, trial)):
                return original(model, trial, *args, **kwargs)

        return save_checkpoint

    def log(self, logs: Mapping[str, Any]) -> None:
        """Numbers that a Trainer logs; what is measured anyway is left out."""
        numbers = {}
        for name, value in logs.items():
            known = _name(name)
            if known in _MEASURED or name.endswith(_SPEEDS) or not isinstance(value, (int, float)):
                continue
            if not (self._loss.auxiliary and known == "aux_loss"):
                numbers[known] = value
        self.monitor.log(**numbers)


class _listening:  # noqa: N801
    """Within it the auxiliary loss that the model returns is told, detached."""

    def __init__(self, model: Any, told: list[Any]) -> None:
        self._told = told
        self._handle = model.register_forward_hook(self._returned)

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    def _returned(self, model: Any, args: Any, output: Any) -> None:
        try:
            auxiliary = getattr(output, "aux_loss", None)
            if hasattr(auxiliary, "detach") and not self._told:
                self._told.append(on_host(auxiliary.detach()))
        except Exception:  # an output of another kind tells nothing
            return


def _name(name: str) -> str:
    return _NAMES.get(name) or names.known(name) or name


def _framework(trainer: Any) -> str:
    if type(trainer).__module__.startswith("trl."):
        return f"trl {getattr(sys.modules.get('trl'), '__version__', '')}"
    return f"transformers {transformers.__version__}"


def _precision(trainer: Any) -> str:
    mixed = str(trainer.accelerator.mixed_precision)
    return mixed if mixed != "no" else str(getattr(trainer.model, "dtype", "")).removeprefix("torch.")


def _epochs(trainer: Any, loader: Any) -> float | None:
    """Epochs of the whole run, whichever of its limits ends it; None where their length is unknown."""
    try:
        steps = ceil(len(loader) / trainer.args.gradient_accumulation_steps)
    except TypeError:
        return None
    return float(trainer.state.max_steps / steps) if steps else None


def _folder(trainer: Any, trial: Any) -> Path | None:
    """Where `_save_checkpoint` saves."""
    try:
        return Path(trainer._get_output_dir(trial=trial), f"checkpoint-{trainer.state.global_step}")
    except Exception:  # another version's: then the size is unknown
        return None


def _reason(trainer: Any) -> str:
    if trainer.state.global_step < trainer.state.max_steps:
        for callback in trainer.callback_handler.callbacks:
            patience = getattr(callback, "early_stopping_patience", None)
            if patience is not None and callback.early_stopping_patience_counter >= patience:
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
    @functools.wraps(original)
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
    setattr(Trainer, _LOOP, _recorded(getattr(Trainer, _LOOP)))


_register()
