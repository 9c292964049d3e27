"""The hook for Lightning: `Trainer(callbacks=[TelemetryCallback()])`.

A recording opens at the setup of fit and closes at its teardown; a second fit is the next attempt.
Lightning's `on_train_batch_end` is one micro-batch; an optimizer step is a change of `trainer.global_step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import Any

try:
    import lightning.pytorch as pl
except ImportError:
    import pytorch_lightning as pl  # type: ignore[no-redef]

from trainer_hooks.batches import TokenCounter, count_tokens, loss_of, on_host, samples
from trainer_hooks.monitor import (
    BACKWARD,
    COMPUTE,
    DATA,
    EVALUATION,
    FORWARD,
    OPTIMIZER,
    OTHER,
    Monitor,
    warn,
)

# What modules usually call these when they log them.
LOGGED_NAMES = {
    "accuracy": "accuracy",
    "acc": "accuracy",
    "train_accuracy": "accuracy",
    "train_acc": "accuracy",
    "train/accuracy": "accuracy",
    "grad_norm": "gradient_norm",
    "gradient_norm": "gradient_norm",
    "train/grad_norm": "gradient_norm",
    "grad_2.0_norm_total": "gradient_norm",
    "preprocessing_seconds": "preprocessing_seconds",
}
VALIDATION_LOSS_NAMES = ("val_loss", "validation_loss", "val/loss", "validation/loss")
VALIDATION_ACCURACY_NAMES = ("val_accuracy", "val_acc", "validation_accuracy", "val/accuracy", "val/acc")
# An epoch's mean serves as the training accuracy too; of the other LOGGED_NAMES only this step's value does,
# and a bare "accuracy" that the step did not log is one of the validation.
_MEANS_OF_AN_EPOCH = {"train_accuracy", "train_acc", "train/accuracy"}
_RECORDED_OTHERWISE = {
    "loss",
    "train_loss",
    "train/loss",
    *VALIDATION_LOSS_NAMES,
    *VALIDATION_ACCURACY_NAMES,
    *(LOGGED_NAMES.keys() - _MEANS_OF_AN_EPOCH),
}


def _harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """Lightning calls its callbacks without a net: keep every fault of ours away from the training."""

    @functools.wraps(hook)
    def harmless(self: TelemetryCallback, *arguments: Any, **keywords: Any) -> None:
        if self.monitor is not None:
            self.monitor.guard(hook, self, *arguments, **keywords)

    return harmless


class TelemetryCallback(pl.Callback):
    """Records the vital signs of `Trainer.fit`.

    Args:
        run, name, loss_kind, record_messages: see Monitor.
        model, dataset: what is trained on what; for the run's info.
        count_tokens: of a batch, its tokens without padding and those whose label counts in the loss, numbers
            or tensors. Default: from `attention_mask` or `input_ids`, and from `labels` shifted by one.
    """

    def __init__(
        self,
        *,
        run: str | None = None,
        name: str | None = None,
        loss_kind: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        count_tokens: TokenCounter = count_tokens,
        record_messages: bool = False,
    ) -> None:
        self.monitor: Monitor | None = None
        self._run = run
        self._name = name
        self._loss_kind = loss_kind
        self._info = {"model": model or "", "dataset": dataset or ""}
        self._count_tokens = count_tokens
        self._record_messages = record_messages
        self._global_step = 0
        self._read: dict[str, Any] = {}
        self._validation = _Mean()
        self._unwatch_checkpoints: Callable[[], None] = _nothing

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        try:
            if self.monitor is not None:  # the fit before came to no end that Lightning told of
                self._close(self.monitor)
            self._open(trainer, pl_module)
        except Exception as error:
            warn("telemetry is off for this fit: %s: %s", type(error).__name__, error)

    def _open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        monitor = Monitor(
            run=self._run,
            name=self._name,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            loss_kind=self._loss_kind,
            info={
                "model": type(pl_module).__name__,
                **{key: value for key, value in self._info.items() if value},
                "framework": f"lightning {getattr(pl, '__version__', '')}",
                "precision": str(trainer.precision),
            },
            record_messages=self._record_messages,
        )
        if monitor.recording:
            self.monitor = monitor
            monitor.guard(self._watch_checkpoints, trainer, monitor)

    @_harmless
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.monitor is not None
        self._global_step = trainer.global_step
        if self._global_step:
            self.monitor.resume(self._global_step)
        steps, epochs = _expected(trainer)
        self.monitor.expect(steps=steps, epochs=epochs)
        self.monitor.enter(DATA)

    @_harmless
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.monitor is not None
        self.monitor.enter(FORWARD if pl_module.automatic_optimization else COMPUTE)

    @_harmless
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        assert self.monitor is not None
        if pl_module.automatic_optimization:
            self.monitor.enter(BACKWARD)

    @_harmless
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.monitor is not None
        if pl_module.automatic_optimization:
            self.monitor.enter(OTHER)

    @_harmless
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        assert self.monitor is not None
        if pl_module.automatic_optimization:
            self.monitor.enter(OPTIMIZER)
        self.monitor.learning_rates([group["lr"] for group in optimizer.param_groups])

    @_harmless
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.monitor is not None
        loss = loss_of(outputs)
        if loss is not None and pl_module.automatic_optimization and trainer.accumulate_grad_batches != 1:
            loss = on_host(loss) * trainer.accumulate_grad_batches  # Lightning hands out the normalized one
        samples, tokens, trained = self._size(batch)
        self.monitor.batch(loss=loss, samples=samples, tokens=tokens, trained_tokens=trained)
        global_step = trainer.global_step
        stepped = global_step != self._global_step
        if stepped or not pl_module.automatic_optimization:  # where Lightning may log, too
            self.monitor.guard(self._log_epoch, trainer, batch_idx)
            self.monitor.guard(self._log_metrics, trainer)
        if stepped:
            self._global_step = global_step
            self.monitor.end_step(global_step)
        self.monitor.enter(DATA)

    def _size(self, batch: Any) -> tuple[int, Any, Any]:
        """Samples, tokens and trained tokens. A batch that cannot be counted does not lose its step."""
        assert self.monitor is not None
        try:
            return samples(batch), *self._count_tokens(batch)
        except Exception as error:
            self.monitor.fault(error)
            return 0, None, None

    def _log_epoch(self, trainer: pl.Trainer, batch_idx: int) -> None:
        assert self.monitor is not None
        batches = _finite(trainer.num_training_batches)
        if batches:
            self.monitor.log(epoch=trainer.current_epoch + (batch_idx + 1) / batches)

    def _log_metrics(self, trainer: pl.Trainer) -> None:
        assert self.monitor is not None
        numbers: dict[str, Any] = {}
        if _lightning_logs(trainer):
            for name, value in trainer.callback_metrics.items():
                if name not in _RECORDED_OTHERWISE:
                    numbers[LOGGED_NAMES.get(name, name)] = value
        for name, value in _logged_in_step(trainer, self._read):
            numbers[LOGGED_NAMES[name]] = value
        self.monitor.log(**numbers)

    @_harmless
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.monitor is not None
        if not trainer.sanity_checking:
            self.monitor.enter(EVALUATION)
        self._validation = _Mean()

    @_harmless
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self.monitor is not None
        self.monitor.progress()
        loss = loss_of(outputs)
        if loss is not None and not trainer.sanity_checking:
            _, _, trained = self._size(batch)
            self._validation.add(loss, trained)

    @_harmless
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.monitor is not None
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        loss, tokens = self._validation.mean(), self._validation.tokens
        if loss is None:
            loss = _first(metrics, VALIDATION_LOSS_NAMES)
        self.monitor.evaluated(loss=loss, tokens=tokens, accuracy=_first(metrics, VALIDATION_ACCURACY_NAMES))
        self.monitor.enter(DATA)

    @_harmless
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.monitor is not None
        self.monitor.enter(OTHER)

    @_harmless
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        assert self.monitor is not None
        if isinstance(exception, KeyboardInterrupt) or type(exception).__name__ == "SIGTERMException":
            self.monitor.finish("interrupted")
        else:
            self.monitor.fail(exception)
        self._close(self.monitor)

    @_harmless
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
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
        self._read.clear()
        monitor.finish("unknown")  # a no-op where the end has been told
        unwatch, self._unwatch_checkpoints = self._unwatch_checkpoints, _nothing
        unwatch()

    def _watch_checkpoints(self, trainer: pl.Trainer, monitor: Monitor) -> None:
        """Lightning has no callback for the end of a save: put ours around this trainer's own method."""
        before = trainer.__dict__.get("save_checkpoint")
        save = trainer.save_checkpoint

        @functools.wraps(save)
        def save_checkpoint(filepath: Any, *arguments: Any, **keywords: Any) -> None:
            with monitor.checkpoint(filepath):
                save(filepath, *arguments, **keywords)

        def unwatch() -> None:
            if trainer.__dict__.get("save_checkpoint") is not save_checkpoint:
                return  # somebody put theirs around ours, which records no more
            if before is None:
                del trainer.__dict__["save_checkpoint"]
            else:
                trainer.__dict__["save_checkpoint"] = before

        trainer.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
        self._unwatch_checkpoints = unwatch


