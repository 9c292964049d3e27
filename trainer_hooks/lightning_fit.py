"""What a fit of Lightning tells a Monitor, whichever of Lightning's two namespaces its Trainer is of.

A recording opens at the setup of fit and closes at its teardown; a second fit is the next attempt.
Lightning's `on_train_batch_end` is one micro-batch; an optimizer step is a change of `trainer.global_step`,
which counts those that the loss scaler left out too: they are recorded as skipped, and as no steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import ceil
from threading import get_ident
from time import monotonic_ns
from typing import Any, TypeVar

import torch
from torch.compiler import is_compiling
from torch.nn.utils import clip_grad

from trainer_hooks.batches import (
    TokenCounter,
    count_tokens,
    count_tokens_unshifted,
    loss_of,
    on_host,
    samples,
)
from trainer_hooks.entry_points import yields
from trainer_hooks.lightning_metrics import LoggedAtSteps, first, makes_numbers, metrics_of
from trainer_hooks.monitor import (
    BACKWARD,
    COMPUTE,
    DATA,
    EVALUATION,
    FORWARD,
    OPTIMIZER,
    OTHER,
    Monitor,
    current,
    warn,
)
from trainer_hooks.options import Options
from trainer_hooks.torch_calls import Call, shifts_labels_within
from trainer_hooks.torch_process import Functions, is_euclid
from trainer_hooks.torch_steps import overflowed
from trainer_hooks.torch_window import Evaluation
from trainer_hooks.wrapping import put_around

_PARTS = 2  # so many norms before a step are none; without an end of a step no more than these are kept

_F = TypeVar("_F", bound=Callable[..., None])


def _harmless(hook: _F) -> _F:
    """Lightning calls its callbacks without a net: keep every fault of ours away from the training."""

    @functools.wraps(hook)
    def harmless(self: FitTelemetry, *arguments: Any, **keywords: Any) -> None:
        if self.monitor is not None:
            self.monitor.guard(hook, self, *arguments, **keywords)

    return harmless  # type: ignore[return-value]


class FitTelemetry:
    """Records the vital signs of `Trainer.fit`.

    Args:
        run, name, loss_kind, record_messages: see Monitor.
        model, dataset: what is trained on what; for the run's info.
        count_tokens: of a batch, its tokens without padding and those whose label counts in the loss, numbers
            or tensors. Default: from `attention_mask` or `input_ids`, and from `labels`, shifted by one but
            for encoder-decoders, masked models and taggers of transformers.
        automatic: nobody asked for this one by name. It records nothing where its Trainer has one that is not
            automatic, or an automatic one before it, or where a Monitor records in this process already.
    """

    framework = ""  # name and version, for the run's info

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
        automatic: bool = False,
    ) -> None:
        self.monitor: Monitor | None = None
        self.automatic = automatic
        self._options = Options(run, name, loss_kind, model, dataset, record_messages)
        self._count_given = count_tokens
        self._undone_at_close: list[Callable[[], None]] = []
        self._forget_the_fit()

    def _forget_the_fit(self) -> None:
        self._by_lightning = True  # Lightning calls backward and the optimizer, not the module
        self._global_step = 0
        self._epoch = 0
        self._batches: int | None = None  # of an epoch
        self._epoch_loop: Any = None
        self._scaler: Any = None
        self._steps_made: int | None = None  # since the last micro-batch, where the scaler may leave one out
        self._count_tokens = self._count_given or count_tokens
        self._clipping = _Clipping()
        self._logged = LoggedAtSteps()
        self._evaluation = Evaluation()
        self._mixed = False  # whether the loss was seen to hold an auxiliary one

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Open the recording, where this is a fit."""
        if stage != "fit":
            return
        try:
            if self.monitor is not None:  # the fit before came to no end that Lightning told of
                self._close(self.monitor)
            if not (self.automatic and self._is_one_too_many(trainer)):
                self._open(trainer, pl_module)
        except Exception as error:
            warn("telemetry is off for this fit: %s", type(error).__name__)

    def _is_one_too_many(self, trainer: Any) -> bool:
        others = [each for each in trainer.callbacks if isinstance(each, FitTelemetry)]
        recording = current()
        return yields(self, others) or (recording is not None and not recording.provisional)

    def _open(self, trainer: Any, pl_module: Any) -> None:
        monitor = self._options.monitor(
            framework=self.framework,
            model=type(pl_module).__name__,
            precision=str(trainer.precision),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        if monitor.recording:
            self.monitor = monitor
            monitor.measured |= {"epoch", "accuracy", "validation_loss", "validation_accuracy"}
            monitor.guard(self._watch_checkpoints, trainer, monitor)

    @_harmless
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn what stays as it is for the whole fit."""
        assert self.monitor is not None
        self._forget_the_fit()
        self.monitor.guard(self._choose_count, pl_module)
        self._by_lightning = pl_module.automatic_optimization
        self._global_step = trainer.global_step
        self._epoch_loop = trainer.fit_loop.epoch_loop
        if self._global_step:
            self.monitor.resume(self._global_step)
        steps, epochs = _expected(trainer, self._by_lightning)
        self.monitor.expect(steps=steps, epochs=epochs)
        self.monitor.model(pl_module)
        self.monitor.guard(self._watch_optimizers, trainer)
        self.monitor.enter(DATA)

    def _choose_count(self, pl_module: Any) -> None:
        if self._count_given is None and not shifts_labels_within(pl_module):
            self._count_tokens = count_tokens_unshifted

    def _watch_optimizers(self, trainer: Any) -> None:
        optimizers = trainer.optimizers
        if len(optimizers) == 1:  # else the norm would be that of some
            self._undone_at_close.append(self._clipping.watch())
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        if self._scaler is not None:
            self._steps_made = 0
            for optimizer in optimizers:
                self._undone_at_close.append(optimizer.register_step_post_hook(self._stepped).remove)

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """An optimizer was called, so not left out; but a fused one is called in any case."""
        monitor = self.monitor
        if monitor is not None and self._steps_made is not None:
            self._steps_made += 1
            monitor.guard(self._look_for_overflow, monitor, optimizer)

    def _look_for_overflow(self, monitor: Monitor, optimizer: Any) -> None:
        if overflowed(monitor, optimizer) and self._steps_made:
            self._steps_made -= 1

    @_harmless
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn what stays as it is for an epoch."""
        self._epoch = trainer.current_epoch
        self._batches = _finite(trainer.num_training_batches)

    # At every step: these are guarded in place, which is cheaper. `Monitor.enter` does not raise.

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The wait for data is over."""
        if self.monitor is not None:
            self.monitor.enter(FORWARD if self._by_lightning else COMPUTE)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """The forward pass is over."""
        if self.monitor is not None and self._by_lightning:
            self.monitor.enter(BACKWARD)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """The backward pass is over."""
        if self.monitor is not None and self._by_lightning:
            self.monitor.enter(OTHER)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The learning rates are those of the step to come."""
        monitor = self.monitor
        if monitor is None:
            return
        if self._by_lightning:
            monitor.enter(OPTIMIZER)
        try:
            monitor.learning_rates([group["lr"] for group in optimizer.param_groups])
        except Exception as error:
            monitor.fault(error)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One micro-batch is done, and perhaps an optimizer step."""
        monitor = self.monitor
        if monitor is None:
            return
        began, spent_ns = monotonic_ns(), monitor.hook_ns
        try:
            self._end_batch(monitor, trainer, outputs, batch)
            global_step = self._epoch_loop.global_step  # what `trainer.global_step` asks
            made = global_step - self._global_step
            if made or not self._by_lightning:  # where Lightning may log, too
                self._log(monitor, trainer, batch_idx)
            if made:
                self._global_step = global_step
                self._end_steps(monitor, made, global_step)
        except Exception as error:
            monitor.fault(error)
        monitor.enter(DATA)
        monitor.hook_ns = spent_ns + monotonic_ns() - began

    def _end_batch(self, monitor: Monitor, trainer: Any, outputs: Any, batch: Any) -> None:
        loss = loss_of(outputs)
        if loss is not None and self._by_lightning and trainer.accumulate_grad_batches != 1:
            loss = on_host(loss) * trainer.accumulate_grad_batches  # Lightning hands out the normalized one
        count, tokens, trained = self._size(monitor, batch)
        monitor.batch(loss=loss, samples=count, tokens=tokens, trained_tokens=trained)
        if outputs.__class__ is dict and "aux_loss" in outputs:
            monitor.log(auxiliary_loss=outputs["aux_loss"])
            if not self._mixed:  # what the loss is made of is not known: it has no perplexity
                self._mixed = True
                monitor.describe(loss_kind="other")

    def _size(self, monitor: Monitor, batch: Any) -> tuple[int, Any, Any]:
        """Samples, tokens and trained tokens. A batch that cannot be counted does not lose its step."""
        count = 0
        try:
            count = samples(batch)
            return count, *self._count_tokens(batch)
        except Exception as error:
            monitor.fault(error)
            return count, None, None

    def _end_steps(self, monitor: Monitor, made: int, global_step: int) -> None:
        """Record what `trainer.global_step` rose by as a step, except for what the loss scaler left out."""
        norm = self._clipping.take()
        if self._scaler is not None and self._steps_made is not None:
            skipped, self._steps_made = made - min(made, self._steps_made), 0
            monitor.log(loss_scale=self._scaler._scale)
            for _ in range(skipped):
                monitor.skip_step()
            if skipped == made:
                return
        if norm is not None and monitor.gradient_norm is None:  # none that the module logged
            monitor.log(gradient_norm=norm)
        monitor.end_step(global_step)

    def _log(self, monitor: Monitor, trainer: Any, batch_idx: int) -> None:
        """Metrics that cannot be read do not lose their step."""
        try:
            if self._batches is not None:
                monitor.log(epoch=self._epoch + (batch_idx + 1) / self._batches)
            new = self._logged.new(self._epoch_loop._results)
            if makes_numbers(trainer, self._epoch_loop):
                monitor.log(**metrics_of(trainer))
            if new:
                monitor.log(**new)
        except Exception as error:
            monitor.fault(error)

    @_harmless
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """An evaluation begins, unless it is the check of Lightning's before the fit."""
        assert self.monitor is not None
        if not trainer.sanity_checking:
            self.monitor.enter(EVALUATION)
        self._evaluation = Evaluation()

    @_harmless
    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One more batch of it."""
        assert self.monitor is not None
        self.monitor.progress()
        loss = loss_of(outputs)
        if loss is not None and not trainer.sanity_checking:
            call = Call()
            call.loss = on_host(loss)
            call.samples, _, call.trained_tokens = self._size(self.monitor, batch)
            self._evaluation.add(call)

    @_harmless
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """It is done."""
        assert self.monitor is not None
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        loss, tokens = self._evaluation.result()
        if loss is None:
            loss = first(metrics, "validation_loss")
        self.monitor.evaluated(loss=loss, tokens=tokens, accuracy=first(metrics, "validation_accuracy"))
        self.monitor.enter(DATA)

    @_harmless
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """What comes now is no wait for data."""
        assert self.monitor is not None
        self.monitor.enter(OTHER)

    @_harmless
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The fit failed, or somebody ended it."""
        assert self.monitor is not None
        if type(exception).__name__ == "SIGTERMException":
            self.monitor.finish("interrupted")
        else:
            self.monitor.end(exception, "completed")
        self._close(self.monitor)

    @_harmless
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The fit is over."""
        if stage == "fit":
            assert self.monitor is not None
            reason = "unknown"
            try:
                reason = _reason(trainer)
            except Exception as error:  # of a stranger's callback: the fit has ended all the same
                self.monitor.fault(error)
            self.monitor.finish(reason)
            self._close(self.monitor)

    def _close(self, monitor: Monitor) -> None:
        self.monitor = None
        monitor.finish("unknown")  # a no-op where the end has been told
        undone, self._undone_at_close = self._undone_at_close, []
        for undo in undone:
            monitor.guard(undo)
        self._forget_the_fit()

    def _watch_checkpoints(self, trainer: Any, monitor: Monitor) -> None:
        """Lightning has no callback for the end of a save: put ours around this trainer's own method."""

        def saving(save: Callable[..., None]) -> Callable[..., None]:
            def save_checkpoint(filepath: Any, *arguments: Any, **keywords: Any) -> None:
                with monitor.checkpoint(filepath):
                    save(filepath, *arguments, **keywords)

            return save_checkpoint

        self._undone_at_close.append(put_around(trainer, "save_checkpoint", saving))


class _Clipping:
    """The norm that clipping computes on the way, and that Lightning drops.

    Where there was more than one call before a step, the norms are those of parts: then there is none, as
    there is where it is a norm of another kind.
    """

    def __init__(self) -> None:
        self._norms: list[Any] = []  # None for one of another kind
        self._thread = get_ident()

    def watch(self) -> Callable[[], None]:
        """From now on look at what torch's function returns; what to call at the end."""
        functions = Functions(_nobody)
        functions.put(torch.nn.utils, "clip_grad_norm_", self._around, clip_grad)
        return functions.restore

    def take(self) -> Any:
        """The norm of the gradients of the step that was made; None where it is not known."""
        norms = self._norms
        if not norms:
            return None
        self._norms = []
        return norms[0] if len(norms) == 1 else None

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip_grad_norm_(*args: Any, **kwargs: Any) -> Any:
            norm = original(*args, **kwargs)
            if not is_compiling() and get_ident() == self._thread and len(self._norms) < _PARTS:
                # A clipping of somebody else's in torch's place may return a number, or nothing.
                told = norm.detach() if hasattr(norm, "detach") else norm
                self._norms.append(told if is_euclid(args[2:], kwargs) else None)
            return norm

        return clip_grad_norm_


def _nobody() -> None:
    """No loop is told of what is clipped."""


def _finite(count: float) -> int | None:
    return int(count) if 0 < count < float("inf") else None


def _expected(trainer: Any, by_lightning: bool) -> tuple[int | None, float | None]:
    """Optimizer steps and epochs of the whole run, whichever of its limits ends it.

    How many steps a manual optimization makes of a batch, and what a schedule of the accumulation comes to,
    cannot be known.
    """
    scheduled = any(type(each).__name__ == "GradientAccumulationScheduler" for each in trainer.callbacks)
    if not by_lightning or scheduled:
        limited = trainer.max_steps != -1
        return None, None if limited or trainer.max_epochs is None else trainer.max_epochs
    steps, batches = _finite(trainer.estimated_stepping_batches), _finite(trainer.num_training_batches)
    if steps is None or batches is None:
        return steps, None
    return steps, steps / ceil(batches / trainer.accumulate_grad_batches)


def _reason(trainer: Any) -> str:
    if not trainer.should_stop:
        return "completed"
    for callback in trainer.callbacks:
        kind = type(callback).__name__
        if kind == "EarlyStopping" and (
            callback.stopped_epoch or getattr(callback, "stopping_reason_message", None)
        ):
            return "early_stopping"
        if kind == "Timer":
            remaining = callback.time_remaining()
            if remaining is not None and remaining <= 0:
                return "time_limit"
    return "completed"
