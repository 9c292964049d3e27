from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from exporters.history.cursors import decoded, encoded


def cursor(content: str) -> str:
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def test_a_cursor_comes_back_as_it_was_made() -> None:
    assert decoded(encoded(12.5, "a-run"), str) == (12.5, "a-run")
    assert decoded(encoded(0, 2**63 - 1), int) == (0.0, 2**63 - 1)


@pytest.mark.parametrize("kind", [int, str])
@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "[1]", "[1, 2, 3]", "{}", "null", "[null, 1]", '["1", 1]', "[1, null]", "[1, [2]]"),
        *(f"[1.0, {10**40}]", "[1, -1]", "[1, true]", "[1, 1.5]", '[1, "\\ud800"]'),
        *("[NaN, 1]", '[NaN, "a"]', "[Infinity, 1]", '[-Infinity, "a"]', f'[{10**400}, "a"]', "[" * 9000),
    ],
)
def test_what_is_none_is_refused(content: str, kind: type[Any]) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        decoded(cursor(content), kind)


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(ValueError, match="no cursor"):
        decoded(encoded(1.0, 7), str)
    with pytest.raises(ValueError, match="no cursor"):
        decoded(encoded(1.0, json.dumps("a")), int)
