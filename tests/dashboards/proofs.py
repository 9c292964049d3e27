"""What holds for our dashboards beyond the linter's rules: each proof yields what is wrong with the set.

Those of how they are made stand here, those of their queries in proofs_of_queries.py, those that ask a
Prometheus in proofs_asked.py. For every one a fault is planted in test_proofs.py.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from alerts.thresholds import Thresholds
from dashboards import build, colors, links
from dashboards.grafana.dashboard import GRID_COLUMNS, SCHEMA_VERSION, TAG
from dashboards.grafana.panels import DATASOURCE
from tests.dashboards import linter
from tests.dashboards.generated import Json
from tests.dashboards.linter import Problem

Dashboards = Mapping[str, Json]  # by uid
Proof = Callable[[Dashboards], Iterator[Problem]]

SHORTEST_DESCRIPTION = 100
# Of Grafana 6 to 9: it reads them, and each version a little differently.
LEGACY_KEYS = {"rows", "gridData", "span", "error", "nullPointMode", "intervalFactor", "step", "__inputs"}
VARIABLES = ["datasource", "cluster", "job", "instance", "run"]
MORE_VARIABLES = {links.GPUS: ["gpu"], links.RANKS: ["rank"]}
# Only there can a run, a node or a GPU be seen beside one of the same name in another cluster.
OF_ALL_CLUSTERS = {links.FLEET, links.GOODPUT, links.ALERTS}
# What is recorded has no job. The dashboard that reads nothing else has the variable for the linter, which
# asks for one everywhere, and to keep the choice for the dashboards it leads to.
OBEYED_BY_NOTHING = {(links.GOODPUT, "job")}
ANNOTATIONS = ["Alerts", "Checkpoints", "Starts", "Stages"]
# What a link keeps or chooses anew; a run is chosen only where the link is of one.
KEPT_BY_LINKS = ["datasource", "cluster", "job", "instance"]
# A spectrum means nothing: of Grafana's ways to colour, those that go by a meaning or tell lines apart.
COLOR_MODES = {"fixed", "thresholds", "palette-classic"}


class PanelOf(NamedTuple):
    """A panel, and where it is: the dashboard's uid and its title."""

    place: str
    panel: Json


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


def all_panels(dashboards: Dashboards) -> Iterator[PanelOf]:
    """Every panel, those in collapsed rows among them; no rows."""
    for uid, dashboard in dashboards.items():
        for panel in linter.panels(dashboard):
            yield PanelOf(f"{uid}: {panel.get('title')}", panel)


def overridden(panel: Json, property: str) -> Iterator[Any]:
    """The values of a property in the overrides of a panel."""
    for override in panel["fieldConfig"]["overrides"]:
        for one in override["properties"]:
            if one["id"] == property:
                yield one["value"]


def classic_json(dashboards: Dashboards) -> Iterator[Problem]:
    """It is the classic model, under the uid that its file is named by, with our tag and a description."""
    for uid, dashboard in dashboards.items():
        if "dashboard" in dashboard:
            yield Problem(uid, "is wrapped, which file provisioning rejects")
            continue
        if dashboard["schemaVersion"] != SCHEMA_VERSION:
            yield Problem(uid, f"is of schema version {dashboard['schemaVersion']}")
        if dashboard["uid"] != uid or not re.fullmatch(r"trainvitals-[a-z]+", uid):
            yield Problem(uid, f"has the uid {dashboard['uid']}")
        if TAG not in dashboard["tags"]:
            yield Problem(uid, "lacks the tag by which the others link to it")
        if not dashboard["description"]:
            yield Problem(uid, "lacks its description")


def nulls(dashboards: Dashboards) -> Iterator[Problem]:
    """No null is a string, and only the ground of thresholds is null."""
    for uid, dashboard in dashboards.items():
        for key, value in walk(dashboard):
            # A transformation has a name for null, and it is this.
            if value == "null" and key != "emptyValue":
                yield Problem(uid, f'{key} is the string "null"')
            if value is None and key != "value":
                yield Problem(uid, f"{key} is null")


def legacy_keys(dashboards: Dashboards) -> Iterator[Problem]:
    """No key is of an older Grafana."""
    for uid, dashboard in dashboards.items():
        for key in sorted(LEGACY_KEYS.intersection(key for key, _ in walk(dashboard))):
            yield Problem(uid, f"{key} is of an older Grafana")


