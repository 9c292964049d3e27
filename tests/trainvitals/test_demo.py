"""The demo is left at any moment, by any door, and takes everything it started with it."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from trainvitals.demo import GPU_FAULTS, Injection, _simulation, app

DEMO = [sys.executable, "-m", "trainvitals", "demo"]


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*DEMO, *arguments],
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


def wait_for_log(folder: Path, child: str) -> None:
    """Wait until the demo has started this child."""
    deadline = time.monotonic() + 60
    while not list(folder.glob(f"trainvitals-demo-*/{child}.log")):
        assert time.monotonic() < deadline, f"{child} was never started"
        time.sleep(0.01)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that the demo with this TMPDIR has started, itself included."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if str(folder).encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


MOMENTS = ("service", "prometheus", "training")
DOORS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
QUICK = (MOMENTS[1], DOORS[1])


@pytest.mark.parametrize(
    ("moment", "door"),
    [
        pytest.param(*each, marks=() if each == QUICK else pytest.mark.long)
        for each in itertools.product(MOMENTS, DOORS)
    ],
)
def test_whenever_and_however_it_is_interrupted_nothing_is_left(
    tmp_path: Path, moment: str, door: signal.Signals
) -> None:
    with demo(tmp_path) as process:
        wait_for_log(tmp_path, moment)
        process.send_signal(door)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    assert "everything it started is stopped" in output
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_impatience_does_not_leave_half_of_it_running(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        wait_for_log(tmp_path, "training")
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        wait_for_log(tmp_path, "training")
        (service,) = [pid for pid in _pids("serve") if str(tmp_path) in _environment(pid)]
        os.kill(service, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 1, output
    assert "service has ended; the end of its log:" in output
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("injection", list(Injection))
def test_a_run_beside_which_something_fails_cannot_be_shortened(injection: Injection) -> None:
    refused = CliRunner().invoke(app, ["--inject", injection, "--max-steps", "3"])
    assert refused.exit_code == 2
    assert "must not end before" in refused.output


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("injection", "scaled", "alert"),
    [
        ("gpu-memory", "a GPU's memory is high after 10 s", "GPUMemoryHigh (firing, warning)"),
        ("xid79", "a GPU is lost after 5 s", "GPUXidHardware (firing, critical)"),
    ],
)
def test_a_gpu_that_fails_beside_a_training_is_told_by_one_alert_through_alertmanager(
    tmp_path: Path, injection: str, scaled: str, alert: str
) -> None:
    with demo(tmp_path, "--inject", injection) as process:
        output, _ = process.communicate(timeout=500)

    assert process.returncode == 0, output
    assert "one simulated GPU" in output
    assert f"scaled for this demonstration: {scaled}" in output
    assert alert in output
    assert "it was one page" in output
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_fails_is_simulated_where_there_is_a_real_one_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainvitals.demo._has_gpu", lambda: True)
    console = Console(file=io.StringIO(), width=1000)
    assert str(_simulation(console, None)) == "0:healthy"
    assert str(_simulation(console, GPU_FAULTS[Injection.gpu_memory])) == "1:memory-fill"
    assert str(_simulation(console, GPU_FAULTS[Injection.xid79])) == "1:xid79"
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("left alone") == 2


def _pids(command: str) -> list[int]:
    pids = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:4] == [b"-m", b"trainvitals", command.encode()]:
                pids.append(int(process.name))
    return pids


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
