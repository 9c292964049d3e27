"""What holds for every dashboard, looked up in the committed JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from dashboards.dashboard import GRID_COLUMNS, SCHEMA_VERSION, TAG
from dashboards.panels import DATASOURCE
from exporters.catalog import CATALOG
from tests.dashboards import linter, promql
from tests.dashboards.generated import DASHBOARDS, FOREIGN_METRICS, KNOWN_METRICS, Json, panel_queries

# What the levels of recorded series keep, beside the labels of targets.
LABELS_OF_LEVEL = {
    "run": {"run"},
    "run_attempt": {"run", "start"},
    "run_gpu": {"run", "gpu", "uuid"},
    "rank": {"run", "rank"},
    "gpu": {"gpu", "uuid"},
    "gpu_xid": {"gpu", "uuid", "xid"},
    "node": set(),
}
LEGACY_KEYS = {"rows", "gridData", "span", "error", "nullPointMode", "intervalFactor", "step", "__inputs"}

every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values anywhere in a document; the members of a list under its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield "", item
            yield from walk(item)


def cells(panel: Json) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    lines = range(place["y"], place["y"] + place["h"])
    return set(itertools.product(columns, lines))


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """What is in `before` and not, or not the same, in `after`; what `after` adds does not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key, value in before.items()
            for line in (
                lost(value, after[key], f"{path}/{key}") if key in after else [f"{path}/{key} is unknown"]
            )
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for place, (a, b) in pairs for line in lost(a, b, f"{path}/{place}")]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


def through_the_sdk(dashboard: Json) -> Json:
    register_default_plugins()
    document: Json = json.loads(JSONEncoder().encode(GrafanaDashboard.from_json(dashboard)))
    return document


def test_there_are_dashboards() -> None:
    assert "trainvitals-foundation" in DASHBOARDS


@every_dashboard
def test_it_is_classic_json_under_a_stable_uid(dashboard: Json) -> None:
    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert DASHBOARDS[dashboard["uid"]] is dashboard
    assert dashboard["uid"].startswith("trainvitals-")
    assert TAG in dashboard["tags"]
    assert dashboard["description"]
    assert "dashboard" not in dashboard, "file provisioning rejects the wrapped form"


@every_dashboard
def test_no_null_is_a_string_and_only_thresholds_are_null(dashboard: Json) -> None:
    assert [key for key, value in walk(dashboard) if value == "null"] == []
    assert {key for key, value in walk(dashboard) if value is None} <= {"value"}


@every_dashboard
def test_no_key_is_of_an_older_grafana(dashboard: Json) -> None:
    assert LEGACY_KEYS.isdisjoint(key for key, _ in walk(dashboard))


@every_dashboard
def test_thresholds_begin_with_a_ground_that_has_no_value(dashboard: Json) -> None:
    for panel in linter.panels(dashboard):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None, panel["title"]
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


@every_dashboard
def test_ids_are_unique(dashboard: Json) -> None:
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    ids = [panel["id"] for panel in [*rows, *linter.panels(dashboard)]]
    assert len(ids) == len(set(ids))


@every_dashboard
def test_panels_lie_on_the_grid_and_do_not_overlap(dashboard: Json) -> None:
    collapsed = [panel["panels"] for panel in dashboard["panels"] if panel.get("collapsed")]
    for panels in (dashboard["panels"], *collapsed):
        for panel in panels:
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= GRID_COLUMNS
        for one, other in itertools.combinations(panels, 2):
            assert cells(one).isdisjoint(cells(other)), (one["title"], other["title"])


@every_dashboard
def test_every_panel_says_what_it_is_how_to_read_it_and_in_which_unit(dashboard: Json) -> None:
    for panel in linter.panels(dashboard):
        assert panel["title"]
        assert len(panel["description"]) > 100, f"{panel['title']}: say how to read it and what to do"
        assert panel["fieldConfig"]["defaults"]["unit"]


@every_dashboard
def test_every_query_goes_to_the_chosen_data_source(dashboard: Json) -> None:
    for panel in linter.panels(dashboard):
        assert panel["datasource"] == DATASOURCE
        assert [target["datasource"] for target in panel["targets"]] == [DATASOURCE] * len(panel["targets"])


@every_dashboard
def test_every_query_is_promql(dashboard: Json) -> None:
    assert [query for query in panel_queries(dashboard) if linter.parse_error(query.expr)] == []


@every_dashboard
def test_every_metric_is_in_the_catalog_or_another_exporters(dashboard: Json) -> None:
    for query in panel_queries(dashboard):
        unknown = promql.metric_names(query.expr) - KNOWN_METRICS
        assert not unknown, query.panel


@every_dashboard
def test_every_label_in_a_legend_is_one_its_metrics_have(dashboard: Json) -> None:
    for panel in linter.panels(dashboard):
        for target in panel["targets"]:
            in_legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            names = promql.metric_names(target["expr"]) - FOREIGN_METRICS
            if names:
                assert in_legend <= set().union(*map(labels_of, names)), panel["title"]


def labels_of(metric: str) -> set[str]:
    target_labels = {"cluster", "job", "instance", "namespace", "pod", "container"}
    if ":" in metric:
        return target_labels | LABELS_OF_LEVEL[metric.partition(":")[0]]
    return target_labels | set(CATALOG[metric].labels if metric in CATALOG else ())


@every_dashboard
def test_grafanas_own_types_lose_nothing(dashboard: Json) -> None:
    assert lost(dashboard, through_the_sdk(dashboard)) == []


def test_grafanas_own_types_would_show_a_key_that_grafana_does_not_know() -> None:
    dashboard = json.loads(json.dumps(DASHBOARDS["trainvitals-foundation"]))
    dashboard["panels"][1]["nullPointMode"] = "connected"
    assert lost(dashboard, through_the_sdk(dashboard)) == ["/panels/1/nullPointMode is unknown"]


@every_dashboard
def test_links_keep_the_time_range_and_the_choices(dashboard: Json) -> None:
    (others,) = dashboard["links"]
    assert (others["keepTime"], others["includeVars"], others["tags"]) == (True, True, [TAG])
    for key, value in walk(dashboard):
        if key == "url" and value:
            target = value.removeprefix("/d/").partition("?")[0]
            assert target in DASHBOARDS, value
            assert "${__url_time_range}" in value
