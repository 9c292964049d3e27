from __future__ import annotations

from exporters import metrics_page
from exporters.catalog import CATALOG


def test_every_metric_is_on_the_page_once_and_says_where_it_comes_from() -> None:
    lines = metrics_page.page().splitlines()

    for metric in CATALOG.values():
        (row,) = (line for line in lines if line.startswith(f"| `{metric.name}` |"))
        assert metric.source, metric.name
        assert f"| {metric.source} |" in row
        assert all(f"`{label}`" in row for label in metric.labels)


def test_the_page_in_the_repository_is_current() -> None:
    assert metrics_page.main(["--check"]) == 0
