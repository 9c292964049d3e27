from __future__ import annotations

import re
from types import ModuleType

import pytest

from alerts.thresholds import Thresholds
from dashboards import colors, ranks, run
from dashboards.grafana.dashboard import Dashboard
from dashboards.grafana.panels import Json
from dashboards.queries import order, top
from exporters.catalog import CATALOG
from tests.dashboards import linter, promql
from trainer_hooks.recording import PHASES


def panels(dashboard: Dashboard) -> list[Json]:
    return linter.panels(dashboard.to_json_data())


def panel(title: str, thresholds: Thresholds | None = None) -> Json:
    document = ranks.dashboard(thresholds or Thresholds())
    return next(each for each in panels(document) if each["title"] == title)


def test_every_metric_of_a_rank_is_shown_here_or_for_its_run() -> None:
    shown = {
        name
        for dashboard in (ranks.dashboard(Thresholds()), run.dashboard(Thresholds()))
        for each in panels(dashboard)
        for target in each["targets"]
        for name in promql.metric_names(target["expr"])
    }
    assert {name for name, metric in CATALOG.items() if metric.scope == "rank"} - shown == set()


def test_a_straggler_is_red_where_its_alert_begins() -> None:
    thresholds = Thresholds(straggler_excess_ratio=0.4)
    steps = panel("Slowest rank", thresholds)["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[-1] == {"color": colors.BAD, "value": 1.4}


def test_the_median_is_that_of_all_ranks_whichever_are_chosen() -> None:
    [target] = panel("Forward time beside the median, by rank")["targets"]
    read = {
        str(node.expr)
        for node in promql.vector_selectors(target["expr"])
        if node.expr.name.startswith("rank:training_forward")
    }
    [chosen] = [each for each in read if 'rank=~"$rank"' in each]
    [of_median] = read - {chosen}
    assert "rank=" not in of_median


def test_every_phase_has_its_word_and_its_colour() -> None:
    [mapping] = panel("Phase each rank is in")["fieldConfig"]["defaults"]["mappings"]
    assert {text["text"]: text["color"] for text in mapping["options"].values()} == dict(colors.PHASES)
    assert colors.PHASES.keys() == set(PHASES)


@pytest.mark.parametrize("made_by", [ranks, run], ids=["ranks", "run"])
def test_no_panel_draws_every_rank_of_a_large_run(made_by: ModuleType) -> None:
    capped = [
        (each["title"], target["expr"])
        for each in panels(made_by.dashboard(Thresholds()))
        if each["type"] in ("timeseries", "state-timeline", "heatmap", "bargauge")
        for target in each["targets"]
        if "{{rank}}" in target["legendFormat"]
    ]
    assert capped
    for title, expr in capped:
        [count] = re.findall(r"(?:top|bottom)k\((\d+), ", expr)
        assert int(count) <= top.MOST_ROWS, title


@pytest.mark.parametrize("made_by", [ranks, run], ids=["ranks", "run"])
def test_what_the_gpus_of_a_run_do_is_recorded_and_not_sought_among_all_gpus(made_by: ModuleType) -> None:
    for each in panels(made_by.dashboard(Thresholds())):
        for target in each["targets"]:
            read = promql.metric_names(target["expr"])
            assert not {name for name in read if name.startswith("nvidia_gpu_")}, each["title"]


def test_a_rank_that_went_on_on_another_node_keeps_the_time_it_spent_on_the_first() -> None:
    for target in panel("Wall time by phase over the time range")["targets"]:
        spent, _, wall = target["expr"].partition(" / on (rank) ")
        for part in (spent, wall):
            assert "sum by (rank) (max by (cluster, instance, run, " in part


def test_the_slowest_rank_stands_first() -> None:
    table = panel("Each rank with what may hold it up")
    assert table["options"]["sortBy"] == [{"displayName": "Forward", "desc": True}]


@pytest.mark.parametrize(("earlier", "later"), [("0", "1"), ("2", "10"), ("99", "100"), ("127", "1024")])
def test_ranks_stand_in_the_order_of_their_numbers(earlier: str, later: str) -> None:
    assert place(earlier) < place(later)


def place(rank: str) -> str:
    """What the query writes into its label of order for a rank, as Prometheus's label_replace does."""
    replaced = re.findall(r'"(0*)\$1", "rank", "\((\.+)\)"', order.by_rank("a"))
    [zeros] = [zeros for zeros, number in replaced if re.fullmatch(number, rank)]
    return f"{zeros}{rank}"
