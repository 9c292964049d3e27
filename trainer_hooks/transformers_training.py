"""One training of a Hugging Face Trainer that is followed: what is put around its methods, and taken off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from trainer_hooks import names
from trainer_hooks.batches import on_host
from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, OTHER, Monitor
from trainer_hooks.torch_calls import Call
from trainer_hooks.torch_steps import overflowed
from trainer_hooks.torch_window import Evaluation
from trainer_hooks.transformers_loss import TrainerLoss
from trainer_hooks.wrapping import put_around

_LEFT_OUT = {"total_flos", "num_input_tokens_seen"}
_NAMES = {"mean_token_accuracy": "accuracy", "eval_mean_token_accuracy": "validation_accuracy"}
_SPEEDS = ("_runtime", "_per_second", "_model_preparation_time")


class Training:
    """One training that is followed: what is put around the Trainer's methods, and taken off again."""

    def __init__(self, trainer: Any, monitor: Monitor, loss: TrainerLoss) -> None:
        self.monitor = monitor
        self._trainer = trainer
        self._loss = loss
        self._restore: list[Callable[[], None]] = []
        self._scaler: Any = None
        self._overflowed = False
        self._gradient_norm: Any = None
        self._evaluation: Evaluation | None = None

    def begin(self, loader: Any) -> None:
        """The Trainer is about to fetch its first batch."""
        trainer, monitor = self._trainer, self.monitor
        state = trainer.state
        if state.global_step:
            monitor.resume(state.global_step)
        monitor.expect(steps=state.max_steps, epochs=_epochs(trainer, loader))
        monitor.model(trainer.model)
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
        if hasattr(owner, name):  # else another version's
            self._restore.append(put_around(owner, name, around))

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
            monitor.guard(self._loss.count, call, inputs, items, training=training)
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
        self._overflowed = overflowed(self.monitor, optimizer)

    def _was_skipped(self) -> bool:
        """Whether the loss scaler left out the step.

        Accelerate does not notice where it is a fused optimizer: see `overflowed`.
        """
        self.monitor.log(loss_scale=getattr(self._scaler, "_scale", None))
        found, self._overflowed = self._overflowed, False
        return found or bool(self._trainer.accelerator.optimizer_step_was_skipped)

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
            if (
                known in self.monitor.measured
                or known in _LEFT_OUT
                or name.endswith(_SPEEDS)
                or not isinstance(value, (int, float))
            ):
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
            auxiliary: Any = getattr(output, "aux_loss", None)
            if hasattr(auxiliary, "detach") and not self._told:
                self._told.append(on_host(auxiliary.detach()))
        except Exception:  # an output of another kind tells nothing
            return


def _name(name: str) -> str:
    return _NAMES.get(name) or names.known(name) or name


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
