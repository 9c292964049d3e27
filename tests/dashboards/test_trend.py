from __future__ import annotations

from typing import Any

from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.trend import Trend


def shown(**choices: Any) -> dict[str, Any]:
    trend = Trend.by_step(
        title="Loss", description="Down is good.", unit="none", value="loss", step="step", **choices
    )
    board = Dashboard(
        uid="board",
        title="Board",
        description="For tests.",
        variables=[],
        panels=stack(Shelf("All", [(trend, 24)])),
    )
    panel: dict[str, Any] = board.to_json_data()["panels"][1]
    return panel


def test_steps_come_first_so_that_a_run_has_its_colour_everywhere() -> None:
    steps, values = shown()["targets"]
    assert (steps["refId"], steps["expr"]) == ("A", "step")
    assert (values["refId"], values["expr"]) == ("B", "(loss) and on (cluster, run) (step)")
    assert {steps["format"], values["format"]} == {"table"}


def test_runs_become_columns_and_steps_rows_in_their_order() -> None:
    keep, merge, matrix, _, _, sort = shown()["transformations"]
    assert keep["options"]["include"]["names"] == ["Time", "run", "Value #A", "Value #B"]
    assert merge["id"] == "merge"
    assert matrix["options"] == {
        "columnField": "run",
        "rowField": "Value #A",
        "valueField": "Value #B",
        "emptyValue": "null",
    }
    assert sort["options"]["sort"] == [{"field": shown()["options"]["xField"]}]


def test_steps_are_whole_numbers_whatever_the_values_are() -> None:
    panel = shown(decimals=3)
    (override,) = panel["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == panel["options"]["xField"]
    assert {"id": "decimals", "value": 0} in override["properties"]


def test_a_step_that_only_one_run_was_seen_at_breaks_no_other_line() -> None:
    assert shown()["fieldConfig"]["defaults"]["custom"]["spanNulls"] is True