def thresholds(dashboards: Dashboards) -> Iterator[Problem]:
    """There are some on every panel; the first has no value, the others rise."""
    for place, panel in all_panels(dashboards):
        for each in [panel["fieldConfig"]["defaults"].get("thresholds"), *overridden(panel, "thresholds")]:
            values = [step["value"] for step in (each or {}).get("steps", [])]
            if not values or values[0] is not None:
                yield Problem(place, "has thresholds without a ground")
            elif None in values[1:] or values[1:] != sorted(values[1:]):
                yield Problem(place, f"has thresholds that do not rise: {values}")


def ids(dashboards: Dashboards) -> Iterator[Problem]:
    """No two panels or rows of a dashboard have one id."""
    for uid, dashboard in dashboards.items():
        rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
        used = [panel["id"] for panel in [*rows, *linter.panels(dashboard)]]
        for id in sorted({each for each in used if used.count(each) > 1}):
            yield Problem(uid, f"has several panels of the id {id}")


def grid(dashboards: Dashboards) -> Iterator[Problem]:
    """Panels lie on the grid, and none upon another."""
    for uid, dashboard in dashboards.items():
        collapsed = [panel["panels"] for panel in dashboard["panels"] if panel.get("collapsed")]
        for together in (dashboard["panels"], *collapsed):
            for panel in together:
                at = panel["gridPos"]
                if min(at["x"], at["y"]) < 0 or min(at["w"], at["h"]) < 1 or at["x"] + at["w"] > GRID_COLUMNS:
                    yield Problem(uid, f"{panel['title']} does not lie on the grid: {at}")
            for one, other in itertools.combinations(together, 2):
                if _overlap(one["gridPos"], other["gridPos"]):
                    yield Problem(uid, f"{one['title']} lies upon {other['title']}")


def _overlap(one: Json, other: Json) -> bool:
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in (("x", "w"), ("y", "h"))
    )


def descriptions(dashboards: Dashboards) -> Iterator[Problem]:
    """Every panel has a title, and says at some length how to read it and what to do."""
    for place, panel in all_panels(dashboards):
        if not panel.get("title"):
            yield Problem(place, "has no title")
        if len(panel.get("description", "")) <= SHORTEST_DESCRIPTION:
            yield Problem(place, "does not say how to read it and what to do")


def units(dashboards: Dashboards) -> Iterator[Problem]:
    """Every panel, column and axis has a unit that Grafana knows, whatever mappings there are besides."""
    for place, panel in all_panels(dashboards):
        options = panel["options"]
        of_heatmap = [options[part]["unit"] for part in ("yAxis", "cellValues") if part in options]
        own = panel["fieldConfig"]["defaults"].get("unit", "")
        for unit in [own, *overridden(panel, "unit"), *of_heatmap]:
            if unit not in linter.UNITS:
                yield Problem(place, f"has no unit that Grafana knows: {unit!r}")


def meanings_of_colors(dashboards: Dashboards) -> Iterator[Problem]:
    """Every colour is one of colors.py, and no panel is coloured by a spectrum."""
    known = {value for name, value in vars(colors).items() if name.isupper() and isinstance(value, str)}
    for place, panel in all_panels(dashboards):
        for key, value in walk([panel["fieldConfig"], panel["options"].get("colors", [])]):
            if key in ("color", "fixedColor") and isinstance(value, str) and value not in known:
                yield Problem(place, f"has the colour {value}, which colors.py does not know")
            if key == "color" and isinstance(value, dict) and value["mode"] not in COLOR_MODES:
                yield Problem(place, f"is coloured by {value['mode']}")
    for uid, dashboard in dashboards.items():
        for annotation in dashboard["annotations"]["list"]:
            if annotation["iconColor"] not in known:
                yield Problem(uid, f"the annotation {annotation['name']} has a colour of its own")


def data_sources(dashboards: Dashboards) -> Iterator[Problem]:
    """Every panel, query and annotation asks the data source that is chosen."""
    for place, panel in all_panels(dashboards):
        asked = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        if any(each != DATASOURCE for each in asked):
            yield Problem(place, f"asks {asked}")
    for uid, dashboard in dashboards.items():
        for annotation in dashboard["annotations"]["list"]:
            if not annotation["datasource"] == annotation["target"]["datasource"] == DATASOURCE:
                yield Problem(uid, f"the annotation {annotation['name']} asks another data source")


