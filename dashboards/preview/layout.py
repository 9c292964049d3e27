"""Where a dashboard's panels lie on the page, in Grafana's grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Json = dict[str, Any]

GRID_COLUMNS = 24
CELL_HEIGHT_PIXELS = 30
GAP_PIXELS = 8
# Left and right of the grid.
MARGIN_PIXELS = 16


class Box(NamedTuple):
    """A panel's place in pixels of the grid."""

    left: float
    top: float
    width: float
    height: float


def placed(panels: list[Json], *, open_rows: bool) -> Iterator[Json]:
    """The panels that show, with their `gridPos`; what collapsed rows hold too with `open_rows`."""
    pushed = 0
    for panel in sorted(panels, key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"])):
        row = _moved(panel, pushed)
        if panel["type"] != "row" or not panel.get("collapsed") or not open_rows:
            yield row
            continue
        yield row | {"collapsed": False, "panels": []}
        held = panel["panels"]
        if held:
            top = min(one["gridPos"]["y"] for one in held)
            below = row["gridPos"]["y"] + 1
            yield from (_moved(one, below - top) for one in held)
            pushed += max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in held) - top


def box(grid: Json, page_width: float) -> Box:
    """The place of a panel with this `gridPos` on a page that is `page_width` pixels wide."""
    column = (page_width - 2 * MARGIN_PIXELS - (GRID_COLUMNS - 1) * GAP_PIXELS) / GRID_COLUMNS
    return Box(
        left=grid["x"] * (column + GAP_PIXELS),
        top=grid["y"] * (CELL_HEIGHT_PIXELS + GAP_PIXELS),
        width=grid["w"] * (column + GAP_PIXELS) - GAP_PIXELS,
        height=grid["h"] * (CELL_HEIGHT_PIXELS + GAP_PIXELS) - GAP_PIXELS,
    )


def _moved(panel: Json, down: int) -> Json:
    grid = panel["gridPos"]
    return panel | {"gridPos": grid | {"y": grid["y"] + down}}
