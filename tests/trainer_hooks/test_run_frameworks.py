"""A script that trains in a framework and logs, under `run`: one recording, whoever could tell of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.marks import quick
from tests.trainer_hooks.processes import ROOT, RUN, TORCHRUN, done
from tests.trainer_hooks.recorded import Recorded, scalars, without_a_fault
from tests.trainer_hooks.scripts import logging_trainer
from trainer_hooks.recording import FINISHED

SCRIPTS = ROOT / "tests" / "trainer_hooks" / "scripts"
FRAMEWORKS = {
    "transformers": "transformers ",
    "lightning": "lightning ",
    "fabric": "fabric ",
    "accelerate": "torch ",  # which does not ask for the tracker
    "plain": "torch ",
    "stable_baselines3": "stable-baselines3 ",
}


def trained(name: str, folder: Path, *ours: str) -> tuple[dict[str, Any], list[Recorded]]:
    """What the script says under `run`, and what was recorded."""
    python = [RUN[0], str(SCRIPTS / "logging_trainer.py"), name, str(folder), *ours]
    ended = done([*RUN, *python], folder)
    assert ended.returncode == 0, ended.stderr
    assert b"trainvitals" not in ended.stderr.replace(os.fsencode(ROOT), b"")  # where others' code lies, too
    return json.loads(ended.stdout.splitlines()[-1]), without_a_fault(folder / "recordings")


def bare(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the script says without the hook."""
    if name in ("transformers", "accelerate"):
        from tests.trainer_hooks.huggingface import forget_precision

        forget_precision()  # and what a training that broke off within an accumulation has left of it
    torch.manual_seed(0)
    capsys.readouterr()
    getattr(logging_trainer, name)(folder, False)
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return said


def check_once(seen: Recorded) -> None:
    """Two epochs of four steps, and of each one evaluation. Raises AssertionError where it is not so."""
    live = seen.live
    assert (live.steps, live.batches, live.samples, live.outcome) == (8, 8, 32, FINISHED)
    told = seen.of("evaluation")
    assert len(told) == logging_trainer.EPOCHS
    assert told[-1]["loss"] == live.validation_loss
    assert len(seen.of("finish")) == 1


@pytest.mark.parametrize("name", quick("stable_baselines3", of=FRAMEWORKS))
def test_a_script_that_logs_is_recorded_once_and_computes_the_same(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, (seen,) = trained(name, tmp_path)

    assert said == bare(name, tmp_path, capsys)
    assert seen.static.run.startswith("logging_trainer-")
    facts = {key: value for each in (seen.static.info, *seen.of("info")) for key, value in each.items()}
    if name == "stable_baselines3":
        assert (seen.live.steps, seen.live.samples, seen.live.outcome) == (8, 256, FINISHED)
    else:
        check_once(seen)
    assert str(facts["framework"]).startswith(FRAMEWORKS[name])


@pytest.mark.long
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_script_that_asks_for_the_hook_and_the_tee_itself_is_recorded_once(
    name: str, tmp_path: Path
) -> None:
    _, (seen,) = trained(name, tmp_path, "ours")

    assert seen.static.run.startswith("asked-for-")
    if name == "stable_baselines3":
        assert (seen.live.steps, seen.live.samples, seen.live.outcome) == (8, 256, FINISHED)
    else:
        check_once(seen)


@pytest.mark.long
def test_each_rank_of_an_unchanged_trainer_is_recorded_once(tmp_path: Path) -> None:
    script = str(SCRIPTS / "logging_trainer.py")
    ended = done([*RUN, *TORCHRUN, script, "transformers", str(tmp_path)], tmp_path)

    assert ended.returncode == 0, ended.stderr
    ranks = without_a_fault(tmp_path / "recordings")
    assert [(each.static.rank, each.static.world_size) for each in ranks] == [(0, 2), (1, 2)]
    assert len({each.static.run for each in ranks}) == 1
    assert [(each.live.steps, each.live.batches, each.live.samples) for each in ranks] == [(4, 4, 16)] * 2
    assert [each.live.outcome for each in ranks] == [FINISHED] * 2
    assert [len(each.of("evaluation")) for each in ranks] == [2, 2]


def test_a_policy_that_logs_its_success_tells_its_steps_by_the_optimizer(tmp_path: Path) -> None:
    script, result = SCRIPTS / "ppo_summary_writer.py", tmp_path / "result.json"
    ended = done([*RUN, RUN[0], str(script), str(tmp_path / "events"), "2", str(result)], tmp_path)

    assert (ended.returncode, ended.stderr) == (0, b"")
    (seen,) = without_a_fault(tmp_path / "recordings")
    logged = json.loads(result.read_text())["logged"]
    assert scalars(seen) == {
        "complete_rate": logged["complete_rate"],
        "success_rate": logged["success_rate"],
        "success_rate_strict": logged["success_rate_strict"],
        "average_return": logged["avg_return"],
        "average_turns": logged["turns"],
    }
    assert (seen.live.steps, seen.live.step, seen.live.outcome) == (8, 8, FINISHED)