class _Mean:
    """A token-weighted mean of losses; sums stay on the device they are on."""

    def __init__(self) -> None:
        self._sum: Any = 0.0
        self._weight: Any = 0
        self._tokens_known = True

    def add(self, loss: Any, tokens: Any) -> None:
        weight = 1 if tokens is None else on_host(tokens)
        self._tokens_known &= tokens is not None
        self._sum = self._sum + on_host(loss) * weight
        self._weight = self._weight + weight

    def mean(self) -> Any:
        if isinstance(self._weight, (int, float)) and self._weight == 0:
            return None
        return self._sum / self._weight

    @property
    def tokens(self) -> Any:
        return self._weight if self._tokens_known else None


def _nothing() -> None:
    """No checkpoints are watched."""


def _first(metrics: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((metrics[name] for name in names if name in metrics), None)


def _finite(count: float) -> int | None:
    return int(count) if 0 < count < float("inf") else None


def _expected(trainer: pl.Trainer) -> tuple[int | None, float | None]:
    """Optimizer steps and epochs of the whole run, whichever of its limits ends it."""
    steps, batches = _finite(trainer.estimated_stepping_batches), _finite(trainer.num_training_batches)
    if steps is None or batches is None:
        return steps, None
    return steps, steps / ceil(batches / trainer.accumulate_grad_batches)


def _lightning_logs(trainer: pl.Trainer) -> bool:
    """Whether this is a batch at which Lightning itself makes numbers of all metrics.

    `trainer.callback_metrics` does so with all that the progress bar shows, which waits for the device.
    """
    connector = getattr(trainer, "_logger_connector", None)
    return bool(getattr(connector, "should_update_logs", False))


def _logged_in_step(trainer: pl.Trainer, read: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the module logged under LOGGED_NAMES since the last call, by name, without a conversion.

    Lightning keeps what was last logged, however long ago; `read` holds the values that have been read.
    """
    results = getattr(trainer, "_results", None) or {}
    for key, metric in results.items():
        if metric.meta.on_step and metric.meta.name in LOGGED_NAMES:
            value = metric._forward_cache
            if value is not read.get(key):
                read[key] = value
                yield metric.meta.name, value


def _reason(trainer: pl.Trainer) -> str:
    if not trainer.should_stop:
        return "completed"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
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
