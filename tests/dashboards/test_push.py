from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alerts.thresholds import Thresholds
from dashboards import build
from dashboards.grafana.push import FOLDERS_A_PAGE, Grafana, GrafanaError, Pushed, push
from tests.dashboards.grafana import TOKEN, Answer, StubGrafana
from tests.trainvitals.test_tls import made_pair

Json = dict[str, Any]

FIRST: Json = {"uid": "first", "title": "First", "version": 1, "panels": [{"id": 1, "max": 90.0}]}
SECOND: Json = {"uid": "second", "title": "Second", "version": 1, "panels": []}


@pytest.fixture
def stub() -> Iterator[StubGrafana]:
    with StubGrafana() as stub:
        yield stub


def pushed(
    stub: StubGrafana, *documents: Json, folder: str = "Training", dry_run: bool = False
) -> list[Pushed]:
    with Grafana(stub.url, TOKEN) as grafana:
        return list(push(grafana, documents, folder, "a message", dry_run=dry_run))


def refused(url: str, token: str = TOKEN) -> str:
    with pytest.raises(GrafanaError) as caught, Grafana(url, token) as grafana:
        list(push(grafana, [FIRST], "Training", "a message"))
    said = str(caught.value)
    assert token not in said
    assert "\n" not in said
    return said


def test_the_folder_is_made_and_the_dashboards_are_written_into_it(stub: StubGrafana) -> None:
    outcomes = pushed(stub, FIRST, SECOND)

    ((folder, title),) = stub.folders.items()
    assert title == "Training"
    assert outcomes == [
        Pushed("created", f"{stub.url}/dashboards/f/{folder}", "folder Training"),
        Pushed("created", f"{stub.url}/d/first", "First"),
        Pushed("created", f"{stub.url}/d/second", "Second"),
    ]
    assert [(each.folder, each.messages) for each in stub.dashboards.values()] == [
        (folder, ("a message",)),
        (folder, ("a message",)),
    ]


def test_what_is_the_same_is_not_written_again(stub: StubGrafana) -> None:
    pushed(stub, FIRST, SECOND)
    changed = {**FIRST, "panels": [{"id": 1, "max": 85.0}]}

    assert [each.outcome for each in pushed(stub, FIRST, SECOND)] == ["unchanged", "unchanged"]
    assert stub.writes == 2
    assert [each.outcome for each in pushed(stub, changed, SECOND)] == ["updated", "unchanged"]
    assert stub.writes == 3
    assert stub.dashboards["first"].document["version"] == 2


def test_our_dashboards_are_taken_and_are_the_same_the_next_time(stub: StubGrafana) -> None:
    documents = build.documents(Thresholds())
    pushed(stub, *documents)

    assert stub.dashboards.keys() == {document["uid"] for document in documents}
    assert {each.outcome for each in pushed(stub, *documents)} == {"unchanged"}


def test_a_change_made_in_grafana_is_overwritten(stub: StubGrafana) -> None:
    pushed(stub, FIRST)
    stub.dashboards["first"].document["panels"][0]["max"] = 1

    assert [each.outcome for each in pushed(stub, FIRST)] == ["updated"]
    assert stub.dashboards["first"].document["panels"] == FIRST["panels"]


def test_a_dashboard_that_lies_elsewhere_is_moved(stub: StubGrafana) -> None:
    pushed(stub, FIRST, folder="Old")

    assert [each.outcome for each in pushed(stub, FIRST, folder="New")] == ["created", "updated"]
    assert stub.folders[stub.dashboards["first"].folder] == "New"


def test_a_folder_is_found_among_more_than_a_page_of_them(stub: StubGrafana) -> None:
    stub.folders = {f"uid{number}": f"Team {number}" for number in range(FOLDERS_A_PAGE + 1)}

    pushed(stub, FIRST, folder=f"Team {FOLDERS_A_PAGE}")
    assert stub.dashboards["first"].folder == f"uid{FOLDERS_A_PAGE}"
    assert len(stub.folders) == FOLDERS_A_PAGE + 1


def test_a_dry_run_says_what_would_change_and_writes_nothing(stub: StubGrafana) -> None:
    assert [each.outcome for each in pushed(stub, FIRST, dry_run=True)] == ["created", "created"]
    assert (stub.folders, stub.dashboards) == ({}, {})

    pushed(stub, FIRST)
    changed = {**FIRST, "title": "Renamed"}
    assert [each.outcome for each in pushed(stub, changed, SECOND, dry_run=True)] == ["updated", "created"]
    assert stub.writes == 1


def test_a_grafana_below_a_path_is_reached_there_and_not_elsewhere() -> None:
    with StubGrafana(under="/grafana") as stub:
        assert pushed(stub, FIRST)[-1].url == f"{stub.url}/d/first"
        with Grafana(f" {stub.url}/?orgId=1 ", f"{TOKEN}\n") as grafana:
            assert [each.outcome for each in push(grafana, [FIRST], "Training", "")] == ["unchanged"]
        assert "has no /api/folders (404): it is no Grafana, or lies under a sub-path" in refused(stub.root)


def test_a_wrong_token_is_said(stub: StubGrafana) -> None:
    said = refused(stub.url, "glsa_wrong")
    assert said.startswith(f"{stub.url} does not accept the token (401: Invalid API key): it was revoked")


@pytest.mark.parametrize(
    "permission", ["folders:read", "folders:create", "dashboards:read", "dashboards:create"]
)
def test_a_permission_that_is_missing_is_named(permission: str, stub: StubGrafana) -> None:
    stub.permissions.remove(permission)

    said = refused(stub.url)
    assert "does not allow it (403: You'll need additional permissions" in said
    assert f"service account needs {permission}" in said
    assert stub.dashboards == {}


