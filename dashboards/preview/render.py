"""Renders dashboards over a Prometheus to PNG files, and says of every panel how it went."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards.preview import ask
from dashboards.preview.bundle import bundle
from dashboards.preview.picture import Picture, PreviewError
from dashboards.preview.queries import Window

Json = dict[str, Any]

THEMES = ("dark", "light")
WIDTHS = (1600, 1000)


def render(
    dashboards: Sequence[Json],
    prometheus_url: str,
    start: float,
    end: float,
    output: Path,
    *,
    themes: Sequence[str] = THEMES,
    widths: Sequence[int] = WIDTHS,
    choices: Mapping[str, Sequence[str]] | None = None,
    open_rows: bool = False,
) -> list[Picture]:
    """A PNG `<uid>-<theme>-<width>.png` in `output` for each dashboard, theme and width in pixels.

    `dashboards` are classic Grafana JSON. `start` and `end` are unix seconds; instant queries are asked at
    the end. `choices` are values of variables by name, in place of those they are set to. `open_rows` opens
    the rows that are collapsed. A query that fails stands in its panel and in its picture's report; nothing
    is raised for it. Raises PreviewError where Node.js, npm, Chromium, Playwright or the Prometheus is
    missing or fails.
    """
    try:
        from dashboards.preview import browser
    except ModuleNotFoundError as error:
        raise PreviewError(
            f"the module {error.name} is not installed: `pip install playwright` brings what draws pictures"
        ) from error
    files = bundle()
    try:
        pages = asyncio.run(
            ask.pages(
                dashboards,
                prometheus_url,
                Window(start, end),
                widths,
                choices=choices or {},
                open_rows=open_rows,
            )
        )
    except ask.AnswerError as error:
        raise PreviewError(str(error)) from error
    return browser.pictures(pages, themes, files, output)
