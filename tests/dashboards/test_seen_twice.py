"""What is in a Prometheus twice is shown once: sums of a pod, a restarted container, a GPU of two jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from dashboards import links
from tests.dashboards import promql, recorded_series, recorded_training
from tests.dashboards.generated import DASHBOARDS, panel_queries
from tests.prometheus import PrometheusServer, Series

CHOICES = {
    "cluster": ".*",
    "job": ".+",
    "instance": ".+",
    "run": ".+",
    "__rate_interval": "60s",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Series]]]:
    """What a panel of the foundation dashboard shows at the end of the recording."""
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    end = time.time() // 60 * 60
    server.create_blocks(recorded_series.openmetrics(recorded_training.series(), end))

    def shown(title: str) -> list[Series]:
        (query,) = [one for one in panel_queries(DASHBOARDS[links.FOUNDATION]) if one.panel == title]
        return server.query(promql.fill_in(query.expr, CHOICES), at=end)

    with server:
        yield shown


def test_the_pods_own_sums_are_not_counted_a_second_time(shown: Callable[[str], list[Series]]) -> None:
    (container,) = shown("Container CPU")
    assert container.points[-1][1] == pytest.approx(6.2, rel=0.05)


def test_a_restarted_container_is_one_line_while_its_predecessor_is_still_seen(
    shown: Callable[[str], list[Series]],
) -> None:
    (container,) = shown("Container memory")
    assert container.points[-1][1] == pytest.approx(100 * 38 / 64)


def test_a_gpu_that_two_jobs_find_is_one_line_of_memory(shown: Callable[[str], list[Series]]) -> None:
    assert [gpu.labels["gpu"] for gpu in shown("GPU memory")] == ["0", "1"]
