from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.dashboards.generated import DASHBOARDS, FOREIGN_METRICS, Json
from tests.dashboards.linter import RULES, lint, panels

FOUNDATION = DASHBOARDS["trainvitals-foundation"]

Fault = Callable[[Json], None]


def variable(dashboard: Json, name: str) -> Json:
    found: Json = next(one for one in dashboard["templating"]["list"] if one["name"] == name)
    return found


def panel(dashboard: Json, title: str = "Loss") -> Json:
    return next(one for one in panels(dashboard) if one["title"] == title)


def set_expr(expr: str) -> Fault:
    return lambda dashboard: panel(dashboard)["targets"][0].update(expr=expr)


def set_variable(which: str, **values: Any) -> Fault:
    return lambda dashboard: variable(dashboard, which).update(values)


def set_panel(**values: Any) -> Fault:
    return lambda dashboard: panel(dashboard).update(values)


def without_variable(name: str) -> Fault:
    return lambda dashboard: dashboard["templating"]["list"].remove(variable(dashboard, name))


def set_unit(unit: str) -> Fault:
    return lambda dashboard: panel(dashboard)["fieldConfig"]["defaults"].update(unit=unit)


def loki(expr: str) -> Fault:
    target = {"expr": expr, "refId": "C", "datasource": {"type": "loki", "uid": "logs"}}

    def plant(dashboard: Json) -> None:
        variable(dashboard, "datasource").update(query="loki", label="Data source")
        panel(dashboard)["targets"] = [target]
        dashboard["panels"] = [panel(dashboard)]

    return plant


BOTH = 'job=~"$job", instance=~"$instance"'

FAULTS: list[tuple[str, str, Fault]] = [
    ("template-datasource-rule", "another name", set_variable("datasource", name="prom")),
    ("template-datasource-rule", "another label", set_variable("datasource", label="Prometheus")),
    ("template-datasource-rule", "none", without_variable("datasource")),
    ("template-job-rule", "none", without_variable("job")),
    ("template-job-rule", "one choice only", set_variable("job", multi=False)),
    ("template-job-rule", "a fixed data source", set_variable("job", datasource={"uid": "prom"})),
    ("template-instance-rule", "none", without_variable("instance")),
    ("template-instance-rule", "All matches nothing", set_variable("instance", allValue="")),
    ("template-instance-rule", "another label", set_variable("instance", label="Node")),
    ("template-label-promql-rule", "an unknown call", set_variable("run", query={"query": "labels(a, run)"})),
    (
        "template-label-promql-rule",
        "broken PromQL",
        set_variable("run", query={"query": "label_values(a{, run)"}),
    ),
    ("template-on-time-change-reload-rule", "read once", set_variable("run", refresh=1)),
    ("panel-datasource-rule", "a fixed data source", set_panel(datasource={"uid": "prom"})),
    ("panel-title-description-rule", "no title", set_panel(title="")),
    ("panel-title-description-rule", "no description", set_panel(description="")),
    ("panel-units-rule", "an unknown unit", set_unit("losses")),
    ("panel-units-rule", "no unit", set_unit("")),
    ("panel-no-targets-rule", "no query", set_panel(targets=[])),
    ("target-logql-rule", "an open bracket", loki('count_over_time({app="a"}[$__auto]')),
    ("target-logql-rule", "no stream", loki("rate(a)")),
    ("target-logql-auto-rule", "a fixed range", loki('count_over_time({app="a"}[5m])')),
    ("target-promql-rule", "an open bracket", set_expr("sum(training_loss")),
    ("target-rate-interval-rule", "a fixed range", set_expr(f"rate(training_steps_total{{{BOTH}}}[5m])")),
    ("target-job-rule", "no matcher", set_expr('training_loss{instance=~"$instance"}')),
    ("target-job-rule", "any job", set_expr('training_loss{job=~".+", instance=~"$instance"}')),
    ("target-job-rule", "equality", set_expr('training_loss{job="$job", instance=~"$instance"}')),
    ("target-job-rule", "foreign and no matcher", set_expr('container_memory_usage_bytes{instance=~".+"}')),
    ("target-instance-rule", "no matcher", set_expr('training_loss{job=~"$job"}')),
    ("target-job-rule", "recorded and no choice", set_expr('run:training_loss:max{cluster=~"$cluster"}')),
    ("target-counter-agg-rule", "a bare counter", set_expr(f"training_steps_total{{{BOTH}}}")),
    (
        "target-counter-agg-rule",
        "a range of it",
        set_expr(f"max_over_time(training_steps_total{{{BOTH}}}[1h])"),
    ),
    ("uneditable-dashboard", "editable", lambda dashboard: dashboard.update(editable=True)),
]


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())
def test_no_rule_finds_anything(dashboard: Json) -> None:
    assert lint(dashboard, FOREIGN_METRICS) == []


@pytest.mark.parametrize(("rule", "fault"), [pytest.param(r, f, id=f"{r}: {n}") for r, n, f in FAULTS])
def test_a_planted_fault_is_found_by_its_rule(rule: str, fault: Fault) -> None:
    dashboard = copy.deepcopy(FOUNDATION)
    fault(dashboard)
    assert rule in {finding.rule for finding in lint(dashboard, FOREIGN_METRICS)}


def test_every_one_of_the_17_rules_has_a_planted_fault() -> None:
    assert len(RULES) == 17
    assert {rule for rule, _, _ in FAULTS} == RULES.keys()


def test_good_log_queries_pass() -> None:
    dashboard = copy.deepcopy(FOUNDATION)
    loki('sum by (level) (count_over_time({app="a"} |= "lost }" [$__auto]))')(dashboard)
    assert lint(dashboard) == []


def test_panels_inside_a_collapsed_row_are_looked_at_too() -> None:
    dashboard = copy.deepcopy(FOUNDATION)
    inside = panel(dashboard) | {"title": ""}
    dashboard["panels"].append({"type": "row", "title": "More", "collapsed": True, "panels": [inside]})
    assert [finding.rule for finding in lint(dashboard, FOREIGN_METRICS)] == ["panel-title-description-rule"]
