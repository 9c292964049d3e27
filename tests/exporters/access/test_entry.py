from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.access.entry import NO_HASH, Event, make_entry, parse_entry


@settings(deadline=None)
@given(text=st.text())
def test_whatever_is_told_is_one_line_and_reads_as_it_was(text: str) -> None:
    text += "\n\r\u2028\x1b"
    event = Event(text, text, text, text, text, text)
    entry = make_entry(event, 1, NO_HASH, 1767323045.678)

    assert entry.line.count(b"\n") == 1
    assert entry.line.isascii()
    assert b"\x1b" not in entry.line
    assert parse_entry(entry.line) == entry


def test_a_long_text_is_cut() -> None:
    entry = make_entry(Event("ci", "operator", "GET", "/" + "x" * 5000, "404", ""), 1, NO_HASH, 0.0)

    assert len(entry.resource) == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[:-1],
        lambda line: line + b"\n",
        lambda line: b" " + line,
        lambda line: line.replace(b'"id":1', b'"id":true'),
        lambda line: line.replace(b'"role":"r"', b'"role":null'),
        lambda line: b"{}\n",
        lambda line: b"[" * 100_000,
    ],
)
def test_a_line_that_is_not_exactly_as_it_is_written_is_none(change: Callable[[bytes], bytes]) -> None:
    line = make_entry(Event("a", "r", "GET", "/", "200", ""), 1, NO_HASH, 0.0).line
    assert parse_entry(line) is not None

    assert parse_entry(change(line)) is None
