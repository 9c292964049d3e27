"""What holds for the queries of our dashboards when a Prometheus is asked: they work, and show something."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from tests.dashboards.generated import Json, PanelQuery, panel_queries
from tests.dashboards.linter import Problem
from tests.dashboards.proofs import Dashboards
from tests.prometheus import QueryError, Series

# What a query is worth where there is nothing, so that its panel shows a 0: it is no data.
_ELSE_ZERO = re.compile(r" or (on \(\) )?vector\(0\)$")

# Asks a query of a dashboard as Grafana would, with its variables filled in; raises QueryError.
Ask = Callable[[Json, PanelQuery], list[Series]]


def questions(dashboard: Json) -> Iterator[PanelQuery]:
    """The queries of its panels and of its annotations."""
    yield from panel_queries(dashboard)
    for annotation in dashboard["annotations"]["list"]:
        legend = f"{annotation['titleFormat']} {annotation['textFormat']}"
        yield PanelQuery(f"annotation {annotation['name']}", annotation["expr"], False, legend)


def every_query_answers(dashboards: Dashboards, scenarios: Mapping[str, Ask]) -> Iterator[Problem]:
    """No query fails in a scenario, each has data in one, and there all labels that legend and links show."""
    for uid, dashboard in dashboards.items():
        for query in questions(dashboard):
            place = f"{uid}: {query.panel}"
            series: list[Series] = []
            for name, ask in scenarios.items():
                try:
                    series += ask(dashboard, query._replace(expr=_ELSE_ZERO.sub("", query.expr)))
                except QueryError as error:
                    yield Problem(place, f"fails in the scenario {name}: {error}")
            with_data = [one for one in series if one.points]
            if not with_data:
                yield Problem(place, f"shows nothing in any scenario: {query.expr}")
                continue
            # A label that is there only where Prometheus is told to add it.
            shown = {"cluster"}.union(*(one.labels for one in with_data))
            for label in sorted(set(re.findall(r"\{\{\s*(\w+)\s*\}\}", query.legend)) - shown):
                yield Problem(place, f"shows the label {label}, which no series of it has: {query.expr}")
            for label in sorted(query.linked - shown):
                yield Problem(place, f"links by the label {label}, which no series of it has: {query.expr}")
