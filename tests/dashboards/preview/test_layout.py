"""Where panels lie, with collapsed rows closed and open."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.preview.layout import Box, box, placed


def panel(title: str, y: int, height: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "type": "stat",
        "title": title,
        "gridPos": {"x": 0, "y": y, "w": 12, "h": height},
    } | more


HELD = [panel("held", 10), panel("held below", 18)]
PANELS = [
    panel("first", 0),
    panel("row", 8, height=1, type="row", collapsed=True, panels=HELD),
    panel("last", 9),
]


def tops(open_rows: bool) -> list[tuple[str, int]]:
    return [(one["title"], one["gridPos"]["y"]) for one in placed(PANELS, open_rows=open_rows)]


def test_a_closed_row_is_its_heading_alone() -> None:
    assert tops(open_rows=False) == [("first", 0), ("row", 8), ("last", 9)]


def test_an_open_row_pushes_down_what_follows() -> None:
    assert tops(open_rows=True) == [("first", 0), ("row", 8), ("held", 9), ("held below", 17), ("last", 25)]


def test_two_halves_fill_the_page_with_a_gap_between() -> None:
    left = box({"x": 0, "y": 0, "w": 12, "h": 8}, 1600)
    right = box({"x": 12, "y": 8, "w": 12, "h": 1}, 1600)
    assert left == pytest.approx(Box(left=0, top=0, width=780, height=296))
    assert right == pytest.approx(Box(left=788, top=304, width=780, height=30))
