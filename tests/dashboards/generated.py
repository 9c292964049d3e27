"""The dashboards as they are committed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from alerts import memory
from alerts.build import groups
from alerts.rules import AlertRule, RecordingRule
from alerts.thresholds import Thresholds
from dashboards import build, events, foundation
from dashboards.rows import telemetry_alerts, telemetry_delivery, telemetry_sources
from exporters.catalog import CATALOG
from tests.dashboards import linter

Json = dict[str, Any]

DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(build.GENERATED.glob("*.json"))
}
# The metrics that are not ours, by exporter.
CADVISOR = frozenset(foundation.CADVISOR_METRICS)
NODE_EXPORTER = frozenset({memory.NODE_OOM_KILLS, memory.NODE_MEMORY_AVAILABLE, memory.NODE_MEMORY_TOTAL})
ALERTING = frozenset(
    {
        events.ALERTS,
        events.ALERTS_FOR_STATE,
        telemetry_alerts.RULE_EVALUATION_FAILURES_TOTAL,
        telemetry_alerts.RULE_GROUP_ITERATIONS_MISSED_TOTAL,
        telemetry_delivery.RULE_GROUP_LAST_DURATION_SECONDS,
        telemetry_alerts.NOTIFICATIONS_FAILED_TOTAL,
        telemetry_delivery.NOTIFICATIONS_TOTAL,
    }
)
FOREIGN_METRICS = CADVISOR | NODE_EXPORTER | ALERTING
# What Prometheus says of scraping ours.
OF_TARGETS = frozenset(
    {
        telemetry_alerts.UP,
        telemetry_alerts.SCRAPE_DURATION_SECONDS,
        telemetry_sources.SCRAPE_SAMPLES_SCRAPED,
    }
)
RULES = tuple(rule for group in groups(Thresholds()) for rule in group.rules)
ALERTS = tuple(rule for rule in RULES if isinstance(rule, AlertRule))
# What our rules record.
RECORDED = frozenset(rule.name for rule in RULES if isinstance(rule, RecordingRule))
# Whose series a name of ours selects: those of a histogram have names of their own.
PUBLISHED = {
    f"{name}{suffix}": metric
    for name, metric in CATALOG.items()
    for suffix in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
}
KNOWN_METRICS = PUBLISHED.keys() | RECORDED | OF_TARGETS | FOREIGN_METRICS


class PanelQuery(NamedTuple):
    """A query, the title of its panel, its legend, and the labels of its series that links ask for."""

    panel: str
    expr: str
    instant: bool
    legend: str = ""
    linked: frozenset[str] = frozenset()


def panel_queries(dashboard: Json) -> Iterator[PanelQuery]:
    """Every query of every panel."""
    for panel in linter.panels(dashboard):
        for target in panel["targets"]:
            yield PanelQuery(
                panel["title"],
                target["expr"],
                target["instant"],
                target["legendFormat"],
                _linked(panel, target["refId"]),
            )


def _linked(panel: Json, letter: str) -> frozenset[str]:
    """The labels of series that the links on the query of this letter ask for.

    A query that has links of its own has not those of the panel. Overrides by name are of columns.
    """
    config = panel["fieldConfig"]
    own = [
        one["value"]
        for override in config["overrides"]
        if override["matcher"] == {"id": "byFrameRefID", "options": letter}
        for one in override["properties"]
        if one["id"] == "links"
    ]
    found = own[-1] if own else config["defaults"].get("links", [])
    texts = " ".join(f"{link['title']} {link['url']}" for link in found)
    return frozenset(re.findall(r"\$\{__field\.labels\.(\w+)", texts))


def variable(dashboard: Json, name: str) -> Json:
    """Raises StopIteration where it has none of this name."""
    found: Json = next(one for one in dashboard["templating"]["list"] if one["name"] == name)
    return found
