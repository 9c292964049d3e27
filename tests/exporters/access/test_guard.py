from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.access.guard import MOST_BODY_BYTES
from exporters.access.limits import Buckets
from tests.exporters.access.guarded import ALERTS, SESSION, Guarded, bearer

JSON = {"content-type": "application/json"}
SAID_OF_WHERE = "the file local-token beside the service's database"


def test_on_loopback_anybody_reads_and_nobody_writes_without_a_token(local: Guarded) -> None:
    assert local.client.get("/api/v1/runs").json() == {"caller": "nobody"}

    answer = local.client.post(ALERTS, json={})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["detail"].startswith("this needs a token of the role operator; send one as ")
    assert SAID_OF_WHERE in answer.json()["detail"]
    assert local.client.post(ALERTS, json={}, headers=bearer(local.local)).json()["caller"] == "local"


def test_with_a_token_file_nobody_reads_without_a_token_but_health_and_the_page(public: Guarded) -> None:
    for path in ("/health", "/", "/assets/page.css", SESSION):
        assert public.client.get(path).status_code == 200
    for path in ("/metrics", "/api/v1/runs", "/api/v1/audit", "/nowhere"):
        assert public.client.get(path).status_code == 401


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)])
def test_a_role_may_what_the_table_says(public: Guarded, role: str, status: int) -> None:
    headers = bearer(public.tokens[role])

    assert public.client.get("/api/v1/runs", headers=headers).json() == {"caller": f"a-{role}"}
    answer = public.client.post(ALERTS, json={}, headers=headers)

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["detail"] == (
            "this needs the role operator; the token a-viewer has the role viewer"
        )


def test_a_wrong_token_is_refused_where_nobody_would_be_let_in(local: Guarded) -> None:
    answer = local.client.get("/api/v1/runs", headers=bearer("tvl_wrong"))

    assert answer.status_code == 401
    assert answer.json()["detail"].startswith("the token is unknown, expired or revoked")


def test_a_revoked_token_ends_with_the_next_request(public: Guarded) -> None:
    headers = bearer(public.tokens["viewer"])
    assert public.client.get("/api/v1/runs", headers=headers).status_code == 200

    public.file.revoke("a-viewer")

    assert public.client.get("/api/v1/runs", headers=headers).status_code == 401


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "bearer x", "BEARER  x y", "Bearer " + "x" * 5000])
def test_what_is_no_token_is_a_wrong_one(local: Guarded, value: str) -> None:
    assert local.client.get("/api/v1/runs", headers={"authorization": value}).status_code == 401


def test_the_scheme_of_a_token_is_of_any_case_and_another_is_none_of_ours(local: Guarded) -> None:
    lower = local.client.get("/api/v1/runs", headers={"authorization": f"bearer  {local.local}"})
    basic = local.client.get("/api/v1/runs", headers={"authorization": "Basic dXNlcjpwYXNz"})

    assert lower.json() == {"caller": "local"}
    assert basic.json() == {"caller": "nobody"}


def test_two_tokens_in_one_request_are_none(public: Guarded) -> None:
    headers = [("authorization", f"Bearer {public.tokens[role]}") for role in ("admin", "viewer")]

    assert public.client.get("/api/v1/runs", headers=headers).status_code == 401


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_a_page_of_another_site_could_post_is_415(local: Guarded, media_type: str | None) -> None:
    headers = {**bearer(local.local), **({"content-type": media_type} if media_type else {})}

    answer = local.client.post(ALERTS, content=b"{}", headers=headers)

    assert answer.status_code == 415
    assert answer.json()["detail"] == f"Content-Type {media_type or ''!r} is not application/json"
    two = [("content-type", "application/json"), ("content-type", "text/plain")]
    assert local.client.post(ALERTS, content=b"{}", headers=[*two, *bearer(local.local).items()]).is_error


def test_a_write_without_a_body_needs_no_media_type(local: Guarded) -> None:
    assert local.client.delete("/api/v1/runs/a-run", headers=bearer(local.local)).status_code == 200


