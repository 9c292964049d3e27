from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Trainer,
)

from tests.conformance.reference import Row, collate, model, rows
from tests.trainer_hooks.huggingface import SECRET, forget_precision, mixture, token_sum, trainer
from tests.trainer_hooks.recorded import clean, only, recorded
from trainer_hooks import transformers as hooked
from trainer_hooks.transformers import TelemetryCallback


@pytest.fixture(autouse=True)
def _anew(recordings: Path) -> Iterator[None]:
    yield
    hooked._uninstall()
    forget_precision()


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_losses_are_exact_over_accumulation_and_an_uneven_last_window(
    tmp_path: Path, recordings: Path, accumulation: int
) -> None:
    """Nothing is learned; 11 micro-batches an epoch."""
    trainer(
        tmp_path,
        TelemetryCallback(),
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        max_steps=-1,
        num_train_epochs=1,
    ).train()
    seen = clean(recordings)
    expected = [token_sum(model(), collate([row])) for row in rows(1)]
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (math.ceil(11 / accumulation), 11, 22)
    assert seen.live.tokens_trained == seen.live.loss_tokens == sum(tokens for _, tokens in expected)
    assert seen.live.tokens_all == sum(len(row.prompt) + len(row.completion) for row in rows(1))
    assert seen.live.loss_token_sum == pytest.approx(sum(loss for loss, _ in expected), rel=1e-5)


def test_what_the_trainer_logs_of_loss_and_norm_is_what_is_recorded(tmp_path: Path, recordings: Path) -> None:
    training = trainer(tmp_path, TelemetryCallback())
    training.train()
    logs = [log for log in training.state.log_history if "loss" in log]
    steps = clean(recordings).steps
    assert [step.gradient_norm for step in steps] == pytest.approx([log["grad_norm"] for log in logs])
    if hasattr(training, "_loss_shifts_labels"):  # else the Trainer divides by labels that train nothing
        assert [step.loss for step in steps] == pytest.approx([log["loss"] for log in logs], rel=1e-3)


def poisoned(at: int) -> type[Trainer]:
    class Poisoned(Trainer):
        batches = 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            self.batches += 1
            weight = model.lm_head.weight
            kept = weight.detach().clone()
            with torch.no_grad():
                weight.mul_(math.nan if self.batches == at else 1.0)
            loss = super().training_step(model, inputs, num_items_in_batch)
            with torch.no_grad():
                weight.copy_(kept)
            if self.batches == at:
                model.zero_grad()  # or all that follows would be lost, too
            return loss

    return Poisoned


def test_losses_that_the_trainer_hides_are_counted(tmp_path: Path, recordings: Path) -> None:
    training = trainer(
        tmp_path, TelemetryCallback(), kind=poisoned(3), learning_rate=0.0, logging_nan_inf_filter=True
    )
    training.train()
    assert all(math.isfinite(log["loss"]) for log in training.state.log_history if "loss" in log)
    live = clean(recordings).live
    assert (live.nonfinite_loss, live.batches) == (1, 8)
    assert 0 < live.loss_tokens < live.tokens_trained


def test_a_smoothed_or_a_strangers_loss_has_no_perplexity_but_one_may_say_so(
    tmp_path: Path, recordings: Path
) -> None:
    class Own(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def function(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return outputs.logits.square().mean() * 1000  # version 4 logs four decimals

    trainer(tmp_path, TelemetryCallback(run="smoothed"), label_smoothing_factor=0.1).train()
    trainer(tmp_path, TelemetryCallback(run="own"), kind=Own).train()
    func = trainer(tmp_path, TelemetryCallback(run="function"), compute_loss_func=function)
    func.train()
    trainer(tmp_path, TelemetryCallback(run="told", loss_kind="cross_entropy"), kind=Own).train()
    kinds = {seen.static.run: seen.static.info["loss_kind"] for seen in recorded(recordings)}
    assert kinds == {"smoothed": "other", "own": "other", "function": "other", "told": "cross_entropy"}
    assert all((seen.live.hook_errors, seen.live.steps) == (0, 4) for seen in recorded(recordings))
    (of_function,) = [seen for seen in recorded(recordings) if seen.static.run == "function"]
    logged = [log["loss"] for log in func.state.log_history if "loss" in log]
    assert [step.loss for step in of_function.steps] == pytest.approx(logged, rel=1e-3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_auxiliary_loss_is_apart(tmp_path: Path, recordings: Path, accumulation: int) -> None:
    trainer(
        tmp_path,
        TelemetryCallback(),
        network=mixture(),
        learning_rate=0.0,
        max_steps=-1,
        num_train_epochs=1,
        gradient_accumulation_steps=accumulation,
        eval_strategy="epoch",
    ).train()
    seen = clean(recordings)
    network = mixture()
    network.config.output_router_logits = False
    expected = [token_sum(network, collate([row])) for row in rows(1)]
    assert seen.live.loss_tokens == sum(tokens for _, tokens in expected)
    assert seen.live.loss_token_sum == pytest.approx(sum(loss for loss, _ in expected), rel=1e-4)
    validation = [token_sum(network, collate([row])) for row in rows(2)[:5]]
    assert seen.live.validation_loss == pytest.approx(
        sum(loss for loss, _ in validation) / sum(tokens for _, tokens in validation), rel=1e-4
    )
    (slot,) = [event["slot"] for event in seen.of("scalar") if event["name"] == "auxiliary_loss"]
    auxiliary = seen.live.scalars[int(str(slot))]
    assert auxiliary is not None
    assert 1.0 < auxiliary < 8.0  # before the coefficient: 2 where two of the experts get equal shares
    assert seen.static.info["loss_kind"] == "cross_entropy"


def test_a_batch_that_cannot_be_counted_does_not_lose_its_step(tmp_path: Path, recordings: Path) -> None:
    def fail(batch: Any) -> Any:
        raise RuntimeError(SECRET)

    result = trainer(tmp_path, TelemetryCallback(count_tokens=fail)).train()
    live = only(recordings).live
    assert result.global_step == live.steps == 4
    assert (live.hook_errors, live.batches, live.tokens_all) == (8, 8, 0)
    assert live.loss is not None


def test_tokens_can_be_counted_by_a_function_of_ones_own(tmp_path: Path, recordings: Path) -> None:
    trainer(tmp_path, TelemetryCallback(count_tokens=lambda batch: (7, 5))).train()
    live = clean(recordings).live
    assert (live.tokens_all, live.tokens_trained, live.loss_tokens) == (56, 40, 40)


def test_labels_that_are_no_tokens_count_none(tmp_path: Path, recordings: Path) -> None:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    network = LlamaForSequenceClassification(model().config)  # type: ignore[no-untyped-call, unused-ignore]

    def classes(batch: list[Row]) -> dict[str, torch.Tensor]:
        return {**collate(batch), "labels": torch.tensor([len(row.completion) % 2 for row in batch])}

    training = trainer(tmp_path, TelemetryCallback(), network=network)
    training.data_collator = classes
    training.train()
    seen = clean(recordings)
    logged = [log["loss"] for log in training.state.log_history if "loss" in log]
    assert (seen.live.tokens_trained, seen.live.loss_tokens, seen.live.samples) == (0, 0, 16)
    assert seen.static.info["loss_kind"] == "other"
    assert [step.loss for step in seen.steps] == pytest.approx(logged, rel=1e-3)
