"""The page in the browser: `/`, and the files it is made of under `/assets/`."""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_MODULES = ("api", "charts", "details", "dom", "format", "list", "login", "main", "run", "stream")
_OURS = ("page.css", "icon.svg", "icon-alarm.svg", *(f"{name}.js" for name in _MODULES))
INDEX = "index.html"
PLOTLY = "plotly.min.js"
PLOTLY_VERSION = version("plotly")
ASSETS = (*_OURS, PLOTLY)

# Nothing from elsewhere, nothing inline. Plotly sets styles through the CSSOM only: index.html has elements
# by whose ids it holds the style sheets that it would add, its own and that of its maps, for present.
_STYLE_OF_MAPS = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')
CONTENT_SECURITY_POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
        *("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}
_REVALIDATED = "no-cache"
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """A file as it is sent, and smaller; the tags tell both from those of another version."""

    content: bytes
    compressed: bytes
    media_type: str
    tag: str

    @classmethod
    def of(cls, content: bytes, name: str) -> Asset:
        tag = hashlib.sha256(content).hexdigest()[:16]
        return cls(content, gzip.compress(content, 9, mtime=0), _TYPES[name.rpartition(".")[2]], tag)


@functools.cache
def asset(name: str) -> Asset:
    """One of ASSETS or index.html, read and compressed once a process."""
    if name == PLOTLY:
        return Asset.of(files("plotly").joinpath("package_data", PLOTLY).read_bytes(), name)
    content = files("exporters").joinpath("page", name).read_bytes()
    if name == INDEX:
        content = content.replace(b"{plotly_version}", PLOTLY_VERSION.encode())
        content = content.replace(b"{plotly_maps}", style_of_maps().encode())
    return Asset.of(content, name)


def style_of_maps() -> str:
    """The id of an element that Plotly holds the style sheet of its maps for."""
    found = _STYLE_OF_MAPS.search(asset(PLOTLY).content)
    return found[1].decode() if found else "plotly"


def page_routes() -> APIRouter:
    """The routes of the page; they are for browsers and not in the OpenAPI document."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    def index(request: Request) -> Response:
        return _answer(request, asset(INDEX), _REVALIDATED)

    @router.api_route("/assets/{name}", methods=["GET", "HEAD"])
    def assets(request: Request, name: str, v: str = "") -> Response:
        """Of the names in ASSETS only: what is asked for is never a path."""
        if name not in ASSETS:
            raise HTTPException(404, f"no asset {name!r}")
        current = name == PLOTLY and v == PLOTLY_VERSION
        return _answer(request, asset(name), _FOR_EVER if current else _REVALIDATED)

    return router


def _answer(request: Request, found: Asset, cache_control: str) -> Response:
    smaller = _takes_gzip(request.headers.get("accept-encoding", ""))
    tag = f'"{found.tag}{"-gzip" if smaller else ""}"'
    headers = {**_HEADERS, "Cache-Control": cache_control, "ETag": tag}
    if tag in [
        each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")
    ]:
        return Response(status_code=304, headers=headers)
    if smaller:
        headers["Content-Encoding"] = "gzip"
    content = found.compressed if smaller else found.content
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(content))
        content = b""
    return Response(content, media_type=found.media_type, headers=headers)


def _takes_gzip(accept_encoding: str) -> bool:
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
