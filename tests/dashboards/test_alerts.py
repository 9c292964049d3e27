"""Every alert has the panel that its link opens, and the panel shows what the alert judges."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest

from alerts.build import groups
from alerts.rules import AlertRule, RecordingRule
from alerts.thresholds import Thresholds
from dashboards import alerts
from dashboards.colors import BAD
from tests.alerts.test_settings import KILLED, rendered
from tests.dashboards import linter, promql
from tests.dashboards.generated import DASHBOARDS, Json

DASHBOARD = DASHBOARDS[alerts.UID]
THRESHOLDS = Thresholds()
RULES = [rule for group in groups(THRESHOLDS) for rule in group.rules]
ALERTS = [rule for rule in RULES if isinstance(rule, AlertRule)]
RECORDED = {rule.name: rule.expr for rule in RULES if isinstance(rule, RecordingRule)}
[WATCHDOG] = [alert for alert in ALERTS if alert.name == "Watchdog"]

every_alert = pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])


def panel_of(alert: AlertRule) -> Json:
    [panel] = [one for one in linter.panels(DASHBOARD) if one["id"] == alert.panel]
    return panel


def without_one_panel(dashboard: Json) -> list[str]:
    """The alerts of which the dashboard has no panel, or several."""
    ids = [panel["id"] for panel in linter.panels(dashboard)]
    return [alert.name for alert in ALERTS if ids.count(alert.panel) != 1]


def test_every_alert_has_one_panel_and_every_other_panel_is_at_the_top() -> None:
    assert without_one_panel(DASHBOARD) == []
    ids = {alert.panel for alert in ALERTS}
    assert len(ids) == len(ALERTS)
    others = [panel["id"] not in ids for panel in linter.panels(DASHBOARD) if panel["id"] != WATCHDOG.panel]
    assert others == sorted(others, reverse=True)


@every_alert
def test_a_panel_that_is_removed_is_missed(alert: AlertRule) -> None:
    dashboard = copy.deepcopy(DASHBOARD)
    for panels in [dashboard["panels"], *(row["panels"] for row in dashboard["panels"] if "panels" in row)]:
        panels[:] = [panel for panel in panels if panel["id"] != alert.panel]
    assert without_one_panel(dashboard) == [alert.name]


def test_an_alert_without_a_panel_and_a_panel_without_an_alert_are_not_built() -> None:
    group = groups(THRESHOLDS)[0]
    with_another = replace(group, rules=(*group.rules, replace(ALERTS[0], name="TrainingSomethingNew")))
    with pytest.raises(
        ValueError, match="TrainingSomethingNew has no panel: add one to dashboards/lifecycle"
    ):
        alerts.panels_of(with_another, THRESHOLDS)
    without_one = replace(group, rules=tuple(rule for rule in group.rules if rule != ALERTS[0]))
    with pytest.raises(ValueError, match=f"no alert .* {re.escape(str([ALERTS[0].name]))}"):
        alerts.panels_of(without_one, THRESHOLDS)


@every_alert
def test_a_panel_reads_what_its_alert_reads_or_what_is_recorded_of_it(alert: AlertRule) -> None:
    judged = promql.metric_names(alert.expr)
    behind = {
        name for recorded in judged & RECORDED.keys() for name in promql.metric_names(RECORDED[recorded])
    }
    read = {name for target in panel_of(alert)["targets"] for name in promql.metric_names(target["expr"])}
    if judged:
        assert read & (judged | behind)
    else:  # vector(1)
        assert alert.name in panel_of(alert)["targets"][0]["expr"]


@every_alert
def test_a_panel_says_which_alert_it_is_of_and_when_that_comes(alert: AlertRule) -> None:
    ending = panel_of(alert)["description"].rpartition(" The alert is ")[2]
    assert ending.startswith(f"{alert.name}, ")
    assert ending.endswith(", at once.") == (alert.for_seconds == 0)


def limits(thresholds: Thresholds) -> dict[str, list[float]]:
    """Where the red lines of the panels are, by alert."""
    return {
        name: [step.value for step in panel.thresholds if step.color == BAD and step.value is not None]
        for group in groups(thresholds)
        for name, panel in alerts.panels_of(group, thresholds).items()
    }


@pytest.mark.parametrize(
    ("alert", "figure", "value"),
    [
        ("TrainingStalled", "stall_seconds", 600.0),
        ("TrainingRestartLoop", "restart_loop_restarts", 7),
        ("TrainingGPUIdle", "gpu_idle_ratio", 0.1),
        ("GPUMemoryHigh", "gpu_memory_ratio", 0.8),
        ("TelemetryHookDropped", "hook_dropped_values", 50),
    ],
)
def test_a_red_line_is_where_the_threshold_is(alert: str, figure: str, value: float) -> None:
    changed = replace(THRESHOLDS, **{figure: value})  # type: ignore[arg-type]
    in_percent = alert == "TrainingGPUIdle"
    assert limits(changed)[alert] == [100 * value if in_percent else value]
    assert limits(THRESHOLDS)[alert] != limits(changed)[alert]


def test_what_fires_is_looked_for_among_our_alerts_of_what_is_chosen_and_of_none_of_it() -> None:
    [table] = [panel for panel in linter.panels(DASHBOARD) if panel["title"] == "What fires now"]
    chosen = {'cluster=~"$cluster|"', 'instance=~"$instance|"', 'run=~"$run|"'}
    for node in promql.vector_selectors(table["targets"][0]["expr"]):
        matchers = {str(matcher) for matcher in node.expr.matchers.matchers}
        assert chosen | {'scope=~".+"', 'severity!="none"'} <= matchers


def test_rows_stand_in_the_order_of_the_rules_and_are_collapsed() -> None:
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    collapsed = [row["collapsed"] for row in rows]
    assert collapsed == sorted(collapsed)
    ids = [alert.panel for alert in ALERTS if alert != WATCHDOG]
    assert [panel["id"] for row in rows for panel in row["panels"] if panel["id"] in ids] == ids


@every_alert
def test_an_alert_links_to_its_panel_and_one_about_a_run_chooses_the_run(alert: AlertRule) -> None:
    thresholds = replace(THRESHOLDS, grafana_base="https://grafana.example/")
    link = alert.to_mapping(thresholds)["annotations"]["dashboard_url"]
    address, _, query = link.partition("?")
    panel, _, run = query.partition("&")
    assert address == f"https://grafana.example/d/{DASHBOARD['uid']}"
    assert panel == f"viewPanel={panel_of(alert)['id']}"
    assert run == ("var-run={{ $labels.run }}" if alert.scope == "run" else "")


def test_where_nobody_has_grafana_an_alert_has_no_such_link() -> None:
    annotations = ALERTS[0].to_mapping(replace(THRESHOLDS, grafana_base=""))["annotations"]
    assert "dashboard_url" not in annotations


def test_the_id_of_a_panel_is_made_of_its_alerts_name_alone() -> None:
    one = AlertRule("Some", "up == 0", "warning", "run", "summary", "description")
    assert one.panel == replace(one, expr="up == 1", scope="hardware").panel
    assert one.panel != replace(one, name="Other").panel


def test_a_message_has_the_panel_beside_the_runbook(tmp_path: Path) -> None:
    link = "https://grafana.example/d/trainvitals-alerts?viewPanel=1&var-run=r1"
    annotations = {**KILLED["annotations"], "dashboard_url": link}  # type: ignore[dict-item]
    killed = {**KILLED, "annotations": annotations}
    assert f"\nPanel: {link}\nRunbook: " in rendered("trainvitals.text", tmp_path, killed)
    assert f"<{link}|Panel>  <https" in rendered("trainvitals.slack", tmp_path, killed)
    mail = rendered("trainvitals.html", tmp_path, killed, as_html=True)
    assert f'<a href="{link.replace("&", "&amp;")}">Panel</a> · <a href="https' in mail
