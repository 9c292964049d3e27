"""The FLOPs that a recording counts for the tokens of its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from tests.conformance.reference import model
from tests.conformance.test_conformance import train
from tests.marks import quick
from tests.trainer_hooks.recorded import only
from trainer_hooks import flops
from trainer_hooks.monitor import Monitor


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50)


@pytest.fixture
def recorded_flops(tmp_path: Path) -> Any:
    return lambda: only(tmp_path).live.model_flops


def test_flops_are_those_of_all_tokens_since_the_model_was_told(tmp_path: Path, recorded_flops: Any) -> None:
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.batch(tokens=1000)
        assert recorded_flops() is None
        monitor.model(Bigram())
        assert recorded_flops() == 0
        monitor.batch(tokens=10, trained_tokens=4)
        monitor.batch(samples=4)
        monitor.batch(tokens=torch.tensor(7))
        assert recorded_flops() == 17 * 6 * 400


def test_a_model_that_is_not_known_changes_nothing_and_frozen_weights_count_when_it_is_told_again(
    tmp_path: Path, recorded_flops: Any
) -> None:
    bigram = Bigram()
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.model(nn.Conv2d(3, 3, 3))
        monitor.batch(tokens=10)
        assert recorded_flops() is None
        monitor.model(bigram)
        monitor.batch(tokens=10)
        monitor.model(nn.Conv2d(3, 3, 3))
        monitor.batch(tokens=10)
        assert recorded_flops() == 20 * 6 * 400
        bigram.embed.weight.requires_grad = False
        monitor.model(bigram)
        monitor.batch(tokens=10)
        assert recorded_flops() == 20 * 6 * 400 + 10 * 4 * 400
        monitor.model(cast(nn.Module, "no module"))
    assert only(tmp_path).live.hook_errors == 1


@pytest.mark.parametrize("trainer", quick("watch", of=("lightning", "watch")))
def test_a_trainer_that_knows_its_model_needs_no_word(trainer: str, tmp_path: Path) -> None:
    known = flops.of_model(model())
    assert known is not None
    (rank,) = train(trainer, 1, tmp_path)
    assert rank.live.model_flops == rank.live.tokens_all * known.total > 0
    assert rank.live.hook_errors == 0
