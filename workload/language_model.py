"""The training of one causal language model: loss, accuracy, gradients, optimizer, learning rate."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaForCausalLM

from workload.data import IGNORED_LABEL, Batch
from workload.presets import Preset

LEARNING_RATE_FLOOR = 0.1


def perplexity(loss: float) -> float:
    """exp of a mean cross-entropy in nats; infinite where a float ends."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def learning_rate_factor(step: int, *, warmup_steps: int, max_steps: int) -> float:
    """Linear warm-up, then half a cosine down to a tenth; `step` counts the steps already made."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return LEARNING_RATE_FLOOR + (1 - LEARNING_RATE_FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


class CausalLanguageModel(lightning.LightningModule):
    """Predicts each token from those before it; all means are over predicted tokens, never over batches."""

    def __init__(self, model: LlamaForCausalLM, preset: Preset, max_steps: int) -> None:
        super().__init__()
        self.model = model
        self.preset = preset
        self.max_steps = max_steps
        # The untrained model's, kept in every checkpoint so that a resumed run can still compare.
        self.perplexity_before = math.inf
        self._batch_tokens = torch.zeros(())
        self._step_tokens = torch.zeros(())
        self._validation_sums = torch.zeros(3)

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        loss, correct, tokens = self._predict(batch)
        self._batch_tokens = tokens
        self._step_tokens = self._step_tokens.to(tokens.device) + tokens
        self._log("accuracy", correct / tokens)
        self._log("preprocessing_seconds", batch["preprocessing_seconds"])
        return {"loss": loss}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # Lightning has divided the batch's mean by the number of micro-batches. The sum over tokens instead,
        # divided by the step's tokens before the clipping, makes each token of the step count the same.
        super().backward(loss * self.trainer.accumulate_grad_batches * self._batch_tokens, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(self._step_tokens)
        self._step_tokens = torch.zeros_like(self._step_tokens)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.preset.clip_norm)
        self._log("grad_norm", norm)

    def on_validation_epoch_start(self) -> None:
        self._validation_sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        loss, correct, tokens = self._predict(batch)
        self._validation_sums += torch.stack([loss.double() * tokens, correct.double(), tokens.double()])
        return {"loss": loss}

    def on_validation_epoch_end(self) -> None:
        loss_sum, correct, tokens = self._validation_sums.tolist()
        self._log("val_loss", loss_sum / tokens)
        self._log("val_accuracy", correct / tokens)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        matrices = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        optimizer = AdamW(
            [
                {"params": matrices, "weight_decay": self.preset.weight_decay, "name": "decay"},
                {"params": vectors, "weight_decay": 0.0, "name": "no_decay"},
            ],
            lr=self.preset.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        schedule = LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                step, warmup_steps=self.preset.warmup_steps, max_steps=self.max_steps
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["workload"] = {
            "perplexity_before": self.perplexity_before,
            "model_shape": asdict(self.preset.shape),
            "vocabulary_size": self.model.config.vocab_size,
        }

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss, number of right predictions and number of predicted tokens."""
        logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = logits[:, :-1].flatten(0, 1).float()
        labels = batch["labels"][:, 1:].flatten()
        loss = cross_entropy(logits, labels, ignore_index=IGNORED_LABEL)
        correct = (logits.detach().argmax(-1) == labels).sum()
        return loss, correct, (labels != IGNORED_LABEL).sum()

    def _log(self, name: str, value: Tensor | float) -> None:
        # A batch size of 1: Lightning would look for one in the batch, and none of our values needs weighing.
        self.log(name, value, batch_size=1)
