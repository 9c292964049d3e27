from __future__ import annotations

import re

import pytest

from alerts import rank_gpus
from alerts.thresholds import Thresholds
from dashboards import foundation
from exporters.catalog import CATALOG
from tests.dashboards import linter, promql
from tests.dashboards.generated import CADVISOR, DASHBOARDS, panel_queries
from tests.dashboards.origin import CONTAINER_SELECTOR, QUERIES

FOUNDATION = DASHBOARDS[foundation.UID]


# What our rules record of it, for the GPUs of each rank.
RECORDED = {
    rank_gpus.UTILIZATION: "nvidia_gpu_utilization_percent",
    rank_gpus.MEMORY_USED: "nvidia_gpu_memory_used_bytes / nvidia_gpu_memory_total_bytes",
}


def without_our_selectors(expr: str) -> str:
    """A query as it was before selectors, recorded series and the zoom's interval were put in."""
    expr = re.sub(r"\{[^}]*\}", "", expr)
    expr = re.sub(r"max by \([^)]*\) \(([\w:]+)\)", r"\1", expr)
    for recorded, of in RECORDED.items():
        expr = expr.replace(recorded, of)
    return expr.replace("[$__rate_interval]", "[5m]")


@pytest.mark.parametrize("original", QUERIES)
def test_the_originals_query_is_on_a_panel(original: str) -> None:
    ours = [without_our_selectors(query.expr) for query in panel_queries(FOUNDATION)]
    assert any(re.search(rf"(?<![\w:]){re.escape(original)}(?![\w:[])", expr) for expr in ours)


@pytest.mark.parametrize("metric", sorted(CADVISOR))
def test_the_originals_container_metrics_are_on_a_panel_for_its_pods(metric: str) -> None:
    selectors = [
        node.expr
        for query in panel_queries(FOUNDATION)
        for node in promql.vector_selectors(query.expr)
        if node.expr.name == metric
    ]
    assert selectors
    for selector in selectors:
        assert CONTAINER_SELECTOR in {str(matcher) for matcher in selector.matchers.matchers}


def test_the_originals_own_metrics_are_still_published() -> None:
    assert {name for query in QUERIES for name in promql.metric_names(query)} <= CATALOG.keys()


def panel(title: str) -> linter.Json:
    return next(one for one in linter.panels(FOUNDATION) if one["title"] == title)


def test_the_loss_panel_shows_training_and_validation_apart() -> None:
    loss = panel("Loss")
    assert [target["legendFormat"] for target in loss["targets"]] == [
        "{{run}} training",
        "{{run}} validation",
    ]
    assert loss["fieldConfig"]["overrides"][0]["matcher"] == {"id": "byFrameRefID", "options": "B"}


def test_the_memory_panel_draws_the_line_at_which_the_alert_begins() -> None:
    defaults = panel("GPU memory")["fieldConfig"]["defaults"]
    assert defaults["custom"]["thresholdsStyle"]["mode"] == "line"
    assert defaults["thresholds"]["steps"][-1]["value"] == round(100 * Thresholds().gpu_memory_ratio)


def test_the_job_is_at_first_that_of_the_training_service() -> None:
    job = next(one for one in FOUNDATION["templating"]["list"] if one["name"] == "job")
    assert job["current"]["value"] == ["training-service"]


def test_the_variables_are_those_of_every_dashboard() -> None:
    names = [variable["name"] for variable in FOUNDATION["templating"]["list"]]
    assert names == ["datasource", "cluster", "job", "instance", "run"]
