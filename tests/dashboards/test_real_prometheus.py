"""Every query on every dashboard, asked of a real Prometheus that holds the recorded scenarios."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from dashboards import links
from tests.dashboards import promql
from tests.dashboards.generated import DASHBOARDS, Json, PanelQuery, panel_queries, variable
from tests.dashboards.origin import QUERIES
from tests.dashboards.proofs_asked import Ask, every_query_answers, questions
from tests.prometheus import PrometheusServer, QueryError, Series
from tests.trainvitals.scenarios.shared import scenarios_directory
from trainvitals.child import ChildError
from trainvitals.scenarios.served import Scenarios, serve_scenarios

RUNS = {
    "healthy": "wayfarer-lora",
    "eight ranks with a straggler": "atlas-pretrain-7b",
    "restarted": "harvest-sft",
    "killed": "lantern-dpo",
    "stalled": "quarry-embeddings",
    "failed": "kestrel-classifier",
    "without GPUs": "meridian-reranker",
}
# It is in the cluster west too, on the last of the instances there.
IN_TWO_CLUSTERS = RUNS["failed"]
WEST = ("node-i:8003", "node-i:9100", "node-k:8003", "node-k:9100")
# Where a dashboard of one cluster or of one run is opened in these tests, for the first of all is in none.
FIRST = {"cluster": "east", "instance": ".+", "run": RUNS["healthy"]}
# They read what rules record, which has no job, and what of theirs is of jobs is alerts, shown for any job.
READ_NOTHING_OF_JOBS = {links.FLEET, links.GOODPUT}


class Recorded(NamedTuple):
    """The scenarios, and a way to ask for them."""

    served: Scenarios
    prometheus: PrometheusServer

    def ask(self, dashboard: Json, query: PanelQuery, **choices: str) -> list[Series]:
        """The query's series over the recording, or at its end, as Grafana would ask for them."""
        expr = promql.fill_in(query.expr, self.first_choices(dashboard) | choices)
        if query.instant:
            return self.prometheus.query(expr, at=self.served.end)
        # On a whole number of scrapes, as a panel of a usual width would.
        return self.prometheus.query_range(
            expr, self.served.start, self.served.end, round(3 * self.served.step)
        )

    def first_choices(self, dashboard: Json) -> dict[str, str]:
        """What the variables stand for when the dashboard is opened."""
        seconds = self.served.end - self.served.start
        choices = {
            "__rate_interval": f"{4 * self.served.step:g}s",
            "__interval": f"{3 * self.served.step:g}s",
            "__interval_ms": f"{3000 * self.served.step:g}",
            "__range": f"{seconds:.0f}s",
            "__range_s": f"{seconds:.0f}",
        }
        for one in dashboard["templating"]["list"]:
            if one["type"] == "query":
                name = one["name"]
                value = one["current"]["value"][0] if one["current"] else FIRST[name]
                choices[name] = one["allValue"] if value == "$__all" else value
        return choices


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with serve_scenarios(scenarios_directory(tmp_path_factory)) as served:
        server = PrometheusServer(tmp_path_factory.mktemp("unused"))
        server.url = served.url
        yield Recorded(served, server)


def chooses_one(dashboard: Json, name: str) -> bool:
    return not variable(dashboard, name)["multi"]


def scenarios_of(dashboard: Json, recorded: Recorded) -> Mapping[str, Ask]:
    """One that opens on a run is asked for each, others for all at once, in each cluster or in all."""

    def of(**choices: str) -> Ask:
        return lambda dashboard, query: recorded.ask(dashboard, query, **choices)

    if not variable(dashboard, "run")["includeAll"]:
        return {name: of(run=run) for name, run in RUNS.items()}
    if chooses_one(dashboard, "cluster"):
        return {cluster: of(cluster=cluster) for cluster in ("east", "west")}
    return {"all": of()}


every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


@every_dashboard
def test_every_query_works_and_shows_something(dashboard: Json, recorded: Recorded) -> None:
    asked = every_query_answers({dashboard["uid"]: dashboard}, scenarios_of(dashboard, recorded))
    assert [f"{place} {message}" for place, message in asked] == []


@every_dashboard
def test_choosing_a_run_leaves_that_run_only(dashboard: Json, recorded: Recorded) -> None:
    answers = [recorded.ask(dashboard, query, run="tiny-chat-lr3e-4") for query in questions(dashboard)]
    runs = {one.labels["run"] for series in answers for one in series if one.labels.get("run")}
    assert runs == {"tiny-chat-lr3e-4"}


@pytest.mark.parametrize("uid", sorted(DASHBOARDS.keys() - READ_NOTHING_OF_JOBS))
def test_a_job_that_does_not_exist_leaves_nothing_that_our_services_publish(
    uid: str, recorded: Recorded
) -> None:
    of_jobs = [query for query in panel_queries(DASHBOARDS[uid]) if obeys_the_job(query)]
    assert of_jobs
    for query in of_jobs:
        assert recorded.ask(DASHBOARDS[uid], query, job="none") == [], query.panel


