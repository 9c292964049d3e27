"""While an alert fires its panel shows the value that the rule judges, and shows it beyond the limit.

Asked at a moment of one of the scenarios in alerts/tests in which the alert fires.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import attr
import pytest
import yaml

from alerts.build import GENERATED, groups, rule_files
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from dashboards import alerts
from dashboards.colors import BAD
from dashboards.grafana.panels import DataPanel
from tests.alerts.answers import Sample, ask
from tests.dashboards import promql

SCENARIOS = sorted((GENERATED.parent / "tests").glob("*.yaml"))
THRESHOLDS = Thresholds()
PANELS = {
    name: panel for group in groups(THRESHOLDS) for name, panel in alerts.panels_of(group, THRESHOLDS).items()
}
RULES = {
    rule.name: rule for group in groups(THRESHOLDS) for rule in group.rules if isinstance(rule, AlertRule)
}
# Whose panels show something else than the value of the rule, and what that is.
OF_ANOTHER_VALUE = {
    "TrainingRankMissing": "how many are missing: between the two lines",
    "GPUNvlinkDown": "how many are missing: between the two lines",
    "GPUCountChanged": "how many are missing: between the two lines",
    "TrainingGPUIdle": "how many GPUs are below the limit",
    "TrainingLearningRateZero": "at which step the learning rate is 0",
}
# Those that fire below their line, not above it.
BELOW = {
    *("TrainingRunKilled", "TrainingRunFailed", "TrainingRankMissing", "TrainingLossPlateau"),
    *("TrainingThroughputRegressed", "TrainingGPUIdle", "HostMemoryLow", "TrainingCheckpointVolumeFilling"),
    *("GPUXidHardware", "GPUXidApplication", "GPUPcieLinkDegraded", "GPUNvlinkDown", "GPUCountChanged"),
    "TelemetryRecordingsVolumeFilling",
}
# Those that may fire where no line is crossed, and when.
WITHOUT_CROSSING = {
    "TrainingOOMPredicted": "where the allocator had to free what it kept",
    "TrainingRunNotScraped": "where the line that should be there is missing",
}
EVERYTHING = dict.fromkeys(("cluster", "job", "instance", "run"), ".*")
UNITS_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class Moment(NamedTuple):
    """A time of a scenario, the test file that it stands in, how much is told then, and what asking costs."""

    file: Mapping[str, Any]
    scenario: Mapping[str, Any]
    at: str
    labels: int
    cost: float


class Fired(NamedTuple):
    """What an alert's rule came to then, and each query of its panel."""

    rule: list[Sample]
    panel: list[list[Sample]]

    def of_panel(self, fires: Sample) -> Iterator[list[float]]:
        """For each query, the values of what one sample of the rule is about."""
        for answer in self.panel:
            yield [sample.value for sample in answer if _is_of_the_same(sample.labels, fires.labels)]


def _is_of_the_same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(other[label] == value for label, value in one.items() if label in other)


def _seconds(time: str) -> float:
    return sum(int(number) * UNITS_SECONDS[unit] for number, unit in re.findall(r"(\d+)([dhms])", time))


@cache
def moments() -> Mapping[str, Moment]:
    """By alert: that which tells most of what it is about, and of those the one that costs least."""
    found: dict[str, list[Moment]] = {}
    for path in SCENARIOS:
        # As text: to others `0x400` is a number.
        file = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CBaseLoader)
        for scenario in file["tests"]:
            for expected in scenario.get("alert_rule_test", []):
                if expected.get("exp_alerts"):
                    at, series = expected["eval_time"], scenario["input_series"]
                    labels = len(expected["exp_alerts"][0]["exp_labels"])
                    evaluations = _seconds(at) / _seconds(file["evaluation_interval"])
                    moment = Moment(file, scenario, at, labels, evaluations * len(series))
                    found.setdefault(expected["alertname"], []).append(moment)
    return {name: min(of_alert, key=lambda one: (-one.labels, one.cost)) for name, of_alert in found.items()}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rules")
    for name, text in rule_files(THRESHOLDS).items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def fired(name: str, panel: DataPanel, directory: Path) -> Fired:
    moment = moments()[name]
    test = {**moment.file, "rule_files": [Path(file).name for file in moment.file["rule_files"]]}
    queries = [promql.fill_in(query.expr, EVERYTHING) for query in panel.targets]
    rule = RULES[name].expr
    answers = ask(directory / f"{name}.yaml", test, moment.scenario, [rule, *queries], moment.at)
    return Fired(answers[rule], [answers[query] for query in queries])


def moving_limit(panel: DataPanel) -> int | None:
    """The place of the query that is drawn as dashes."""
    places = [ord(one.argument) - ord("A") for one in panel.overrides if "custom.lineStyle" in one.properties]
    return places[0] if places else None


def line(panel: DataPanel) -> float | None:
    values = [step.value for step in panel.thresholds if step.color == BAD and step.value is not None]
    return values[0] if values else None


def faults(name: str, panel: DataPanel, directory: Path) -> list[str]:
    """What the panel does not show of what fires."""
    then = fired(name, panel, directory)
    assert then.rule
    found = []
    for fires in then.rule:
        values = list(then.of_panel(fires))
        flat = [value for of_query in values for value in of_query]
        is_shown = any(value == pytest.approx(fires.value) for value in flat)
        if is_shown == (name in OF_ANOTHER_VALUE):
            found.append(f"the value of {fires} is no other, or shown nowhere in {values}")
        limit, dashes = line(panel), moving_limit(panel)
        if limit is not None:
            crosses = any(_is_beyond(value, limit, name) for value in flat)
        elif dashes is not None:
            pairs = zip(values[0], values[dashes], strict=False)
            crosses = any(_is_beyond(value, limit, name) for value, limit in pairs)
        else:
            continue
        if not crosses and name not in WITHOUT_CROSSING:
            found.append(f"{values} cross no line for {fires}")
    return found


def _is_beyond(value: float, limit: float, name: str) -> bool:
    return value <= limit if name in BELOW else value >= limit


@pytest.mark.parametrize("name", RULES)
def test_while_an_alert_fires_its_panel_shows_what_the_rule_judges_beyond_the_limit(
    name: str, rules: Path
) -> None:
    assert faults(name, PANELS[name], rules) == []


@pytest.mark.parametrize("name", ["TrainingRestartLoop", "TrainingRankMissing"])
def test_a_panel_that_shows_something_else_is_noticed(name: str, rules: Path) -> None:
    panel = PANELS[name]
    others = [attr.evolve(query, expr=f"2 * ({query.expr})") for query in panel.targets[:1]]
    assert faults(name, attr.evolve(panel, targets=[*others, *panel.targets[1:]]), rules)


def test_every_exception_is_of_an_alert() -> None:
    assert OF_ANOTHER_VALUE.keys() | BELOW | WITHOUT_CROSSING.keys() <= RULES.keys()
