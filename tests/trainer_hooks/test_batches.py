# mypy: allow-untyped-calls
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM, SwitchTransformersConfig
from transformers import SwitchTransformersForConditionalGeneration as SwitchTransformers

from tests.trainer_hooks.recorded import only
from trainer_hooks.batches import count_tokens, count_tokens_unshifted, split_auxiliary
from trainer_hooks.monitor import Monitor

IGNORED = -100
VOCABULARY = 13
COEFFICIENT = 0.7


def of_experts() -> MixtralForCausalLM:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_local_experts=4,
        output_router_logits=True,
        router_aux_loss_coef=COEFFICIENT,
    )
    return MixtralForCausalLM(config)


def conversations(count: int) -> list[dict[str, torch.Tensor]]:
    """Rows of uneven length."""
    made = []
    for index in range(count):
        ids = torch.randint(1, VOCABULARY, (2, 7))
        mask = torch.ones_like(ids)
        mask[1, 4 + index :] = 0
        made.append(
            {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, IGNORED)}
        )
    return made


def cross_entropy(outputs: Any, labels: torch.Tensor) -> float:
    logits, wanted = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return float(functional.cross_entropy(logits.detach(), wanted, ignore_index=IGNORED))


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile])
def test_the_loss_of_a_model_of_experts_is_its_cross_entropy(wrap: Any) -> None:
    model = of_experts()
    (batch,) = conversations(1)
    outputs = model(**batch)
    losses = split_auxiliary(outputs, outputs.loss, wrap(model))
    assert losses.loss == pytest.approx(cross_entropy(outputs, batch["labels"]), rel=1e-6)
    assert (losses.auxiliary, losses.apart) == (float(outputs.aux_loss), True)
    assert float(outputs.loss) - losses.loss > 0.1


def test_an_auxiliary_loss_of_unknown_weight_stays_within_and_is_told() -> None:
    outputs = SimpleNamespace(loss=torch.tensor(3.0), aux_loss=torch.tensor(0.5))
    assert split_auxiliary(outputs, outputs.loss, nn.Linear(1, 1)) == (3.0, 0.5, False)


def test_the_losses_of_an_encoder_decoder_of_experts_cannot_be_told_apart() -> None:
    config = SwitchTransformersConfig(
        vocab_size=VOCABULARY, d_model=8, d_ff=8, d_kv=4, num_layers=2, num_heads=1, num_experts=2
    )
    config.decoder_start_token_id = 0
    (batch,) = conversations(1)
    model = SwitchTransformers(config)
    outputs = model(**batch, output_router_logits=True)
    assert split_auxiliary(outputs, outputs.loss, model) == (float(outputs.loss), None, False)


def test_a_loss_without_an_auxiliary_part_is_left_as_it_is() -> None:
    assert split_auxiliary(SimpleNamespace(loss=2.5), 2.5, nn.Linear(1, 1)) == (2.5, None, True)
    assert split_auxiliary({"loss": 2.5}, torch.tensor(2.5), None) == (2.5, None, True)


def test_a_watched_model_of_experts_has_a_perplexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path))
    model = of_experts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = conversations(3)
    total, auxiliary = 0.0, 0.0
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for batch in batches:
            outputs = model(**batch)
            total += cross_entropy(outputs, batch["labels"]) * int((batch["labels"][:, 1:] != IGNORED).sum())
            auxiliary = float(outputs.aux_loss)
            outputs.loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = model(**batches[0])
        validated = cross_entropy(outputs, batches[0]["labels"])
    seen = only(tmp_path)
    assert (seen.live.hook_errors, seen.live.steps) == (0, 3)
    assert seen.live.loss_token_sum == pytest.approx(total, rel=1e-6)
    assert seen.live.validation_loss == pytest.approx(validated, rel=1e-6)
    assert [event["name"] for event in seen.of("scalar")] == ["auxiliary_loss"]
    assert seen.live.scalars[0] == auxiliary
    assert seen.told("loss_kind") == ["cross_entropy"]


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([1, 0]),
        torch.tensor(1),
        torch.ones(2, 3),
        torch.ones(2, 3, dtype=torch.bool),
        torch.ones(2, 3, 4, dtype=torch.int64),
        [1, 0],
        ["a", "b"],
    ],
)
def test_labels_that_are_no_rows_of_integers_are_no_tokens(labels: Any) -> None:
    for count in (count_tokens, count_tokens_unshifted):
        assert count({"x": torch.ones(2, 3), "labels": labels}) == (None, None)
        assert count({"input_ids": torch.ones(2, 3, dtype=torch.int64), "labels": labels}) == (6, None)
        assert count({"input_ids": labels}) == (None, None)


def test_a_mask_that_numbers_the_sequences_of_a_packed_row_counts_each_token_once() -> None:
    mask = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0]])
    ids = torch.ones_like(mask)
    assert count_tokens({"input_ids": ids, "attention_mask": mask, "labels": ids}) == (9, 10)
