"""The measurement measures what it says; its figures depend on who else uses the machine."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from tests.benchmarks import lightning_overhead
from tests.trainer_hooks.recorded import only
from trainer_hooks.lightning import TelemetryCallback

OF_A_STEP = {
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
}


def test_the_callback_is_there_for_its_turns_and_all_of_them_are_recorded(tmp_path: Path) -> None:
    cost = lightning_overhead.lightning_cost(tmp_path, rounds=2)
    turns = 2 + lightning_overhead.WARM_UP_ROUNDS
    live = only(tmp_path).live
    assert (live.steps, live.batches) == (20 * turns, 20 * turns)
    assert (live.step, live.hook_errors) == (20 * 3 * turns, 0)
    assert cost.rounds == 2
    assert cost.without > 0


def test_the_empty_callback_overrides_the_hooks_of_a_step_that_ours_does() -> None:
    empty = lightning_overhead.empty_callback()
    for name in OF_A_STEP:
        assert getattr(type(empty), name) is not getattr(pl.Callback, name)
    assert {
        name
        for name in vars(pl.Callback)
        if name.startswith("on_") and getattr(TelemetryCallback, name) is not getattr(pl.Callback, name)
    } >= OF_A_STEP
