from __future__ import annotations

from typing import Any

import pytest

from dashboards.colors import BAD, GOOD, NEUTRAL, WARNING
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import (
    DataLink,
    DataPanel,
    Query,
    Stat,
    Threshold,
    TimeSeries,
    dashed_limit,
    dashed_steps,
    falling,
    limit,
    links_of,
    rising,
    thresholds_of,
)
from dashboards.grafana.tables import Column, Table, widths
from dashboards.grafana.timelines import Heatmap


def line(**choices: Any) -> TimeSeries:
    return TimeSeries(
        title="Loss", description="Down is good.", unit="none", targets=[Query(expr="a")], **choices
    )


def shown_panel(panel: DataPanel) -> dict[str, Any]:
    board = Dashboard(
        uid="board",
        title="Board",
        description="For tests.",
        variables=[],
        panels=stack(Shelf("All", [(panel, 24)])),
    )
    shown: dict[str, Any] = board.to_json_data()["panels"][1]
    return shown


@pytest.mark.parametrize("missing", ["title", "description", "unit", "targets"])
def test_what_every_panel_needs_cannot_be_left_out(missing: str) -> None:
    complete: dict[str, Any] = {
        "title": "Loss",
        "description": "Down is good.",
        "unit": "none",
        "targets": [Query(expr="a")],
    }
    del complete[missing]
    with pytest.raises(TypeError, match=missing):
        TimeSeries(**complete)


@pytest.mark.parametrize("empty", [{"targets": []}, {"thresholds": []}])
def test_a_panel_without_queries_or_thresholds_is_refused(empty: dict[str, Any]) -> None:
    complete: dict[str, Any] = {
        "title": "Loss",
        "description": "Down.",
        "unit": "none",
        "targets": [Query(expr="a")],
    }
    with pytest.raises(ValueError, match="must be >= 1"):
        TimeSeries(**(complete | empty))


def test_raw_json_cannot_be_smuggled_in() -> None:
    with pytest.raises(TypeError, match="extraJson"):
        line(extraJson={"type": "graph"})


def test_thresholds_start_from_a_ground_whose_value_is_null() -> None:
    thresholds = shown_panel(line())["fieldConfig"]["defaults"]["thresholds"]
    assert thresholds == {"mode": "absolute", "steps": [{"color": GOOD, "value": None}]}


def test_a_limit_is_drawn_as_a_red_line() -> None:
    defaults = shown_panel(line(thresholds=limit(90), threshold_line=True))["fieldConfig"]["defaults"]
    assert defaults["thresholds"]["steps"][-1] == {"color": BAD, "value": 90}
    assert defaults["custom"]["thresholdsStyle"] == {"mode": "line"}


def test_what_is_not_said_is_not_in_the_json() -> None:
    panel = shown_panel(line())
    assert {"min", "max", "decimals", "noValue"}.isdisjoint(panel["fieldConfig"]["defaults"])
    assert {"maxDataPoints", "span", "error", "editable", "repeat"}.isdisjoint(panel)


def test_a_panel_of_many_series_can_ask_for_fewer_points_than_it_has_pixels() -> None:
    assert shown_panel(line(most_points=400))["maxDataPoints"] == 400


def test_what_is_stacked_can_be_shown_as_shares() -> None:
    def mode(**choices: Any) -> Any:
        return shown_panel(line(**choices))["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"]

    assert (mode(), mode(stacked=True)) == ("none", "normal")
    assert mode(stacked=True, to_full_height=True) == "percent"


def test_queries_are_lettered_in_their_order() -> None:
    panel = TimeSeries(
        title="Loss", description="Down is good.", unit="none", targets=[Query(expr="a"), Query(expr="b")]
    )
    assert [(one["refId"], one["expr"]) for one in shown_panel(panel)["targets"]] == [("A", "a"), ("B", "b")]


def test_one_query_of_a_panel_can_be_dashed() -> None:
    (override,) = shown_panel(line(overrides=[dashed_steps("A")]))["fieldConfig"]["overrides"]
    assert override["matcher"] == {"id": "byFrameRefID", "options": "A"}
    assert {"id": "custom.lineInterpolation", "value": "stepAfter"} in override["properties"]


