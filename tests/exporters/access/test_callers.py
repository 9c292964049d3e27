from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from exporters.access.callers import MOST_SESSIONS, SESSION_SECONDS, Callers
from exporters.access.roles import Caller, Role
from exporters.access.tokens import TokenFile, make_local_token, read_local_token
from tests.exporters.access.guarded import now

LOCAL = Caller("local", Role.admin)


class Door:
    """Callers of a folder, under clocks of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.now: datetime = now()
        self.seconds = 0.0
        self.file = TokenFile(folder / "tokens.json", now=lambda: self.now)
        self.token = self.file.create("ci", Role.operator, self.now + timedelta(days=30))[1]
        path = make_local_token(folder)
        self.local = read_local_token(folder)
        self.callers = Callers(path, self.file.path, now=lambda: self.now, clock=lambda: self.seconds)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_a_token_tells_who_calls(door: Door) -> None:
    assert door.callers.of_token(door.token) == Caller("ci", Role.operator)
    assert door.callers.of_token(door.local) == LOCAL
    for wrong in ("", "tvl_", door.token[:-1], door.token + "x", "\udcff", "\0"):
        assert door.callers.of_token(wrong) is None


def test_an_expired_token_is_nobodys(door: Door) -> None:
    door.now += timedelta(days=30)

    assert door.callers.of_token(door.token) is None
    assert door.callers.of_token(door.local) == LOCAL


def test_a_change_of_the_file_holds_at_once(door: Door) -> None:
    assert door.callers.of_token(door.token) is not None
    other = door.file.create("other", Role.viewer)[1]
    assert door.callers.of_token(other) == Caller("other", Role.viewer)

    door.file.revoke("ci")

    assert door.callers.of_token(door.token) is None
    assert door.callers.of_token(other) is not None


@pytest.mark.parametrize("fault", ["malformed", "missing", "open to others", "one token twice"])
def test_a_file_that_cannot_be_used_keeps_all_but_the_local_token_out_and_says_so_once(
    door: Door, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level("INFO")
    whole = door.file.path.read_text()
    if fault == "malformed":
        door.file.path.write_text(whole[:-10])
    elif fault == "missing":
        door.file.path.unlink()
    elif fault == "open to others":
        door.file.path.chmod(0o666)
    else:
        entry = whole[whole.index("[") + 1 : whole.rindex("]")]
        door.file.path.write_text(whole.replace(entry, f"{entry},{entry}"))

    for _ in range(3):
        assert door.callers.of_token(door.token) is None
        assert door.callers.of_token(door.local) == LOCAL

    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(door.file.path) in caplog.text
    with pytest.raises(ValueError, match=r"tokens\.json "):
        door.callers.check()

    door.file.path.unlink(missing_ok=True)
    door.file.path.write_text(whole)
    door.file.path.chmod(0o600)
    assert door.callers.of_token(door.token) == Caller("ci", Role.operator)
    assert caplog.records[-1].getMessage() == f"{door.file.path} can be used again"


def test_a_change_that_leaves_time_and_size_is_seen(door: Door) -> None:
    door.callers.of_token(door.token)
    found = door.file.path.stat()
    text = door.file.path.read_text()
    door.file.path.write_text(text.replace('"operator"', '"viewer"  '))
    os.utime(door.file.path, ns=(found.st_atime_ns, found.st_mtime_ns))

    assert door.callers.of_token(door.token) == Caller("ci", Role.viewer)


def opened(door: Door, token: str) -> str:
    session = door.callers.open_session(token)
    assert session is not None
    return session[0]


def test_a_session_stands_for_its_token_for_twelve_hours(door: Door) -> None:
    session = opened(door, door.token)
    assert door.callers.of_session(session) == Caller("ci", Role.operator)

    door.seconds += SESSION_SECONDS

    assert door.callers.of_session(session) is None
    assert door.callers.of_token(session) is None


def test_a_session_ends_with_its_token_and_by_itself(door: Door) -> None:
    ended, of_revoked, of_local = (opened(door, token) for token in (door.token, door.token, door.local))

    door.callers.close_session(ended)
    assert door.callers.of_session(ended) is None
    assert door.callers.of_session(of_revoked) is not None
    door.file.revoke("ci")

    assert door.callers.of_session(of_revoked) is None
    assert door.callers.of_session(of_local) == LOCAL
    door.callers.close_session("unknown")


def test_a_wrong_token_opens_no_session(door: Door) -> None:
    assert door.callers.open_session("tvl_wrong") is None


def test_the_oldest_sessions_make_room(door: Door) -> None:
    first, second = opened(door, door.token), opened(door, door.token)
    for _ in range(MOST_SESSIONS - 1):
        door.callers.open_session(door.token)

    assert door.callers.of_session(first) is None
    assert door.callers.of_session(second) is not None


def test_an_empty_scrape_token_lets_nobody_scrape(door: Door, tmp_path: Path) -> None:
    (tmp_path / "scrape").write_text("\n")
    callers = Callers(tmp_path / "local-token", scrape_token=tmp_path / "scrape")

    assert not callers.is_scrape_token("")
    with pytest.raises(ValueError, match="scrape holds no token"):
        callers.check()

    (tmp_path / "scrape").write_text("0123456789abcdef\n")
    assert callers.is_scrape_token("0123456789abcdef")
    assert not callers.is_scrape_token("0123456789abcdee")
    assert callers.of_token("0123456789abcdef") is None
