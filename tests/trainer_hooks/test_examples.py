"""The examples are run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import quick
from tests.trainer_hooks.processes import ROOT, environment
from tests.trainer_hooks.recorded import only
from trainer_hooks.recording import FINISHED

FOLDER = ROOT / "trainer_hooks" / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
MOST_LINES = 15


@pytest.mark.parametrize("example", quick("watch", of=EXAMPLES))
def test_an_example_is_short_and_leaves_a_finished_recording(example: str, tmp_path: Path) -> None:
    script = FOLDER / f"{example}.py"
    assert len(script.read_text().splitlines()) <= MOST_LINES
    done = subprocess.run(
        [sys.executable, str(script)],
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
