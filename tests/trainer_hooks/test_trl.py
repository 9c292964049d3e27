from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import (  # type: ignore[attr-defined]
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    SFTConfig,
    SFTTrainer,
)

from tests.conformance.reference import VOCABULARY, collate, model, rows
from tests.conformance.trainers import _tokenizer
from tests.trainer_hooks.huggingface import forget_precision, mixture, token_sum
from tests.trainer_hooks.recorded import Recorded, only
from trainer_hooks.recording import FINISHED, PHASES
from trainer_hooks.transformers import TelemetryCallback


@pytest.fixture(autouse=True)
def _anew(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    forget_precision()


def clean(folder: Path) -> Recorded:
    seen = only(folder / "recordings")
    assert (seen.live.hook_errors, seen.live.hook_dropped, seen.live.outcome) == (0, 0, FINISHED)
    return seen


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {
        "output_dir": str(folder / "output"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,  # TRL's default
    }
    return {**usual, **changes}


def conversations() -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": row.prompt + row.completion,
                "completion_mask": [0] * len(row.prompt) + [1] * len(row.completion),
            }
            for row in rows(1)
        ]
    )


def fine_tuned(folder: Path, network: Any, **changes: Any) -> SFTTrainer:
    training = SFTTrainer(
        model=network,
        args=SFTConfig(**arguments(folder, completion_only_loss=True, **changes)),
        train_dataset=conversations(),
        eval_dataset=conversations(),
        processing_class=_tokenizer(),
        callbacks=[TelemetryCallback()],
    )
    training.train()
    return training


def test_fine_tuning_is_exact_and_tells_what_it_logs(tmp_path: Path) -> None:
    training = fine_tuned(tmp_path, model(), eval_strategy="epoch")
    seen = clean(tmp_path)
    expected = [token_sum(model(), collate([row])) for row in rows(1)]
    loss, tokens = sum(loss for loss, _ in expected), sum(tokens for _, tokens in expected)
    assert seen.static.info["framework"].startswith("trl ")
    assert seen.static.info["loss_kind"] == "cross_entropy"
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (6, 11, 22)
    assert seen.live.loss_tokens == tokens
    assert seen.live.loss_token_sum == pytest.approx(loss, rel=1e-4)
    assert seen.live.validation_loss == pytest.approx(loss / tokens, rel=1e-4)
    logged = [
        log["mean_token_accuracy"] for log in training.state.log_history if "mean_token_accuracy" in log
    ]
    assert seen.live.accuracy == pytest.approx(logged[-1])
    assert "entropy" in {event["name"] for event in seen.of("scalar")}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_auxiliary_loss_of_fine_tuning_is_apart(tmp_path: Path, accumulation: int) -> None:
    fine_tuned(tmp_path, mixture(), gradient_accumulation_steps=accumulation, router_aux_loss_coef=0.5)
    seen = clean(tmp_path)
    network = mixture()
    network.config.output_router_logits = False
    expected = [token_sum(network, collate([row])) for row in rows(1)]
    assert seen.live.loss_token_sum == pytest.approx(sum(loss for loss, _ in expected), rel=1e-4)
    named = {event["name"] for event in seen.of("scalar")}
    assert "auxiliary_loss" in named
    assert "aux_loss" not in named


def test_another_loss_of_fine_tuning_has_no_perplexity(tmp_path: Path) -> None:
    fine_tuned(tmp_path, model(), loss_type="dft", max_steps=1)
    assert clean(tmp_path).static.info["loss_kind"] == "other"


def test_preferences_have_no_perplexity_but_their_rewards(tmp_path: Path) -> None:
    prompts = [f"<bos> {index}" for index in range(8)]
    data = Dataset.from_dict({"prompt": prompts, "chosen": [" <eos>"] * 8, "rejected": [" <bos>"] * 8})
    training = DPOTrainer(
        model=model(),
        ref_model=model(),
        args=DPOConfig(**arguments(tmp_path, learning_rate=0.01)),
        train_dataset=data,
        processing_class=_tokenizer(),
        callbacks=[TelemetryCallback()],
    )
    training.train()
    seen = clean(tmp_path)
    logged = [log["loss"] for log in training.state.log_history if "loss" in log]
    assert seen.static.info["loss_kind"] == "other"
    assert (seen.live.steps, seen.live.batches, seen.live.loss_tokens) == (2, 4, 0)
    assert logged[0] == pytest.approx(math.log(2), rel=1e-3)
    assert [step.loss for step in seen.steps] == pytest.approx(logged, rel=1e-3)
    assert "rewards/margins" in {event["name"] for event in seen.of("scalar")}


def test_policies_have_no_perplexity_but_their_reward(tmp_path: Path) -> None:
    def reward(completions: list[str], **kwargs: Any) -> list[float | None]:
        return [float(index % 2) for index in range(len(completions))]

    network = model()
    assert network.config.vocab_size == VOCABULARY
    training = GRPOTrainer(
        model=network,
        reward_funcs=reward,
        args=GRPOConfig(**arguments(tmp_path, max_steps=2, num_generations=2, max_completion_length=4)),
        train_dataset=Dataset.from_dict({"prompt": ["<bos>"] * 8}),
        processing_class=_tokenizer(),
        callbacks=[TelemetryCallback()],
    )
    training.train()
    seen = clean(tmp_path)
    assert seen.static.info["loss_kind"] == "other"
    assert (seen.live.steps, seen.live.batches, seen.live.loss_tokens) == (2, 4, 0)
    logged = [log["loss"] for log in training.state.log_history if "loss" in log]
    assert [step.loss for step in seen.steps] == pytest.approx(logged, abs=1e-4)
    slots = {event["name"]: int(str(event["slot"])) for event in seen.of("scalar")}
    assert seen.live.scalars[slots["reward"]] == 0.5
    assert seen.live.phase_ns[PHASES.index("forward")] > 0