def test_who_may_only_write_what_is_there_is_told_so(stub: StubGrafana) -> None:
    pushed(stub, {**FIRST, "panels": []})
    stub.permissions.remove("dashboards:write")
    assert "needs dashboards:create and dashboards:write; the role Editor" in refused(stub.url)


def test_another_dashboard_of_the_same_title_is_in_the_way(stub: StubGrafana) -> None:
    pushed(stub, {**FIRST, "uid": "other"})
    said = refused(stub.url)
    assert "has another dashboard in the way (412: A dashboard with the same name in the folder" in said


def test_a_dashboard_that_a_file_provisions_is_left_to_that_file(stub: StubGrafana) -> None:
    pushed(stub, {**FIRST, "panels": []})
    stub.dashboards["first"] = stub.dashboards["first"]._replace(provisioned=True)
    assert "has it from a file it was provisioned with (400: Cannot save" in refused(stub.url)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            Answer(302, "", (("Location", "/login?redirectTo=%2Fapi"),)),
            "sends us to {url}/login: give that address, or, if that is a login page",
        ),
        (
            Answer(301, "", (("Location", "https://example.org/grafana/api/folders?limit=1000&page=1"),)),
            "sends us to https://example.org/grafana: give that address",
        ),
        (Answer(200, "<html>Welcome</html>"), "answers, but not as Grafana does"),
        (Answer(200, {"status": "ok"}), "answers, but not as Grafana does"),
        (Answer(200, [{}]), "answers, but not as Grafana does"),
        (Answer(200, "[1]"), "answers, but not as Grafana does"),
        (Answer(304, ""), "refuses it (304)"),
        (Answer(409, {"message": "exists"}), "has the folder, but hides it from the token (409: exists)"),
        (Answer(429, {}, (("Retry-After", "7"),)), "is asked too much (429, for 7 s): try again"),
        (Answer(503, "<html>starting</html>"), "is not ready (503): try again"),
        (Answer(500, {"message": f"{TOKEN}\n\x1b[31mbroken."}), "refuses it (500: … [31mbroken)"),
        (Answer(502, "<html>Bad gateway</html>"), "refuses it (502)"),
    ],
)
def test_an_answer_that_will_not_do_is_one_line_that_says_what_to_do(
    answer: Answer, said: str, stub: StubGrafana
) -> None:
    stub.always = answer
    assert f"{stub.url} {said.format(url=stub.url)}" in refused(stub.url)


@pytest.mark.parametrize("body", [{"status": "ok"}, {"dashboard": None, "meta": {}}, "[]"])
def test_an_answer_that_is_no_dashboard_is_said(body: Json | str, stub: StubGrafana) -> None:
    stub.always, stub.always_at = Answer(200, body), "/api/dashboards"
    assert "answers, but not as Grafana does" in refused(stub.url)


def test_what_was_written_before_a_failure_is_yielded(stub: StubGrafana) -> None:
    with Grafana(stub.url, TOKEN) as grafana:
        push_both = push(grafana, [FIRST, {**SECOND, "title": ""}], "Training", "")
        assert [next(push_both).title, next(push_both).title] == ["folder Training", "First"]
        with pytest.raises(GrafanaError, match="title cannot be empty"):
            next(push_both)


def test_a_port_at_which_nothing_listens_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert refused(url) == f"{url} cannot be reached: nothing listens there"


def test_a_certificate_is_checked_and_one_of_our_own_authority_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = made_pair(tmp_path)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with StubGrafana(tls=(certificate, key)) as stub:
        assert "its certificate is not trusted (self-signed certificate); if it is of" in refused(stub.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert pushed(stub, FIRST)[-1].outcome == "created"
        of_other_name = stub.url.replace("127.0.0.1", "127.1")
        assert "its certificate is for another name (" in refused(of_other_name)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        assert "the certificates that SSL_CERT_FILE names cannot be read" in refused(stub.url)


def test_a_server_without_tls_is_said(stub: StubGrafana) -> None:
    assert "it speaks no TLS that we know" in refused(stub.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("grafana.example.org", "x", "'grafana.example.org' is no address of a Grafana: give one like"),
        ("ftp://grafana", "x", "is no address of a Grafana"),
        ("http://", "x", "is no address of a Grafana"),
        ("http://[::1", "x", "is no address of a Grafana"),
        ("http://admin:secret@grafana", "x", "the address has a user in it: leave that out"),
        ("http://grafana", " ", "it takes a token"),
        ("http://grafana", "two words", "the token has characters that no token has"),
        ("http://grafana", "glsa_\u20ac", "the token has characters that no token has"),
    ],
)
def test_what_is_no_address_or_no_token_is_said_before_anything_is_sent(
    url: str, token: str, said: str
) -> None:
    with pytest.raises(GrafanaError) as caught:
        Grafana(url, token)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_proxy_stands_before_a_grafana_of_this_machine(
    stub: StubGrafana, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert pushed(stub, FIRST)[-1].outcome == "created"


def test_a_grafana_that_does_not_answer_is_given_up(
    stub: StubGrafana, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboards.grafana.push.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert refused(url) == f"{url} did not answer within 0.2 s"


def test_the_token_is_sent_to_nobody_else(stub: StubGrafana) -> None:
    with StubGrafana() as elsewhere:
        stub.always = Answer(307, "", (("Location", f"{elsewhere.url}/api/folders"),))
        assert f"sends us to {elsewhere.url}: give that address" in refused(stub.url)
        assert elsewhere.asked == 0
