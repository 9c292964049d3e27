"""Draws pages in a headless Chromium that reaches nothing but the files of the preview."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Page, Route, sync_playwright

from dashboards.preview.bundle import SOURCES, Bundle
from dashboards.preview.picture import PanelReport, Picture, PreviewError

Json = dict[str, Any]

LOADING_SECONDS = 120
DRAWING_SECONDS = 120
# Room enough for what stands above the panels.
HEAD_PIXELS = 300
# No such name exists: what the page loads comes from the files here, and all else is refused.
_ORIGIN = "http://preview.invalid/"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


def pictures(pages: Sequence[Json], themes: Sequence[str], files: Bundle, output: Path) -> list[Picture]:
    """Each page, as dashboards/preview/ask.py makes them, in each theme. Raises PreviewError."""
    output.mkdir(parents=True, exist_ok=True)
    with _chromium() as browser:
        tab = browser.new_page(reduced_motion="reduce", timezone_id="UTC")
        tab.route("**/*", lambda route: _serve(route, files))
        try:
            tab.goto(_ORIGIN, timeout=LOADING_SECONDS * 1000)
            return [_picture(tab, page | {"theme": theme}, output) for page in pages for theme in themes]
        except Error as error:
            raise PreviewError(f"the dashboards were not drawn: {error.message}") from error


@contextmanager
def _chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=arguments)
        except Error as error:
            raise PreviewError(
                "Chromium does not start: install it, by `apt install chromium` or `playwright install "
                f"chromium`: {error.message.splitlines()[0]}"
            ) from error
        try:
            yield browser
        finally:
            browser.close()


def _picture(tab: Page, page: Json, output: Path) -> Picture:
    # Tables below the fold are not drawn.
    tab.set_viewport_size({"width": page["width"], "height": math.ceil(page["height"]) + HEAD_PIXELS})
    uncaught: list[str] = []

    def remember(error: Error) -> None:
        uncaught.append(str(error))

    tab.on("pageerror", remember)
    # The numbers JSON has not, NaN and Infinity, are JavaScript's.
    drawn: dict[str, list[str]] = tab.evaluate(f"window.draw({json.dumps(page)})")
    path = output / f"{page['uid']}-{page['theme']}-{page['width']}.png"
    tab.locator("#page").screenshot(path=path, timeout=DRAWING_SECONDS * 1000)
    tab.remove_listener("pageerror", remember)
    return Picture(
        path=path,
        uid=page["uid"],
        theme=page["theme"],
        width=page["width"],
        panels=tuple(
            PanelReport(
                id=one["panel"]["id"],
                title=one["panel"].get("title", ""),
                empty=one["empty"],
                errors=(*one["errors"], *drawn.get(str(one["panel"]["id"]), [])),
            )
            for one in page["panels"]
            if one["panel"]["type"] != "row"
        ),
        errors=(*page["errors"], *uncaught),
    )


def _serve(route: Route, files: Bundle) -> None:
    path = _file(route.request.url.removeprefix(_ORIGIN), files)
    if path is None or not path.is_file():
        route.abort()
        return
    route.fulfill(path=path, content_type=_TYPES[path.suffix])


def _file(name: str, files: Bundle) -> Path | None:
    icons = "public/build/img/icons/"
    if name == "":
        return SOURCES / "index.html"
    if name in ("page.js", "page.css"):
        return files.directory / name
    if name.startswith(icons) and ".." not in name:
        return files.icons / name.removeprefix(icons)
    if name.startswith("public/fonts/inter/"):
        return files.font
    return None
