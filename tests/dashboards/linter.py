"""The 17 rules of Grafana's dashboard-linter: each takes a dashboard's JSON and yields what is wrong.

The rules and their names follow github.com/grafana/dashboard-linter at 4d0844b, with four differences. A job
or instance matcher must be the variable on our own metrics only: those of another exporter have a job and an
instance of their own, and any matcher will do. A series that rules record has no job: it must obey the run or
the instance. An empty list of value mappings does not stand in for a unit. LogQL has no parser in Python: its
two rules look at selectors, brackets and ranges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from grafanalib import formatunits
from promql_parser import Call, MatchOp, MatrixSelector

from tests.dashboards import promql

Json = dict[str, Any]

PANELS_WITH_DATA = {"stat", "singlestat", "graph", "table", "timeseries", "gauge"}
PANELS_WITH_QUERIES = {"singlestat", "gauge", "table", "stat", "state-timeline", "timeseries"}
PANELS_WITH_ONE_SOURCE = {"singlestat", "graph", "table", "timeseries"}
COUNTER_FUNCTIONS = {"rate", "irate", "increase"}
RELOAD_ON_TIME_CHANGE = 2
UNITS = {unit for name, unit in vars(formatunits).items() if name.isupper()}


class Finding(NamedTuple):
    rule: str
    place: str
    message: str


class Problem(NamedTuple):
    """What a rule finds, and where: the title of a panel or the name of a variable."""

    place: str
    message: str


class Subject(NamedTuple):
    """A dashboard's JSON, and the metrics on it that are not our own."""

    dashboard: Json
    foreign_metrics: Collection[str]

    @property
    def variables(self) -> list[Json]:
        variables: list[Json] = self.dashboard.get("templating", {}).get("list", [])
        return variables

    @property
    def query_variables(self) -> list[Json]:
        return [variable for variable in self.variables if variable["type"] == "query"]

    @property
    def datasources(self) -> list[Json]:
        return [variable for variable in self.variables if variable["type"] == "datasource"]

    @property
    def panels(self) -> list[Json]:
        return panels(self.dashboard)

    @property
    def reads_prometheus(self) -> bool:
        return bool(self.datasources) and self.datasources[0].get("query") == "prometheus"

    def queries(self) -> Iterator[tuple[Json, str]]:
        """Every panel that has PromQL, with each of its queries that parses."""
        if not self.reads_prometheus:
            return
        for panel in self.panels:
            for target in panel.get("targets", []):
                if parse_error(target["expr"]) is None:
                    yield panel, target["expr"]

    def log_queries(self) -> Iterator[tuple[str, str]]:
        """The title of every panel that has LogQL, with each of its queries."""
        all_loki = bool(self.datasources) and self.datasources[0].get("query") == "loki"
        for panel in self.panels:
            for target in panel.get("targets", []):
                loki = all_loki or target.get("datasource", {}).get("type") == "loki"
                if loki and not target.get("hide") and panel["type"] in PANELS_WITH_QUERIES:
                    yield panel["title"], target["expr"]


Rule = Callable[[Subject], Iterator[Problem]]


def panels(dashboard: Json) -> list[Json]:
    """The panels of a dashboard, those inside collapsed rows among them; no rows."""
    found: list[Json] = []
    for panel in dashboard["panels"]:
        found += panel.get("panels", []) if panel["type"] == "row" else [panel]
    return found


def parse_error(expr: str) -> str | None:
    """Why an expression is no PromQL; None when it is."""
    try:
        promql.parse(expr)
    except ValueError as error:
        return str(error)
    return None


def template_datasource(subject: Subject) -> Iterator[Problem]:
    """The data source is a variable, named and labelled as users expect."""
    if not subject.datasources:
        yield Problem("dashboard", "has no data source variable")
    only_one = len(subject.datasources) == 1
    for variable in subject.datasources:
        kind = variable["query"]
        names = {f"{kind}_datasource"} | ({"datasource"} if only_one else set())
        labels = {f"{kind.capitalize()} data source"} | ({"Data source"} if only_one else set())
        if variable["name"] not in names:
            yield Problem(variable["name"], f"is not named one of {sorted(names)}")
        if variable.get("label") not in labels:
            yield Problem(variable["name"], f"is not labelled one of {sorted(labels)}")


