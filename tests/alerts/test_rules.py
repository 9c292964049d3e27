from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts.build import groups, rule_files
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds
from exporters.catalog import CATALOG
from exporters.runs import RUN_STATES
from tests.alerts.expressions import fragile_parts, pairings, selectors

ORIGIN = Path(__file__).parent / "origin.yaml"
# Prometheus itself makes these, and puts the labels below on every series it scrapes.
PROMETHEUS_METRICS: dict[str, set[str]] = {
    "up": set(),
    "scrape_duration_seconds": set(),
    "ALERTS": {"alertname", "alertstate", "severity", "scope"},
}
# What Prometheus, Alertmanager and node_exporter say of themselves, and the labels that rules select it by.
EXTERNAL: dict[str, set[str]] = {
    "prometheus_rule_evaluation_failures_total": {"rule_group"},
    "prometheus_rule_group_iterations_missed_total": {"rule_group"},
    "alertmanager_notifications_failed_total": {"integration"},
    "node_vmstat_oom_kill": set(),
    "node_memory_MemAvailable_bytes": set(),
    "node_memory_MemTotal_bytes": set(),
}
# What a histogram of the catalog is published as; `le` is a label that only some of these have.
HISTOGRAM_SERIES = {
    f"{metric}{suffix}": {*metric.labels, "le"}
    for metric in CATALOG.values()
    if metric.kind == "histogram"
    for suffix in ("_bucket", "_sum", "_count")
}
EXTERNAL |= HISTOGRAM_SERIES
# Labels that an info metric has of some only.
INFO_LABELS = {"training_run_gpu_info": {"mig_instance", "mig_profile"}}
# By what rules choose among recorded series, beside run and target.
RECORDED_LABELS = {"run:training_phase_seconds:share10m": {"phase"}, "run:training_time:share": {"phase"}}
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
    assert read or rule.expr == "vector(1)"
    assert read <= CATALOG.keys() | RECORDED | PROMETHEUS_METRICS.keys() | EXTERNAL.keys()


@every_rule
def test_a_rule_selects_only_by_labels_that_the_metric_has(rule: RecordingRule | AlertRule) -> None:
    for metric, labels in selectors(rule.expr):
        known = (
            set(CATALOG[metric].labels)
            if metric in CATALOG
            else (PROMETHEUS_METRICS | EXTERNAL).get(metric, set())
        )
        of_some = INFO_LABELS.get(metric, set()) | RECORDED_LABELS.get(metric, set())
        assert labels.keys() <= known | of_some | TARGET_LABELS
        if metric == "training_run_state" and "state" in labels:
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
def test_a_rule_does_nothing_that_breaks_silently(rule: RecordingRule | AlertRule) -> None:
    assert fragile_parts(rule.expr) == []


def test_what_breaks_silently_is_seen() -> None:
    assert fragile_parts("training_loss != training_loss") == ["training_loss != training_loss"]
    assert fragile_parts("(a) == NaN and topk(3, b) > 0") == ["a == NaN", "topk"]
    assert fragile_parts("a != b and on (x) sum by (x) (c) > 0") == []


def test_a_recorded_series_says_level_metric_and_operations() -> None:
    assert [name for name in RECORDED if not re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", name)] == []


@every_rule
def test_a_recorded_series_is_read_after_it_is_recorded(rule: RecordingRule | AlertRule) -> None:
    earlier = {r.name for r in RULES[: RULES.index(rule)]}
    assert {s.metric for s in selectors(rule.expr)} & RECORDED <= earlier


@every_alert
def test_a_summary_holds_no_number_and_a_description_no_bare_value(alert: AlertRule) -> None:
    assert not re.search(r"\d|\$value", alert.summary)
    assert all("humanize" in action for action in re.findall(r"{{[^}]*\$value[^}]*}}", alert.description))


@every_alert
def test_an_alert_waits_or_says_why_the_first_look_is_enough(alert: AlertRule) -> None:
    assert (alert.for_seconds > 0) != bool(alert.at_once)


def test_the_xid_that_says_why_a_gpu_is_lost_comes_before_the_loss_is_told() -> None:
    [xid] = [alert for alert in ALERTS if alert.name == "GPUXidHardware"]
    [lost] = [alert for alert in ALERTS if alert.name == "GPULost"]
    scraped = 15
    assert xid.for_seconds + scraped + Thresholds().evaluation_interval_seconds < lost.for_seconds


def test_an_alert_that_reads_alerts_reads_one_that_exists() -> None:
    for rule in RULES:
        for metric, labels in selectors(rule.expr):
            if metric == "ALERTS" and rule.name != "InfoInhibitor":  # which goes by their severities
                assert labels["alertname"] in {alert.name for alert in ALERTS}


def test_an_alert_about_a_run_carries_the_run_and_not_who_reported_it() -> None:
    for rule in RULES:
        if rule.name.startswith("run:") and (aggregated := re.search(r"by \((.*?)\)", rule.expr)):
            assert aggregated[1] == "cluster, run"


@pytest.mark.parametrize("figure", asdict(Thresholds()))
def test_every_threshold_moves_a_rule(figure: str) -> None:
    shipped: Any = getattr(Thresholds(), figure)
    other: Any = f"https://example.org/{figure}" if isinstance(shipped, str) else shipped * 0.75
    assert rule_files(replace(Thresholds(), **{figure: other})) != rule_files(Thresholds())


def test_every_group_is_evaluated_every_fifteen_seconds_whatever_prometheus_does_by_default() -> None:
    for text in rule_files(Thresholds()).values():
        assert [group["interval"] for group in yaml.safe_load(text)["groups"]] == ["15s"]


def test_a_text_that_names_a_threshold_follows_it() -> None:
    text = "".join(rule_files(Thresholds(stall_seconds=600, gpu_memory_ratio=0.925)).values())
    assert "(limit 10m)" in text
    assert "more than 92.5%" in text


def test_a_runbook_link_is_the_base_and_the_name_of_the_alert() -> None:
    alert = AlertRule("Some", "up == 0", "warning", "telemetry", "summary", "description")
    annotations = alert.to_mapping(Thresholds(runbook_base="https://example.org/runbooks/"))["annotations"]
    assert annotations["runbook_url"] == "https://example.org/runbooks/Some.md"
    assert "page_url" not in annotations


def test_an_alert_about_a_run_links_to_its_page() -> None:
    alert = AlertRule("Some", "up == 0", "warning", "run", "summary", "description")
    annotations = alert.to_mapping(Thresholds(page_base="https://vitals.example/"))["annotations"]
    assert annotations["page_url"] == "https://vitals.example/#/runs/{{ $labels.run }}"


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
