"""What holds for the queries of our dashboards: the metrics and labels they name are those there are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from promql_parser import Call

from alerts.rules import ALERTS_DASHBOARD
from dashboards import links
from dashboards.events import ALERTS, ALERTS_FOR_STATE
from exporters.catalog import CATALOG
from tests.dashboards import generated, linter, promql
from tests.dashboards.generated import FOREIGN_METRICS, KNOWN_METRICS, PUBLISHED, RECORDED, Json
from tests.dashboards.linter import Problem
from tests.dashboards.proofs import Dashboards, Proof, all_panels

TARGET_LABELS = {"cluster", "job", "instance", "namespace", "pod", "container"}
# What the levels of recorded series keep, beside the labels of targets.
LABELS_OF_LEVEL = {
    "run": {"run", "phase"},
    "run_attempt": {"run", "start"},
    "run_gpu": {"run", "gpu", "uuid"},
    "rank_gpu": {"instance", "run", "rank", "gpu", "uuid"},
    "rank": {"run", "rank"},
    "gpu": {"gpu", "uuid"},
    "gpu_xid": {"gpu", "uuid", "xid"},
    "node": {"instance", "le", "reason"},
}
# Grafana's names of the columns that are no label.
VALUE_COLUMN = re.compile(r"Time|Value( #[A-Z])?")


def queries(dashboards: Dashboards) -> Iterator[tuple[str, str]]:
    """Every query of a panel or of an annotation, with its place."""
    for place, panel in all_panels(dashboards):
        for target in panel["targets"]:
            yield place, target["expr"]
    for uid, dashboard in dashboards.items():
        for annotation in dashboard["annotations"]["list"]:
            yield f"{uid}: annotation {annotation['name']}", annotation["expr"]


def parsed(dashboards: Dashboards) -> Iterator[tuple[str, str]]:
    """Those that are PromQL."""
    return (each for each in queries(dashboards) if linter.parse_error(each[1]) is None)


def are_promql(dashboards: Dashboards) -> Iterator[Problem]:
    """Every query is PromQL."""
    for place, expr in queries(dashboards):
        error = linter.parse_error(expr)
        if error:
            yield Problem(place, f"{expr}: {error}")


def metrics_exist(dashboards: Dashboards) -> Iterator[Problem]:
    """Every metric is of the catalog, recorded by our rules, or another exporter's that we know."""
    for place, expr in parsed(dashboards):
        for name in sorted(promql.metric_names(expr) - KNOWN_METRICS):
            yield Problem(place, f"there is no metric {name}")


def labels_exist(dashboards: Dashboards) -> Iterator[Problem]:
    """Every label in a legend, a link or a column is one that the panel's metrics have."""
    for place, panel in all_panels(dashboards):
        exprs = [each["expr"] for each in panel["targets"] if linter.parse_error(each["expr"]) is None]
        named = {label for target in panel["targets"] for label in _in_braces(target["legendFormat"])}
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            named |= set(re.findall(r"\$\{__field\.labels\.(\w+)\}", link["url"] + link["title"]))
        for step in panel.get("transformations", []):
            if step["id"] == "filterFieldsByName":
                columns = step["options"]["include"]["names"]
                named |= {column for column in columns if not VALUE_COLUMN.fullmatch(column)}
        there = [_labels_of_query(expr) for expr in exprs]
        if None not in there:
            for label in sorted(named - set().union(*(labels for labels in there if labels is not None))):
                yield Problem(place, f"no metric of it has the label {label}")


def _in_braces(template: str) -> set[str]:
    return set(re.findall(r"\{\{\s*(\w+)\s*\}\}", template))


def _labels_of_query(expr: str) -> set[str] | None:
    """What its series may have; None where nobody knows: of another exporter, or of facts of a run."""
    labels = promql.made_labels(expr)
    for name in promql.metric_names(expr):
        metric = PUBLISHED.get(name)
        if name in FOREIGN_METRICS or (metric is not None and metric.kind == "info"):
            return None
        if ":" in name:
            labels |= LABELS_OF_LEVEL.get(name.partition(":")[0], set())
        elif metric is not None:
            labels |= set(metric.labels)
        if name.endswith("_bucket"):
            labels.add("le")
    return labels | TARGET_LABELS


