"""Trains a causal language model on conversations, with Lightning; the telemetry is one callback."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from trainer_hooks.identity import identify
from trainer_hooks.lightning import TelemetryCallback
from workload import WorkloadError
from workload.checkpoints import (
    TOKENIZER,
    Checkpoint,
    checkpoint_name,
    keep_newest,
    newest_checkpoint,
    newest_run,
    read_checkpoint,
)
from workload.conversations import Split, read_conversations, split
from workload.data import ConversationData
from workload.language_model import CausalLanguageModel, perplexity
from workload.model import build_model
from workload.presets import Preset
from workload.tokenizer import ConversationTokenizer

# At this size more threads wait for each other longer than they compute.
MOST_CPU_THREADS = 4
# None of them holds for this workload, or asks for anything its user could do.
QUIETED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r".*does not have many workers",
    r".*your dataloader is not resumable",
    r".*dirpath has changed from",
    r"Checkpoint directory .* exists and is not empty",
)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a training; perplexities are exp of the token-weighted mean validation loss.

    `perplexity_before` is the untrained model's, after a resume too.
    """

    run: str
    steps: int
    perplexity_before: float
    perplexity_after: float
    checkpoint: Path


class LastStep(Callback):
    """Makes the last optimizer step end in an evaluation and the one checkpoint that stays."""

    def __init__(self, folder: Path, checkpoint_every_steps: int) -> None:
        self._folder = folder
        self._checkpoint_every_steps = checkpoint_every_steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step < trainer.max_steps:
            return
        trainer.should_stop = True  # Lightning then evaluates before it leaves the loop
        if trainer.global_step % self._checkpoint_every_steps:
            trainer.save_checkpoint(self._folder / checkpoint_name(trainer.global_step))

    def on_train_end(self, *_: Any) -> None:
        keep_newest(self._folder)


