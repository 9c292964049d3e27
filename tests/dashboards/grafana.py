"""A stub of what Grafana's HTTP API documents of folders and dashboards, refusing what it refuses.

grafana.com/docs/grafana/v11.6/developers/http_api/dashboard and …/folder.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

TOKEN = "glsa_of-an-editor"
EDITOR = frozenset(
    {"folders:read", "folders:create", "dashboards:read", "dashboards:create", "dashboards:write"}
)


class Answer(NamedTuple):
    """An answer of the server; a body that is text is sent as it is."""

    status: int
    body: Json | list[Json] | str
    headers: tuple[tuple[str, str], ...] = ()


class Stored(NamedTuple):
    """A dashboard as it lies there, and in which folder; messages are those of its versions."""

    document: Json
    folder: str
    messages: tuple[str, ...] = ()
    provisioned: bool = False


class StubGrafana:
    """A Grafana on a free loopback port for as long as the `with` block, below the path `under`.

    `permissions` are those of TOKEN; `asked` and `writes` count what it was asked and
    what was written; `always`, if given, is all it answers, below the path `always_at`.
    `tls` is a certificate and its key.
    """

    def __init__(self, under: str = "", tls: tuple[Path, Path] | None = None) -> None:
        self.folders: dict[str, str] = {}  # titles by uid
        self.dashboards: dict[str, Stored] = {}
        self.permissions = set(EDITOR)
        self.asked = 0
        self.writes = 0
        self.always: Answer | None = None
        self.always_at = "/"
        self._under = under
        grafana = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(grafana._answer(self.path, self.headers.get("Authorization"), None))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send(grafana._answer(self.path, self.headers.get("Authorization"), body))

            def _send(self, answer: Answer) -> None:
                text = isinstance(answer.body, str)
                content = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                self.send_response(answer.status)
                self.send_header("Content-Type", "text/html" if text else "application/json")
                self.send_header("Content-Length", str(len(content.encode())))
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.root = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self.url = self.root + under
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, target: str, authorization: str | None, body: bytes | None) -> Answer:
        self.asked += 1
        parts = urlsplit(target)
        if self.always is not None and parts.path.startswith(self.always_at):
            return self.always
        if not parts.path.startswith(f"{self._under}/api/"):
            return Answer(404, "404 page not found")
        if authorization != f"Bearer {TOKEN}":
            return Answer(401, {"message": "Invalid API key"})
        path = parts.path.removeprefix(self._under)
        if path == "/api/folders":
            return self._list_folders(parse_qs(parts.query)) if body is None else self._make_folder(body)
        if body is None and path.startswith("/api/dashboards/uid/"):
            return self._dashboard(path.rpartition("/")[2])
        if body is not None and path == "/api/dashboards/db":
            return self._write(body)
        return Answer(404, {"message": "Not found"})

    def _forbidden(self, permission: str) -> Answer | None:
        if permission in self.permissions:
            return None
        message = "You'll need additional permissions to perform this action. Permissions needed: "
        return Answer(403, {"title": "Access denied", "message": message + permission})

    def _list_folders(self, query: dict[str, list[str]]) -> Answer:
        limit, page = int(query.get("limit", ["1000"])[0]), int(query.get("page", ["1"])[0])
        known = [
            {"id": number, "uid": uid, "title": title}
            for number, (uid, title) in enumerate(self.folders.items(), 1)
        ]
        return self._forbidden("folders:read") or Answer(200, known[limit * (page - 1) : limit * page])

    def _make_folder(self, body: bytes) -> Answer:
        title = json.loads(body).get("title")
        if refused := self._forbidden("folders:create"):
            return refused
        if not title:
            return Answer(400, {"message": "folder title cannot be empty"})
        if title in self.folders.values():
            return Answer(409, {"message": "a folder with the same name already exists"})
        uid = f"folder{len(self.folders) + 1}"
        self.folders[uid] = title
        return Answer(200, {"id": len(self.folders), "uid": uid, "title": title, "version": 1})

    def _dashboard(self, uid: str) -> Answer:
        if refused := self._forbidden("dashboards:read"):
            return refused
        if uid not in self.dashboards:
            return Answer(404, {"message": "Dashboard not found"})
        stored = self.dashboards[uid]
        meta = {
            "url": f"{self._under}/d/{uid}/slug",
            "folderUid": stored.folder,
            "folderTitle": self.folders[stored.folder],
            "version": stored.document["version"],
            "provisioned": stored.provisioned,
        }
        return Answer(200, {"meta": meta, "dashboard": stored.document})

    def _write(self, body: bytes) -> Answer:
        try:
            given = json.loads(body)
            document, folder = given["dashboard"], given.get("folderUid", "")
        except (ValueError, KeyError):
            return Answer(400, {"message": "bad request data"})
        uid, before = document.get("uid"), self.dashboards.get(document.get("uid"))
        if refused := self._forbidden("dashboards:write" if before else "dashboards:create"):
            return refused
        if not document.get("title"):
            return Answer(400, {"message": "Dashboard title cannot be empty"})
        if not re.fullmatch(r"[\w-]{1,40}", uid or ""):
            return Answer(400, {"message": "uid contains illegal characters"})
        if document.get("id") is not None:
            return Answer(404, {"message": "Dashboard not found"})
        if folder not in self.folders:
            return Answer(400, {"message": "folder not found"})
        for other, stored in self.dashboards.items():
            if other != uid and (stored.folder, stored.document["title"]) == (folder, document["title"]):
                message = "A dashboard with the same name in the folder already exists"
                return Answer(412, {"status": "name-exists", "message": message})
        version = 0 if before is None else before.document["version"]
        if before is not None and before.provisioned:
            return Answer(400, {"message": "Cannot save provisioned dashboard"})
        if not given.get("overwrite") and document.get("version", 0) != version:
            message = "The dashboard has been changed by someone else"
            return Answer(412, {"status": "version-mismatch", "message": message})
        number = 1 + len(self.dashboards) if before is None else before.document["id"]
        messages = (*(before.messages if before else ()), given.get("message", ""))
        kept = {**document, "id": number, "version": version + 1, "gnetId": None}
        self.dashboards[uid] = Stored(kept, folder, messages)
        self.writes += 1
        saved = {"id": number, "uid": uid, "url": f"{self._under}/d/{uid}/slug", "version": version + 1}
        return Answer(200, {**saved, "status": "success", "folderUid": folder})
