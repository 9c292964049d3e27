"""The dashboards as they are committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from dashboards import build, foundation
from tests.dashboards import linter

Json = dict[str, Any]

DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(build.GENERATED.glob("*.json"))
}
# The metrics that are not ours, by exporter.
CADVISOR = frozenset(foundation.CADVISOR_METRICS)
FOREIGN_METRICS = CADVISOR


class PanelQuery(NamedTuple):
    panel: str
    expr: str
    instant: bool


def panel_queries(dashboard: Json) -> Iterator[PanelQuery]:
    """Every query of every panel, with the panel's title."""
    for panel in linter.panels(dashboard):
        for target in panel["targets"]:
            yield PanelQuery(panel["title"], target["expr"], target["instant"])
