from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporters.alert_inbox import Alert
from exporters.followed import SeenAlive
from exporters.history import History

DAY = 86_400.0


class Clock:
    seconds = 1.7e9

    def wall(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> Iterator[History]:
    history = History(tmp_path / "state" / "history.db", wall=clock.wall)
    yield history
    history.close()


def alert(
    name: str = "TrainingStalled", starts_at: str = "2026-01-02T03:04:05.123456789Z", status: str = "firing"
) -> Alert:
    return Alert.model_validate(
        {
            "status": status,
            "labels": {"alertname": name},
            "startsAt": starts_at,
            "endsAt": "0001-01-01T00:00:00Z",
            "fingerprint": f"of-{name}",
        }
    )


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Within it no file of this process grows beyond the size of this one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_alert_that_comes_again_is_the_same_alert_notified_once_more(
    history: History, clock: Clock
) -> None:
    history.add_alerts([alert()])
    clock.seconds += 60
    history.add_alerts([alert(status="resolved")])

    (stored,) = history.alerts()

    assert (stored.status, stored.notifications, stored.received_at) == ("resolved", 2, 1.7e9 + 60)
    assert stored.labels == {"alertname": "TrainingStalled"}


def test_the_same_moment_told_in_another_time_zone_is_the_same_alert(history: History) -> None:
    history.add_alerts([alert(starts_at="2026-01-02T03:04:05Z")])
    history.add_alerts([alert(starts_at="2026-01-02T04:04:05+01:00")])

    assert [stored.notifications for stored in history.alerts()] == [2]


def test_an_alert_that_starts_anew_is_another_one(history: History) -> None:
    history.add_alerts([alert()])
    history.add_alerts([alert(starts_at="2026-01-03T00:00:00Z")])

    assert [stored.notifications for stored in history.alerts()] == [1, 1]


def test_alerts_are_listed_newest_first_and_at_most_500(history: History, clock: Clock) -> None:
    for number in range(6):
        clock.seconds += 1
        history.add_alerts([alert(f"Alert{number}-{each}") for each in range(100)])

    listed = history.alerts()

    assert len(listed) == 500
    assert listed[0].labels["alertname"] == "Alert5-99"
    assert listed[-1].labels["alertname"] == "Alert1-0"


def test_alerts_are_kept_for_30_days(history: History, clock: Clock) -> None:
    history.add_alerts([alert("Old")])
    clock.seconds += 29 * DAY
    history.add_alerts([alert("New")])
    assert len(history.alerts()) == 2

    clock.seconds += 2 * DAY
    history.add_alerts([alert("New")])

    assert [stored.labels["alertname"] for stored in history.alerts()] == ["New"]


def test_everything_is_there_when_the_file_is_opened_again(history: History, tmp_path: Path) -> None:
    recording = tmp_path / "rank-0.1.steps"
    recording.touch()
    history.add_alerts([alert()])
    history.remember([SeenAlive(recording, "boot", 12345), SeenAlive(recording, "later-boot", 7)])
    history.close()

    again = History(tmp_path / "state" / "history.db")

    assert len(again.alerts()) == 1
    assert again.seen_alive_ns(recording, "boot") == 12345
    assert again.seen_alive_ns(recording, "later-boot") == 7
    assert again.seen_alive_ns(recording, "another-boot") == 0
    again.close()


def test_two_services_may_share_the_file(history: History, clock: Clock, tmp_path: Path) -> None:
    other = History(tmp_path / "state" / "history.db", wall=clock.wall)
    history.add_alerts([alert("One")])
    other.add_alerts([alert("Two")])

    assert len(history.alerts()) == len(other.alerts()) == 2
    other.close()


def test_what_is_known_of_removed_recordings_is_forgotten_at_the_next_start(
    history: History, tmp_path: Path
) -> None:
    history.remember([SeenAlive(tmp_path / "removed.steps", "boot", 1)])
    history.close()

    again = History(tmp_path / "state" / "history.db")

    assert again.seen_alive_ns(tmp_path / "removed.steps", "boot") == 0
    again.close()


def test_a_full_disk_stores_none_of_a_notification_and_spoils_nothing(
    history: History, tmp_path: Path
) -> None:
    history.add_alerts([alert("Before")])
    many = [alert(f"Alert{number}") for number in range(500)]

    with full_disk(tmp_path / "state" / "history.db-wal"), pytest.raises(sqlite3.Error):
        history.add_alerts(many)

    assert [stored.labels["alertname"] for stored in history.alerts()] == ["Before"]
    history.add_alerts(many)
    assert len(history.alerts()) == 500


def test_the_later_of_two_last_signs_of_life_counts(history: History) -> None:
    path = Path("/run/rank-0.1.steps")
    for seen_ns in (5, 9, 7):
        history.remember([SeenAlive(path, "boot", seen_ns)])

    assert history.seen_alive_ns(path, "boot") == 9


def test_an_ending_that_cannot_be_stored_is_logged_once_and_does_not_raise(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.close()

    for _ in range(2):
        history.remember([SeenAlive(Path("/run/rank-0.1.steps"), "boot", 1)])

    assert history.seen_alive_ns(Path("/run/rank-0.1.steps"), "boot") == 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "of 1 recordings could not be stored" in caplog.records[0].getMessage()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"no database at all, and long enough to be sure of it" * 100)

    with pytest.raises(sqlite3.DatabaseError):
        History(tmp_path / "history.db")