@pytest.mark.parametrize("uid", sorted(READ_NOTHING_OF_JOBS))
def test_dashboards_that_read_nothing_of_jobs_are_named_rightly(uid: str) -> None:
    assert not any(obeys_the_job(query) for query in panel_queries(DASHBOARDS[uid]))


def obeys_the_job(query: PanelQuery) -> bool:
    """Whether all that it reads is of the chosen jobs, and it shows nothing where there is none."""
    selectors = [node.expr for node in promql.vector_selectors(query.expr)]
    of_jobs = all(any(one.value == "$job" for one in each.matchers.matchers) for each in selectors)
    return of_jobs and "vector(0)" not in query.expr


def test_choosing_a_cluster_leaves_its_alerts_and_those_of_no_cluster(recorded: Recorded) -> None:
    dashboard = DASHBOARDS[links.ALERTS]
    by_panel = {query.panel: query for query in panel_queries(dashboard)}
    for cluster in ("east", "west"):
        fires = recorded.ask(dashboard, by_panel["What fires now"], cluster=cluster)
        assert {one.labels.get("cluster") for one in fires} == {cluster}
        # It judges no series, so that it is in no cluster.
        [watchdog] = recorded.ask(dashboard, by_panel["Watchdog"], cluster=cluster)
        assert {value for _, value in watchdog.points} == {1}


@every_dashboard
def test_runs_of_one_name_in_two_clusters_are_kept_apart(dashboard: Json, recorded: Recorded) -> None:
    seen_in_both = 0
    for query in questions(dashboard):
        west, east, both = (
            recorded.ask(dashboard, query, run=IN_TWO_CLUSTERS, cluster=cluster)
            for cluster in ("west", "east", ".*")
        )
        if "ALERTS" in query.expr:  # those of no cluster are shown with each
            continue
        seen_in_both += bool(west and east)
        assert {place(one) for one in west} <= {"west", None}, query
        assert {place(one) for one in east} <= {"east", None}, query
        of_west, of_east = by_labels(west), by_labels(east)
        if of_west.keys() & of_east.keys() or "topk" in query.expr or "bottomk" in query.expr:
            continue  # one figure of both, or the first few of all
        each = of_west | of_east
        assert by_labels(both).keys() == each.keys(), query
        for labels, points in by_labels(both).items():
            # A sum's last digit goes by the order in which Prometheus adds up.
            assert points == pytest.approx(each[labels], rel=1e-9, nan_ok=True), query
    assert seen_in_both > 3


def place(series: Series) -> str | None:
    """Where it comes from; None where its labels do not tell."""
    cluster, instance = series.labels.get("cluster"), series.labels.get("instance")
    if cluster is None and instance is None:
        return None
    return "west" if cluster == "west" or instance in WEST else "east"


def by_labels(series: list[Series]) -> dict[frozenset[tuple[str, str]], dict[float, float]]:
    """The points of each series, its values by their times."""
    return {frozenset(one.labels.items()): dict(one.points) for one in series if one.points}


@every_dashboard
def test_every_variable_finds_its_values(dashboard: Json, recorded: Recorded) -> None:
    of_east = chooses_one(dashboard, "cluster")
    expected = {
        "cluster": {"east", "west"},
        "job": {"training-service"},
        "instance": {f"node-{letter}:8003" for letter in "abcdefghijk"} - {*(WEST if of_east else ())},
        "run": {*RUNS.values(), "tiny-chat-lr1e-4", "tiny-chat-lr3e-4"},
        "gpu": {"0", "1", "2", "3"},
        "rank": {"0", "1"},
    }
    for one in dashboard["templating"]["list"]:
        if one["type"] != "query":
            continue
        query = one["query"]["query"]
        call = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert call, query
        found = recorded.prometheus.get(
            f"/api/v1/label/{call[2]}/values",
            **{"match[]": promql.fill_in(call[1], recorded.first_choices(dashboard))},
            start=f"{recorded.served.start:.0f}",
            end=f"{recorded.served.end:.0f}",
        )
        assert set(found) == expected[one["name"]], one["name"]


@pytest.mark.parametrize("query", QUERIES)
def test_the_original_dashboards_query_works_unmodified(query: str, recorded: Recorded) -> None:
    assert recorded.prometheus.query(query, at=recorded.served.end)


def test_a_query_that_prometheus_refuses_is_an_error(recorded: Recorded) -> None:
    with pytest.raises(QueryError, match="parse error"):
        recorded.prometheus.query("sum(")


def test_a_prometheus_that_cannot_start_says_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        pytest.raises(ChildError, match="field scrapes not found"),
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(PrometheusServer(tmp_path_factory.mktemp("wrong"), "scrapes: 1\n"))
