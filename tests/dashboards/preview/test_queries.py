"""What variables and steps a query is filled in with, as Grafana's Prometheus source does it."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.preview import queries
from dashboards.preview.queries import Window

HOUR = 3600.0


def variable(**differing: Any) -> dict[str, Any]:
    made = {
        "name": "run",
        "label": "Run",
        "type": "query",
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }
    return made | differing


def test_every_way_to_write_a_variable_is_filled_in() -> None:
    text = "$run ${run} ${run:regex} [[run]] $other $run_name"
    assert queries.fill_in(text, {"run": "a"}) == "a a a a $other $run_name"


def test_all_is_its_own_expression_where_there_is_one() -> None:
    choice = queries.chosen(variable(), ["a", "b"])
    assert (choice.promql, choice.text) == (".+", "All")
    assert queries.chosen(variable(allValue=None), ["a", "b"]).promql == "(a|b)"


def test_several_values_are_alternatives_and_escaped() -> None:
    several = variable(current={"value": ["node-1.example", "node-2"]})
    choice = queries.chosen(several, ["node-1.example", "node-2", "node-3"])
    assert choice.promql == r"(node-1\\.example|node-2)"
    assert choice.text == "node-1.example + node-2"


def test_a_single_choice_is_the_first_value_unless_one_is_wanted() -> None:
    single = variable(multi=False, includeAll=False, allValue=None, current={})
    assert queries.chosen(single, ["first", "second"]).promql == "first"
    assert queries.chosen(single, ["first", "second"], ["second"]).promql == "second"
    assert queries.chosen(single, []).text == "None"


def test_a_value_that_is_gone_gives_way_to_the_first_found() -> None:
    single = variable(multi=False, includeAll=False, current={"value": "gone"})
    assert queries.chosen(single, ["there"]).text == "there"


def test_values_are_kept_by_the_regex_and_sorted() -> None:
    values = ["rank 10", "rank 2", "other"]
    numbers = variable(regex="/rank (\\d+)/", sort=3)
    assert queries.ordered(values, numbers) == ["2", "10"]
    assert queries.ordered(["b", "A", "c"], variable()) == ["A", "b", "c"]
    assert queries.ordered(["b", "A", "c"], variable(sort=2)) == ["c", "b", "A"]


@pytest.mark.parametrize(
    ("hours", "points", "step"),
    [(1, 1000, 15), (6, 1000, 20), (6, 700, 30), (24, 1000, 60), (24 * 7, 500, 1200)],
)
def test_the_step_is_one_that_grafana_rounds_to(hours: float, points: int, step: float) -> None:
    assert queries.step_seconds(Window(0, hours * HOUR), points) == step


def test_a_step_is_never_below_what_is_asked_for() -> None:
    assert queries.step_seconds(Window(0, HOUR), 1000, least_seconds=60) == 60


def test_the_rate_interval_holds_four_scrapes_and_more_than_a_step() -> None:
    window = Window(0, 6 * HOUR)
    assert queries.built_in(window, 15)["__rate_interval"] == "60s"
    assert queries.built_in(window, 300)["__rate_interval"] == "315s"


def test_the_range_is_that_of_the_window() -> None:
    values = queries.built_in(Window(1000, 1000 + 6 * HOUR), 30)
    expr = queries.fill_in("increase(a[$__range]) / $__range_s + rate(b[$__interval])", values)
    assert expr == "increase(a[21600s]) / 21600 + rate(b[30s])"


def test_durations_are_read_and_written() -> None:
    assert queries.seconds("1h30m") == 5400
    assert queries.seconds(">30s") == 30
    assert queries.as_duration(0.5) == "500ms"
    with pytest.raises(ValueError, match="'soon' is no duration"):
        queries.seconds("soon")


def test_a_window_begins_and_ends_on_a_step() -> None:
    assert Window(1007, 2009).aligned(30) == Window(990, 1980)
