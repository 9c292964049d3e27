"""A fault planted in the dashboards for every proof, which it must find."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from dashboards import links
from tests.dashboards import generated, linter
from tests.dashboards.generated import DASHBOARDS, Json, variable
from tests.dashboards.linter import Problem
from tests.dashboards.test_generated import PROOFS

Dashboards = dict[str, Json]
Fault = Callable[[Dashboards], None]

_TEXT = json.dumps(DASHBOARDS)
ALERT = generated.ALERTS[0]


def foundation(dashboards: Dashboards) -> Json:
    return dashboards[links.FOUNDATION]


def panel(dashboards: Dashboards, title: str = "Loss") -> Json:
    return next(one for one in linter.panels(foundation(dashboards)) if one["title"] == title)


def defaults(dashboards: Dashboards) -> Json:
    found: Json = panel(dashboards)["fieldConfig"]["defaults"]
    return found


def dashboard_with(**values: Any) -> Fault:
    return lambda dashboards: foundation(dashboards).update(values)


def panel_with(**values: Any) -> Fault:
    return lambda dashboards: panel(dashboards).update(values)


def field_with(**values: Any) -> Fault:
    return lambda dashboards: defaults(dashboards).update(values)


def query_with(**values: Any) -> Fault:
    return lambda dashboards: panel(dashboards)["targets"][0].update(values)


def annotation_with(**values: Any) -> Fault:
    return lambda dashboards: foundation(dashboards)["annotations"]["list"][0].update(values)


def options_with(title: str, **values: Any) -> Fault:
    return lambda dashboards: panel(dashboards, title)["options"].update(values)


def at(**place: int) -> Fault:
    return lambda dashboards: panel(dashboards)["gridPos"].update(place)


def override(property: str, value: Any, matcher: str = "byName", of: str = "Loss") -> Fault:
    one = {"matcher": {"id": matcher, "options": of}, "properties": [{"id": property, "value": value}]}
    return lambda dashboards: panel(dashboards)["fieldConfig"]["overrides"].append(one)


def steps(*values: float | None) -> Json:
    return {"mode": "absolute", "steps": [{"color": "transparent", "value": value} for value in values]}


def data_link(url: str) -> Fault:
    return field_with(links=[{"title": "There", "url": url}])


def link_to_the_others(**values: Any) -> Fault:
    return lambda dashboards: foundation(dashboards)["links"][0].update(values)


_KEPT = "&".join(f"${{{name}:queryparam}}" for name in ("datasource", "cluster", "job", "instance"))
_TIME = "${__url_time_range}"
_HERE = f"/d/{links.FOUNDATION}"


def wrapped(dashboards: Dashboards) -> None:
    dashboards[links.FOUNDATION] = {"dashboard": foundation(dashboards), "overwrite": True}


def without_variable(name: str) -> Fault:
    return lambda dashboards: foundation(dashboards)["templating"]["list"].remove(
        variable(foundation(dashboards), name)
    )


def under_the_uid(uid: str, fault: Fault = lambda _: None) -> Fault:
    """The first dashboard in the place of another, with a fault of its own."""

    def plant(dashboards: Dashboards) -> None:
        fault(dashboards)
        dashboards[uid] = foundation(dashboards) | {"uid": uid}

    return plant


def obeyed_by_nothing(name: str) -> Fault:
    """No panel asks for the variable any more; the queries of the variables go on asking."""

    def plant(dashboards: Dashboards) -> None:
        for each in linter.panels(foundation(dashboards)):
            for target in each["targets"]:
                target["expr"] = target["expr"].replace(f"${name}", ".+")

    return plant


def of_several_clusters(dashboards: Dashboards) -> None:
    variable(foundation(dashboards), "cluster").update(multi=True)


def with_the_id_of(title: str, other: str) -> Fault:
    return lambda dashboards: panel(dashboards, title).update(id=panel(dashboards, other)["id"])


def with_the_id_of_a_row(dashboards: Dashboards) -> None:
    panel(dashboards).update(id=foundation(dashboards)["panels"][0]["id"])


def overlap_in_a_row(dashboards: Dashboards) -> None:
    row = next(each for each in dashboards[links.ALERTS]["panels"] if len(each.get("panels", [])) > 1)
    row["panels"][0]["gridPos"] = row["panels"][1]["gridPos"]


def without_the_metric(name: str) -> Fault:
    def plant(dashboards: Dashboards) -> None:
        for dashboard in dashboards.values():
            for each in linter.panels(dashboard):
                each["targets"] = [target for target in each["targets"] if name not in target["expr"]]

    return plant


def without_the_panel_of(id: int) -> Fault:
    def plant(dashboards: Dashboards) -> None:
        for row in dashboards[links.ALERTS]["panels"]:
            row["panels"] = [each for each in row.get("panels", []) if each["id"] != id]

    return plant


def without_the_file(dashboards: Dashboards) -> None:
    del dashboards[links.FOUNDATION]


def with_another_file(dashboards: Dashboards) -> None:
    dashboards["trainvitals-old"] = foundation(dashboards)


def column(name: str) -> Fault:
    step = {"id": "filterFieldsByName", "options": {"include": {"names": ["run", name, "Value #A"]}}}
    return panel_with(transformations=[step])


def letters(dashboards: Dashboards) -> None:
    panel(dashboards)["targets"][1]["refId"] = "A"


def a_column_that_is_not_there(dashboards: Dashboards) -> None:
    table = next(each for each in linter.panels(foundation(dashboards)) if each["type"] == "table")
    table["fieldConfig"]["overrides"][-1]["matcher"]["options"] = "Perplexities"


def a_heatmap_over_five_minutes(dashboards: Dashboards) -> None:
    panel(dashboards)["type"] = "heatmap"
    panel(dashboards)["targets"][0]["expr"] = "sum by (le) (rate(training_step_duration_seconds_bucket[5m]))"


_PROMETHEUS = {"type": "prometheus", "uid": "prom"}
_WORDS = [{"type": "value", "options": {"1": {"text": "yes", "color": "green", "index": 0}}}]
_SHORT = "The loss. It should fall."

FAULTS: list[tuple[str, str, Fault]] = [
    ("classic JSON", "a newer schema", dashboard_with(schemaVersion=42)),
    ("classic JSON", "wrapped as for the HTTP API", wrapped),
    ("classic JSON", "another uid than its file's", dashboard_with(uid="trainvitals-other")),
    ("classic JSON", "no tag", dashboard_with(tags=["gpu"])),
    ("classic JSON", "no description", dashboard_with(description="")),
    ("nulls", 'the string "null"', field_with(thresholds={"steps": [{"color": "text", "value": "null"}]})),
    ("nulls", "null where nothing is said", panel_with(maxDataPoints=None)),
    ("legacy keys", "rows", dashboard_with(rows=[])),
    ("legacy keys", "an option of the old graph", panel_with(nullPointMode="connected")),
    ("legacy keys", "the step of a query", query_with(step=15)),
    ("thresholds", "an empty list", field_with(thresholds=steps())),
    ("thresholds", "none", field_with(thresholds=None)),
    ("thresholds", "no ground", field_with(thresholds=steps(0, 1))),
    ("thresholds", "falling", field_with(thresholds=steps(None, 2, 1))),
    ("thresholds", "an empty list for a column", override("thresholds", steps())),
    ("ids", "two panels", with_the_id_of("Loss", "Epoch")),
    ("ids", "a panel and a row", with_the_id_of_a_row),
    ("grid", "a panel upon another", at(x=0, y=1, w=24)),
    ("grid", "over the right edge", at(x=20, w=8)),
    ("grid", "beyond the left edge", at(x=-1)),
    ("grid", "of no height", at(h=0)),
    ("grid", "a panel upon another in a collapsed row", overlap_in_a_row),
    ("descriptions", "a short one", panel_with(description=_SHORT)),
    ("descriptions", "no title", panel_with(title="")),
    ("units", "one that Grafana does not know", field_with(unit="losses")),
    ("units", "none", field_with(unit="")),
    ("units", "none, but words for values", field_with(unit="", mappings=_WORDS)),
    ("units", "of a column", override("unit", "GB")),
    ("units", "of a heatmap's axis", options_with("Loss", yAxis={"unit": "sec"})),
    (
        "meanings of colours",
        "a shade of its own",
        field_with(color={"mode": "fixed", "fixedColor": "#ff8800"}),
    ),
    (
        "meanings of colours",
        "a colour of Grafana's",
        override("color", {"mode": "fixed", "fixedColor": "red"}),
    ),
    (
        "meanings of colours",
        "of a threshold",
        field_with(thresholds={"steps": [{"color": "red", "value": None}]}),
    ),
    ("meanings of colours", "of a word", field_with(mappings=_WORDS)),
    ("meanings of colours", "a spectrum", field_with(color={"mode": "continuous-GrYlRd"})),
    ("meanings of colours", "of an annotation", annotation_with(iconColor="purple")),
    ("data sources", "a fixed one", panel_with(datasource=_PROMETHEUS)),
    ("data sources", "a fixed one of a query", query_with(datasource=_PROMETHEUS)),
    ("data sources", "a fixed one of an annotation", annotation_with(datasource=_PROMETHEUS)),
    ("variables", "no cluster", without_variable("cluster")),
    ("variables", "no GPU on the GPUs' dashboard", under_the_uid(links.GPUS)),
    ("variables", "no rank on the ranks' dashboard", under_the_uid(links.RANKS)),
    ("variables", "a cluster that nothing obeys", obeyed_by_nothing("cluster")),
    ("variables", "a job that nothing obeys", obeyed_by_nothing("job")),
    ("variables", "an instance that nothing obeys", obeyed_by_nothing("instance")),
    ("variables", "a run that nothing obeys", obeyed_by_nothing("run")),
    ("variables", "a job that is obeyed after all", under_the_uid(links.GOODPUT)),
    ("variables", "several clusters", of_several_clusters),
    ("annotations", "none", dashboard_with(annotations={"list": []})),
    ("annotations", "another in the place of alerts", annotation_with(name="Deployments")),
    ("links", "the others at another time", link_to_the_others(keepTime=False)),
    ("links", "the others without the choices", link_to_the_others(includeVars=False)),
    ("links", "others than ours", link_to_the_others(tags=["kubernetes"])),
    ("links", "a series at another time", data_link(f"{_HERE}?{_KEPT}")),
    ("links", "a series without the choices", data_link(f"{_HERE}?var-run=a&{_TIME}")),
    ("links", "a series to a dashboard that is not there", data_link(f"/d/old?{_KEPT}&{_TIME}")),
    ("links", "a series to somewhere else", data_link(f"https://example.org?{_KEPT}&{_TIME}")),
    ("links", "a series to a panel that is not there", data_link(f"{_HERE}?viewPanel=9999&{_KEPT}&{_TIME}")),
    ("links", "a choice that is none there", data_link(f"{_HERE}?var-colour=red&{_KEPT}&{_TIME}")),
    ("Grafana's own types", "an unknown key of a panel", panel_with(nullPointMode="connected")),
    ("Grafana's own types", "an unknown key of a query", query_with(stepSeconds=15)),
    ("Grafana's own types", "an unknown option", options_with("Epoch", sparkline=True)),
    ("Grafana's own types", "an unknown option of lines", options_with("Loss", stack=True)),
    ("as the code writes", "another title", dashboard_with(title="Fine-tuning")),
    ("as the code writes", "a key more", dashboard_with(liveNow=True)),
    ("as the code writes", "a file is missing", without_the_file),
    ("as the code writes", "a file of nothing", with_another_file),
    ("queries are PromQL", "an open bracket", query_with(expr="max(training_loss")),
    ("queries are PromQL", "of an annotation", annotation_with(expr="ALERTS{")),
    ("metrics exist", "a typing error", query_with(expr="training_lost")),
    ("metrics exist", "not recorded", query_with(expr="run:training_loss:nothing")),
    ("metrics exist", "a histogram without its suffix", query_with(expr="training_step_duration_seconds")),
    ("metrics exist", "of an annotation", annotation_with(expr="ALARMS")),
    ("labels exist", "in a legend", query_with(legendFormat="{{run}} {{colour}}")),
    ("labels exist", "of a rank in the legend of a run", query_with(legendFormat="rank {{rank}}")),
    ("labels exist", "of a column", column("rank")),
    ("labels exist", "of a link", data_link("/d/x?var-gpu=${__field.labels.gpu}")),
    ("every metric is shown", "a gauge", without_the_metric("training_epoch_current")),
    ("every metric is shown", "one that only a rule reads", without_the_metric("training_nonfinite_total")),
    ("every alert has a panel", "one without", without_the_panel_of(ALERT.panel)),
    ("the fleet reads what is recorded", "a metric as it is scraped", under_the_uid(links.FLEET)),
    (
        "the fleet reads what is recorded",
        "a metric beside a recorded series",
        under_the_uid(links.FLEET, query_with(expr="run:training_loss:max1h - training_loss")),
    ),
    ("overrides find their field", "a query that is not there", override("unit", "s", "byFrameRefID", "Z")),
    ("overrides find their field", "two queries of one letter", letters),
    ("overrides find their field", "a column that is not there", a_column_that_is_not_there),
    ("rates suit the zoom", "on a heatmap", a_heatmap_over_five_minutes),
]


@functools.cache
def found_without_a_fault(proof: str) -> frozenset[Problem]:
    return frozenset(PROOFS[proof](DASHBOARDS))


@pytest.mark.parametrize(("proof", "fault"), [pytest.param(p, f, id=f"{p}: {n}") for p, n, f in FAULTS])
def test_a_planted_fault_is_found_by_its_proof(proof: str, fault: Fault) -> None:
    dashboards: Dashboards = json.loads(_TEXT)
    fault(dashboards)
    assert set(PROOFS[proof](dashboards)) - found_without_a_fault(proof)


def test_every_proof_has_a_planted_fault() -> None:
    assert {proof for proof, _, _ in FAULTS} == PROOFS.keys()


KINDS = sorted({each["type"] for dashboard in DASHBOARDS.values() for each in linter.panels(dashboard)})


@pytest.mark.parametrize("kind", KINDS)
def test_grafanas_own_types_know_the_options_of_every_kind_of_panel(kind: str) -> None:
    dashboards: Dashboards = json.loads(_TEXT)
    uid, found = next(
        (uid, each)
        for uid, dashboard in dashboards.items()
        for each in linter.panels(dashboard)
        if each["type"] == kind
    )
    found["options"]["unheardOf"] = 1
    lines = [message for _, message in PROOFS["Grafana's own types"]({uid: dashboards[uid]})]
    assert [line.rpartition("/")[2] for line in lines] == ["unheardOf is unknown"]
