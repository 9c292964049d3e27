"""How our own programs call a service over HTTP: at which URL, and so that nobody else learns a token."""

from __future__ import annotations

import ssl

import httpx


def checked_url(url: str) -> httpx.URL:
    """The URL of a service, without a slash at its end; raises ValueError with a sentence for any other."""
    if "@" in url:  # nor is it repeated: what is told goes into logs and reports
        raise ValueError("the URL of a service has no user and no password; a token comes from a file")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url} is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url} is no URL of a service, such as http://monitor:8003")
    return parsed.copy_with(path=parsed.path.rstrip("/"), query=None, fragment=None)


def client(*, answer_seconds: float) -> httpx.Client:
    """One that asks no proxy of the environment, follows no redirect, and trusts whom the system trusts."""
    return httpx.Client(trust_env=False, timeout=answer_seconds, verify=ssl.create_default_context())
