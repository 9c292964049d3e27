"""Every query on every dashboard, asked of a real Prometheus that holds a recorded training."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.dashboards import promql, recorded_series, recorded_training
from tests.dashboards.generated import (
    DASHBOARDS,
    FOREIGN_METRICS,
    RECORDED,
    Json,
    PanelQuery,
    panel_queries,
)
from tests.dashboards.origin import QUERIES
from tests.prometheus import PrometheusServer, QueryError, Series
from trainvitals.child import ChildError

STEP_SECONDS = 60.0


class Recorded(NamedTuple):
    """A Prometheus, and the time of its last sample in unix seconds."""

    prometheus: PrometheusServer
    end: float

    def ask(self, query: PanelQuery, choices: dict[str, str]) -> list[Series]:
        """The query's series over the recording, or at its end, as Grafana would ask for them."""
        expr = promql.fill_in(query.expr, choices)
        if query.instant:
            return self.prometheus.query(expr, at=self.end)
        start = self.end - recorded_series.LENGTH_SECONDS + 600
        return self.prometheus.query_range(expr, start, self.end, STEP_SECONDS)


def first_choices(dashboard: Json) -> dict[str, str]:
    """What the variables stand for when the dashboard is opened."""
    choices = {"__rate_interval": "60s", "__interval": "15s", "__range": "2h"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            (value,) = variable["current"]["value"]
            choices[variable["name"]] = variable["allValue"] if value == "$__all" else value
    return choices


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    end = time.time() // 60 * 60
    server.create_blocks(recorded_series.openmetrics(recorded_training.series(), end))
    with server:
        yield Recorded(server, end)


QUERIES_ON_PANELS = [
    pytest.param(
        dashboard, query, id=f"{uid}: {query.panel}: {','.join(sorted(promql.metric_names(query.expr)))}"
    )
    for uid, dashboard in DASHBOARDS.items()
    for query in panel_queries(dashboard)
]


@pytest.mark.parametrize(("dashboard", "query"), QUERIES_ON_PANELS)
def test_a_panels_query_returns_data(dashboard: Json, query: PanelQuery, recorded: Recorded) -> None:
    series = recorded.ask(query, first_choices(dashboard))
    assert series
    assert all(one.points for one in series)


@pytest.mark.parametrize(("dashboard", "query"), QUERIES_ON_PANELS)
def test_a_job_that_does_not_exist_empties_our_panels(
    dashboard: Json, query: PanelQuery, recorded: Recorded
) -> None:
    """Those of others stay, and so do recorded series, which have no job; a panel may read some of each."""
    series = recorded.ask(query, first_choices(dashboard) | {"job": "none"})
    of_no_job = promql.metric_names(query.expr) & (FOREIGN_METRICS | RECORDED)
    if of_no_job in (set(), promql.metric_names(query.expr)):
        assert bool(series) == bool(of_no_job)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())
def test_choosing_a_run_leaves_that_run_only(dashboard: Json, recorded: Recorded) -> None:
    choices = first_choices(dashboard) | {"run": "tiny-chat"}
    answers = [recorded.ask(query, choices) for query in panel_queries(dashboard)]
    runs = {one.labels["run"] for series in answers for one in series if "run" in one.labels}
    assert runs == {"tiny-chat"}


def test_choosing_a_cluster_leaves_its_alerts_and_those_of_no_cluster(recorded: Recorded) -> None:
    dashboard = DASHBOARDS["trainvitals-alerts"]
    by_panel = {query.panel: query for query in panel_queries(dashboard)}
    choices = first_choices(dashboard) | {"cluster": "east"}
    [watchdog] = recorded.ask(by_panel["Whether the Watchdog fires"], choices)
    assert watchdog.points[-1][1] == 1
    fires = recorded.ask(by_panel["What fires now"], choices)
    assert {one.labels.get("cluster") for one in fires if one.labels["alertname"] == "GPULost"} == {"east"}
    assert "TrainingDataLoaderBound" in {one.labels["alertname"] for one in fires}


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())
def test_every_variable_finds_its_values(dashboard: Json, recorded: Recorded) -> None:
    found = {}
    for variable in dashboard["templating"]["list"]:
        query = variable["query"]
        if variable["type"] != "query":
            continue
        call = re.fullmatch(r"label_values\((.+), (\w+)\)", query["query"])
        assert call, query
        selector = promql.fill_in(call[1], first_choices(dashboard))
        window = {"start": f"{recorded.end - 3600:.0f}", "end": f"{recorded.end:.0f}"}
        found[variable["name"]] = recorded.prometheus.get(
            f"/api/v1/label/{call[2]}/values", **{"match[]": selector}, **window
        )
    assert found == {
        "cluster": ["east", "west"],
        "job": ["training-service"],
        "instance": ["gpu-node-1:8003"],
        "run": ["tiny-chat", "wayfarer-lora"],
    }


@pytest.mark.parametrize("query", QUERIES)
def test_the_original_dashboards_query_works_unmodified(query: str, recorded: Recorded) -> None:
    assert recorded.prometheus.query(query, at=recorded.end)


def test_the_pods_own_sums_are_not_counted_a_second_time(recorded: Recorded) -> None:
    dashboard = DASHBOARDS["trainvitals-foundation"]
    (cpu,) = [query for query in panel_queries(dashboard) if query.panel == "Container CPU"]
    (container,) = recorded.ask(cpu, first_choices(dashboard))
    assert container.points[-1][1] == pytest.approx(6.2, rel=0.05)


def test_a_restarted_container_is_one_line_while_its_predecessor_is_still_seen(recorded: Recorded) -> None:
    dashboard = DASHBOARDS["trainvitals-foundation"]
    (memory,) = [query for query in panel_queries(dashboard) if query.panel == "Container memory"]
    (container,) = recorded.ask(memory, first_choices(dashboard))
    assert container.points[-1][1] == pytest.approx(100 * 38 / 64)


def test_a_gpu_that_two_jobs_find_is_one_line_of_memory(recorded: Recorded) -> None:
    dashboard = DASHBOARDS["trainvitals-foundation"]
    (memory,) = [query for query in panel_queries(dashboard) if query.panel == "GPU memory"]
    gpus = recorded.ask(memory, first_choices(dashboard) | {"job": ".+"})
    assert [gpu.labels["gpu"] for gpu in gpus] == ["0", "1"]


def test_a_query_that_prometheus_refuses_is_an_error(recorded: Recorded) -> None:
    with pytest.raises(QueryError, match="parse error"):
        recorded.prometheus.query("sum(")


def test_a_prometheus_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildError, match="field scrapes not found"),
        PrometheusServer(tmp_path, "scrapes: 1\n"),
    ):
        pass
