"""This node's entry in the discovery of another service."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
from pydantic import ValidationError

from exporters.access.tokens import read_token
from exporters.calling import checked_url, client
from exporters.discovery import Node

logger = logging.getLogger(__name__)

PATH = "/api/v1/sd"
_ANSWER_SECONDS = 10.0
_LONGEST_ANSWER = 300


class Registration:
    """Says again and again that this node is there: `register` is to be called every `interval_seconds`.

    Raises ValueError with a sentence where the URL or the address will not do.
    """

    def __init__(
        self, url: str, address: str, token_file: Path | None = None, *, scheme: str = "http"
    ) -> None:
        """`url` is that of the service to register at, `address` the HOST:PORT where this one is scraped."""
        self._url = f"{checked_url(url)}{PATH}"
        self._token_file = token_file
        try:
            self._node = Node.model_validate({"address": address, "scheme": scheme})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
        self._client = client(answer_seconds=_ANSWER_SECONDS)
        self._logged: str | None = None

    @property
    def interval_seconds(self) -> float:
        """So that two calls may fail before the node expires."""
        return self._node.expires_seconds / 3

    def register(self) -> None:
        """Register once. Does not raise: what fails is logged once, until it has gone well again."""
        problem = self._problem()
        if problem is not None and problem != self._logged:
            logger.warning("this node could not be registered at %s: %s", self._url, problem)
        self._logged = problem

    def close(self) -> None:
        self._client.close()

    def _problem(self) -> str | None:
        try:
            headers = {}
            if self._token_file is not None:
                headers["Authorization"] = f"Bearer {read_token(self._token_file)}"
            answer = self._client.post(self._url, json=self._node.model_dump(), headers=headers)
        except (OSError, ValueError, httpx.HTTPError) as error:
            return str(error) or type(error).__name__
        if answer.status_code == httpx.codes.OK:
            return None
        return f"{answer.status_code} {answer.text[:_LONGEST_ANSWER]}"
