from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from alerts.build import groups, rule_files
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds
from exporters.catalog import CATALOG
from exporters.runs import RUN_STATES
from tests.alerts.expressions import pairings, selectors

ORIGIN = Path(__file__).parent / "origin.yaml"
# Prometheus itself makes these, and puts the labels below on every series it scrapes.
PROMETHEUS_METRICS: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "alertstate"}}
# Labels that an info metric has of some only.
INFO_LABELS = {"training_run_gpu_info": {"mig_instance", "mig_profile"}}
TARGET_LABELS = {"cluster", "job", "instance"}

RULES = [rule for group in groups(Thresholds()) for rule in group.rules]
ALERTS = [rule for rule in RULES if isinstance(rule, AlertRule)]
RECORDED = {rule.name for rule in RULES if isinstance(rule, RecordingRule)}

every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])


def test_the_alerts_bear_the_names_of_the_origin() -> None:
    assert {alert.name for alert in ALERTS} >= {"TrainingServiceDown", "GPUMemoryHigh", "TrainingStalled"}


def test_no_name_is_given_twice() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


@every_rule
def test_a_rule_reads_only_metrics_that_somebody_publishes(rule: RecordingRule | AlertRule) -> None:
    read = {selector.metric for selector in selectors(rule.expr)}
    assert read
    assert read <= CATALOG.keys() | RECORDED | PROMETHEUS_METRICS.keys()


@every_rule
def test_a_rule_selects_only_by_labels_that_the_metric_has(rule: RecordingRule | AlertRule) -> None:
    for metric, labels in selectors(rule.expr):
        known = set(CATALOG[metric].labels) if metric in CATALOG else PROMETHEUS_METRICS.get(metric, set())
        assert labels.keys() <= known | INFO_LABELS.get(metric, set()) | TARGET_LABELS
        if "state" in labels:
            assert labels["state"] in RUN_STATES


@every_rule
def test_a_rule_says_which_labels_it_matches_two_vectors_by(rule: RecordingRule | AlertRule) -> None:
    for pairing in pairings(rule.expr):
        if pairing.operator in ("/", "*", "-", "+"):
            assert pairing.on, (
                f"{pairing.operator} has no on (…): one more label on one side silences the alert"
            )
        elif pairing.operator != "or":
            assert pairing.explicit, f"{pairing.operator} has neither on (…) nor ignoring (…)"


@every_rule
def test_a_recorded_series_is_read_after_it_is_recorded(rule: RecordingRule | AlertRule) -> None:
    earlier = {r.name for r in RULES[: RULES.index(rule)]}
    assert {s.metric for s in selectors(rule.expr)} & RECORDED <= earlier


@every_alert
def test_a_summary_holds_no_number_and_a_description_no_bare_value(alert: AlertRule) -> None:
    assert not re.search(r"\d|\$value", alert.summary)
    assert all("humanize" in action for action in re.findall(r"{{[^}]*\$value[^}]*}}", alert.description))


@every_alert
def test_an_alert_waits_or_is_about_a_fact_that_is_final(alert: AlertRule) -> None:
    assert alert.for_seconds > 0 or alert.name in {"TrainingRunKilled", "GPUXidHardware"}


def test_the_xid_that_says_why_a_gpu_is_lost_comes_before_the_loss_is_told() -> None:
    [xid] = [alert for alert in ALERTS if alert.name == "GPUXidHardware"]
    [lost] = [alert for alert in ALERTS if alert.name == "GPULost"]
    scraped = 15
    assert xid.for_seconds + scraped + Thresholds().evaluation_interval_seconds < lost.for_seconds


def test_an_alert_that_reads_alerts_reads_one_that_exists() -> None:
    for rule in RULES:
        for metric, labels in selectors(rule.expr):
            if metric == "ALERTS":
                assert labels["alertname"] in {alert.name for alert in ALERTS}


def test_an_alert_about_a_run_carries_the_run_and_not_who_reported_it() -> None:
    for rule in RULES:
        if rule.name.startswith("run:") and (aggregated := re.search(r"by \((.*?)\)", rule.expr)):
            assert aggregated[1] == "cluster, run"


def test_every_threshold_moves_a_rule() -> None:
    shipped = rule_files(Thresholds())
    for moved in (
        Thresholds(job="other"),
        Thresholds(evaluation_interval_seconds=1),
        Thresholds(lookback_seconds=80_000),
        Thresholds(stall_seconds=10),
        Thresholds(stall_for_seconds=1),
        Thresholds(killed_page_seconds=60),
        Thresholds(service_down_for_seconds=5),
        Thresholds(gpu_memory_ratio=0.5),
        Thresholds(gpu_memory_for_seconds=5),
        Thresholds(gpu_memory_keep_firing_seconds=5),
        Thresholds(xid_page_seconds=60),
        Thresholds(gpu_lost_for_seconds=5),
        Thresholds(runbook_base="https://example.org/runbooks/"),
    ):
        assert rule_files(moved) != shipped


def test_every_group_is_evaluated_every_fifteen_seconds_whatever_prometheus_does_by_default() -> None:
    for text in rule_files(Thresholds()).values():
        assert [group["interval"] for group in yaml.safe_load(text)["groups"]] == ["15s"]


def test_a_text_that_names_a_threshold_follows_it() -> None:
    text = "".join(rule_files(Thresholds(stall_seconds=10, gpu_memory_ratio=0.925)).values())
    assert "(limit 10s)" in text
    assert "more than 92.5%" in text


def test_a_runbook_link_is_the_base_and_the_name_of_the_alert() -> None:
    alert = AlertRule("Some", "up == 0", "warning", "telemetry", "summary", "description")
    annotations = alert.to_mapping("https://example.org/runbooks/")["annotations"]
    assert annotations["runbook_url"] == "https://example.org/runbooks/Some.md"


def test_a_query_of_several_lines_is_written_as_a_block() -> None:
    group = Group("some", (RecordingRule("a:b:c", "up\n  == 0"),))
    text = group.to_yaml(Thresholds())
    assert "expr: |-\n" in text
    assert yaml.safe_load(text)["groups"][0]["rules"] == [{"record": "a:b:c", "expr": "up\n  == 0"}]


def test_every_expression_of_the_origin_parses_and_reads_metrics_we_publish() -> None:
    rules = yaml.safe_load(ORIGIN.read_text())["groups"][0]["rules"]
    assert len(rules) == 3
    for rule in rules:
        assert {s.metric for s in selectors(rule["expr"])} <= CATALOG.keys() | PROMETHEUS_METRICS.keys()


def test_an_unknown_metric_and_a_ratio_without_labels_are_seen() -> None:
    assert [s.metric for s in selectors("sum(rate(nobody_publishes_total[5m])) > 0")] == [
        "nobody_publishes_total"
    ]
    assert [p.on for p in pairings("a / b > 0.9 and on (x) c * 2")] == [("x",), None]
