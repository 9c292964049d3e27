from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from exporters.gpu.simulated import MEMORY_TOTAL_BYTES
from tests.trainer_hooks.recorded import Recorded, clean
from trainer_hooks.recording import FAILED, FINISHED, PHASES, RUNNING
from trainvitals.drill import trainer
from trainvitals.drill.trainer import CHECKPOINT_FILE, Fault, TrainingError

Train = Callable[..., Recorded]


class Slept:
    """The training's `time`, of what it sleeps alone: what is due is due at a step, whatever holds it up."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._seconds += seconds

    def monotonic(self) -> float:
        return self._seconds

    def time(self) -> float:
        return time.time()


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "recordings"))
    monkeypatch.setattr(trainer, "time", Slept())

    def train(*options: str, steps: int = 50, step_seconds: float = 0.001) -> Recorded:
        trainer.main(["--run", "r", "--steps", str(steps), "--step-seconds", str(step_seconds), *options])
        return clean(tmp_path / "recordings")

    return train


def start(folder: Path, *options: str, module: str = "trainer") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            f"trainvitals.drill.{module}",
            "--run",
            "r",
            "--step-seconds",
            "0.001",
            *options,
        ],
        env={"TRAINVITALS_DIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )


def seconds_in(recorded: Recorded, phase: str) -> float:
    """Of a step; the median, for any of them may have been held up."""
    so_far = [step.phase_ns[PHASES.index(phase)] for step in recorded.steps]
    return median(after - before for before, after in pairwise(so_far)) / 1e9


def test_a_training_that_nothing_befalls_learns_and_ends_well(train: Train) -> None:
    recorded = train()

    assert (recorded.live.outcome, recorded.live.steps) == (FINISHED, 50)
    losses = [step.loss for step in recorded.steps]
    assert all(after < before for before, after in pairwise(losses[::10]))
    assert recorded.live.tokens_all > 0
    assert not recorded.live.nonfinite_loss


def test_it_ends_with_an_exception_once_it_is_time(train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train("--fault", Fault.exception, "--after", "0.2", steps=10_000)

    recorded = clean(tmp_path / "recordings")
    assert recorded.live.outcome == FAILED
    assert recorded.live.steps > 0
    assert [event["type"] for event in recorded.of("exception")] == ["TrainingError"]


def test_it_really_runs_out_of_memory_and_goes_on(train: Train, tmp_path: Path) -> None:
    train("--fault", Fault.out_of_memory, steps=3)

    recorded = clean(tmp_path / "recordings")
    assert (recorded.live.outcome, recorded.live.steps, recorded.live.ooms) == (FINISHED, 3, 1)


def test_a_step_hangs_and_the_training_lives(tmp_path: Path) -> None:
    with start(tmp_path, "--fault", Fault.hang, "--after", "0.1") as training:
        deadline = time.monotonic() + 60
        before, now = (-1, ""), (0, "")
        while not (now == before and now[0] > 0 and now[1] == "backward"):
            assert time.monotonic() < deadline, now
            time.sleep(0.3)
            before, now = now, so_far(tmp_path)
        recorded = clean(tmp_path)
        training.kill()

    assert recorded.alive
    assert recorded.live.outcome == RUNNING
    assert recorded.live.phase == "backward"


def so_far(folder: Path) -> tuple[int, str]:
    """How many steps there are, and the phase of the next."""
    if not any(folder.glob("**/*.steps")):
        return 0, ""
    live = clean(folder).live
    return live.steps, live.phase


def test_a_label_that_is_nan_makes_the_loss_nan(train: Train) -> None:
    recorded = train("--fault", Fault.nan_label)
    assert recorded.live.nonfinite_loss == 50
    assert math.isnan(recorded.steps[-1].loss)


def test_other_labels_let_loss_and_gradient_jump_and_stay_up(train: Train) -> None:
    steps = train("--fault", Fault.other_labels, "--after", "0.2", steps=400).steps
    before, after = steps[:5], steps[-5:]
    assert min(step.loss for step in after) > 100 * max(step.loss for step in before)
    assert min(step.gradient_norm for step in after) > 10 * max(step.gradient_norm for step in before)


def test_labels_become_others_again_once_the_weights_have_learned_them(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SHIFT_EVERY_SECONDS", 0.2)
    losses = [
        step.loss
        for step in train("--fault", Fault.other_labels, "--after", "0.095", step_seconds=0.01).steps
    ]
    jumps = [number for number, (before, after) in enumerate(pairwise(losses), 1) if after > 1000 * before]
    assert jumps == [10, 30]


def test_a_learning_rate_that_is_too_high_lets_the_loss_rise_ever_more(train: Train) -> None:
    recorded = train("--fault", Fault.too_high_learning_rate)
    losses = [step.loss for step in recorded.steps]
    assert all(after > before for before, after in pairwise(losses[::10]))
    assert math.isfinite(losses[-1])


def test_a_learning_rate_that_is_too_low_leaves_the_loss_where_it_is_but_for_its_noise(train: Train) -> None:
    recorded = train("--fault", Fault.too_low_learning_rate)
    losses = {step.loss for step in recorded.steps}
    assert max(losses) < 1.01 * min(losses)
    assert len(losses) == 50


def test_a_learning_rate_of_0_is_told(train: Train) -> None:
    assert train("--fault", Fault.no_learning_rate).live.learning_rates[0] == 0


def test_every_other_step_is_left_out(train: Train) -> None:
    live = train("--fault", Fault.overflow).live
    assert (live.steps_skipped, live.steps) == (25, 25)


def test_its_steps_become_slower(train: Train) -> None:
    recorded = train("--fault", Fault.slow, "--after", "0.2", steps=12, step_seconds=0.04)
    before, after = recorded.steps[1:5], recorded.steps[-5:]
    assert min(step.duration_ns for step in after) > 2 * min(step.duration_ns for step in before)


def test_its_steps_are_slow_again_and_again_and_fast_between(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SLOW_SECONDS", 0.3)
    monkeypatch.setattr(trainer, "_SLOW_EVERY_SECONDS", 0.7)
    recorded = train("--fault", Fault.slow, steps=15, step_seconds=0.04)
    seconds = [step.duration_ns / 1e9 for step in recorded.steps]
    assert min(*seconds[:3], *seconds[12:]) > 0.1
    assert median(seconds[3:12]) < 0.08


def test_it_waits_for_its_data_longer_than_it_computes(train: Train) -> None:
    recorded = train("--fault", Fault.slow_data, steps=12, step_seconds=0.02)
    assert seconds_in(recorded, "data") > seconds_in(recorded, "forward") + seconds_in(recorded, "backward")


def test_a_straggler_takes_longer_forward_and_less_long_backward(train: Train, tmp_path: Path) -> None:
    straggler = train("--fault", Fault.straggle, steps=12, step_seconds=0.03)
    assert seconds_in(straggler, "forward") > 1.5 * seconds_in(straggler, "backward")


def test_others_than_a_straggler_wait_in_their_backward_pass(train: Train) -> None:
    other = train(steps=12, step_seconds=0.03)
    assert seconds_in(other, "backward") > 1.5 * seconds_in(other, "forward")


def test_its_validation_loss_gets_better_first_and_then_worse(train: Train) -> None:
    recorded = train("--evaluate-every", "0.02", steps=200)
    losses = [event["loss"] for event in recorded.of("evaluation")]
    assert recorded.live.validation_loss is not None
    assert recorded.live.validation_loss_best is not None
    assert losses[0] > recorded.live.validation_loss_best  # type: ignore[operator]
    assert recorded.live.validation_loss > 2 * recorded.live.validation_loss_best


def test_it_writes_checkpoints(train: Train, tmp_path: Path) -> None:
    live = train("--checkpoints", str(tmp_path), "--checkpoint-every", "0.01").live
    assert live.checkpoints_ok > 1
    assert live.checkpoints_failed == 0
    assert live.checkpoint_bytes == (tmp_path / CHECKPOINT_FILE).stat().st_size


def test_a_checkpoint_that_cannot_be_written_is_told_and_does_not_end_it(
    train: Train, tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT_FILE).symlink_to("/dev/full")
    live = train("--checkpoints", str(tmp_path), "--checkpoint-every", "0.01").live
    assert live.checkpoints_failed > 1
    assert (live.checkpoints_ok, live.outcome) == (0, FINISHED)


def test_it_writes_no_more_checkpoints_once_it_is_time(train: Train, tmp_path: Path) -> None:
    fault = ("--fault", Fault.no_more_checkpoints, "--after", "0.2")
    recorded = train("--checkpoints", str(tmp_path), "--checkpoint-every", "0.01", *fault, steps=400)
    assert recorded.live.checkpoints_ok > 1
    assert recorded.live.last_step_ns - recorded.live.checkpoint_last_ns > 0.05e9


def test_its_checkpoints_take_a_time(train: Train, tmp_path: Path) -> None:
    times = ("--checkpoint-every", "0.02", "--checkpoint-seconds", "0.01")
    live = train("--checkpoints", str(tmp_path), *times).live
    assert live.checkpoint_seconds is not None
    assert live.checkpoint_interval_seconds is not None
    assert 0.01 <= live.checkpoint_seconds < live.checkpoint_interval_seconds


def test_its_checkpoints_may_be_larger_than_what_is_free_and_take_no_room(
    train: Train, tmp_path: Path
) -> None:
    live = train("--checkpoints", str(tmp_path), "--checkpoint-every", "0.01", "--too-large-checkpoints").live
    assert live.checkpoint_volume_free_bytes is not None
    assert live.checkpoint_bytes > live.checkpoint_volume_free_bytes
    assert 512 * (tmp_path / CHECKPOINT_FILE).stat().st_blocks <= 64 * 1024


def test_it_says_what_it_is_to_make_and_by_when(train: Train) -> None:
    recorded = train("--expected-steps", "1000000", "--deadline", "60")
    assert recorded.live.steps_expected == 1_000_000
    (deadline,) = recorded.told("deadline")
    assert float(str(deadline)) == pytest.approx(time.time() + 60, abs=30)


def test_the_allocator_that_leaks_holds_more_and_more(tmp_path: Path) -> None:
    with start(tmp_path, "--steps", "20", module="leaking") as training:
        assert training.wait(60) == 0

    live = clean(tmp_path).live
    assert live.cuda_reserved_bytes is not None
    assert 0.4 * MEMORY_TOTAL_BYTES < live.cuda_reserved_bytes < MEMORY_TOTAL_BYTES