def test_a_body_of_more_than_a_megabyte_is_413_whatever_its_headers_say(local: Guarded) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while taken < 100 * MOST_BODY_BYTES:
            taken += 100_000
            yield b"x" * 100_000

    headers = {**JSON, **bearer(local.local)}
    told = local.client.post(ALERTS, content=b"x" * (MOST_BODY_BYTES + 1), headers=headers)
    untold = local.client.post(ALERTS, content=endless(), headers=headers)

    assert told.status_code == untold.status_code == 413
    assert told.json() == untold.json() == {"detail": "the body has more than 1000000 bytes"}
    assert [outcome for *_, outcome in local.told] == ["413 size", "413"]
    assert local.client.post(ALERTS, content=b"x" * MOST_BODY_BYTES, headers=headers).json()["bytes"] == 10**6


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/audit",
        "/api/v1/audit%0A",
        "/api/v1/%61udit",
        "/api/v1/audit/",
        "//api/v1/audit",
        "/api/v1/runs/../audit",
        "/api/v1/runs/..%2Faudit",
        "/API/V1/AUDIT",
        "/api/v1/audit;x=1",
        "/health/../api/v1/audit",
        "/assets/../api/v1/audit",
        "/assets/..%2Fapi/v1/audit",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "get"])
def test_no_spelling_of_a_path_shows_the_audit_log_to_a_viewer(
    public: Guarded, path: str, method: str
) -> None:
    headers = bearer(public.tokens["viewer"])

    answer = public.client.request(method, path, headers=headers, follow_redirects=True)

    assert "previous_hash" not in answer.text
    assert answer.status_code != 200 or path.startswith("/assets/")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "post", "X"])
def test_a_method_the_table_does_not_know_needs_an_admin(public: Guarded, method: str) -> None:
    path = "/api/v1/runs/a-run"

    assert public.client.request(method, path, headers=bearer(public.tokens["operator"])).status_code == 403
    assert public.client.request(method, path, headers=bearer(public.tokens["admin"])).status_code == 405


def test_no_header_turns_a_read_into_a_write(public: Guarded) -> None:
    headers = {"x-http-method-override": "DELETE", **bearer(public.tokens["viewer"])}

    answer = public.client.get("/api/v1/runs/a-run?_method=DELETE", headers=headers)

    assert answer.json() == {"run": "a-run"}
    assert public.entries == []


def test_a_scrape_has_its_own_token_which_is_good_for_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "scrape").write_text("0123456789abcdef\n")
    service = Guarded(tmp_path, scrape_token_file=tmp_path / "scrape")
    scraper = {"host": "10.1.2.3:8003", **bearer("0123456789abcdef")}

    assert service.client.get("/metrics", headers=scraper).json() == {"caller": "scrape"}
    assert service.client.get("/api/v1/runs", headers=bearer("0123456789abcdef")).status_code == 401
    assert service.client.get("/metrics").status_code == 401
    assert service.client.get("/metrics", headers=bearer(service.local)).json() == {"caller": "local"}
    assert service.client.get("/api/v1/runs").json() == {"caller": "nobody"}


