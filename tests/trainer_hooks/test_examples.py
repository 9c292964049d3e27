"""The examples are run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import ROOT, environment
from tests.trainer_hooks.recorded import only
from trainer_hooks.recording import FINISHED

EXAMPLES = sorted((ROOT / "trainer_hooks" / "examples").glob("*.py"))
MOST_LINES = 15


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_leaves_a_finished_recording(example: Path, tmp_path: Path) -> None:
    assert len(example.read_text().splitlines()) <= MOST_LINES
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,  # for what its trainer writes
        env=environment(TRAINVITALS_DIR=str(tmp_path / "recordings"), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    live = only(tmp_path / "recordings").live
    assert (live.outcome, live.hook_errors, live.hook_dropped) == (FINISHED, 0, 0)
    assert live.steps > 0 or any(value is not None for value in live.scalars)
