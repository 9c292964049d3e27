"""The files of the page as they are sent."""

from __future__ import annotations

import gzip
import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from exporters.api.page import ASSETS, INDEX, PLOTLY_VERSION, asset, page_routes


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_routes())
    return TestClient(app)


def test_everything_that_the_page_names_is_there(client: TestClient) -> None:
    index = client.get("/").text
    named = set(re.findall(r'(?:src|href|content)="(assets/[^"]+)"', index))
    for name in ASSETS:
        if name.endswith(".js"):
            named |= {
                f"assets/{each}"
                for each in re.findall(r'from "\./([^"]+)"', client.get(f"/assets/{name}").text)
            }

    assert {"assets/main.js", "assets/charts.js", f"assets/plotly.min.js?v={PLOTLY_VERSION}"} <= named
    assert {client.get(f"/{each}").status_code for each in named} == {200}


@pytest.mark.parametrize(
    "name", ["..%2Fapi%2Fpage.py", "%2E%2E/api/page.py", "page.py", "index.html", "PAGE.CSS", ""]
)
def test_nothing_else_is_sent(client: TestClient, name: str) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


def test_nothing_from_elsewhere_and_nothing_inline_is_run(client: TestClient) -> None:
    for path in ("/", "/assets/icon.svg", "/assets/main.js"):
        policy = client.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    index = asset(INDEX).content.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|style=", index)
    assert not re.search(r"https?://", index)


def test_an_asset_is_sent_again_only_when_it_has_changed(client: TestClient) -> None:
    first = client.get("/assets/page.css")
    again = client.get("/assets/page.css", headers={"If-None-Match": first.headers["etag"]})
    plain = client.get(
        "/assets/page.css", headers={"If-None-Match": first.headers["etag"], "Accept-Encoding": "identity"}
    )

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert (plain.status_code, plain.content) == (200, first.content), (
        "another representation has another tag"
    )


def test_plotly_is_compressed_and_kept_for_good_under_its_version(client: TestClient) -> None:
    path = f"/assets/plotly.min.js?v={PLOTLY_VERSION}"
    head = client.head(path)
    whole = client.get(path, headers={"Accept-Encoding": "gzip;q=0"})

    assert head.headers["content-encoding"] == "gzip"
    assert int(head.headers["content-length"]) < 1_600_000
    assert "immutable" in head.headers["cache-control"]
    assert "content-encoding" not in whole.headers
    assert gzip.decompress(asset("plotly.min.js").compressed) == whole.content
    assert client.get("/assets/plotly.min.js?v=1").headers["cache-control"] == "no-cache"
