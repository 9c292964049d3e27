"""Only ratios of one run gate: figures of their own depend on who else uses the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch.utils.tensorboard")

from tests.benchmarks import hook_overhead


def test_a_step_of_the_hook_costs_less_than_a_fourth_of_one_add_scalar(tmp_path: Path) -> None:
    tight = hook_overhead.tight_loop(tmp_path, blocks=20, steps=200)
    assert tight.hook < hook_overhead.add_scalar(tmp_path, blocks=20, calls=30) / 4


@pytest.mark.parametrize("kind", [hook_overhead.ReadmeTraining, hook_overhead.AdaptedTraining])
def test_the_hook_is_a_small_part_of_a_small_torch_step(
    tmp_path: Path, kind: type[hook_overhead.Training]
) -> None:
    in_torch = hook_overhead.torch_loop(tmp_path, kind, swaps=20)
    assert in_torch.hook < in_torch.without


def test_all_steps_of_the_loops_are_recorded(tmp_path: Path) -> None:
    from tests.trainer_hooks.recorded import only

    hook_overhead.tight_loop(tmp_path / "tight", blocks=2, steps=50)
    live = only(tmp_path / "tight").live
    assert (live.steps, live.batches, live.tokens_all) == (200, 200, 200 * 512)
    assert (live.hook_errors, live.hook_dropped) == (0, 0)
    for kind in (hook_overhead.ReadmeTraining, hook_overhead.AdaptedTraining):
        hook_overhead.torch_loop(tmp_path / kind.__name__, kind, swaps=1)
        live = only(tmp_path / kind.__name__).live
        assert (live.steps, live.batches, live.tokens_trained) == (80, 80, 80 * 500)
        assert (live.hook_errors, live.hook_dropped) == (0, 0)


def test_the_import_brings_in_no_more_time_than_the_interpreter_itself(tmp_path: Path) -> None:
    """A fresh `json`, `re` and `pathlib` are most of it; anything heavy would stand out at once."""
    hook = min(hook_overhead.import_milliseconds("trainer_hooks.monitor", runs=3))
    assert hook < 10 * min(hook_overhead.import_milliseconds("asyncio", runs=3))