class ProgressLines(Callback):
    """Reports one line after each evaluation."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            metrics = trainer.callback_metrics
            self._report(
                f"step {trainer.global_step:,} of {trainer.max_steps:,}: "
                f"validation perplexity {perplexity(float(metrics['val_loss'])):,.1f}, "
                f"accuracy {float(metrics['val_accuracy']):.3f}"
            )


def train(
    preset: Preset,
    *,
    checkpoints: Path,
    data: Path | None = None,
    run: str | None = None,
    name: str | None = None,
    max_steps: int | None = None,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> TrainingResult:
    """Train a run to `max_steps` optimizer steps in all, the preset's number when absent.

    Without `data` it trains on chitchat. A resume goes on from the run's newest checkpoint, that of the
    newest run when `run` is absent. `report` is given lines for a reader. Raises `WorkloadError` for
    whatever the user can set right.
    """
    max_steps = preset.max_steps if max_steps is None else max_steps
    if max_steps < 1:
        raise WorkloadError(f"--max-steps {max_steps} leaves nothing to train; it takes 1 or more")
    if resume and run is None and (run := newest_run(checkpoints)) is None:
        raise WorkloadError(f"nothing to resume: {checkpoints} holds no run with a checkpoint")
    run = _run_name(run, name or f"llama-{preset.name}")
    folder = checkpoints / run
    checkpoint = None
    if resume:
        checkpoint = _checkpoint_to_resume(folder, run, preset, max_steps)
    elif newest_checkpoint(folder):
        raise WorkloadError(
            f"run {run} has checkpoints in {folder}; go on with --resume, or name another run with --run"
        )

    parts = _read(data, preset, report)
    tokenizer = _tokenizer(folder, parts, preset, checkpoint)
    report(
        f"tokenizer: {tokenizer.vocabulary_size:,} tokens, "
        + ("the run's own" if checkpoint else "trained on the training split")
    )
    cuda = torch.cuda.is_available()
    _settle(preset)
    batches = ConversationData(parts, tokenizer, preset, cuda=cuda)
    report(
        f"data: {len(batches.training):,} windows, {batches.training.trained_tokens:,} tokens to predict; "
        f"{len(batches.validation):,} windows, {batches.validation.trained_tokens:,} tokens for validation"
    )
    model = build_model(preset.shape, tokenizer.vocabulary_size, tokenizer.padding_id)
    report(
        f"model: llama-{preset.name}, {model.num_parameters():,} parameters, on "
        + (torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads")
    )
    module = CausalLanguageModel(model, preset, max_steps)
    telemetry = TelemetryCallback(
        run=run,
        name=name,
        loss_kind="cross_entropy",
        model=f"llama-{preset.name}",
        dataset=data.stem if data else "chitchat",
    )
    trainer = _trainer(preset, max_steps, folder, [telemetry, ProgressLines(report)], cuda=cuda)
    if checkpoint:
        module.perplexity_before = checkpoint.perplexity_before
        report(f"run {run}: goes on from step {checkpoint.step:,}, {checkpoint.path}")
    else:
        [before] = trainer.validate(module, datamodule=batches, verbose=False)
        module.perplexity_before = perplexity(before["val_loss"])
        report(f"run {run}: perplexity before training {module.perplexity_before:,.1f}")
    trainer.fit(
        module, datamodule=batches, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True
    )
    return TrainingResult(
        run=run,
        steps=trainer.global_step,
        perplexity_before=module.perplexity_before,
        perplexity_after=perplexity(float(trainer.callback_metrics["val_loss"])),
        checkpoint=folder / checkpoint_name(trainer.global_step),
    )


def _run_name(run: str | None, name: str) -> str:
    try:
        return identify(run=run, name=name).run
    except ValueError as error:
        raise WorkloadError(f"{error}; give --run another name") from None


def _checkpoint_to_resume(folder: Path, run: str, preset: Preset, max_steps: int) -> Checkpoint:
    path = newest_checkpoint(folder)
    if path is None:
        raise WorkloadError(f"nothing to resume: run {run} has no checkpoint in {folder}")
    checkpoint = read_checkpoint(path)
    if checkpoint.model_shape != asdict(preset.shape):
        raise WorkloadError(
            f"{path} holds a model of another shape than preset {preset.name}; begin a new run with --run"
        )
    if checkpoint.step >= max_steps:
        raise WorkloadError(
            f"run {run} has made {checkpoint.step:,} steps already; --max-steps above that goes on with it"
        )
    return checkpoint


def _read(data: Path | None, preset: Preset, report: Callable[[str], None]) -> Split:
    conversations, reading = read_conversations(data)
    for line in reading.lines():
        report(line)
    parts = split(conversations, preset.validation_share)
    report(
        f"split by hash of the content: {len(parts.training):,} conversations for training, "
        f"{len(parts.validation):,} for validation"
    )
    return parts


def _tokenizer(
    folder: Path, parts: Split, preset: Preset, checkpoint: Checkpoint | None
) -> ConversationTokenizer:
    """The tokenizer the run began with; a new one, kept for later, when it begins now."""
    if checkpoint:
        tokenizer = ConversationTokenizer.load(folder / TOKENIZER)
        if tokenizer.vocabulary_size != checkpoint.vocabulary_size:
            raise WorkloadError(
                f"{folder / TOKENIZER} is not the tokenizer of {checkpoint.path}; begin a new run with --run"
            )
        return tokenizer
    tokenizer = ConversationTokenizer.trained_on(parts.training, preset.shape.vocabulary_size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / TOKENIZER)
    except Exception as error:  # the tokenizer's own writer raises plain Exception
        raise WorkloadError(
            f"cannot write to {folder}: {error}; --checkpoints takes another folder"
        ) from None
    return tokenizer


def _settle(preset: Preset) -> None:
    """What torch and Lightning keep for the whole process: precision, threads, seed, what they print."""
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(min(torch.get_num_threads(), MOST_CPU_THREADS))
    lightning.seed_everything(preset.seed, verbose=False)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in QUIETED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def _trainer(
    preset: Preset, max_steps: int, folder: Path, callbacks: list[Callback], *, cuda: bool
) -> lightning.Trainer:
    checkpoint = ModelCheckpoint(
        folder,
        filename="step-{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=preset.checkpoint_every_steps,
        save_top_k=1,
        enable_version_counter=False,
    )
    return lightning.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if cuda else "32-true",
        max_epochs=-1,
        max_steps=max_steps,
        accumulate_grad_batches=preset.accumulation,
        check_val_every_n_epoch=None,
        val_check_interval=preset.validate_every_steps * preset.accumulation,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, LastStep(folder, preset.checkpoint_every_steps), checkpoint],
    )
