from __future__ import annotations

import re

import pytest

from alerts.thresholds import Thresholds
from dashboards import colors, gpus
from dashboards.grafana.panels import Json
from exporters.catalog import CATALOG
from exporters.gpu.simulated import THROTTLE_REASONS
from tests.dashboards import linter, promql


def panels(thresholds: Thresholds | None = None) -> list[Json]:
    return linter.panels(gpus.dashboard(thresholds or Thresholds()).to_json_data())


def panel(title: str, thresholds: Thresholds | None = None) -> Json:
    return next(each for each in panels(thresholds) if each["title"] == title)


def test_every_metric_of_a_gpu_and_of_a_mig_instance_is_on_a_panel() -> None:
    shown = {
        name
        for each in panels()
        for target in each["targets"]
        for name in promql.metric_names(target["expr"])
    }
    of_gpus = {name for name, metric in CATALOG.items() if metric.scope in ("gpu", "mig")}
    assert of_gpus - shown == set()


def test_every_panel_shows_the_gpus_of_the_chosen_run() -> None:
    # An alert of a GPU or a node has no run.
    without = [
        each["title"]
        for each in panels()
        for target in each["targets"]
        if 'run=~"$run"' not in target["expr"] and each["title"] != "Alerts"
    ]
    assert without == []


def test_all_runs_are_with_the_gpus_that_no_run_is_on() -> None:
    variables = {
        each["name"]: each for each in gpus.dashboard(Thresholds()).to_json_data()["templating"]["list"]
    }
    assert re.fullmatch(variables["run"]["allValue"], "")


def test_it_opens_on_one_instance_below_the_heat_of_every_node() -> None:
    document = gpus.dashboard(Thresholds()).to_json_data()
    [instance] = [each for each in document["templating"]["list"] if each["name"] == "instance"]
    assert (instance["multi"], instance["includeAll"], instance["current"]) == (True, False, {})
    first, *_ = panels()
    assert first["title"] == "Utilization by node"
    assert "$instance" not in first["targets"][0]["expr"]


def linked_series(title: str) -> list[str]:
    """The queries of a panel whose series have links of their own."""
    each = panel(title)
    assert each["fieldConfig"]["defaults"]["links"] == []
    return [
        override["matcher"]["options"]
        for override in each["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "links"
    ]


@pytest.mark.parametrize("title", ["Chip temperature", "SM clock"])
def test_a_limit_is_no_gpu_to_go_to(title: str) -> None:
    assert linked_series(title) == ["A"]


@pytest.mark.parametrize("kind", ["timeseries", "state-timeline", "heatmap", "bargauge"])
def test_no_panel_draws_every_gpu_of_a_large_fleet(kind: str) -> None:
    for each in panels():
        for target in each["targets"] if each["type"] == kind else []:
            # XID errors are few, and each of them counts.
            if "{{gpu}}" in target["legendFormat"] and "{{xid}}" not in target["legendFormat"]:
                assert re.search(r"(top|bottom)k\(\d+, ", target["expr"]), each["title"]


def test_gpus_with_alerts_stand_first() -> None:
    assert panel("Health of each GPU")["options"]["sortBy"] == [{"displayName": "Alerts", "desc": True}]


def test_every_reason_for_which_clocks_are_held_down_has_a_colour() -> None:
    assert {*THROTTLE_REASONS, "thermal"} == colors.THROTTLING.keys()


def test_an_xid_is_shown_for_as_long_as_it_pages() -> None:
    [target] = panel("XID errors", Thresholds(xid_page_seconds=1200))["targets"]
    assert "< 1200 + $__interval_ms / 1000" in target["expr"]


def test_memory_has_its_line_where_the_alert_begins() -> None:
    steps = panel("Memory in use", Thresholds(gpu_memory_ratio=0.8))["fieldConfig"]["defaults"]["thresholds"]
    assert steps["steps"][-1] == {"color": colors.BAD, "value": 0.8}


def test_a_lost_gpu_turns_its_figure_red_and_no_other() -> None:
    figures = panel("GPUs")
    assert [target["legendFormat"] for target in figures["targets"]] == ["answer", "in use", "lost"]
    [override] = figures["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == "C"
    assert override["properties"][0]["value"]["steps"][-1] == {"color": colors.BAD, "value": 1}
