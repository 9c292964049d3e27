"""Pictures for real: Grafana's components over a real Prometheus, in a real Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from PIL import Image

from dashboards.preview.layout import MARGIN_PIXELS, Box, box
from dashboards.preview.picture import Picture
from dashboards.preview.render import render
from tests.dashboards import recorded_series, recorded_training
from tests.dashboards.preview import every_kind
from tests.prometheus import PrometheusServer

WIDTH = 1200
# Of a panel, and what its title takes.
HEADER_PIXELS = 40

DASHBOARD = every_kind.dashboard()
TITLES = [panel["title"] for panel in DASHBOARD["panels"]]
# The installation of the packages is a minute, where it was not done before.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


class Rendered(NamedTuple):
    """The dashboard in the dark and in the light."""

    dark: Picture
    light: Picture


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"))
    end = time.time() // 60 * 60
    server.create_blocks(recorded_series.openmetrics(recorded_training.series(), end))
    output = tmp_path_factory.mktemp("pictures")
    # In a thread of its own: in one where other tests' browser is open, Playwright starts no second one.
    with server, ThreadPoolExecutor(1) as threads:
        drawn = threads.submit(render, [DASHBOARD], server.url, end - 7000, end, output, widths=[WIDTH])
        yield Rendered(*drawn.result())


def inside(picture: Picture, title: str) -> Image.Image:
    """The panel's part of the picture, below its title and within its border."""
    boxes = {panel["title"]: box(panel["gridPos"], WIDTH) for panel in DASHBOARD["panels"]}
    grid = max(place.top + place.height for place in boxes.values())
    with Image.open(picture.path) as image:
        head = image.height - MARGIN_PIXELS - grid
        place: Box = boxes[title]
        left, top = MARGIN_PIXELS + place.left, head + place.top
        edges = (left + 4, top + HEADER_PIXELS, left + place.width - 4, top + place.height - 4)
        return image.convert("RGB").crop(tuple(round(edge) for edge in edges))  # type: ignore[arg-type]


def colors(image: Image.Image) -> int:
    return len(image.getcolors(image.width * image.height) or [])


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_panel_is_drawn(rendered: Rendered, theme: str, title: str) -> None:
    assert colors(inside(getattr(rendered, theme), title)) > 8


def test_only_the_broken_query_is_an_error_and_stands_in_its_panel(rendered: Rendered) -> None:
    for picture in rendered:
        [error] = picture.all_errors()
        assert error.startswith(f"{every_kind.BROKEN}: A: 1:5: parse error")


def test_only_the_panel_that_found_nothing_is_empty(rendered: Rendered) -> None:
    for picture in rendered:
        assert [panel.title for panel in picture.panels if panel.empty] == [every_kind.EMPTY]


def test_the_themes_differ_in_their_ground(rendered: Rendered) -> None:
    with Image.open(rendered.dark.path) as dark, Image.open(rendered.light.path) as light:
        assert sum(dark.convert("RGB").getpixel((2, 2))) < 100  # type: ignore[arg-type]
        assert sum(light.convert("RGB").getpixel((2, 2))) > 700  # type: ignore[arg-type]
        assert dark.width == light.width == WIDTH


def test_states_are_drawn_in_their_colours(rendered: Rendered) -> None:
    drawn = inside(rendered.light, "state-timeline")
    counted = sorted(drawn.getcolors(drawn.width * drawn.height) or [], reverse=True)
    most = [color for _, color in counted[:4]]
    assert any(color[2] > color[0] + 60 for color in most)  # type: ignore[index]
