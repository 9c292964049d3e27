"""The frames that Grafana's components are given: names, columns, buckets."""

from __future__ import annotations

import math
from typing import Any

from dashboards.preview import frames
from dashboards.preview.frames import Series

ONE = Series({"__name__": "loss", "run": "one"}, [(10, 2.5), (25, 2.4)])
TWO = Series({"__name__": "loss", "run": "two", "rank": "0"}, [(25, 1.5)])
TARGET = {"refId": "A", "expr": "loss", "legendFormat": "{{run}} loss"}


def fields(frame: dict[str, Any]) -> dict[str, list[Any]]:
    return {field["name"]: field["values"] for field in frame["fields"]}


def test_an_answer_is_read_whatever_its_type() -> None:
    matrix = {"resultType": "matrix", "result": [{"metric": {"run": "one"}, "values": [[10, "NaN"]]}]}
    vector = {"resultType": "vector", "result": [{"metric": {"run": "one"}, "value": [10, "+Inf"]}]}
    [[_, [[_, not_a_number]]]] = frames.series_of(matrix)
    assert math.isnan(not_a_number)
    assert frames.series_of(vector) == [Series({"run": "one"}, [(10, math.inf)])]
    assert frames.series_of({"resultType": "scalar", "result": [10, "3"]}) == [Series({}, [(10, 3)])]


def test_a_series_is_a_frame_named_by_its_legend() -> None:
    first, second = frames.over_time([ONE, TWO], TARGET, 15)
    assert fields(first) == {"Time": [10_000, 25_000], "Value": [2.5, 2.4]}
    assert first["fields"][0]["config"]["interval"] == 15_000
    assert [one["fields"][1]["config"]["displayNameFromDS"] for one in (first, second)] == [
        "one loss",
        "two loss",
    ]


def test_grafana_names_series_itself_where_the_legend_is_automatic() -> None:
    [frame] = frames.over_time([ONE], TARGET | {"legendFormat": "__auto"}, 15)
    assert frame["fields"][1]["config"] == {}
    assert frame["fields"][1]["labels"] == {"__name__": "loss", "run": "one"}


def test_without_a_legend_a_series_has_its_labels_and_without_labels_its_query() -> None:
    assert frames.name_of(TWO.labels, "") == 'loss{rank="0", run="two"}'
    [frame] = frames.over_time([Series({}, [(10, 1)])], TARGET | {"legendFormat": ""}, 15)
    assert frame["fields"][1]["config"]["displayNameFromDS"] == "loss"


def test_a_table_has_a_column_for_each_label() -> None:
    [frame] = frames.as_table([ONE, TWO], TARGET, alone=True)
    assert fields(frame) == {
        "Time": [10_000, 25_000, 25_000],
        "__name__": ["loss", "loss", "loss"],
        "rank": ["", "", "0"],
        "run": ["one", "one", "two"],
        "Value": [2.5, 2.4, 1.5],
    }


def test_beside_other_tables_the_value_bears_its_querys_letter() -> None:
    [frame] = frames.as_table([ONE], TARGET, alone=False)
    assert "Value #A" in fields(frame)
    assert frames.as_table([], TARGET, alone=False) == []


def test_buckets_are_sorted_and_hold_only_what_is_theirs() -> None:
    counted = [
        Series({"le": "+Inf"}, [(10, 9), (25, 9)]),
        Series({"le": "0.5"}, [(10, 2)]),
        Series({"le": "10"}, [(10, 7), (25, 4)]),
    ]
    [frame] = frames.as_heatmap(counted, TARGET, 15)
    assert fields(frame) == {
        "Time": [10_000, 25_000],
        "0.5": [2, None],
        "10": [5, 4],
        "+Inf": [2, 5],
    }


def test_rows_that_are_no_buckets_stay_as_they_are() -> None:
    [frame] = frames.as_heatmap([TWO, ONE], TARGET, 15)
    assert fields(frame) == {"Time": [10_000, 25_000], "two loss": [None, 1.5], "one loss": [2.5, 2.4]}
