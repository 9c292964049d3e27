"""Gives dashboards to a Grafana over its HTTP API, and writes only those that differ from what it has.

The API is the one that every Grafana since 9 has, /api/folders and /api/dashboards, as
grafana.com/docs/grafana/v11.6/developers/http_api describes it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, Self

import httpx

from dashboards.grafana.panels import Json

TIMEOUT_SECONDS = 30.0
FOLDERS_A_PAGE = 1000

# Grafana counts the one and makes the other; everything else of a dashboard is ours.
_GRAFANAS_OWN = ("id", "version")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# By OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_NAME = (62, 64)
_LONGEST_QUOTE = 200


# Of JSON: a type, an object with these names at least, or a list whose every part is like this one.
_Shape = type | dict[str, "_Shape"] | list["_Shape"]


class GrafanaError(Exception):
    """What went wrong and what to do, in one line, without the token."""


class Pushed(NamedTuple):
    """What became of a dashboard or of the folder, or would: where it lies, and its title."""

    outcome: Literal["created", "updated", "unchanged"]
    url: str
    title: str


class Grafana:
    """A Grafana at `url`, a sub-path included, and a token of a service account with the role Editor.

    Every method raises GrafanaError; the constructor does, for what is no address and no token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = _address(url)
        self._token = token.strip()
        if not self._token:
            raise GrafanaError("it takes a token: make one in Grafana, of a service account that is Editor")
        # Said here, for the HTTP client would say which token it is.
        if not self._token.isascii() or not self._token.isprintable() or " " in self._token:
            raise GrafanaError("the token has characters that no token has: copy it once more")
        try:
            context = httpx.create_ssl_context()
        except OSError as error:
            raise GrafanaError(f"the certificates that SSL_CERT_FILE names cannot be read: {error}") from None
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
            timeout=TIMEOUT_SECONDS,
            verify=context,
            # No proxy of the environment stands between this machine and itself.
            trust_env=httpx.URL(self.url).host not in _LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._client.close()

    def folder(self, title: str) -> str | None:
        """The uid of the folder of this title, at the top; None where there is none that the token sees."""
        page = 1
        while True:
            path = f"/api/folders?limit={FOLDERS_A_PAGE}&page={page}"
            folders = self._ask("GET", path, "folders:read", shape=[{"title": str, "uid": str}])
            for folder in folders:
                if folder["title"] == title:
                    uid: str = folder["uid"]
                    return uid
            if len(folders) < FOLDERS_A_PAGE:
                return None
            page += 1

    def make_folder(self, title: str) -> str:
        """Make a folder; its uid."""
        made = self._ask("POST", "/api/folders", "folders:create", {"title": title}, shape={"uid": str})
        uid: str = made["uid"]
        return uid

    def difference(self, document: Json, folder: str | None) -> Literal["created", "updated", "unchanged"]:
        """What writing the dashboard into the folder would come to; into None, one that is yet to be made."""
        path = f"/api/dashboards/uid/{document['uid']}"
        shape: _Shape = {"dashboard": dict, "meta": dict}
        stored = self._ask("GET", path, "dashboards:read", shape=shape, or_none=True)
        if stored is None:
            return "created"
        dashboard = stored["dashboard"]
        same = all(dashboard.get(key) == document[key] for key in document if key not in _GRAFANAS_OWN)
        return "unchanged" if same and stored["meta"].get("folderUid") == folder else "updated"

    def write(self, document: Json, folder: str, message: str) -> None:
        """Write the dashboard into the folder, over what it holds under this uid."""
        body = {
            "dashboard": {"id": None} | {key: document[key] for key in document if key not in _GRAFANAS_OWN},
            "folderUid": folder,
            "message": message,
            "overwrite": True,
        }
        self._ask("POST", "/api/dashboards/db", "dashboards:create and dashboards:write", body)

    def _ask(
        self,
        method: str,
        path: str,
        permission: str,
        body: Json | None = None,
        *,
        shape: _Shape = dict,
        or_none: bool = False,
    ) -> Any:
        """What Grafana answers, JSON of this shape; None where it has no such thing and that is `or_none`."""
        try:
            answer = self._client.request(method, self.url + path, json=body)
        except httpx.TimeoutException:
            raise GrafanaError(f"{self.url} did not answer within {TIMEOUT_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            raise GrafanaError(f"{self.url} cannot be reached: {_why(error)}") from None
        if or_none and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if not answer.is_success:
            self._refuse(answer, path.partition("?")[0], permission)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not _fits(found, shape):
            raise GrafanaError(
                f"{self.url} answers, but not as Grafana does: it is another server, or a login is in between"
            )
        return found

    def _refuse(self, answer: httpx.Response, path: str, permission: str) -> NoReturn:
        """Raise GrafanaError for an answer that is no success."""
        status = answer.status_code
        told = self._told(answer)
        if answer.has_redirect_location:
            target = answer.url.join(answer.headers["Location"]).copy_with(query=None, fragment=None)
            where = str(target).removesuffix(path)
            raise GrafanaError(
                f"{self.url} sends us to {where}: give that address, or, if that is a login page, one that "
                "takes a token"
            )
        message = {
            401: f"does not accept the token{told}: it was revoked, has run out, or is of another Grafana",
            403: f"does not allow it{told}: the token's service account needs {permission}; the role Editor "
            "has that",
            404: f"has no {path}{told}: it is no Grafana, or lies under a sub-path, such as /grafana",
            409: f"has the folder, but hides it from the token{told}: let its service account see that",
            412: f"has another dashboard in the way{told}: rename that, or choose another folder",
            429: f"is asked too much{_later(answer)}: try again; what is there already is not written again",
            503: f"is not ready{_later(answer)}: try again; what is there already is not written again",
        }.get(status, f"refuses it{told}")
        if status == httpx.codes.BAD_REQUEST and "provisioned" in told:
            message = f"has it from a file it was provisioned with{told}: renew that file instead"
        raise GrafanaError(f"{self.url} {message}")

    def _told(self, answer: httpx.Response) -> str:
        """Grafana's own words, for a message of ours; nothing where it has none."""
        try:
            words = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            words = "" if "html" in answer.headers.get("Content-Type", "") else answer.text
        printable = "".join(each if each.isprintable() else " " for each in str(words))
        quote = " ".join(printable.replace(self._token, "…").split())[:_LONGEST_QUOTE].rstrip(".")
        return f" ({answer.status_code}: {quote})" if quote else f" ({answer.status_code})"


def push(
    grafana: Grafana, documents: Iterable[Json], folder: str, message: str, *, dry_run: bool = False
) -> Iterator[Pushed]:
    """Make the dashboards of a folder what the documents say, and yield what became of each; of the folder
    too, where it was made.

    Those that are the same already are not written, and with `dry_run` none is. Raises GrafanaError; what
    was yielded before is done.
    """
    uid = grafana.folder(folder)
    if uid is None:
        if not dry_run:
            uid = grafana.make_folder(folder)
        yield Pushed(
            "created", f"{grafana.url}/dashboards/f/{uid}" if uid else grafana.url, f"folder {folder}"
        )
    for document in documents:
        outcome = grafana.difference(document, uid)
        if outcome != "unchanged" and uid is not None and not dry_run:
            grafana.write(document, uid, message)
        yield Pushed(outcome, f"{grafana.url}/d/{document['uid']}", document["title"])


def _fits(found: object, shape: _Shape) -> bool:
    if isinstance(shape, list):
        return isinstance(found, list) and all(_fits(each, shape[0]) for each in found)
    if isinstance(shape, dict):
        return isinstance(found, dict) and all(_fits(found.get(name), each) for name, each in shape.items())
    return isinstance(found, shape)


def _address(url: str) -> str:
    """The URL without what a browser's may have behind the path. Raises GrafanaError."""
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise GrafanaError(f"{url!r} is no address of a Grafana: give one like https://grafana.example.org")
    if parsed.userinfo:
        raise GrafanaError("the address has a user in it: leave that out; the token says who it is")
    return str(parsed.copy_with(query=None, fragment=None)).rstrip("/")


def _why(error: BaseException) -> str:
    """Why a request did not get through, and what to do where that is known."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _OTHER_NAME:
                return f"its certificate is for another name ({cause.verify_message.rstrip('.')})"
            return (
                f"its certificate is not trusted ({cause.verify_message}); if it is of an authority of your "
                "own, SSL_CERT_FILE=FILE names that one's certificate"
            )
        if isinstance(cause, ssl.SSLError):
            return f"it speaks no TLS that we know ({cause.reason}); is it http:// instead?"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(cause, socket.gaierror):
            return "there is no host of that name"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _later(answer: httpx.Response) -> str:
    after = answer.headers.get("Retry-After", "")
    return f" ({answer.status_code}, for {after} s)" if after.isdigit() else f" ({answer.status_code})"
