"""No alert without a runbook, and without a scenario in which it fires and one in which it is silent."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml

from alerts.build import GENERATED, groups
from alerts.rules import AlertRule, RecordingRule
from alerts.run_efficiency import run_efficiency
from alerts.telemetry import telemetry
from alerts.thresholds import Thresholds
from exporters.catalog import CATALOG
from tests.alerts.expressions import selectors
from tests.alerts.test_rules import EXTERNAL, PROMETHEUS_METRICS

RUNBOOKS = GENERATED.parent / "runbooks"
SCENARIOS = GENERATED.parent / "tests"
README = GENERATED.parents[1] / "README.md"
SECTIONS = [
    "What it means",
    "Confirm in two queries",
    "Causes, likeliest first",
    "What to do",
    "When to ignore it",
]

RULES = [rule for group in groups(Thresholds()) for rule in group.rules]
ALERTS = {rule.name for rule in RULES if isinstance(rule, AlertRule)}
RECORDED = {rule.name for rule in RULES if isinstance(rule, RecordingRule)}
# Those of lifecycle and gpu_health show themselves in the alerts they are made for.
RECORDED_FOR_PEOPLE = {rule.name for rule in run_efficiency().rules if isinstance(rule, RecordingRule)}
KNOWN_METRICS = CATALOG.keys() | RECORDED | PROMETHEUS_METRICS.keys() | EXTERNAL.keys()
ALWAYS_FIRES = {"Watchdog"}


def without_runbook(runbooks: Path) -> set[str]:
    return ALERTS - {path.stem for path in runbooks.glob("*.md")}


def without_scenario(scenarios: Path, *, fires: bool) -> set[str]:
    seen = {
        expectation["alertname"]
        for path in scenarios.glob("*.yaml")
        for scenario in yaml.safe_load(path.read_text())["tests"]
        for expectation in scenario.get("alert_rule_test", [])
        if bool(expectation.get("exp_alerts")) == fires
    }
    return ALERTS - seen


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert without_runbook(RUNBOOKS) == set()
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == ALERTS


def test_every_alert_has_a_scenario_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    assert without_scenario(SCENARIOS, fires=True) == set()
    assert without_scenario(SCENARIOS, fires=False) == ALWAYS_FIRES


def test_every_series_recorded_for_people_has_a_scenario_with_a_value_and_one_without() -> None:
    expectations = [
        expectation
        for scenario in yaml.safe_load((SCENARIOS / "run_efficiency.yaml").read_text())["tests"]
        for expectation in scenario["promql_expr_test"]
    ]
    valued = {each["expr"] for each in expectations if each.get("exp_samples")}
    absent = {each["expr"] for each in expectations if not each.get("exp_samples")}
    of_runs = {name for name in RECORDED_FOR_PEOPLE if name.startswith("run:")}
    assert len(of_runs) == 6
    assert of_runs <= valued
    assert of_runs <= absent


def test_the_table_of_the_readme_names_every_alert_once() -> None:
    table = README.read_text().partition("## Alerts\n")[2].partition("\n## ")[0]
    named = [
        name
        for row in re.findall(r"^\| (`[^|]*)\|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(named) == sorted(ALERTS)


def test_every_scenario_has_a_sentence_of_its_own_for_a_name() -> None:
    names = [
        scenario["name"]
        for path in SCENARIOS.glob("*.yaml")
        for scenario in yaml.safe_load(path.read_text())["tests"]
    ]
    assert len(set(names)) == len(names)
    assert all(len(name.split()) >= 5 for name in names)


def test_every_runbook_has_the_five_sections_in_order() -> None:
    for runbook in RUNBOOKS.glob("*.md"):
        text = runbook.read_text()
        assert text.startswith(f"# {runbook.stem}\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS, runbook.name


def test_every_runbook_confirms_in_two_queries_that_prometheus_can_answer() -> None:
    for runbook in RUNBOOKS.glob("*.md"):
        block = re.search(r"```promql\n(.*?)```", runbook.read_text(), re.DOTALL)
        assert block, runbook.name
        queries = block[1].splitlines()
        assert len(queries) == 2, runbook.name
        for query in queries:
            assert {selector.metric for selector in selectors(query)} <= KNOWN_METRICS, runbook.name


def test_a_removed_runbook_is_missed(tmp_path: Path) -> None:
    shutil.copytree(RUNBOOKS, tmp_path / "runbooks")
    (tmp_path / "runbooks" / "GPUMemoryHigh.md").unlink()
    assert without_runbook(tmp_path / "runbooks") == {"GPUMemoryHigh"}


def test_removed_scenarios_are_missed(tmp_path: Path) -> None:
    shutil.copytree(SCENARIOS, tmp_path / "tests")
    for path in (tmp_path / "tests").glob("telemetry*.yaml"):
        path.unlink()
    missed = {rule.name for rule in telemetry(Thresholds()).rules if isinstance(rule, AlertRule)}
    assert without_scenario(tmp_path / "tests", fires=True) == missed
    assert without_scenario(tmp_path / "tests", fires=False) == missed
