"""`trainvitals demo` as a user starts it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

DEMO = [sys.executable, "-m", "trainvitals", "demo"]


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def ports(output: str) -> set[int]:
    return {int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", output)}


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_demo_ends_with_a_summary_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = run_demo(tmp_path, "--max-steps", "10")

    assert ended.returncode == 0, ended.stderr
    assert "finished (completed)" in ended.stdout
    assert re.search(r"10 steps, validation perplexity [\d,.]+ before and [\d,.]+ after", ended.stdout)
    assert "none, as it should be" in ended.stdout
    assert len(ports(ended.stdout)) == 3
    assert not any(is_open(port) for port in ports(ended.stdout))
    assert list(tmp_path.glob("trainvitals-demo-*")) == []


@pytest.mark.parametrize(
    ("injection", "alert"), [("kill", "TrainingRunKilled"), ("stall", "TrainingStalled")]
)
def test_a_harmed_run_is_told_by_one_alert_through_alertmanager(
    tmp_path: Path, injection: str, alert: str
) -> None:
    ended = run_demo(tmp_path, "--inject", injection)

    assert ended.returncode == 0, ended.stderr
    assert "scaled for this demonstration" in ended.stdout
    assert f"{alert} (firing, critical)" in ended.stdout
    assert not any(is_open(port) for port in ports(ended.stdout))
