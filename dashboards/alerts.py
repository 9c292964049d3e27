"""Alerts and telemetry health: what fires, whether it is told, and for every alert what it judges.

An alert's link opens its panel, by the id that alerts/rules.py makes of the alert's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import attr

from alerts import build, telemetry
from alerts.rules import AlertRule, Group
from alerts.thresholds import Thresholds, duration
from dashboards import colors, events, links
from dashboards.events import ALERTS, ALERTS_FOR_STATE, FIRING, TELLS_SOMEBODY
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import DataPanel, Query, Stat, Text, colored_names
from dashboards.grafana.tables import Table, colored_words, linked, widths
from dashboards.grafana.timelines import StateTimeline
from dashboards.rows import (
    checkpoint_alerts,
    gpu_health_alerts,
    hook_cost,
    lifecycle_alerts,
    loss_alerts,
    memory_alerts,
    telemetry_alerts,
    telemetry_delivery,
    telemetry_sources,
    throughput_alerts,
)
from dashboards.variables import VARIABLES_OF_ALL_CLUSTERS, of_alerts

UID = links.ALERTS


class GroupPanels(NamedTuple):
    """The heading of a group's row, and what makes its panels, by the names of its alerts."""

    heading: str
    panels: Callable[[Thresholds], Mapping[str, DataPanel]]


GROUPS = {
    "lifecycle": GroupPanels("Lifecycle: does it live?", lifecycle_alerts.panels),
    "loss": GroupPanels("Loss: does it learn?", loss_alerts.panels),
    "throughput": GroupPanels("Throughput: is it as fast as it was?", throughput_alerts.panels),
    "memory": GroupPanels("Memory: does it fit?", memory_alerts.panels),
    "checkpoint": GroupPanels("Checkpoints: what is lost if it dies now?", checkpoint_alerts.panels),
    "gpu_health": GroupPanels("GPU health: can the GPUs go on?", gpu_health_alerts.panels),
    "telemetry": GroupPanels("Telemetry: do we see it, and tell it?", telemetry_alerts.panels),
}
# Shown at the top, and not once more in its row.
_AT_THE_TOP = telemetry.WATCHDOG


def panels_of(group: Group, thresholds: Thresholds) -> dict[str, DataPanel]:
    """The panel of each alert of the group, in the order of the rules, under the id that its link has.

    Raises ValueError for an alert without a panel and for a panel without an alert.
    """
    alerts = [rule for rule in group.rules if isinstance(rule, AlertRule)]
    panels = dict(GROUPS[group.name].panels(thresholds)) if group.name in GROUPS else {}
    panels_by_alert = {}
    for alert in alerts:
        if alert.name not in panels:
            raise ValueError(
                f"alert {alert.name} has no panel: add one to dashboards/{group.name}_alerts.py, named in "
                "GROUPS of dashboards/alerts.py"
            )
        panel = panels.pop(alert.name)
        panels_by_alert[alert.name] = attr.evolve(
            panel, id=alert.panel, description=f"{panel.description} {_names(alert)}"
        )
    if panels:
        raise ValueError(f"no alert of the group {group.name} has the name of the panels {sorted(panels)}")
    return panels_by_alert


def _names(alert: AlertRule) -> str:
    waits = f"after {duration(alert.for_seconds)}" if alert.for_seconds else "at once"
    severity = "" if alert.severity == "none" else f", {alert.severity}"
    return f"The alert is {alert.name}{severity}, {waits}."


def firing() -> Table:
    held = f"time() - {of_alerts(ALERTS_FOR_STATE, TELLS_SOMEBODY)}"
    fires = of_alerts(ALERTS, FIRING, TELLS_SOMEBODY)
    return Table.of_series(
        title="What fires now",
        description=(
            "Every alert that fires, the newest first, and for how long its condition has held. Scope says "
            "who is to look: run its owner, hardware whoever looks after the machines, telemetry whoever "
            "runs Prometheus and the services. Open the row of its group below for what it judges; its "
            "runbook says what to do."
        ),
        expr=f"{held} and ignoring (alertstate) {fires}",
        labels={
            "severity": "Severity",
            "scope": "Scope",
            "alertname": "Alert",
            "run": "Run",
            "rank": "Rank",
            "cluster": "Cluster",
            "instance": "Instance",
            "gpu": "GPU",
        },
        value="For",
        unit="s",
        no_value="nothing fires",
        overrides=[
            colored_words("Severity", colors.SEVERITIES),
            linked("Run", links.to_run(links.CELL, cluster=links.CLUSTER_OF_ROW)),
            *widths(
                {
                    "Severity": 80,
                    "Scope": 90,
                    "Alert": 230,
                    "Rank": 60,
                    "Cluster": 90,
                    "GPU": 60,
                    "For": 90,
                }
            ),
        ],
    )


def firing_by_severity() -> Stat:
    return Stat(
        title="By severity",
        description=(
            "Alerts that fire now, by severity: critical ones are pages, warnings are messages at any hour, "
            "information is a digest in office hours. One that another holds back counts too, though nobody "
            "is told of it. Nothing here while the Watchdog beside it fires is health; nothing here without "
            "the Watchdog is blindness."
        ),
        unit="none",
        no_value="none",
        targets=[
            Query(
                expr=f"count by (severity) ({of_alerts(ALERTS, FIRING, TELLS_SOMEBODY)})",
                legend="{{severity}}",
            )
        ],
        colored=True,
        overrides=colored_names(colors.SEVERITIES),
    )


def history() -> StateTimeline:
    fires = of_alerts(ALERTS, FIRING, TELLS_SOMEBODY)
    waits = of_alerts(ALERTS, 'alertstate="pending"', TELLS_SOMEBODY)
    return StateTimeline(
        title="What fired when",
        description=(
            "By alert, of whatever run or machine: when its condition began to hold, and when it fired. "
            "Bands that begin together mostly have one cause: the first to begin is the one to look at. One "
            "that waits again and again without firing is near its limit, and one that never rests is not "
            "acted on."
        ),
        targets=[
            Query(
                expr=f"2 * max by (alertname) ({fires}) or max by (alertname) ({waits})",
                legend="{{alertname}}",
            )
        ],
        value_texts={1: Text("waits", colors.WARNING), 2: Text("fires", colors.BAD)},
        no_value="nothing fired",
    )


def dashboard(thresholds: Thresholds) -> Dashboard:
    """Raises ValueError for an alert without a panel and for a panel without an alert."""
    rows = []
    for group in build.groups(thresholds):
        panels = panels_of(group, thresholds)
        if _AT_THE_TOP in panels:
            watchdog = panels.pop(_AT_THE_TOP)
        if panels:
            slots = [(panel, 12) for panel in panels.values()]
            rows.append(Shelf(GROUPS[group.name].heading, slots, height=10, collapsed=True))
    return Dashboard(
        uid=UID,
        title="Alerts and telemetry health",
        description=(
            "What fires now, whether it would be told, and whether the telemetry is sound; and below, a "
            "group of rules in each row, for every alert what it judges beside its limit. A link in an "
            "alert opens its panel."
        ),
        variables=VARIABLES_OF_ALL_CLUSTERS,
        events=events.of_fleet(),
        panels=stack(
            Shelf("What fires?", [(firing(), 24)]),
            Shelf(
                "Since when, and would it be told?",
                [(history(), 16), (firing_by_severity(), 4), (watchdog, 4)],
                height=12,
            ),
            *telemetry_sources.shelves(thresholds),
            telemetry_delivery.shelf(thresholds),
            hook_cost.shelf(thresholds),
            *rows,
        ),
    )
