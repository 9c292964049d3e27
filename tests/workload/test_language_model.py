from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from workload.data import Collate
from workload.language_model import CausalLanguageModel, learning_rate_factor, perplexity
from workload.model import build_model
from workload.presets import Preset


def gradients_after_one_step(
    preset: Preset, windows: list[Tensor], micro_batch_size: int, folder: Path
) -> list[Tensor]:
    torch.manual_seed(0)
    module = CausalLanguageModel(build_model(preset.shape, 100, 0), preset, 1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        accumulate_grad_batches=len(windows) // micro_batch_size,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    loader: DataLoader[Tensor] = DataLoader(windows, batch_size=micro_batch_size, collate_fn=Collate(0))  # type: ignore[arg-type]
    trainer.fit(module, loader)
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:`isinstance.treespec")
def test_each_token_of_a_step_counts_the_same_however_it_is_cut_into_micro_batches(
    smallest: Preset, tmp_path: Path
) -> None:
    windows = [torch.arange(1, 16), torch.arange(20, 33), torch.tensor([40, 41]), torch.tensor([50, 51, 52])]
    unclipped = replace(smallest, clip_norm=math.inf)
    whole = gradients_after_one_step(unclipped, windows, 4, tmp_path)
    cut = gradients_after_one_step(unclipped, windows, 2, tmp_path)
    assert whole
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_loss_and_accuracy_look_at_labels_only(smallest: Preset) -> None:
    module = CausalLanguageModel(build_model(smallest.shape, 100, 0), smallest, 1)
    alone = Collate(0)([torch.tensor([5, 6, 7])])
    padded = Collate(0)([torch.tensor([5, 6, 7]), torch.tensor([8, 9])])
    with torch.no_grad():
        loss, _, tokens = module._predict(alone)
        pair_loss, _, pair_tokens = module._predict(padded)
        other_loss, _, _ = module._predict(Collate(0)([torch.tensor([8, 9])]))
    assert (int(tokens), int(pair_tokens)) == (2, 3)
    assert float(pair_loss) == pytest.approx((2 * float(loss) + float(other_loss)) / 3, rel=1e-4)


def test_an_untrained_model_knows_nothing_and_its_perplexity_says_so(smallest: Preset) -> None:
    module = CausalLanguageModel(build_model(smallest.shape, 100, 0), smallest, 1)
    with torch.no_grad():
        loss, _, _ = module._predict(Collate(0)([torch.arange(1, 16)]))
    assert perplexity(float(loss)) == pytest.approx(100, rel=0.1)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    factors = [learning_rate_factor(step, warmup_steps=10, max_steps=100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1
    assert factors[100] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_a_perplexity_no_float_can_hold_is_infinite() -> None:
    assert perplexity(1000.0) == math.inf
