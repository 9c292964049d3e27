"""The record of a real GPU, made of the double: it names what there is and what is not, and times calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import gpu_device
from tests.fake_nvml import Machine


def test_it_tells_what_a_gpu_gives_what_it_does_not_and_what_each_call_takes(machine: Machine) -> None:
    machine.update({"name": "NVIDIA L4", "gpm_supported": 0, "latency_us.nvmlDeviceGetMemoryInfo_v2": 3000})
    statuses, samples, seconds = gpu_device.look(rounds=2)

    text = gpu_device.text(statuses, samples, seconds)

    assert text.startswith("2 of NVIDIA L4, driver 570.86.15")
    assert "`nvidia_gpu_power_watts`" in text
    assert "`nvidia_gpu_sm_active_seconds_total` (not_supported)" in text
    (slowest, *_) = (line for line in text.splitlines() if "| nvmlDevice" in line)
    assert "nvmlDeviceGetMemoryInfo_v2" in slowest
    assert min(seconds["nvmlDeviceGetMemoryInfo_v2"]) >= 0.003


def test_a_driver_without_a_gpu_is_told_and_nothing_is_written(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_device, "RESULTS", tmp_path)
    machine.set("devices", 0)

    assert gpu_device.main(["--record"]) == 1
    assert capsys.readouterr().err == "gpu_device: the driver reports no GPU\n"
    assert not list(tmp_path.glob("*.md"))