def test_a_stat_shows_the_last_value_and_whose_it_is() -> None:
    stat = Stat(title="Epoch", description="Up is good.", unit="none", targets=[Query(expr="a")])
    options = shown_panel(stat)["options"]
    assert options["reduceOptions"]["calcs"] == ["lastNotNull"]
    assert options["textMode"] == "value_and_name"


def test_a_table_has_a_row_a_label_value_and_a_column_a_query() -> None:
    table = Table.of(
        title="Runs",
        description="All of them.",
        labels={"run": "Run"},
        columns=[Column("Accuracy", "a", "percentunit", 1), Column("Perplexity", "b", "short")],
        data_links=[DataLink("Open", "/d/x")],
    )
    panel = shown_panel(table)
    keep, merge, name = panel["transformations"]
    assert keep["options"]["include"]["names"] == ["run", "Value #A", "Value #B"]
    assert merge["id"] == "merge"
    assert name["options"]["renameByName"] == {"run": "Run", "Value #A": "Accuracy", "Value #B": "Perplexity"}
    assert [(one["format"], one["instant"], one["range"]) for one in panel["targets"]] == [
        ("table", True, False)
    ] * 2
    columns = {
        override["matcher"]["options"]: {one["id"]: one["value"] for one in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    assert columns["Run"]["links"] == [{"title": "Open", "url": "/d/x"}]
    assert (columns["Accuracy"]["unit"], columns["Accuracy"]["decimals"]) == ("percentunit", 1)
    assert columns["Perplexity"]["unit"] == "short"
    assert "decimals" not in columns["Perplexity"]


def test_a_table_of_one_query_reads_the_column_that_grafana_does_not_number() -> None:
    table = Table.of(
        title="Runs",
        description="All.",
        labels={"run": "Run"},
        columns=[Column("Loss", "a", "none")],
    )
    keep = shown_panel(table)["transformations"][0]
    assert keep["options"]["include"]["names"] == ["run", "Value"]


def test_a_limit_that_moves_is_drawn_in_red_dashes() -> None:
    (override,) = shown_panel(line(overrides=[dashed_limit("A")]))["fieldConfig"]["overrides"]
    assert {"id": "color", "value": {"mode": "fixed", "fixedColor": BAD}} in override["properties"]


def test_a_number_can_stand_for_a_word() -> None:
    assert shown_panel(line())["fieldConfig"]["defaults"]["mappings"] == []
    defaults = shown_panel(line(value_texts={0: "lost", 1: "answers"}))["fieldConfig"]["defaults"]
    (mapping,) = defaults["mappings"]
    assert {value: shown["text"] for value, shown in mapping["options"].items()} == {
        "0": "lost",
        "1": "answers",
    }


def test_a_table_of_series_has_a_column_for_each_label_and_the_value_last() -> None:
    table = Table.of_series(
        title="Alerts",
        description="All of them.",
        expr="ALERTS",
        labels={"alertname": "Alert", "run": "Run"},
        value="For",
        unit="s",
        no_value="none",
    )
    panel = shown_panel(table)
    keep, name = panel["transformations"]
    assert keep["options"]["include"]["names"] == ["alertname", "run", "Value"]
    assert name["options"]["renameByName"] == {"alertname": "Alert", "run": "Run", "Value": "For"}
    assert panel["options"]["sortBy"] == [{"displayName": "For", "desc": False}]


def test_a_value_that_is_absent_is_neither_good_nor_bad() -> None:
    ground, *others = falling(warning=0.9, bad=0.5)
    assert ground == Threshold(NEUTRAL, None)
    assert [step.color for step in others] == [BAD, WARNING, GOOD]
    assert others[0].value is not None
    assert others[0].value < -1_000_000


def test_labels_that_are_numbers_have_no_unit() -> None:
    table = Table.of_series(
        title="Alerts",
        description="All.",
        expr="a",
        labels={"rank": "Rank"},
        value="For",
        unit="s",
        no_value="",
    )
    (rank,) = shown_panel(table)["fieldConfig"]["overrides"]
    assert rank["matcher"]["options"] == "Rank"
    assert {"id": "unit", "value": "string"} in rank["properties"]
    merged = Table.of(
        title="Ranks", description="All.", labels={"rank": "Rank"}, columns=[Column("Loss", "a", "none")]
    )
    assert shown_panel(merged)["fieldConfig"]["defaults"]["unit"] == "string"


def test_a_bar_without_an_end_ends_at_the_highest_of_its_column() -> None:
    column = Column("Loss", "a", "none", cell="gauge", minimum=0)
    assert column.properties()["fieldMinMax"] is True
    assert Column("Loss", "a", "none", cell="gauge", minimum=0, maximum=1).properties()["fieldMinMax"] is None


def test_a_table_of_labels_has_a_row_for_each() -> None:
    table = Table.of_labels(title="What it is", description="All.", expr="info", no_value="nothing")
    panel = shown_panel(table)
    to_rows, names = panel["transformations"]
    assert to_rows == {"id": "labelsToFields", "options": {"mode": "rows"}}
    assert names["options"]["renameByName"] == {"label": "Fact", "value": "Value"}
    assert panel["targets"][0]["format"] == "time_series"


def test_a_legend_can_begin_with_who_has_most_or_least() -> None:
    most = shown_panel(line(legend_highest="max"))["options"]["legend"]
    least = shown_panel(line(legend_lowest="min"))["options"]["legend"]
    assert (most["sortBy"], most["sortDesc"]) == ("Max", True)
    assert (least["sortBy"], least["sortDesc"]) == ("Min", False)
    assert "sortBy" not in shown_panel(line())["options"]["legend"]


def test_what_has_no_value_is_neither_good_nor_bad() -> None:
    for steps in (rising(1, 2), falling(2, 1)):
        assert [step.color for step in steps][:1] == [NEUTRAL]
        assert {step.color for step in steps[1:]} == {GOOD, WARNING, BAD}


def test_one_query_of_a_panel_can_have_its_own_thresholds() -> None:
    (override,) = shown_panel(line(overrides=[thresholds_of("B", limit(1))]))["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == "B"
    assert override["properties"][0]["value"]["steps"][-1] == {"color": BAD, "value": 1}


def test_one_query_of_a_panel_can_have_links_of_its_own() -> None:
    shown = shown_panel(line(overrides=[links_of("B", DataLink("Run", "/d/run"))]))
    (override,) = shown["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == "B"
    assert override["properties"] == [{"id": "links", "value": [{"title": "Run", "url": "/d/run"}]}]


def test_a_table_takes_labels_from_queries_that_make_no_column() -> None:
    table = Table.of(
        title="GPUs",
        description="All of them.",
        labels={"gpu": "GPU", "name": "Model"},
        columns=[Column("Power", "a", "watt")],
        named_by=["info"],
        overrides=widths({"Model": 80}),
    )
    panel = shown_panel(table)
    assert [target["expr"] for target in panel["targets"]] == ["a", "info"]
    assert panel["transformations"][0]["options"]["include"]["names"] == ["gpu", "name", "Value #A"]
    assert {"id": "custom.width", "value": 80} in panel["fieldConfig"]["overrides"][-1]["properties"]


def test_rows_of_a_heatmap_are_drawn_where_nothing_happens_but_not_empty_buckets() -> None:
    def options(**choices: Any) -> dict[str, Any]:
        heatmap = Heatmap(
            title="Work", description="Much is good.", unit="none", targets=[Query(expr="a")], **choices
        )
        shown: dict[str, Any] = shown_panel(heatmap)["options"]
        return shown

    rows, buckets = options(shown="shares", from_top=True), options()
    assert rows["filterValues"]["le"] < 0 < buckets["filterValues"]["le"]
    assert (rows["yAxis"]["reverse"], buckets["yAxis"]["reverse"]) == (True, False)
