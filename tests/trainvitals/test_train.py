from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from trainvitals.train import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "recordings"))
    monkeypatch.delenv("TRAINVITALS_RUN", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the child processes
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as file:
        for n in range(200):
            messages = [
                {"role": role, "content": f"words of {role} in number {n}"} for role in ("user", "assistant")
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "no preset 'huge'; --preset takes tiny"),
        (["--data", "nowhere.jsonl"], "cannot read nowhere.jsonl: No such file or directory"),
        (["--max-steps", "0"], "--max-steps 0 leaves nothing to train"),
        (["--resume"], "nothing to resume: checkpoints holds no run"),
        (["--run", "../x"], "give --run another name"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_status_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("trainvitals train: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_data_without_a_usable_conversation_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('my secret\n{"messages": []}\n')
    result = run("--data", "bad.jsonl")
    assert result.exit_code == 2
    assert "2 conversations, 0 used; not used: 1 for malformed JSON" in result.stderr
    assert "secret" not in result.output


def test_a_training_prints_the_perplexity_before_and_after(corpus: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    result = run("--data", corpus, "--max-steps", "2", "--run", "a")
    assert result.exit_code == 0, result.output
    assert "corpus.jsonl: 200 conversations, 200 used" in result.stdout
    assert "run a: 2 steps, validation perplexity " in result.stdout.splitlines()[-1]
    assert (tmp_path / "checkpoints" / "a" / "step-2.ckpt").exists()


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_ends_the_training_with_one_line_and_no_traceback(
    corpus: Path, sent: signal.Signals, status: int
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "trainvitals",
            "train",
            "--data",
            corpus,
            "--max-steps",
            "100000",
            "--run",
            "a",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.splitlines()[-1].startswith("trainvitals train: stopped; --resume")
    assert "Traceback" not in errors
