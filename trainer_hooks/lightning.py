"""The hook for Lightning: `Trainer(callbacks=[TelemetryCallback()])`.

A recording opens at the setup of fit and closes at its teardown; a second fit is the next attempt.
Lightning's `on_train_batch_end` is one micro-batch; an optimizer step is a change of `trainer.global_step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

try:
    import lightning.pytorch as pl
except ImportError:
    import pytorch_lightning as pl  # type: ignore[no-redef]

from trainer_hooks import readback
from trainer_hooks.monitor import (
    BACKWARD,
    COMPUTE,
    DATA,
    EVALUATION,
    FORWARD,
    OPTIMIZER,
    OTHER,
    Monitor,
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
_RECORDED_OTHERWISE = {"loss", "train_loss", "train/loss", *VALIDATION_LOSS_NAMES, *VALIDATION_ACCURACY_NAMES}

TokenCounter = Callable[[Any], "tuple[Any, Any]"]


def _harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """Lightning calls its callbacks without a net: keep every fault of ours away from the training."""

    @functools.wraps(hook)
    def harmless(self: TelemetryCallback, *arguments: Any, **keywords: Any) -> None:
        if self.monitor is None:
            return
        try:
            hook(self, *arguments, **keywords)
        except Exception as error:
            self.monitor.fault(error)

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
        count_tokens: TokenCounter | None = None,
        record_messages: bool = False,
    ) -> None:
        self.monitor: Monitor | None = None
        self._run = run
        self._name = name
        self._loss_kind = loss_kind
        self._info = {"model": model or "", "dataset": dataset or ""}
        self._count_tokens = count_tokens or _count_tokens
        self._record_messages = record_messages
        self._global_step = 0
        self._validation = _Mean()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.monitor = Monitor(
            run=self._run,
            name=self._name,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            loss_kind=self._loss_kind,
            info={
                "model": type(pl_module).__name__,
                **{key: value for key, value in self._info.items() if value},
                "framework": f"lightning {version(pl.__name__.partition('.')[0])}",
                "precision": str(trainer.precision),
            },
            record_messages=self._record_messages,
        )
        _watch_checkpoints(trainer, self.monitor)

    @_harmless
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.monitor is not None
        self._global_step = trainer.global_step
        if self._global_step:
            self.monitor.resume(self._global_step)
        self.monitor.expect(steps=_finite(trainer.estimated_stepping_batches), epochs=_epochs(trainer))
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
        loss = _loss(outputs)
        if loss is not None and pl_module.automatic_optimization and trainer.accumulate_grad_batches != 1:
            loss = loss * trainer.accumulate_grad_batches  # Lightning hands out the normalized one
        tokens, trained = self._count_tokens(batch)
        self.monitor.batch(loss=loss, samples=_samples(batch), tokens=tokens, trained_tokens=trained)
        if trainer.global_step != self._global_step:
            self._global_step = trainer.global_step
            self._end_step(trainer, batch_idx)
        self.monitor.enter(DATA)

    def _end_step(self, trainer: pl.Trainer, batch_idx: int) -> None:
        assert self.monitor is not None
        batches = _finite(trainer.num_training_batches)
        if batches:
            self.monitor.log(epoch=trainer.current_epoch + (batch_idx + 1) / batches)
        others = self._global_step % max(1, getattr(trainer, "log_every_n_steps", 50)) == 0
        for name, value in trainer.callback_metrics.items():
            known = LOGGED_NAMES.get(name)
            if known is not None:
                self.monitor.log(**{known: value})
            elif others and name not in _RECORDED_OTHERWISE:
                self.monitor.log(**{name: value})
        self.monitor.end_step(self._global_step)

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
        loss = _loss(outputs)
        if loss is not None and not trainer.sanity_checking:
            _, trained = self._count_tokens(batch)
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
        self._close(trainer)

    @_harmless
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            assert self.monitor is not None
            self.monitor.finish(_reason(trainer))
            self._close(trainer)

    def _close(self, trainer: pl.Trainer) -> None:
        trainer.__dict__.pop("save_checkpoint", None)
        self.monitor = None


class _Mean:
    """A token-weighted mean of losses; sums stay on the device they are on."""

    def __init__(self) -> None:
        self._sum: Any = 0.0
        self._weight: Any = 0
        self._tokens_known = True

    def add(self, loss: Any, tokens: Any) -> None:
        weight = 1 if tokens is None else _on_host(tokens)
        self._tokens_known &= tokens is not None
        self._sum = self._sum + _on_host(loss) * weight
        self._weight = self._weight + weight

    def mean(self) -> Any:
        if isinstance(self._weight, (int, float)) and self._weight == 0:
            return None
        return self._sum / self._weight

    @property
    def tokens(self) -> Any:
        return self._weight if self._tokens_known else None


def _watch_checkpoints(trainer: pl.Trainer, monitor: Monitor) -> None:
    """Lightning has no callback for the end of a save: put ours around this trainer's own method."""
    save = trainer.save_checkpoint

    @functools.wraps(save)
    def save_checkpoint(filepath: Any, *arguments: Any, **keywords: Any) -> None:
        with monitor.checkpoint(Path(filepath)):
            save(filepath, *arguments, **keywords)

    trainer.save_checkpoint = save_checkpoint  # type: ignore[method-assign]


def _count_tokens(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, Mapping) and not hasattr(batch, "keys"):
        return None, None
    if "input_ids" not in batch:
        return None, None
    mask, labels = batch.get("attention_mask"), batch.get("labels")
    tokens = batch["input_ids"].numel() if mask is None else _on_host(mask.sum())
    trained = None if labels is None else _on_host((labels[..., 1:] != -100).sum())
    return tokens, trained


def _on_host(value: Any) -> Any:
    """The tensor's number where it costs no wait, else the tensor."""
    if isinstance(value, (int, float)) or value.device.type != "cpu":
        return value
    return readback.read(value)


def _samples(batch: Any) -> int:
    while isinstance(batch, (list, tuple)) and batch:
        batch = batch[0]
    if hasattr(batch, "keys"):
        batch = next((value for value in batch.values() if getattr(value, "ndim", 0)), None)
    return int(batch.shape[0]) if getattr(batch, "ndim", 0) else 0


def _loss(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get("loss")
    return outputs if getattr(outputs, "ndim", None) == 0 else None


def _first(metrics: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((metrics[name] for name in names if name in metrics), None)


def _finite(count: float) -> int | None:
    return int(count) if 0 < count < float("inf") else None


def _epochs(trainer: pl.Trainer) -> float | None:
    batches, steps = _finite(trainer.num_training_batches), trainer.max_steps
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return float(trainer.max_epochs)
    return steps * trainer.accumulate_grad_batches / batches if batches and steps > 0 else None


def _reason(trainer: pl.Trainer) -> str:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        kind = type(callback).__name__
        if kind == "EarlyStopping" and callback.stopped_epoch:
            return "early_stopping"
        if kind == "Timer" and (callback.time_remaining() or 1) <= 0:
            return "time_limit"
    return "completed"
