"""Faults of queries that only a Prometheus knows, planted before a real one with two runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dashboards import links
from tests.dashboards import promql
from tests.dashboards.generated import DASHBOARDS, Json, PanelQuery
from tests.dashboards.proofs_asked import Ask, every_query_answers
from tests.prometheus import PrometheusServer, Series

PLACE = f"{links.FOUNDATION}: Loss"
TWO_RUNS = """\
# TYPE training_loss gauge
training_loss{{run="one"}} 1 {end}
training_loss{{run="two"}} 2 {end}
# EOF
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    end = time.time() // 60 * 60
    server.create_blocks(TWO_RUNS.format(end=end))

    def ask(dashboard: Json, query: PanelQuery) -> list[Series]:
        expr = promql.fill_in(query.expr, {"run": ".+", "__range": "1h"})
        if query.instant:
            return server.query(expr, at=end)
        return server.query_range(expr, end - 60, end, 15)

    with server:
        yield ask


def board(**query: Any) -> dict[str, Json]:
    """The first dashboard with one panel of one query, and without annotations."""
    dashboard = copy.deepcopy(DASHBOARDS[links.FOUNDATION])
    panel = next(one for one in dashboard["panels"] if one["title"] == "Loss")
    target = {
        "refId": "A",
        "expr": 'training_loss{run=~"$run"}',
        "legendFormat": "{{run}}",
        "instant": False,
        **query,
    }
    dashboard["panels"] = [panel | {"targets": [target]}]
    dashboard["annotations"] = {"list": []}
    return {links.FOUNDATION: dashboard}


def problems(dashboards: dict[str, Json], ask: Ask) -> list[tuple[str, str]]:
    return [(place, message) for place, message in every_query_answers(dashboards, {"two runs": ask})]


@pytest.mark.parametrize("instant", [True, False])
def test_a_query_that_shows_two_runs_is_well(ask: Ask, instant: bool) -> None:
    assert problems(board(instant=instant), ask) == []


@pytest.mark.parametrize("instant", [True, False])
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"expr": "training_loss / on (job) training_loss"}, "many-to-many matching not allowed"),
        ({"expr": "rate(training_loss)"}, "expected type range vector"),
        ({"expr": "max(training_loss) by (run"}, "parse error"),
        ({"expr": "training_lost"}, "shows nothing in any scenario: training_lost"),
        ({"expr": "training_loss > 2"}, "shows nothing in any scenario"),
        ({"legendFormat": "{{run}} rank {{rank}}"}, "shows the label rank, which no series of it has"),
        ({"expr": "max(training_loss)"}, "shows the label run, which no series of it has"),
        ({"expr": "count(training_loss > 2) or vector(0)"}, "shows nothing in any scenario"),
        ({"expr": "max(training_loss > 2) or on () vector(0)"}, "shows nothing in any scenario"),
        ({"expr": "max(training_loss)", "legendFormat": ""}, "links by the label run, which no series"),
    ],
)
def test_a_planted_fault_is_found(ask: Ask, instant: bool, query: dict[str, str], message: str) -> None:
    place, found = problems(board(instant=instant, **query), ask)[0]
    assert place == PLACE
    assert message in found


def test_the_query_of_an_annotation_is_asked_too(ask: Ask) -> None:
    dashboards = board()
    annotation = {"name": "Alerts", "expr": "ALARMS", "titleFormat": "{{alertname}}", "textFormat": ""}
    dashboards[links.FOUNDATION]["annotations"]["list"] = [annotation]
    [(place, message)] = problems(dashboards, ask)
    assert place == f"{links.FOUNDATION}: annotation Alerts"
    assert message == "shows nothing in any scenario: ALARMS"


def test_one_scenario_with_data_is_enough(ask: Ask) -> None:
    scenarios: dict[str, Ask] = {"nobody trains": lambda dashboard, query: [], "two runs": ask}
    assert list(every_query_answers(board(), scenarios)) == []
