"""Prometheus's own tool judges the rules: they load, and every scenario in alerts/tests holds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from alerts.build import GENERATED, groups
from alerts.thresholds import Thresholds

ORIGIN_SCENARIOS = Path(__file__).parent / "origin_test.yaml"
SCENARIOS = sorted((GENERATED.parent / "tests").glob("*.yaml"))


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_promtool_accepts_every_rule_file() -> None:
    checked = promtool("check", "rules", *sorted(GENERATED.glob("*.yaml")))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_group_has_files_of_scenarios_by_its_name() -> None:
    """`loss.yaml`, and `loss_hours.yaml` where some are evaluated at another interval."""
    names = {group.name for group in groups(Thresholds())}
    files = {path.stem for path in SCENARIOS}
    assert names <= files
    assert [file for file in files if not any(file.startswith(name) for name in names)] == []


@pytest.mark.parametrize("scenarios", [*SCENARIOS, ORIGIN_SCENARIOS], ids=lambda path: path.stem)
def test_every_scenario_holds(scenarios: Path) -> None:
    tested = promtool("test", "rules", scenarios)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_threshold_that_is_off_by_one_evaluation_breaks_a_scenario(tmp_path: Path) -> None:
    (tmp_path / "generated").mkdir()
    (tmp_path / "tests").mkdir()
    shutil.copy(GENERATED / "lifecycle.yaml", tmp_path / "generated")
    rules = (GENERATED / "telemetry.yaml").read_text()
    document = yaml.safe_load((GENERATED.parent / "tests" / "telemetry.yaml").read_text())
    document["tests"] = document["tests"][:1]
    scenarios = tmp_path / "tests" / "telemetry.yaml"
    scenarios.write_text(yaml.safe_dump(document))
    for waits, holds in (("for: 5m\n", True), ("for: 5m15s\n", False)):
        (tmp_path / "generated" / "telemetry.yaml").write_text(rules.replace("for: 5m\n", waits))
        assert (promtool("test", "rules", scenarios).returncode == 0) == holds
