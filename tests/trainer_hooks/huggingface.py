"""Trainings by transformers' Trainer, of the model and data of the conformance suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainingArguments,
)

from tests.conformance.reference import IGNORED, VOCABULARY, collate, model, rows

SECRET = "the client said that she"


def forget_precision() -> None:
    """Accelerate keeps the precision of a process's first Trainer for all that come after it."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    usual = {
        "output_dir": str(folder / "output"),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**{**usual, **changes})


def trainer(
    folder: Path, *callbacks: Any, kind: type[Trainer] = Trainer, network: Any = None, **changes: Any
) -> Trainer:
    given: Any = {
        name: changes.pop(name)
        for name in ("compute_loss_func", "compute_metrics", "eval_dataset", "train_dataset")
        if name in changes
    }
    data: Any = {"train_dataset": rows(1), "eval_dataset": rows(2)[:5], **given}
    return kind(
        model=model() if network is None else network,
        args=arguments(folder, **changes),
        data_collator=collate,
        callbacks=list(callbacks),
        **data,
    )


def token_sum(network: Any, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    """The sum of the cross-entropies of a batch's trained tokens, and how many those are."""
    with torch.no_grad():
        logits = network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(-1, VOCABULARY), labels.reshape(-1), reduction="sum", ignore_index=IGNORED
    )
    return float(losses), int((labels != IGNORED).sum())


def mixture() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            output_router_logits=True,
            router_aux_loss_coef=0.5,
            pad_token_id=0,
        )
    )