def template_job(subject: Subject) -> Iterator[Problem]:
    """There is a variable for the job."""
    yield from _variable_is_as_expected(subject, "job")


def template_instance(subject: Subject) -> Iterator[Problem]:
    """There is a variable for the instance."""
    yield from _variable_is_as_expected(subject, "instance")


def _variable_is_as_expected(subject: Subject, name: str) -> Iterator[Problem]:
    if not subject.reads_prometheus:
        return
    variable = next((one for one in subject.variables if one["name"] == name), None)
    if variable is None:
        yield Problem(name, "is missing")
        return
    if _datasource_uid(variable) not in {f"${{{one['name']}}}" for one in subject.datasources}:
        yield Problem(name, "does not use the data source variable")
    if variable["type"] != "query":
        yield Problem(name, "is not a query")
    if variable.get("label") != name.capitalize():
        yield Problem(name, f"is not labelled {name.capitalize()}")
    if not variable.get("multi"):
        yield Problem(name, "does not allow more than one choice")
    if variable.get("allValue") != ".+":
        yield Problem(name, "does not use .+ for All")


def template_label_promql(subject: Subject) -> Iterator[Problem]:
    """The queries of variables are calls that Grafana knows, with PromQL inside."""
    if not subject.reads_prometheus:
        return
    for variable in subject.query_variables:
        query = variable["query"]["query"]
        call = re.fullmatch(r"([a-z_]+)\((.+)\)", query)
        if call is None or call[1] not in {"label_names", "label_values", "metrics", "query_result"}:
            yield Problem(variable["name"], f"{query} is none of Grafana's functions")
            continue
        expr = call[2].rpartition(",")[0] if call[1] == "label_values" else call[2]
        error = parse_error(expr)
        if error:
            yield Problem(variable["name"], f"{query}: {error}")


def template_on_time_change_reload(subject: Subject) -> Iterator[Problem]:
    """Variables are read again when the time range changes."""
    for variable in subject.query_variables:
        if variable.get("refresh") != RELOAD_ON_TIME_CHANGE:
            yield Problem(variable["name"], "is not read again when the time range changes")


def panel_datasource(subject: Subject) -> Iterator[Problem]:
    """Panels use the data source variable."""
    names = {variable["name"] for variable in subject.datasources}
    allowed = {f"${name}" for name in names} | {f"${{{name}}}" for name in names}
    for panel in subject.panels:
        if panel["type"] in PANELS_WITH_ONE_SOURCE and _datasource_uid(panel) not in allowed:
            yield Problem(panel["title"], "does not use the data source variable")


def panel_title_description(subject: Subject) -> Iterator[Problem]:
    """Panels have a title and a description."""
    for panel in subject.panels:
        if panel["type"] in PANELS_WITH_DATA and not (panel.get("title") and panel.get("description")):
            yield Problem(panel.get("title", ""), "lacks its title or its description")


def panel_units(subject: Subject) -> Iterator[Problem]:
    """Panels have a unit that Grafana knows, unless mappings or a text field stand in for it."""
    for panel in subject.panels:
        if panel["type"] not in PANELS_WITH_DATA:
            continue
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        properties = [
            (one["id"], one["value"])
            for override in panel.get("fieldConfig", {}).get("overrides", [])
            for one in override["properties"]
        ]
        mappings = defaults.get("mappings") or [value for id, value in properties if id == "mappings"]
        text_field = panel["type"] == "stat" and panel["options"].get("reduceOptions", {}).get("fields")
        units = [defaults.get("unit", ""), *(value for id, value in properties if id == "unit")]
        if not mappings and not text_field and not UNITS.issuperset(units):
            yield Problem(panel["title"], f"has an unknown unit or none: {units}")


def panel_no_targets(subject: Subject) -> Iterator[Problem]:
    """Panels have queries."""
    for panel in subject.panels:
        if panel["type"] in PANELS_WITH_DATA and not panel.get("targets"):
            yield Problem(panel["title"], "has no query")


