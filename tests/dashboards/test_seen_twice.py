"""What is in a Prometheus twice is shown once: sums of a pod, a restarted container, what two jobs scrape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from dashboards import links
from exporters import catalog
from exporters.catalog import Metric
from tests.dashboards import promql, recorded_series, recorded_training
from tests.dashboards.generated import DASHBOARDS, panel_queries
from tests.prometheus import PrometheusServer, Series

CHOICES = {
    # As Grafana fills in the choice of one where no series has the label.
    "cluster": "",
    "job": ".+",
    "instance": ".+",
    "run": "wayfarer-lora",
    "__rate_interval": "60s",
}


class Shown(NamedTuple):
    """Panels at the end of the recording."""

    server: PrometheusServer
    end: float

    def __call__(
        self, title: str, metric: str = "", uid: str = links.FOUNDATION, **choices: str
    ) -> list[Series]:
        """What all queries of a panel show, or those that read a metric."""
        return [
            one
            for query in panel_queries(DASHBOARDS[uid])
            if query.panel == title and metric in query.expr
            for one in self.server.query(promql.fill_in(query.expr, CHOICES | choices), at=self.end)
        ]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    end = time.time() // 60 * 60
    server.create_blocks(recorded_series.openmetrics(recorded_training.series(), end))
    with server:
        yield Shown(server, end)


def test_the_pods_own_sums_are_not_counted_a_second_time(shown: Shown) -> None:
    (container,) = shown("Container CPU")
    assert container.points[-1][1] == pytest.approx(6.2, rel=0.05)


def test_a_restarted_container_is_one_line_while_its_predecessor_is_still_seen(
    shown: Shown,
) -> None:
    (container,) = shown("Container memory")
    assert container.points[-1][1] == pytest.approx(100 * 38 / 64)


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("Epoch", 1),
        ("Loss", 2),
        ("Accuracy and perplexity", 2),
        ("Micro-batches per second", 2),
        ("Data loading and preprocessing", 2),
    ],
)
def test_a_run_that_two_jobs_find_is_one_line(title: str, lines: int, shown: Shown) -> None:
    assert len(shown(title)) == lines


@pytest.mark.parametrize(
    ("title", "metric", "value"),
    [
        ("Services, a row a node", catalog.COLLECTOR_SUCCESS, 1),
        ("Services, a row a node", catalog.RECORDINGS_SKIPPED, 2),
        ("Services, a row a node", catalog.RUNS_PUBLISHED, 2),
        ("Runs published", catalog.RUNS_PUBLISHED, 2),
        ("History: steps", catalog.HISTORY_STEPS_TOTAL, 3),
        ("History: steps", catalog.HISTORY_LOST_STEPS_TOTAL, 1),
        ("History: steps", catalog.HISTORY_FAILING_RECORDINGS, 1),
    ],
)
def test_a_service_that_two_jobs_scrape_counts_once(
    title: str, metric: Metric, value: float, shown: Shown
) -> None:
    [one] = shown(title, metric.name, links.ALERTS)
    assert one.points[-1][1] == pytest.approx(value)


@pytest.mark.parametrize("cluster", ["", ".*"])
def test_without_the_label_cluster_what_grafana_fills_in_for_none_or_for_all_shows_everything(
    cluster: str, shown: Shown
) -> None:
    assert shown("Epoch", cluster=cluster)
