from __future__ import annotations

from typing import Any

import pytest

from dashboards.colors import BAD, GOOD
from dashboards.dashboard import Dashboard, Shelf, stack
from dashboards.panels import (
    DataLink,
    Query,
    Stat,
    TimeSeries,
    dashed_limit,
    dashed_steps,
    limit,
)
from dashboards.tables import Column, Table


def line(**choices: Any) -> TimeSeries:
    return TimeSeries(
        title="Loss", description="Down is good.", unit="none", targets=[Query(expr="a")], **choices
    )


def shown_panel(panel: TimeSeries | Stat | Table) -> dict[str, Any]:
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
