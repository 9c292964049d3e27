from __future__ import annotations

from typing import Any

import pytest

from alerts.fleet import CODES
from alerts.thresholds import Thresholds
from dashboards import colors, fleet, states
from exporters.runs import RUN_STATES
from tests.dashboards import linter

Json = dict[str, Any]


def panel(title: str, thresholds: Thresholds | None = None) -> Json:
    document = fleet.dashboard(thresholds or Thresholds()).to_json_data()
    found: Json = next(each for each in linter.panels(document) if each["title"].startswith(title))
    return found


def column(table: Json, title: str) -> dict[str, Any]:
    [override] = [each for each in table["fieldConfig"]["overrides"] if each["matcher"]["options"] == title]
    return {each["id"]: each["value"] for each in override["properties"]}


def test_every_state_of_a_run_has_its_word_and_its_colour() -> None:
    texts = {text.text: text.color for text in states.STATE_TEXTS.values()}
    assert texts == {state: colors.STATES[state] for state in RUN_STATES}
    assert states.STATE_TEXTS[CODES["killed"]].text == "killed"


def test_runs_with_pages_stand_first() -> None:
    table = panel("Every run")
    [pages] = [
        f"Value #{target['refId']}" for target in table["targets"] if 'severity="critical"' in target["expr"]
    ]
    *_, organized = table["transformations"]
    assert organized["options"]["renameByName"][pages] == "Pages"
    assert table["options"]["sortBy"] == [{"displayName": "Pages", "desc": True}]


@pytest.mark.parametrize(("title", "first"), [("Every run", "Run"), ("Nodes in use", "Node")])
def test_what_two_clusters_call_alike_leads_each_to_its_own(title: str, first: str) -> None:
    table = panel(title)
    assert "cluster" in table["transformations"][0]["options"]["include"]["names"]
    [link] = column(table, first)["links"]
    assert "var-cluster=${__data.fields.Cluster}&" in link["url"]


def test_a_run_is_red_where_the_alert_about_its_pace_begins() -> None:
    steps = column(panel("Every run", Thresholds(throughput_ratio=0.6)), "Of usual")["thresholds"]["steps"]
    below, between, above = steps[-3:]
    assert (below["color"], between["color"], above["color"]) == (colors.BAD, colors.WARNING, colors.GOOD)
    assert between["value"] == 0.6


@pytest.mark.parametrize("state", ["stalled", "failed", "killed"])
def test_runs_in_trouble_are_in_the_timeline_before_newer_ones(state: str) -> None:
    [target] = panel("States of runs")["targets"]
    assert "topk(20, " in target["expr"]
    assert f"@ end() == {CODES[state]}" in target["expr"]  # type: ignore[index]