def has_variables(dashboards: Dashboards) -> Iterator[Problem]:
    """Every dashboard has the same ones, that of GPUs and that of ranks one more.

    None is for nothing but those named in OBEYED_BY_NOTHING; several clusters are shown where OF_ALL_CLUSTERS
    says so.
    """
    for uid, dashboard in dashboards.items():
        there = dashboard["templating"]["list"]
        names = [each["name"] for each in there]
        expected = [*VARIABLES, *MORE_VARIABLES.get(uid, [])]
        if names != expected:
            yield Problem(uid, f"has the variables {names} and not {expected}")
        exprs = [target["expr"] for panel in linter.panels(dashboard) for target in panel["targets"]]
        for name in names:
            used = any(re.search(rf"\${{?{name}\b", expr) for expr in exprs)
            if name != "datasource" and used == ((uid, name) in OBEYED_BY_NOTHING):
                yield Problem(uid, f"{'something' if used else 'nothing'} obeys the variable {name}")
        clusters = [each for each in there if each["name"] == "cluster"]
        if any(each["multi"] != (uid in OF_ALL_CLUSTERS) for each in clusters):
            yield Problem(uid, "shows several clusters, or does not, and others the other way round")


def has_annotations(dashboards: Dashboards) -> Iterator[Problem]:
    """Every dashboard can show alerts, checkpoints, starts and changes of stage over its panels."""
    for uid, dashboard in dashboards.items():
        names = [annotation["name"] for annotation in dashboard["annotations"]["list"]]
        if names != ANNOTATIONS:
            yield Problem(uid, f"has the annotations {names} and not {ANNOTATIONS}")


def links_keep(dashboards: Dashboards) -> Iterator[Problem]:
    """Links go to a dashboard of ours, and keep the time range and the choices."""
    for uid, dashboard in dashboards.items():
        to_others = [each for each in dashboard["links"] if each.get("tags") == [TAG]]
        if not any(each["keepTime"] and each["includeVars"] for each in to_others):
            yield Problem(uid, "lacks the link to the others that keeps the time and the choices")
        for key, url in walk(dashboard):
            if key == "url" and url:
                yield from (Problem(uid, f"{url} {what}") for what in _faults_of_link(url, dashboards))


def _faults_of_link(url: str, dashboards: Dashboards) -> Iterator[str]:
    path, _, query = url.partition("?")
    target = dashboards.get(path.removeprefix("/d/"))
    if not path.startswith("/d/") or target is None:
        yield "leads nowhere"
        return
    if "${__url_time_range}" not in query:
        yield "loses the time range"
    chosen = re.findall(r"var-(\w+)=", query)
    for name in KEPT_BY_LINKS:
        if name not in chosen and f"${{{name}:queryparam}}" not in query:
            yield f"loses the choice of {name}"
    there = {each["name"] for each in target["templating"]["list"]}
    for name in sorted({*chosen} - there):
        yield f"chooses {name}, which is no variable there"
    for id in re.findall(r"viewPanel=(\d+)", query):
        if int(id) not in {panel["id"] for panel in linter.panels(target)}:
            yield f"opens the panel {id}, which is not there"


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


def grafanas_own_types(dashboards: Dashboards) -> Iterator[Problem]:
    """Read into Grafana's own types and written again, nothing is lost: it knows every key."""
    register_default_plugins()
    for uid, dashboard in dashboards.items():
        written = JSONEncoder().encode(GrafanaDashboard.from_json(dashboard))
        yield from (Problem(uid, line) for line in lost(dashboard, json.loads(written)))


def as_the_code_writes(dashboards: Dashboards) -> Iterator[Problem]:
    """The files are what the code writes, and there is one of each dashboard."""
    written = {document["uid"]: document for document in build.documents(Thresholds())}
    for uid in sorted(written.keys() | dashboards.keys()):
        if uid not in written:
            yield Problem(uid, "is written by nothing any more")
        elif uid not in dashboards:
            yield Problem(uid, "is missing")
        else:
            # Other keys, and other values: there is no more to a document.
            lines = lost(written[uid], dashboards[uid]) + lost(dashboards[uid], written[uid])
            yield from (Problem(uid, line) for line in lines)


PROOFS: dict[str, Proof] = {
    "classic JSON": classic_json,
    "nulls": nulls,
    "legacy keys": legacy_keys,
    "thresholds": thresholds,
    "ids": ids,
    "grid": grid,
    "descriptions": descriptions,
    "units": units,
    "meanings of colours": meanings_of_colors,
    "data sources": data_sources,
    "variables": has_variables,
    "annotations": has_annotations,
    "links": links_keep,
    "Grafana's own types": grafanas_own_types,
    "as the code writes": as_the_code_writes,
}
