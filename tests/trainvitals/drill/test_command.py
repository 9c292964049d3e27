"""The drill on this machine, whole: what arrives, what does not, and that nothing of it is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.trainvitals.test_demo import processes_of
from trainvitals.alerts import app
from trainvitals.drill import command, local
from trainvitals.drill.condition import Condition, Drill, NotHereError
from trainvitals.drill.unprovoked import UNPROVOKED

DRILL = [sys.executable, "-m", "trainvitals", "alerts", "drill"]


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*DRILL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["drill", *arguments])
    return done.exit_code, " ".join(done.output.split())


def test_a_killed_training_pages(tmp_path: Path) -> None:
    with started(tmp_path, "--alert", "TrainingRunKilled") as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert re.search(
        r"TrainingRunKilled +arrived after +\d+ s by page: a training is killed by SIGKILL", output
    )
    assert "1 of 1 arrived" in output
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_that_can_be_provoked_arrive(tmp_path: Path) -> None:
    with started(tmp_path, "--all") as process:
        output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    assert "has not arrived" not in output
    for alert in command.CONDITIONS:
        assert re.search(rf"^{alert} +(arrived after|cannot be provoked here)", output, re.MULTILINE), output
    for alert in UNPROVOKED:
        assert f"{alert} is not provoked: " in output
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def nothing_happens(drill: Drill) -> dict[str, str]:
    """And is awaited once the Watchdog has come, which may be seconds after Prometheus has started."""
    deadline = time.monotonic() + 60
    while not any(each.name == "Watchdog" for each in drill.sink.arrivals):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return {"run": "drill-nothing"}


def cannot_happen(drill: Drill) -> dict[str, str]:
    raise NotHereError("there is no moon")


def test_what_does_not_arrive_is_said_with_what_did_come_and_what_cannot_happen_is_no_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    conditions = {
        command.CONDITIONS["Watchdog"]: command.ALERTS["Watchdog"],
        Condition("TrainingRunKilled", "nothing happens", nothing_happens): command.ALERTS[
            "TrainingRunKilled"
        ],
        Condition("TrainingStalled", "the moon falls down", cannot_happen): command.ALERTS["TrainingStalled"],
    }
    outcome = local.drill(conditions, awaited_seconds=3)
    output = capsys.readouterr().out
    assert outcome == local.Outcome(arrived=1, missing=1, not_here=1), output
    assert "TrainingRunKilled  has not arrived within 3 s: nothing happens" in output
    assert "Prometheus does not have it" in output
    assert re.search("^what did come: .*Watchdog$", output, re.MULTILINE)
    assert "cannot be provoked here: there is no moon" in output


def test_an_alert_that_does_not_arrive_makes_the_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "drill", lambda alerts: local.Outcome(arrived=0, missing=1, not_here=0))
    status, output = said("--alert", "TrainingRunKilled")
    assert (status, output.endswith("0 of 1 arrived")) == (1, True)


@pytest.mark.parametrize(("arguments", "status"), [(("--alert", "TrainingRunKilled"), 1), (("--all",), 0)])
def test_one_that_cannot_be_provoked_here_fails_only_where_it_was_named(
    arguments: tuple[str, ...], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        local, "drill", lambda alerts: local.Outcome(arrived=len(alerts) - 1, missing=0, not_here=1)
    )
    assert said(*arguments)[0] == status


@pytest.mark.parametrize("door", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_interrupted_nothing_is_left(tmp_path: Path, door: signal.Signals) -> None:
    with started(tmp_path, "--alert", "TrainingStalled") as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("trainvitals-drill-*/stack/drill-training-stalled-*.log")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(door)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted; everything it started is stopped" in output
    assert "taken back" not in output
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux's setpriv is not installed")
def test_when_it_is_killed_only_its_folder_is_left(tmp_path: Path) -> None:
    with started(tmp_path, "--alert", "TrainingStalled") as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("trainvitals-drill-*/stack/**/rank-0.*.steps")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(processes_of(tmp_path)) >= 4
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while left := processes_of(tmp_path):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_a_server_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with started(tmp_path, "--alert", "TrainingStalled") as process:
        deadline = time.monotonic() + 60
        while not (found := alertmanagers(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(found[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "prometheus-alertmanager" in output
    assert "the end of its log:" in output
    assert processes_of(tmp_path) == []


def alertmanagers(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"alertmanager" in words[0] and any(str(folder).encode() in word for word in words):
                found.append(int(process.name))
    return found


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ((), 2, "name alerts by --alert NAME, or take --all of them"),
        (("--all", "--alert", "TrainingStalled"), 2, "or take --all of them"),
        (("--alert", "TrainingStaled"), 1, "there is no alert TrainingStaled; did you mean TrainingStalled?"),
        (("--alert", "x"), 1, "there is no alert x; alerts/generated/ALERTS.md lists them"),
        (
            ("--alert", "TrainingStalled", "--label", "cluster=a"),
            2,
            "--label and --anyway are for test alerts: name an --alertmanager URL",
        ),
        (("--alert", "HostOOMKill"), 1, "HostOOMKill cannot be provoked here: the whole machine"),
    ],
)
def test_a_wrong_call_is_said_and_nothing_is_started(
    arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    assert (outcome := said(*arguments))[0] == status, outcome
    assert sentence in outcome[1].replace("│ ", "")
