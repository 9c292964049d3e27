"""Under which names the service answers, and pages of which origin may write."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.websockets import WebSocketDisconnect

from tests.exporters.access.guarded import ALERTS, SESSION, Guarded, bearer

HOSTS_OF_OTHERS = [
    "evil.example",
    "evil.example:8003",
    "127.0.0.1.evil.example",
    "localhost.evil:8003",
    "localhost:8003@evil.example",
    "evil.example@localhost:8003",
    "localhost:8003:8003",
    "localhost/evil",
    "localhost evil",
    "localhost:99999",
    "[::2]:8003",
    "[::1",
    "192.0.2.1",
    "0x7f.1",
    "",
]


@pytest.mark.parametrize("host", HOSTS_OF_OTHERS)
def test_a_foreign_name_is_refused_for_reads_writes_and_streams(local: Guarded, host: str) -> None:
    headers = {"host": host}

    assert local.client.get("/api/v1/runs", headers=headers).status_code == 421
    assert local.client.get("/", headers=headers).status_code == 421
    assert local.client.post(ALERTS, json={}, headers=headers).status_code == 421
    with (
        pytest.raises(WebSocketDisconnect),
        local.listen(**headers),
    ):
        pass
    assert local.client.get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "localhost.", "[::1]", "[0:0::1]"])
@pytest.mark.parametrize("port", ["", ":8003", ":1"])
def test_this_machine_has_several_names_and_may_be_reached_through_a_tunnel(
    local: Guarded, name: str, port: str
) -> None:
    assert local.client.get("/api/v1/runs", headers={"host": name + port}).status_code == 200


def test_two_hosts_are_none(local: Guarded) -> None:
    headers = [("host", "127.0.0.1"), ("host", "evil.example")]

    assert local.client.get("/api/v1/runs", headers=headers).status_code == 421


def test_who_knows_a_token_may_use_any_name_and_a_session_may_not(public: Guarded) -> None:
    foreign = {"host": "node-17.internal:8003"}
    public.client.post(SESSION, json={"token": public.tokens["viewer"]})
    assert public.client.get("/api/v1/runs").status_code == 200

    assert public.client.get("/api/v1/runs", headers=foreign).status_code == 421
    headers = {**foreign, **bearer(public.tokens["viewer"])}
    assert public.client.get("/api/v1/runs", headers=headers).status_code == 200
    assert public.client.get("/api/v1/runs", headers={**foreign, **bearer("wrong")}).status_code == 421


def test_names_are_added_by_option(tmp_path: Path) -> None:
    service = Guarded(tmp_path, hosts=["trainvitals.example"], listening="0.0.0.0")

    for host in ("trainvitals.example:80", "192.0.2.1:8003", "[2001:db8::1]"):
        assert service.client.get("/api/v1/runs", headers={"host": host}).status_code == 200
    assert service.client.get("/api/v1/runs", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "https://127.0.0.1",
        "ftp://127.0.0.1:8003",
        "http://127.0.0.1:8004",
        "http://127.0.0.1",
        "http://localhost:8003",
        "http://127.0.0.1:8003.evil.example",
        "http://127.0.0.1:8003@evil.example",
        "127.0.0.1:8003",
    ],
)
def test_a_page_of_another_origin_neither_writes_nor_listens_and_its_reads_are_its_browsers_affair(
    local: Guarded, origin: str
) -> None:
    headers = {"origin": origin, **bearer(local.local)}

    assert local.client.post(ALERTS, json={}, headers=headers).status_code == 403
    assert local.client.post(SESSION, json={"token": local.local}, headers=headers).status_code == 403
    assert local.client.get("/api/v1/runs", headers=headers).status_code == 200
    with (
        pytest.raises(WebSocketDisconnect),
        local.listen(**headers),
    ):
        pass
    assert local.told[0] == ("local", "POST", ALERTS, "403 origin")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://127.0.0.1:8003", "http://127.0.0.1:8003"),
        ("http://localhost", "http://localhost:80"),
        ("https://localhost", "https://LOCALHOST"),
        ("https://localhost:8003", "https://localhost:8003"),
        ("http://[::1]:8003", "http://[::1]:8003"),
    ],
)
def test_a_page_of_this_service_writes_and_listens(local: Guarded, url: str, origin: str) -> None:
    client = local.client_of(url)
    headers = {"origin": origin, "sec_fetch_site": "same-origin", **bearer(local.local)}

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    assert client.post(ALERTS, json={}, headers=named).status_code == 200
    with local.listen(url=url, **headers):
        pass


def test_two_origins_are_none(local: Guarded) -> None:
    headers = [("origin", "http://127.0.0.1:8003")] * 2 + [("authorization", f"Bearer {local.local}")]

    assert local.client.post(ALERTS, json={}, headers=headers).status_code == 403


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("none", 200)])
def test_what_the_browser_says_of_the_site_is_heeded(local: Guarded, site: str, status: int) -> None:
    headers = {"sec-fetch-site": site, **bearer(local.local)}

    assert local.client.post(ALERTS, json={}, headers=headers).status_code == status
