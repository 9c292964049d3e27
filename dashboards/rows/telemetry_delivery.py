"""Whether Prometheus keeps up with the rules, and Alertmanager with telling people."""

from __future__ import annotations

from alerts.thresholds import Thresholds
from dashboards.colors import BAD
from dashboards.grafana.dashboard import Shelf
from dashboards.grafana.panels import Query, TimeSeries, dashed, limit
from dashboards.rows.telemetry_alerts import NOTIFICATIONS_FAILED_TOTAL, RULE_EVALUATION_FAILURES_TOTAL
from dashboards.variables import of_other_exporter

RULE_GROUP_LAST_DURATION_SECONDS = "prometheus_rule_group_last_duration_seconds"
NOTIFICATIONS_TOTAL = "alertmanager_notifications_total"

_OUR_RULES = 'rule_group=~".*;trainvitals[.].+"'


def shelf(thresholds: Thresholds) -> Shelf:
    return Shelf(
        "Does Prometheus keep up, and does it tell?",
        [(rule_durations(thresholds), 8), (rule_failures(), 8), (notifications(), 8)],
    )


def rule_durations(thresholds: Thresholds) -> TimeSeries:
    interval = thresholds.evaluation_interval_seconds
    took = of_other_exporter(RULE_GROUP_LAST_DURATION_SECONDS, _OUR_RULES)
    return TimeSeries(
        title="Time our rules take",
        description=(
            "How long the last evaluation of each group took, as Prometheus says of itself; empty where "
            f"Prometheus does not scrape itself. At the red line, {interval:g} s, a group no longer fits "
            "into its interval, and alerts come late: give Prometheus more CPU, or look for other rules "
            "that take it."
        ),
        unit="s",
        minimum=0,
        thresholds=limit(interval),
        threshold_line=True,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=f'label_replace(max by (cluster, rule_group) ({took}), "group", "$1", "rule_group", '
                '".*;trainvitals[.](.+)")',
                legend="{{group}}",
            )
        ],
    )


def rule_failures() -> TimeSeries:
    failures = of_other_exporter(RULE_EVALUATION_FAILURES_TOTAL, _OUR_RULES)
    return TimeSeries(
        title="Rules that fail",
        description=(
            "A minute, by group, as Prometheus says of itself. It should be 0: the alerts of a group that "
            "fails do not come. Prometheus's page of rules names the error, which is mostly a series that "
            "exists twice because two jobs scrape one service."
        ),
        unit="none",
        axis_label="evaluations / min",
        minimum=0,
        soft_maximum=1,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr="label_replace(60 * max by (cluster, rule_group) "
                f'(rate({failures}[$__rate_interval])), "group", "$1", "rule_group", '
                '".*;trainvitals[.](.+)")',
                legend="{{group}}",
            )
        ],
    )


def notifications() -> TimeSeries:
    sent = of_other_exporter(NOTIFICATIONS_TOTAL)
    failed = of_other_exporter(NOTIFICATIONS_FAILED_TOTAL)
    return TimeSeries(
        title="Notifications",
        description=(
            "A minute, by integration, as Alertmanager says of itself; empty where Prometheus does not "
            "scrape it. Solid: sent, the failed ones among them. Dashed: failed, after all tries. Dashes "
            "above 0 mean that somebody is not told: a secret that has changed, a rate limit, or no way to "
            "the receiver."
        ),
        unit="none",
        axis_label="notifications / min",
        minimum=0,
        soft_maximum=1,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=f"60 * sum by (cluster, integration) (rate({sent}[$__rate_interval])) > 0",
                legend="{{integration}}",
            ),
            Query(
                expr=f"60 * sum by (cluster, integration) (rate({failed}[$__rate_interval])) > 0",
                legend="{{integration}} failed",
            ),
        ],
        overrides=[dashed("B", BAD)],
    )
