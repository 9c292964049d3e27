from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.alert_inbox import Alert
from exporters.history import alerts
from exporters.history.database import Database
from exporters.history.retention import keep
from tests.exporters.history.written import full_disk

DAY = 86_400.0
SECOND_10, SECOND_25 = "2026-01-02T03:04:10Z", "2026-01-02T03:04:25Z"


class Clock:
    seconds = 1.7e9

    def wall(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    database = Database(tmp_path / "state" / "history.db", wall=clock.wall)
    yield database
    database.close()


def alert(
    name: str = "TrainingStalled",
    starts_at: str = "2026-01-02T03:04:05.123456789Z",
    status: str = "firing",
    **labels: str,
) -> Alert:
    return Alert.model_validate(
        {
            "status": status,
            "labels": {"alertname": name, **labels},
            "startsAt": starts_at,
            "endsAt": "0001-01-01T00:00:00Z",
            "fingerprint": f"of-{name}",
        }
    )


def names(database: Database, run: str | None = None) -> list[str]:
    return [stored.labels["alertname"] for stored in alerts.listed(database, run)]


def test_an_alert_that_comes_again_is_the_same_alert_notified_once_more(
    database: Database, clock: Clock
) -> None:
    alerts.add(database, [alert()])
    clock.seconds += 60
    alerts.add(database, [alert(status="resolved")])

    (stored,) = alerts.listed(database)

    assert (stored.status, stored.notifications, stored.received_at) == ("resolved", 2, 1.7e9 + 60)
    assert stored.labels == {"alertname": "TrainingStalled"}


def test_the_same_moment_told_in_another_time_zone_is_the_same_alert(database: Database) -> None:
    alerts.add(database, [alert(starts_at="2026-01-02T03:04:05Z")])
    alerts.add(database, [alert(starts_at="2026-01-02T04:04:05+01:00")])

    assert [stored.notifications for stored in alerts.listed(database)] == [2]


def test_an_alert_that_fires_again_after_its_end_is_another_one(database: Database) -> None:
    for status, starts_at in (("firing", SECOND_10), ("resolved", SECOND_10), ("firing", SECOND_25)):
        alerts.add(database, [alert(status=status, starts_at=starts_at)])

    assert [(each.status, each.notifications) for each in alerts.listed(database)] == [
        ("firing", 1),
        ("resolved", 2),
    ]


@pytest.mark.parametrize("resolved", [[SECOND_10], [SECOND_25], [SECOND_10, SECOND_25]])
def test_what_a_pair_of_prometheus_servers_tell_is_one_alert(database: Database, resolved: list[str]) -> None:
    for starts_at in (SECOND_10, SECOND_25):
        alerts.add(database, [alert(starts_at=starts_at)])
    for starts_at in resolved:
        alerts.add(database, [alert(status="resolved", starts_at=starts_at)])

    (stored,) = alerts.listed(database)

    assert (stored.status, stored.notifications) == ("resolved", 2 + len(resolved))
    assert stored.starts_at.second == 10


def test_what_came_since_a_change_is_told_in_its_order(database: Database, clock: Clock) -> None:
    alerts.add(database, [alert("One"), alert("Two")])
    seen = alerts.newest_change(database)
    clock.seconds -= 60  # the clock was set back
    alerts.add(database, [alert("Three"), alert("One", status="resolved")])

    first, until = alerts.changed(database, seen, most=1)
    second, end = alerts.changed(database, until)

    assert [each.labels["alertname"] for each in (*first, *second)] == ["Three", "One"]
    assert alerts.changed(database, end) == ([], end)


def test_after_all_were_forgotten_what_comes_next_is_new(database: Database, clock: Clock) -> None:
    alerts.add(database, [alert("One"), alert("Two")])
    clock.seconds += 31 * DAY
    keep(database)
    _, until = alerts.changed(database, 2)
    alerts.add(database, [alert("Three")])

    assert [each.labels["alertname"] for each in alerts.changed(database, until)[0]] == ["Three"]


def test_alerts_are_listed_newest_first_and_at_most_500(database: Database, clock: Clock) -> None:
    for number in range(6):
        clock.seconds += 1
        alerts.add(database, [alert(f"Alert{number}-{each}") for each in range(100)])

    listed = names(database)

    assert len(listed) == 500
    assert (listed[0], listed[-1]) == ("Alert5-99", "Alert1-0")


def test_the_alerts_of_one_run_are_those_that_name_it(database: Database) -> None:
    alerts.add(database, [alert("Mine", run="a-run"), alert("Theirs", run="b-run"), alert("Nobodys")])

    assert names(database, "a-run") == ["Mine"]
    assert len(names(database)) == 3


def test_alerts_are_kept_for_30_days(database: Database, clock: Clock) -> None:
    alerts.add(database, [alert("Old")])
    clock.seconds += 29 * DAY
    alerts.add(database, [alert("New")])
    keep(database)
    assert len(names(database)) == 2

    clock.seconds += 2 * DAY
    keep(database)

    assert names(database) == ["New"]


def test_two_services_may_share_the_file(database: Database, clock: Clock) -> None:
    other = Database(database.path, wall=clock.wall)
    alerts.add(database, [alert("One")])
    alerts.add(other, [alert("Two")])

    assert len(names(database)) == len(names(other)) == 2
    other.close()


def test_a_full_disk_stores_none_of_a_notification_and_spoils_nothing(database: Database) -> None:
    alerts.add(database, [alert("Before")])
    many = [alert(f"Alert{number}") for number in range(500)]

    with full_disk(database.path.with_name("history.db-wal")), pytest.raises(sqlite3.Error):
        alerts.add(database, many)

    assert names(database) == ["Before"]
    alerts.add(database, many)
    assert len(names(database)) == 500
