from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from alerts.build import GENERATED, rule_files
from alerts.thresholds import Thresholds
from trainvitals.alerts import app, with_figures


def build(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["build", *map(str, arguments)])
    return done.exit_code, done.output


def test_without_figures_the_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    assert build("-o", tmp_path)[0] == 0
    for name, text in rule_files(Thresholds()).items():
        assert (tmp_path / name).read_text() == text == (GENERATED / name).read_text()


def test_figures_are_given_in_the_unit_one_thinks_in(tmp_path: Path) -> None:
    status, said = build("-o", tmp_path, "--set", "stall_minutes=20", "--set", "gpu_memory_ratio=0.95")

    assert status == 0, said
    assert "max > 1200\n" in (tmp_path / "lifecycle.yaml").read_text()
    assert "> 0.95\n" in (tmp_path / "gpu_health.yaml").read_text()
    checked = subprocess.run(["promtool", "check", "rules", *tmp_path.glob("*.yaml")], capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_every_figure_of_the_thresholds_can_be_set() -> None:
    changed = with_figures(
        Thresholds(), ["stall_hours=1", "job=my-service", "page_base=https://x", "restart_loop_restarts=5"]
    )
    assert (changed.stall_seconds, changed.job, changed.page_base) == (3600, "my-service", "https://x")
    assert changed.restart_loop_restarts == 5


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("stall_minutes", "is no NAME=VALUE"),
        ("stal_minutes=20", "there are job, "),
        ("stall_minutes=soon", "'soon' is no number"),
        ("stall_minutes=-1", "must be above 0"),
        ("gpu_memory_ratio=90", "0.9 for 90 %"),
    ],
)
def test_a_figure_that_will_not_do_is_said_and_nothing_is_written(
    figure: str, said: str, tmp_path: Path
) -> None:
    status, output = build("-o", tmp_path / "rules", "--set", figure)
    assert status == 1
    assert said in output
    assert not (tmp_path / "rules").exists()


def test_for_the_operator_each_group_is_a_prometheusrule(tmp_path: Path) -> None:
    assert build("-o", tmp_path, "--format", "prometheusrule")[0] == 0
    for name, text in rule_files(Thresholds()).items():
        manifest = yaml.safe_load((tmp_path / name).read_text())
        assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
        assert manifest["metadata"]["name"] == f"trainvitals-{Path(name).stem.replace('_', '-')}"
        assert manifest["spec"] == yaml.safe_load(text)


def test_what_else_lies_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("groups: []\n")
    build("-o", tmp_path)
    assert (tmp_path / "mine.yaml").read_text() == "groups: []\n"
