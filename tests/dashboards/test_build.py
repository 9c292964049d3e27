from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alerts.thresholds import Thresholds
from dashboards import alerts, build, foundation
from tests.dashboards import linter


def test_the_committed_files_are_what_the_code_generates() -> None:
    command = [sys.executable, "-m", "dashboards.build", "--check"]
    root = Path(build.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    build.main([], tmp_path / "a")
    build.main([], tmp_path / "b")
    texts = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in tmp_path.iterdir()]
    assert texts[0] == texts[1] != {}


def test_files_end_with_a_newline_and_have_sorted_keys(tmp_path: Path) -> None:
    build.main([], tmp_path)
    for path in tmp_path.iterdir():
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n")
        top_level_keys = [line for line in text.splitlines() if line.startswith('  "')]
        assert top_level_keys == sorted(top_level_keys)


def test_two_dashboards_with_one_uid_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "DASHBOARDS", build.DASHBOARDS[:1] * 2)
    with pytest.raises(ValueError, match="two dashboards have the uid trainvitals-foundation"):
        build.render(Thresholds())


def limits(uid: str, thresholds: Thresholds) -> set[float]:
    """At what a panel of the dashboard changes its colour or draws a line."""
    [document] = [each for each in build.documents(thresholds) if each["uid"] == uid]
    return {
        step["value"]
        for panel in linter.panels(document)
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    }


@pytest.mark.parametrize(("uid", "limit"), [(foundation.UID, 85), (alerts.UID, 0.85)])
def test_limits_on_panels_are_those_of_the_alerts(uid: str, limit: float) -> None:
    assert limit not in limits(uid, Thresholds())
    assert limit in limits(uid, Thresholds(gpu_memory_ratio=0.85))