def test_every_answer_says_to_browsers_what_they_may_not_do(local: Guarded) -> None:
    for path, headers in (("/api/v1/runs", {}), ("/nowhere", {}), ("/", {"host": "evil.example"})):
        answer = local.client.get(path, headers=headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert local.client.get("/api/v1/runs").headers["cache-control"] == "no-store"
    assert "cache-control" not in local.client.get("/").headers


def test_a_write_that_fails_is_told_and_answered_without_its_secrets(local: Guarded) -> None:
    answer = local.client.post("/api/v1/gpus/release", json={}, headers=bearer(local.local))

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"
    assert local.told == [("local", "release NVML", "/api/v1/gpus/release", "500")]


def test_every_write_and_every_refusal_is_in_the_audit_log_and_no_secret_is(public: Guarded) -> None:
    token = public.tokens["operator"]
    public.client.post(f"{ALERTS}?token={token}", json={"quoted": "a-body"}, headers=bearer(token))
    public.client.delete("/api/v1/runs/a%0Arun%22%1b", headers=bearer(token))
    public.client.get("/api/v1/runs", headers=bearer("tvl_wrong"))
    public.client.get("/api/v1/runs")
    public.client.get("/api/v1/audit", headers=bearer(token))
    public.client.get(f"/{'x' * 300}", headers={"host": "evil.example"})

    assert public.told == [
        ("a-operator", "POST", ALERTS, "200"),
        ("a-operator", "abort", '/api/v1/runs/a\nrun"\x1b', "200"),
        ("unknown", "GET", "/api/v1/runs", "401 wrong token"),
        ("unknown", "GET", "/api/v1/runs", "401 no token"),
        ("a-operator", "GET", "/api/v1/audit", "403 role"),
        ("unknown", "GET", f"/{'x' * 199}", "421 host"),
    ]
    assert {entry.address for entry in public.entries} == {"testclient"}
    text = public.access.journal.log.path.read_text()
    assert len(text.splitlines()) == 6
    for secret in (*public.tokens.values(), public.local, "tvl_wrong", "a-body", "token="):
        assert secret not in text


def test_reads_are_not_told(local: Guarded) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        local.client.request(method, "/api/v1/runs")

    assert local.entries == []


def test_too_many_writes_are_429_and_say_when_to_try_again(local: Guarded) -> None:
    headers = bearer(local.local)
    local.access.writes = Buckets(1.0, 2, clock=lambda: 0.0)

    statuses = [local.client.post(ALERTS, json={}, headers=headers).status_code for _ in range(3)]
    answer = local.client.post(ALERTS, json={}, headers=headers)

    assert statuses == [200, 200, 429]
    assert (answer.headers["retry-after"], answer.json()["detail"]) == (
        "1",
        "too many writes from here; try again in 1 s",
    )
    assert local.client.get("/api/v1/runs", headers=headers).status_code == 200


def test_wrong_tokens_are_limited_and_a_right_one_is_not(local: Guarded) -> None:
    statuses = [
        local.client.get("/api/v1/runs", headers=bearer(f"guess-{number}")).status_code
        for number in range(12)
    ]

    assert statuses == [401] * 10 + [429] * 2
    assert local.client.get("/api/v1/runs", headers=bearer(local.local)).status_code == 200


def test_a_wrong_token_is_told_and_limited_by_the_route_that_says_who_one_is(local: Guarded) -> None:
    statuses = [
        local.client.get(SESSION, headers=bearer(f"guess-{number}")).status_code for number in range(12)
    ]

    assert statuses == [401] * 10 + [429] * 2
    assert local.told[0] == ("unknown", "GET", SESSION, "401 wrong token")
    assert len(local.told) == 12
    assert local.client.get(SESSION, headers=bearer(local.local)).json()["name"] == "local"
    for path in ("/", "/assets/page.css", "/health"):
        assert local.client.get(path, headers=bearer("guess")).status_code == 200


def test_where_the_audit_log_cannot_be_written_nothing_is_changed_and_all_is_read(local: Guarded) -> None:
    path = local.access.journal.log.path
    path.mkdir()
    headers = bearer(local.local)

    answer = local.client.post(ALERTS, json={}, headers=headers)

    assert answer.status_code == 503, "the first one, too"
    assert answer.json()["detail"] == (
        "the audit log cannot be written (Is a directory); until it can, nothing is changed"
    )
    assert local.client.get("/api/v1/runs").status_code == 200
    path.rmdir()
    assert local.client.post(ALERTS, json={}, headers=headers).status_code == 200
    assert [outcome for *_, outcome in local.told] == ["503 audit log", "200"]


def test_where_the_folder_of_the_audit_log_is_gone_nothing_is_changed(
    public: Guarded, tmp_path: Path
) -> None:
    public.access.journal.log.path = tmp_path / "gone" / "audit.jsonl"

    answer = public.client.post(ALERTS, json={}, headers=bearer(public.tokens["operator"]))

    assert answer.status_code == 503
    assert "(No such file or directory)" in answer.json()["detail"]
