from __future__ import annotations

import time
from pathlib import Path

import pytest

from exporters.access.audit import LOG_FILE
from exporters.access.verification import verify
from tests.exporters.access.guarded import ALERTS, SESSION, Guarded, bearer

AUDIT = "/api/v1/audit"
STRANGER = {"name": None, "role": None, "authenticated": False, "may_log_in": True}


def test_one_logs_in_with_a_token_and_is_known_by_a_cookie(public: Guarded) -> None:
    assert public.client.get(SESSION).json() == STRANGER

    answer = public.client.post(SESSION, json={"token": public.tokens["operator"]})

    who = {"name": "a-operator", "role": "operator", "authenticated": True, "may_log_in": True}
    assert (answer.status_code, answer.json()) == (200, who)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("trainvitals_session=")
    assert {part.strip() for part in cookie.split(";")[1:]} == {
        "HttpOnly",
        "Max-Age=43200",
        "Path=/",
        "SameSite=strict",
    }
    assert public.client.get(SESSION).json() == who
    assert public.client.post(ALERTS, json={}).json()["caller"] == "a-operator"
    assert public.told == [
        ("a-operator", "login", SESSION, "200"),
        ("a-operator", "POST", ALERTS, "200"),
    ]


def test_under_tls_the_cookie_is_for_tls_only_that_of_a_proxy_too(public: Guarded) -> None:
    body = {"token": public.local}
    direct = public.client_of("https://localhost").post(SESSION, json=body)
    proxied = public.client_of("http://localhost").post(
        SESSION, json=body, headers={"origin": "https://localhost"}
    )

    for answer in (direct, proxied):
        assert answer.status_code == 200
        assert "Secure" in answer.headers["set-cookie"]


def test_one_logs_out(public: Guarded) -> None:
    public.client.post(SESSION, json={"token": public.local})
    cookies = dict(public.client.cookies)

    assert public.client.delete(SESSION).json() == STRANGER

    assert public.client.get(SESSION).json() == STRANGER
    again = public.client.get(SESSION, headers={"cookie": f"trainvitals_session={cookies.popitem()[1]}"})
    assert again.json() == STRANGER
    assert public.told[-1] == ("local", "logout", SESSION, "200")


def test_to_log_in_anew_ends_the_session_before(public: Guarded) -> None:
    public.client.post(SESSION, json={"token": public.local})
    former = public.client.cookies["trainvitals_session"]
    public.client.post(SESSION, json={"token": public.tokens["viewer"]})

    assert public.client.cookies["trainvitals_session"] != former
    assert public.access.callers.of_session(former) is None


def test_a_session_ends_with_its_token(public: Guarded) -> None:
    public.client.post(SESSION, json={"token": public.tokens["viewer"]})
    assert public.client.get("/api/v1/runs").status_code == 200

    public.file.revoke("a-viewer")

    assert public.client.get("/api/v1/runs").status_code == 401
    assert public.client.get(SESSION).json() == STRANGER


def test_a_cookie_that_is_unknown_is_as_none(local: Guarded, public: Guarded) -> None:
    headers = {"cookie": "other=1; trainvitals_session=stale"}

    assert local.client.get("/api/v1/runs", headers=headers).json() == {"caller": "nobody"}
    assert public.client.get("/api/v1/runs", headers=headers).status_code == 401


def test_a_neighbours_cookie_of_the_same_name_does_not_log_out(public: Guarded) -> None:
    public.client.post(SESSION, json={"token": public.tokens["viewer"]})
    session = public.client.cookies["trainvitals_session"]
    public.client.cookies.clear()
    headers = {"cookie": f"trainvitals_session=of-another; trainvitals_session={session}"}

    assert public.client.get("/api/v1/runs", headers=headers).json() == {"caller": "a-viewer"}


def test_wrong_tokens_are_limited_and_shut_nobody_out_who_has_a_right_one(public: Guarded) -> None:
    answers = [public.client.post(SESSION, json={"token": f"tvl_{number}"}) for number in range(11)]

    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert answers[0].json()["detail"].startswith("the token is unknown, expired or revoked")
    assert answers[10].headers["retry-after"] == "6"
    assert public.told[0] == ("unknown", "login", SESSION, "401")
    assert public.told[-1] == ("unknown", "login", SESSION, "429")
    assert public.client.post(SESSION, json={"token": public.local}).status_code == 200


def test_who_logs_in_and_out_without_end_fills_no_disk(public: Guarded) -> None:
    for _ in range(60):
        assert public.client.post(SESSION, json={"token": public.tokens["viewer"]}).status_code == 200
        assert public.client.delete(SESSION).status_code == 200
    public.access.close()

    assert [(entry.actor, entry.action, entry.count) for entry in public.entries] == [
        ("a-viewer", "login", 1),
        ("a-viewer", "logout", 1),
        ("a-viewer", "login", 59),
        ("a-viewer", "logout", 59),
    ]


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": "x" * 201}, {"token": 1}, []])
def test_what_is_no_token_is_422(public: Guarded, body: object) -> None:
    assert public.client.post(SESSION, json=body).status_code == 422


def test_nobody_logs_somebody_in_from_another_site(public: Guarded) -> None:
    body = {"token": public.local}

    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert public.client.post(SESSION, json=body, headers=headers).status_code == 403
    form = public.client.post(SESSION, data=body)
    assert form.status_code == 415


def test_the_audit_log_is_read_by_an_admin_page_by_page(public: Guarded) -> None:
    headers = bearer(public.tokens["admin"])
    for number in range(5):
        public.client.delete(f"/api/v1/runs/{number}", headers=headers)

    first = public.client.get(f"{AUDIT}?limit=3", headers=headers).json()
    second = public.client.get(f"{AUDIT}?limit=3&cursor={first['next_cursor']}", headers=headers).json()

    assert [entry["id"] for entry in first["entries"] + second["entries"]] == [5, 4, 3, 2, 1]
    assert second["next_cursor"] is None
    newest = first["entries"][0]
    assert (newest["actor"], newest["action"], newest["resource"]) == ("a-admin", "abort", "/api/v1/runs/4")
    assert newest["at"] == pytest.approx(time.time(), abs=60)
    assert newest["at_iso"].endswith("Z")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "cursor=x", "cursor=-1", "cursor=1%0A"])
def test_a_question_that_is_none_is_422(public: Guarded, query: str) -> None:
    assert public.client.get(f"{AUDIT}?{query}", headers=bearer(public.local)).status_code == 422


def test_an_audit_log_that_cannot_be_read_is_503(public: Guarded) -> None:
    public.access.journal.log.path.mkdir()

    assert public.client.get(AUDIT, headers=bearer(public.local)).status_code == 503


def test_all_of_it_leaves_a_log_that_verifies(public: Guarded, tmp_path: Path) -> None:
    for number in range(60):
        public.client.get("/api/v1/runs", headers=bearer(f"{number}"))
    public.access.close()

    verdict = verify(tmp_path / LOG_FILE)

    assert verdict.problem is None
    assert sum(entry.count for entry in public.entries) == 60
    assert 31 <= verdict.count < 60  # on a slow machine some seconds pass
