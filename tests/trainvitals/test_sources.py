from __future__ import annotations

import os
import shutil
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from exporters.access.tokens import make_local_token
from exporters.history.database import Database
from tests.exporters.api.service import Service
from tests.exporters.trainers import small_recording
from trainvitals import sources
from trainvitals.sources import (
    DatabaseSource,
    NoServiceError,
    ServiceSource,
    SourceError,
    listening_users,
)

TOKEN = "given-" + "x" * 20


class Server:
    """A stranger's server: it wants a token for everything and notes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.sent.append(self.headers.get("Authorization"))
                allowed = server.sent[-1] is not None
                self.send_response(200 if allowed else 401)
                self.end_headers()
                self.wfile.write(b'{"runs": []}' if allowed else b'{"detail": "who are you?"}')

            def log_message(self, *arguments: object) -> None: ...

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def speak_tls(self, certificate: Path, key: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = self.url.replace("http", "https")

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def local_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """That of this user's own service."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return make_local_token(tmp_path / "trainvitals").read_text().strip()


def asked(url: str, token_file: Path | None = None) -> object:
    source = ServiceSource(url, token_file)
    try:
        return source.get("/runs")
    finally:
        source.close()


def test_the_local_token_is_for_a_server_of_this_user_that_wants_one(
    server: Server, local_token: str
) -> None:
    assert asked(server.url) == {"runs": []}
    assert server.sent == [None, f"Bearer {local_token}"]


def test_the_local_token_is_not_for_a_server_of_another_user(
    server: Server, local_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)

    with pytest.raises(SourceError, match="does not answer without a token that may read: who are you"):
        asked(server.url)
    assert server.sent == [None]


def test_the_local_token_is_not_for_another_machine(
    server: Server, local_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "is_loopback", lambda host: False)

    with pytest.raises(SourceError, match="--token-file"):
        asked(server.url)
    assert server.sent == [None]


def test_who_listens_is_what_the_kernel_says(server: Server) -> None:
    assert listening_users(server.port) == {os.geteuid()}
    assert listening_users(1) == set()


def test_a_token_of_a_file_is_sent_at_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    assert asked(server.url, tmp_path / "token") == {"runs": []}
    assert server.sent == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize("content", [None, "", f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", f"{TOKEN}ü"])
def test_a_file_without_a_token_is_refused_and_not_quoted(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)

    with pytest.raises(SourceError, match="token") as refused:
        ServiceSource("http://127.0.0.1:1", tmp_path / "token")
    assert TOKEN not in str(refused.value)


def test_without_a_service_it_says_what_to_do(server: Server) -> None:
    server.close()

    with pytest.raises(NoServiceError, match=f"no service answers at {server.url} .*`trainvitals serve`"):
        asked(server.url)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8003", "ftp://127.0.0.1", "http://", "http://a:b"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="is no URL"):
        ServiceSource(url)


@pytest.mark.parametrize(
    "url", ["http://me:secret@127.0.0.1:8003", "http://me:sec/ret@127.0.0.1", "x@y:secret"]
)
def test_a_url_with_a_password_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(SourceError, match="no user and no password") as refused:
        ServiceSource(url)
    assert "sec" not in str(refused.value)


def test_whom_the_system_trusts_is_trusted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-noenc",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-subj", "/CN=monitor", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (tmp_path / "token").write_text(TOKEN)
    server.speak_tls(certificate, key)
    with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
        asked(server.url, tmp_path / "token")

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert asked(server.url, tmp_path / "token") == {"runs": []}


def test_a_database_answers_what_its_service_would(tmp_path: Path) -> None:
    service = Service(tmp_path)
    small_recording(service.directory, "a-run")
    service.look()
    beside = DatabaseSource(tmp_path / "history.db")
    while_it_runs = beside.get("/runs")
    beside.close()
    service.close()
    alone = tmp_path / "copied"
    alone.mkdir()
    shutil.copy(tmp_path / "history.db", alone)
    alone.chmod(0o500)
    files = list(alone.iterdir())

    source = DatabaseSource(alone / "history.db")
    assert source.get("/runs") == while_it_runs
    assert source.get("/runs/a-run")["run"] == "a-run"
    assert [each["kind"] for each in source.get("/runs/a-run/events")["events"]] == ["state"]
    with pytest.raises(SourceError, match="no run 'another'; known are: a-run"):
        source.get("/runs/another")
    assert time.time() - 60 < (source.seen_at("a-run") or 0) < time.time()
    assert list(alone.iterdir()) == files
    source.close()


def test_what_is_no_history_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no"):
        DatabaseSource(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("no database " * 1000)
    with pytest.raises(SourceError, match="not a database"):
        DatabaseSource(tmp_path / "text.db")
    Database(tmp_path / "newer.db").close()
    with sqlite3.connect(tmp_path / "newer.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SourceError, match="it is of version 99"):
        DatabaseSource(tmp_path / "newer.db")
