from __future__ import annotations

from typing import Any

import attr
import pytest

from dashboards.grafana.dashboard import Dashboard, DatasourceVariable, LabelVariable, Row, Shelf, stack
from dashboards.grafana.panels import Query, TimeSeries


def line() -> TimeSeries:
    return TimeSeries(title="Loss", description="Down is good.", unit="none", targets=[Query(expr="a")])


def shown(*shelves: Shelf) -> list[dict[str, Any]]:
    board = Dashboard(
        uid="board",
        title="Board",
        description="For tests.",
        variables=[DatasourceVariable()],
        panels=stack(*shelves),
    )
    panels: list[dict[str, Any]] = board.to_json_data()["panels"]
    return panels


def places(panels: list[dict[str, Any]]) -> list[tuple[int, int, int, int]]:
    return [tuple(panel["gridPos"][side] for side in "xywh") for panel in panels]


def test_shelves_stand_below_each_other_under_their_headings() -> None:
    panels = shown(Shelf("Top", [(line(), 12), (line(), 12)]), Shelf("Bottom", [(line(), 24)], height=5))
    assert [panel["type"] for panel in panels] == ["row", "timeseries", "timeseries", "row", "timeseries"]
    assert places(panels) == [(0, 0, 24, 1), (0, 1, 12, 8), (12, 1, 12, 8), (0, 9, 24, 1), (0, 10, 24, 5)]


def test_a_shelf_that_is_full_goes_on_in_the_next_line() -> None:
    assert places(shown(Shelf("Top", [(line(), 10), (line(), 10), (line(), 10)], height=4)))[1:] == [
        (0, 1, 10, 4),
        (10, 1, 10, 4),
        (0, 5, 10, 4),
    ]


@pytest.mark.parametrize("width", [0, 25])
def test_a_panel_that_does_not_fit_the_grid_is_refused_by_name(width: int) -> None:
    with pytest.raises(ValueError, match="'Loss' is"):
        stack(Shelf("Top", [(line(), width)]))


def test_panels_get_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in shown(Shelf("Top", [(line(), 12), (line(), 12)]))]
    assert len(set(ids)) == len(ids)


def test_placing_a_panel_leaves_the_panel_itself_as_it_was() -> None:
    panel = line()
    stack(Shelf("Top", [(panel, 12)]))
    assert panel.gridPos is None


def test_a_row_is_a_heading_and_holds_no_panels() -> None:
    heading = Row(title="Top").to_json_data()
    assert (heading["type"], heading["collapsed"], heading["panels"]) == ("row", False, [])


def test_a_variable_starts_at_all_or_at_its_default() -> None:
    query = "label_values(a, job)"
    assert LabelVariable(name="job", query=query).to_json_data()["current"]["value"] == ["$__all"]
    assert LabelVariable(name="job", query=query, default="b").to_json_data()["current"]["value"] == ["b"]


def test_a_variable_that_opens_on_the_first_lets_more_be_chosen_but_not_all_at_once() -> None:
    written = LabelVariable(name="instance", query="label_values(a, instance)", opens_on_first=True)
    document = written.to_json_data()
    assert (document["current"], document["includeAll"], document["multi"]) == ({}, False, True)


def test_a_single_variable_opens_on_the_first_and_lets_no_more_be_chosen() -> None:
    document = LabelVariable(name="run", query="label_values(a, run)", single=True).to_json_data()
    assert (document["current"], document["includeAll"], document["multi"]) == ({}, False, False)


@pytest.mark.parametrize(("numbers", "sort"), [(False, 1), (True, 3)])
def test_values_are_sorted_as_words_or_as_numbers(numbers: bool, sort: int) -> None:
    variable = LabelVariable(name="gpu", query="label_values(a, gpu)", numbers=numbers)
    assert variable.to_json_data()["sort"] == sort


def test_a_collapsed_shelf_holds_its_panels_and_takes_one_line() -> None:
    row, below = [
        panel
        for panel in shown(Shelf("Top", [(line(), 12)], collapsed=True), Shelf("Bottom", [(line(), 24)]))
        if panel["type"] == "row"
    ]
    assert (row["collapsed"], below["collapsed"]) == (True, False)
    assert places(row["panels"]) == [(0, 1, 12, 8)]
    assert places([below]) == [(0, 1, 24, 1)]


def test_a_panel_keeps_the_id_that_it_was_given() -> None:
    panels = shown(Shelf("Top", [(attr.evolve(line(), id=4711), 12), (line(), 12)], collapsed=True))
    ids = [panels[0]["id"], *(panel["id"] for panel in panels[0]["panels"])]
    assert ids[1] == 4711
    assert len(set(ids)) == 3
