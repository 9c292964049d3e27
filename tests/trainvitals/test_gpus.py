"""`trainvitals gpus` as a process, in a pipe and in a terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fake_nvml
from tests.exporters.trainers import Trainer
from tests.trainer_hooks.processes import environment
from tests.trainvitals.terminal import REPOSITORY, Terminal

COMMAND = [sys.executable, "-m", "trainvitals", "gpus"]


@pytest.fixture
def machine(tmp_path: Path) -> fake_nvml.Machine:
    fake_nvml.build(tmp_path)
    return fake_nvml.Machine(tmp_path / "control")


def variables(folder: Path, columns: int) -> dict[str, str]:
    return environment(
        COLUMNS=str(columns),
        TERM="xterm-256color",
        **fake_nvml.environment(folder / "control"),
    )


def gpus(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command in a pipe, to its own end."""
    return subprocess.run(
        [*COMMAND, "--dir", str(folder / "recordings"), *options],
        cwd=REPOSITORY,
        env=variables(folder, 140),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def in_terminal(folder: Path, *options: str) -> Terminal:
    """The command in a terminal of 100 columns."""
    command = [*COMMAND, "--dir", str(folder / "recordings"), *options]
    return Terminal(command, {**variables(folder, 100), "LINES": "30"})


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Those that are put in here are ended with the test."""
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


def test_in_a_pipe_it_prints_one_table_with_a_whole_window_and_the_runs(
    machine: fake_nvml.Machine, tmp_path: Path
) -> None:
    machine.set("devices", 2)
    with Trainer(tmp_path / "recordings") as trainer:
        machine.set("gpu1.processes", f"{trainer.pid}:1073741824")
        done = gpus(tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    headline, _, header, first, second = done.stdout.splitlines()
    assert headline == "2 H100 80GB HBM3"
    assert header.split()[:3] == ["GPU", "Name", "Run/rank"]
    assert "4.0/79.6 GiB   5%   37%     18%   36%  285/700 W  46 °C  no" in first
    assert "a-run/0" in second
    assert "a-run/0" not in first
    assert "\x1b" not in done.stdout


def test_simulated_gpus_say_that_they_are_not_real(tmp_path: Path) -> None:
    done = gpus(tmp_path, "--simulate-gpus", "3:overheat", "--once")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 Simulated H100 (no hardware)\n")
    assert gpus(tmp_path, "--simulate-gpus", "3:flood").stderr.startswith(
        "trainvitals gpus: there is no scenario 'flood'"
    )


def test_without_a_driver_it_says_what_to_do_and_fails(machine: fake_nvml.Machine, tmp_path: Path) -> None:
    machine.set("driver", "unloaded")

    done = gpus(tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "trainvitals gpus: the NVIDIA driver is installed but not loaded; load it with `modprobe nvidia`\n"
    )


def test_in_a_terminal_it_follows_what_happens_until_ctrl_c(
    machine: fake_nvml.Machine, tmp_path: Path, terminals: list[Terminal]
) -> None:
    machine.set("devices", 2)
    terminals.append(terminal := in_terminal(tmp_path, "--interval", "0.3"))
    terminal.wait_for("36%")
    machine.set("event.0", "0 79")
    terminal.wait_for("XID 79")
    machine.set("gpu1.error", 15)
    terminal.wait_for("LOST")

    assert terminal.end() == 0
    assert "Traceback" not in terminal.screen
    assert "Aborted" not in terminal.screen


@pytest.mark.long
def test_a_driver_that_hangs_leaves_the_last_figures_and_their_age(
    machine: fake_nvml.Machine, tmp_path: Path, terminals: list[Terminal]
) -> None:
    terminals.append(terminal := in_terminal(tmp_path, "--interval", "0.3"))
    terminal.wait_for("36%")
    machine.set("hang.nvmlDeviceGetTemperature", 120)
    terminal.wait_for("s old")
    terminal.wait_for("NVML gives no answer within 10 s")

    began = time.monotonic()
    assert terminal.end() == 0
    print(f"beside a driver that hangs it ends within {time.monotonic() - began:.1f} s")
    assert "285/700 W" in terminal.screen.rpartition("no answer")[2]
