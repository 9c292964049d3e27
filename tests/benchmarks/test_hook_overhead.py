"""Only ratios of one run gate: figures of their own depend on who else uses the machine.

Where torch is in the loop it is processor time that is compared, which a busy machine stretches least.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch.utils.tensorboard")
pytest.importorskip("traceml_ai")

from tests.benchmarks import footprint, hook_overhead, in_torch, measuring, report
from tests.benchmarks.measuring import Cost, Turns
from tests.benchmarks.report import Promise, Report
from tests.trainer_hooks.recorded import only


def test_a_step_of_the_hook_costs_less_than_a_fourth_of_one_add_scalar(tmp_path: Path) -> None:
    hook, scalar = in_torch.tight_loop(tmp_path, blocks=20, steps=200)
    assert (hook.way, scalar.way) == (in_torch.TIGHT, in_torch.SCALAR_TIGHT)
    assert hook.median < scalar.median / 4


@pytest.mark.long
def test_the_hook_is_a_small_part_of_a_step_and_of_what_traceml_takes(tmp_path: Path) -> None:
    """TraceML stays in a process, so this is one of its own. The contract is a fifth; a half has margin.

    Of each block the least disturbed step counts.
    """
    output = tmp_path / "costs.json"
    code = (
        "from tests.benchmarks import in_torch, measuring;"
        "measuring.write(lambda folder, share: in_torch.beside_traceml(folder, 12, min))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(output), str(tmp_path), "--cpu-time"],
        env=measuring.environment(tmp_path),
        check=True,
    )
    costs = {cost.way: cost for cost in measuring.read(output)}
    traceml = costs[in_torch.TRACEML]
    for name in (in_torch.README_BESIDE_TRACEML, in_torch.EVERY_CALL_BESIDE_TRACEML):
        assert 0 < costs[name].median < traceml.median / 2
        assert costs[name].median < traceml.other_us / 2
    live = only(tmp_path).live
    assert (live.steps, live.batches) == (2 * 14 * 25, 2 * 14 * 25)
    assert live.tokens_trained == live.steps * in_torch.TRAINED_TOKENS
    assert (live.hook_errors, live.hook_dropped) == (0, 0)


def test_watch_and_run_record_each_step_of_their_turns_and_leave_torch_as_it_was(tmp_path: Path) -> None:
    import torch

    training = in_torch.Training()
    backward = torch.autograd.backward
    for name, way in (("watch", in_torch.watched), ("run", in_torch.instrumented)):
        folder = tmp_path / name
        with way(training, folder) as step:
            for _ in range(3):
                step()
        step()
        live = only(folder).live
        assert (live.steps, live.batches, live.hook_errors) == (3, 3, 0)
        assert torch.autograd.backward is backward


def test_an_empty_callback_overrides_the_hooks_of_a_step_that_ours_does() -> None:
    import lightning.pytorch as pl
    import transformers

    from trainer_hooks.lightning import TelemetryCallback as OfLightning
    from trainer_hooks.transformers import TelemetryCallback as OfTransformers

    of_a_step = (
        "on_train_batch_start",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
    )
    for base, ours, hooks in (
        (pl.Callback, OfLightning, of_a_step),
        (transformers.TrainerCallback, OfTransformers, ("on_step_end", "on_log")),
    ):
        empty = vars(type(measuring.empty_callback(base, ours)))
        assert set(hooks) <= set(empty)
        assert "state_dict" not in empty


def test_a_cost_is_the_difference_of_blocks_of_one_round_made_there_and_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0
    monkeypatch.setattr(measuring, "clock", lambda: now)
    order = []

    def way(name: str, step_us: int) -> contextlib.AbstractContextManager[tuple[str, int]]:
        nonlocal now
        order.append(name)
        now += 10**9  # what opening takes is no step
        return contextlib.nullcontext((name, step_us))

    turns = Turns(
        {"nothing": lambda: way("nothing", 100), "hook": lambda: way("hook", 130)}, rounds=4, steps=3
    )
    made = 0
    while turns.next():
        step_us = turns.given[1]
        now += 1000 * (step_us + made)  # the machine becomes slower all the time
        made += 1
    assert order == ["nothing", "hook", "hook", "nothing"] * 3
    assert made == 6 * 2 * (measuring.FIRST_STEPS + 3)
    cost = turns.cost("hook", "nothing")
    assert cost.median == 30
    assert (cost.lower, cost.upper) == (22, 38)
    assert cost.blocks == 4


def test_the_memory_of_the_hook_stays_as_it_is(tmp_path: Path) -> None:
    assert footprint.grown_bytes(tmp_path, steps=20_000) < 20_000  # less than a byte a step


def test_the_import_takes_less_than_twice_that_of_asyncio(tmp_path: Path) -> None:
    """It was 0.6 of it; anything heavy would stand out at once."""
    ours, theirs = (
        min(footprint.import_milliseconds(module, tmp_path, runs=3))
        for module in ("trainer_hooks.monitor", "asyncio")
    )
    assert ours < 2 * theirs


def test_a_promise_is_kept_up_to_its_bar_and_not_above() -> None:
    def cost(way: str, median: float) -> Cost:
        return Cost(way, "nothing", 100, median - 1, median, median + 1, 20)

    costs = [
        cost(in_torch.TIGHT, 10),
        cost(in_torch.README, 30.1),
        cost(in_torch.README_BESIDE_TRACEML, 20),
        cost(in_torch.EVERY_CALL_BESIDE_TRACEML, 20.1),
        cost(in_torch.TRACEML, 100),
    ]
    assert [each.kept for each in hook_overhead.promises(costs)] == [True, False, True, False]


def test_a_run_is_written_into_the_readme_and_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tests" / "benchmarks" / "results").mkdir(parents=True)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    costs = [Cost("ours", "nothing", 100, 1, 2.4, 3, 20), Cost("theirs", "nothing", 100, 4, 5, 6, 20)]
    promises = [Promise("ours - nothing", "2.4 µs", "2 µs", False), Promise("memory", "0", "1", True)]
    file = Report("a machine", costs, promises, [("ours", "nothing")]).record(tmp_path)
    written = readme.read_text()
    assert written.startswith("before\n")
    assert written.endswith(f"{report.END}after\n")
    assert ("old" in written, "| ours" in written, "| theirs" in written) == (False, True, False)
    assert (
        "Bars of the contract kept there: 1 of 2. Missed:\n\n- ours - nothing: 2.4 µs, at most 2 µs\n\n"
        in written
    )
    assert f"({file.relative_to(tmp_path)})" in written
    assert "| theirs" in file.read_text()
    readme.write_text("no place")
    with pytest.raises(ValueError, match="has no place"):
        Report("a machine", costs, promises, []).record(tmp_path)


def test_the_readme_has_a_place_for_the_figures() -> None:
    text = (report.ROOT / "README.md").read_text()
    assert (text.count(report.BEGIN), text.count(report.END)) == (1, 1)


def test_every_bar_is_one_of_a_cost_that_is_measured() -> None:
    in_lightning = pytest.importorskip("tests.benchmarks.in_lightning")
    known = {
        value for part in (in_torch, in_lightning) for value in vars(part).values() if isinstance(value, str)
    }
    known |= {name + which for name in known for which in (in_torch.ON_CUDA, in_lightning.EVERY_STEP)}
    of_bars = [(way, other) for way, other, _ in (*hook_overhead.BARS_US, *hook_overhead.SHARES)]
    for way, other in (*of_bars, *hook_overhead.IN_README):
        assert {way, other} <= known or way.startswith("transformers, ")
