from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from workload import WorkloadError
from workload.checkpoints import TOKENIZER
from workload.conversations import read_jsonl, split
from workload.presets import TINY, Preset
from workload.tokenizer import ConversationTokenizer
from workload.training import train


class PowerCutError(Exception):
    pass


def train_until(step: int, preset: Preset, **arguments: Any) -> None:
    """Train, and die in the evaluation after that step."""

    def report(line: str) -> None:
        if line.startswith(f"step {step} of"):
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(preset, report=report, **arguments)


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, through any nesting."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@pytest.mark.parametrize(("stop", "epoch"), [pytest.param(4, 0, marks=pytest.mark.long), (28, 1)])
def test_a_resumed_training_ends_exactly_where_one_without_interruption_ends(
    smallest: Preset, corpus: Path, tmp_path: Path, stop: int, epoch: int
) -> None:
    preset = replace(smallest, max_steps=32)
    whole = train(preset, data=corpus, checkpoints=tmp_path / "whole", run="a")
    train_until(stop, preset, data=corpus, checkpoints=tmp_path, run="a")
    interrupted = load(tmp_path / "a" / f"step-{stop}.ckpt")
    assert (interrupted["global_step"], interrupted["epoch"]) == (stop, epoch)

    resumed = train(preset, data=corpus, checkpoints=tmp_path, run="a", resume=True)

    assert resumed.steps == whole.steps == 32
    assert resumed.perplexity_before == whole.perplexity_before
    assert resumed.perplexity_after == whole.perplexity_after
    one, other = load(whole.checkpoint), load(resumed.checkpoint)
    assert other["global_step"] == 32
    assert other["epoch"] == one["epoch"] == 1
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(one[part], other[part])


def test_a_finished_run_goes_on_when_it_is_given_more_steps(
    smallest: Preset, corpus: Path, tmp_path: Path
) -> None:
    first = train(smallest, data=corpus, checkpoints=tmp_path, run="a", max_steps=3)
    lines: list[str] = []
    second = train(smallest, data=corpus, checkpoints=tmp_path, max_steps=5, resume=True, report=lines.append)
    assert (first.steps, second.steps, second.run) == (3, 5, "a")
    assert second.checkpoint.name == "step-5.ckpt"
    [optimizer] = load(second.checkpoint)["optimizer_states"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {5}
    assert any("goes on from step 3" in line for line in lines)


def test_the_newest_checkpoint_alone_stays_whatever_the_last_step(
    smallest: Preset, corpus: Path, tmp_path: Path
) -> None:
    for steps in (4, 6, 8, 9):
        result = train(
            smallest, data=corpus, checkpoints=tmp_path, run="a", max_steps=steps, resume=steps > 4
        )
        assert [path.name for path in (tmp_path / "a").glob("*.ckpt")] == [f"step-{steps}.ckpt"]
        assert result.checkpoint.exists()


def test_a_training_reports_what_it_read_and_how_far_it_came(
    smallest: Preset, corpus: Path, tmp_path: Path
) -> None:
    with corpus.open("a") as file:
        file.write("not JSON\n")
    lines: list[str] = []
    result = train(smallest, data=corpus, checkpoints=tmp_path, name="mine", max_steps=5, report=lines.append)
    assert lines[0] == "corpus.jsonl: 61 conversations, 60 used"
    assert lines[1] == "not used: 1 for malformed JSON (the first is record 61)"
    # The last step is evaluated although it is not a multiple of the interval.
    assert lines[-1].startswith("step 5 of 5: validation perplexity")
    assert result.run.startswith("mine-")
    assert result.perplexity_after < result.perplexity_before


def test_the_tokenizer_learns_from_the_training_split_only(
    smallest: Preset, corpus: Path, tmp_path: Path
) -> None:
    train(smallest, data=corpus, checkpoints=tmp_path, run="a", max_steps=1)
    training = split(read_jsonl(corpus).conversations, smallest.validation_share).training
    expected = ConversationTokenizer.trained_on(training, smallest.shape.vocabulary_size)
    expected.save(tmp_path / "expected.json")
    assert (tmp_path / "a" / TOKENIZER).read_text() == (tmp_path / "expected.json").read_text()


def test_a_resume_keeps_the_tokenizer_although_the_data_has_changed(
    smallest: Preset, corpus: Path, tmp_path: Path
) -> None:
    train(smallest, data=corpus, checkpoints=tmp_path, run="a", max_steps=2)
    before = (tmp_path / "a" / TOKENIZER).read_text()
    other = tmp_path / "other.jsonl"
    other.write_text(corpus.read_text().replace("cat", "hippopotamus"))
    train(smallest, data=other, checkpoints=tmp_path, run="a", max_steps=3, resume=True)
    assert (tmp_path / "a" / TOKENIZER).read_text() == before


def test_what_cannot_be_resumed_says_why(smallest: Preset, corpus: Path, tmp_path: Path) -> None:
    def resume(preset: Preset = smallest, **arguments: Any) -> None:
        train(preset, data=corpus, checkpoints=tmp_path, resume=True, **arguments)

    with pytest.raises(WorkloadError, match="holds no run with a checkpoint"):
        resume()
    with pytest.raises(WorkloadError, match="run b has no checkpoint"):
        resume(run="b")
    train(smallest, data=corpus, checkpoints=tmp_path, run="a", max_steps=2)
    with pytest.raises(WorkloadError, match="has made 2 steps already; --max-steps"):
        resume(run="a", max_steps=2)
    with pytest.raises(WorkloadError, match="another shape than preset tiny"):
        resume(TINY, run="a")
    with pytest.raises(WorkloadError, match="go on with --resume, or name another run"):
        train(smallest, data=corpus, checkpoints=tmp_path, run="a")
    (tmp_path / "a" / TOKENIZER).unlink()
    with pytest.raises(WorkloadError, match="cannot read the tokenizer"):
        resume(run="a")


@pytest.mark.parametrize("run", ["../elsewhere", "a/b", " ", "x" * 65])
def test_a_run_cannot_be_named_out_of_its_folder(
    smallest: Preset, corpus: Path, tmp_path: Path, run: str
) -> None:
    with pytest.raises(WorkloadError, match="give --run another name"):
        train(smallest, data=corpus, checkpoints=tmp_path / "c", run=run)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written_is_a_clear_error(
    smallest: Preset, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkloadError, match="--checkpoints takes another folder"):
        train(smallest, data=corpus, checkpoints=tmp_path / "file", run="a")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_tiny_reaches_a_tenth_of_the_initial_perplexity(tmp_path: Path) -> None:
    lines: list[str] = []
    started = time.monotonic()
    result = train(TINY, checkpoints=tmp_path, run="tiny", report=lines.append)
    print(f"tiny: {time.monotonic() - started:.0f} s")
    assert result.steps == TINY.max_steps
    assert result.perplexity_before > 3000
    assert result.perplexity_after < result.perplexity_before / 10
    assert lines[0] == "chitchat: 7,168 conversations, 4,008 used"
