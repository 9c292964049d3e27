from __future__ import annotations

from pathlib import Path

import pytest

from exporters.deaths import Death
from exporters.followed import SeenAlive
from exporters.history.database import Database
from exporters.history.endings import StoredEndings
from exporters.history.retention import keep

RECORDING = Path("/run/rank-0.1.steps")


@pytest.fixture
def endings(database: Database) -> StoredEndings:
    return StoredEndings(database)


def test_everything_is_there_when_the_file_is_opened_again(
    endings: StoredEndings, database: Database
) -> None:
    seen = [SeenAlive(RECORDING, "boot", 3, 12345, Death(signal=9)), SeenAlive(RECORDING, "later-boot", 3, 7)]
    endings.remember(seen)
    database.close()

    database = Database(database.path)
    again = StoredEndings(database)

    assert [again.last_seen(RECORDING, boot, 3) for boot in ("boot", "later-boot")] == seen
    assert again.last_seen(RECORDING, "another-boot", 3) is None
    database.close()


def test_the_later_of_two_last_signs_of_life_counts_and_no_death_is_forgotten(
    endings: StoredEndings,
) -> None:
    for seen_ns, death in ((5, None), (9, Death(exit_status=3)), (7, None)):
        endings.remember([SeenAlive(RECORDING, "boot", 3, seen_ns, death)])

    assert endings.last_seen(RECORDING, "boot", 3) == SeenAlive(RECORDING, "boot", 3, 9, Death(exit_status=3))


def test_what_is_known_of_removed_recordings_is_forgotten(
    endings: StoredEndings, database: Database, tmp_path: Path
) -> None:
    there = tmp_path / "rank-0.1.steps"
    there.touch()
    endings.remember([SeenAlive(each, "boot", 3, 1) for each in (RECORDING, there)])

    keep(database)

    assert endings.last_seen(RECORDING, "boot", 3) is None
    assert endings.last_seen(there, "boot", 3) is not None


def test_an_ending_that_cannot_be_stored_is_logged_once_and_does_not_raise(
    endings: StoredEndings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.close()

    for _ in range(2):
        endings.remember([SeenAlive(RECORDING, "boot", 3, 1)])

    assert endings.last_seen(RECORDING, "boot", 3) is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "of 1 recordings could not be stored" in caplog.records[0].getMessage()


def test_another_recording_of_the_same_name_has_an_ending_of_its_own(endings: StoredEndings) -> None:
    endings.remember([SeenAlive(RECORDING, "boot", 3, 9, Death(signal=9))])

    assert endings.last_seen(RECORDING, "boot", 4) is None
    endings.remember([SeenAlive(RECORDING, "boot", 4, 5)])
    assert endings.last_seen(RECORDING, "boot", 4) == SeenAlive(RECORDING, "boot", 4, 5)
    assert endings.last_seen(RECORDING, "boot", 3) == SeenAlive(RECORDING, "boot", 3, 9, Death(signal=9))