def every_metric_is_shown(dashboards: Dashboards) -> Iterator[Problem]:
    """Every metric of the catalog is on a panel, itself and not only in what rules make of it."""
    exprs = {target["expr"] for _, panel in all_panels(dashboards) for target in panel["targets"]}
    good = {expr for expr in exprs if linter.parse_error(expr) is None}
    read = set().union(*(promql.metric_names(expr) for expr in good))
    shown = {PUBLISHED[name].name for name in read & PUBLISHED.keys()}
    for name in sorted(CATALOG.keys() - shown):
        yield Problem(name, "is on no panel")


def every_alert_has_a_panel(dashboards: Dashboards) -> Iterator[Problem]:
    """The panel that an alert's link opens is there, once."""
    dashboard: Json | None = dashboards.get(ALERTS_DASHBOARD)
    there = [panel["id"] for panel in linter.panels(dashboard)] if dashboard else []
    for alert in generated.ALERTS:
        if there.count(alert.panel) != 1:
            yield Problem(alert.name, "does not have one panel")


def the_fleet_reads_what_is_recorded(dashboards: Dashboards) -> Iterator[Problem]:
    """The dashboard of all runs reads recorded series and alerts alone: a thousand GPUs are no wait."""
    allowed = RECORDED | {ALERTS, ALERTS_FOR_STATE}
    fleet = {uid: dashboard for uid, dashboard in dashboards.items() if uid == links.FLEET}
    for place, panel in all_panels(fleet):
        for target in panel["targets"]:
            if linter.parse_error(target["expr"]) is None:
                for name in sorted(promql.metric_names(target["expr"]) - allowed):
                    yield Problem(place, f"reads {name}, which is not recorded")


def rates_suit_the_zoom(dashboards: Dashboards) -> Iterator[Problem]:
    """Rates are over $__rate_interval, on those kinds of panels too that the linter's rule leaves out."""
    for place, expr in parsed(dashboards):
        for node in promql.matrix_selectors(expr):
            around = node.parents[-1] if node.parents else None
            rated = isinstance(around, Call) and around.func.name in {"rate", "irate"}
            if rated and node.expr.range.total_seconds() * 1000 != promql.RATE_INTERVAL_MS:
                yield Problem(place, f"{expr} is a rate over a time of its own")


def overrides_find_their_field(dashboards: Dashboards) -> Iterator[Problem]:
    """What is said of a query or a column is said of one there is; no two queries have one letter."""
    for place, panel in all_panels(dashboards):
        letters = [target["refId"] for target in panel["targets"]]
        if len(set(letters)) < len(letters):
            yield Problem(place, f"has the queries {letters}")
        for override in panel["fieldConfig"]["overrides"]:
            matcher, named = override["matcher"]["id"], override["matcher"]["options"]
            if matcher == "byFrameRefID" and named not in letters:
                yield Problem(place, f"says something of the query {named}, which is not there")
            if matcher == "byName" and panel["type"] == "table" and named not in _titles(panel):
                yield Problem(place, f"says something of the column {named}, which is not there")


def _titles(table: Json) -> set[str]:
    steps = [step for step in table["transformations"] if step["id"] == "organize"]
    return {title for step in steps for title in step["options"]["renameByName"].values()}


PROOFS: dict[str, Proof] = {
    "queries are PromQL": are_promql,
    "metrics exist": metrics_exist,
    "labels exist": labels_exist,
    "every metric is shown": every_metric_is_shown,
    "every alert has a panel": every_alert_has_a_panel,
    "the fleet reads what is recorded": the_fleet_reads_what_is_recorded,
    "rates suit the zoom": rates_suit_the_zoom,
    "overrides find their field": overrides_find_their_field,
}