def target_logql(subject: Subject) -> Iterator[Problem]:
    """Loki queries select a stream, and their brackets close."""
    for place, expr in subject.log_queries():
        without_strings = re.sub(r'"(?:\\.|[^"\\])*"|`[^`]*`', "", expr)
        balanced = all(without_strings.count(a) == without_strings.count(b) for a, b in ("{}", "()", "[]"))
        if not (balanced and re.search(r"\{[^{}]+\}", expr)):
            yield Problem(place, f"{expr} is not LogQL")


def target_logql_auto(subject: Subject) -> Iterator[Problem]:
    """Loki queries use $__auto for ranges."""
    for place, expr in subject.log_queries():
        if re.search(r"\[\s*\d", expr):
            yield Problem(place, f"{expr} has a range that is not $__auto")


def target_promql(subject: Subject) -> Iterator[Problem]:
    """Queries are PromQL."""
    if not subject.reads_prometheus:
        return
    for panel in subject.panels:
        if panel["type"] not in PANELS_WITH_QUERIES:
            continue
        for target in panel.get("targets", []):
            error = parse_error(target["expr"])
            if error:
                yield Problem(panel["title"], f"{target['expr']}: {error}")


def target_rate_interval(subject: Subject) -> Iterator[Problem]:
    """Rates are over $__rate_interval, so that they suit the scrape interval and the zoom."""
    for panel, expr in subject.queries():
        if panel["type"] not in PANELS_WITH_QUERIES:
            continue
        for node in promql.matrix_selectors(expr):
            around = node.parents[-1] if node.parents else None
            rated = isinstance(around, Call) and around.func.name in {"rate", "irate"}
            if rated and node.expr.range.total_seconds() * 1000 != promql.RATE_INTERVAL_MS:
                yield Problem(panel["title"], f"{expr} does not use $__rate_interval")


def target_job(subject: Subject) -> Iterator[Problem]:
    """Every selector obeys the variable job."""
    yield from _selectors_obey(subject, "job")


def target_instance(subject: Subject) -> Iterator[Problem]:
    """Every selector obeys the variable instance."""
    yield from _selectors_obey(subject, "instance")


def _selectors_obey(subject: Subject, label: str) -> Iterator[Problem]:
    for panel, expr in subject.queries():
        for node in promql.vector_selectors(expr):
            recorded = ":" in (node.expr.name or "")
            chosen_by = {"run", "instance"} if recorded else {label}
            matchers = [one for one in node.expr.matchers.matchers if one.name in chosen_by]
            obeys = any(one.op == MatchOp.Re and one.value == f"${one.name}" for one in matchers)
            if not obeys and not (matchers and node.expr.name in subject.foreign_metrics):
                yield Problem(panel["title"], f'{node.expr.name} lacks {label}=~"${label}"')


def target_counter_agg(subject: Subject) -> Iterator[Problem]:
    """Counters are read through rate, irate or increase."""
    for panel, expr in subject.queries():
        for node in promql.vector_selectors(expr):
            if not (node.expr.name or "").endswith("_total"):
                continue
            match node.parents:
                case (*_, Call() as call, MatrixSelector()) if call.func.name in COUNTER_FUNCTIONS:
                    pass
                case _:
                    yield Problem(panel["title"], f"{node.expr.name} is read as if it were a gauge")


def uneditable_dashboard(subject: Subject) -> Iterator[Problem]:
    """Nobody edits in the browser what the next build overwrites."""
    if subject.dashboard.get("editable", True):
        yield Problem("dashboard", "is editable")


RULES: dict[str, Rule] = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": template_job,
    "template-instance-rule": template_instance,
    "template-label-promql-rule": template_label_promql,
    "template-on-time-change-reload-rule": template_on_time_change_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-logql-rule": target_logql,
    "target-logql-auto-rule": target_logql_auto,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": target_job,
    "target-instance-rule": target_instance,
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard": uneditable_dashboard,
}


def lint(dashboard: Json, foreign_metrics: Collection[str] = ()) -> list[Finding]:
    """All that the 17 rules find; `foreign_metrics` are those another exporter publishes."""
    subject = Subject(dashboard, foreign_metrics)
    return [Finding(name, *problem) for name, rule in RULES.items() for problem in rule(subject)]


def _datasource_uid(part: Json) -> str | None:
    datasource = part.get("datasource")
    uid: str | None = datasource.get("uid") if isinstance(datasource, dict) else datasource
    return uid
