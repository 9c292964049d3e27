from __future__ import annotations

import json
import multiprocessing
import resource
import stat
import time
from pathlib import Path

import pytest

from exporters.access.audit import AuditLog, Head, head_path, read_head, write_head
from exporters.access.entry import NO_HASH, Event
from exporters.access.verification import Verdict, verify
from tests.trainer_hooks.processes import wait_until

EVENT = Event("ci", "operator", "abort", "/api/v1/runs/a-run", "200", "192.0.2.1")


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.jsonl", wall=lambda: 1767323045.678)


def filled(log: AuditLog, count: int) -> list[bytes]:
    """The lines of a log with that many entries."""
    for number in range(count):
        log.append(Event("ci", "operator", "abort", f"/api/v1/runs/{number}", "200", "192.0.2.1"))
    return log.path.read_bytes().splitlines(keepends=True)


def test_an_entry_is_one_line_that_holds_the_hash_of_the_one_before(log: AuditLog) -> None:
    first, second = (json.loads(line) for line in filled(log, 2))

    assert first == {
        "id": 1,
        "at": "2026-01-02T03:04:05.678Z",
        "actor": "ci",
        "role": "operator",
        "action": "abort",
        "resource": "/api/v1/runs/0",
        "outcome": "200",
        "address": "192.0.2.1",
        "count": 1,
        "previous_hash": NO_HASH,
        "hash": first["hash"],
    }
    assert (second["id"], second["previous_hash"]) == (2, first["hash"])
    assert verify(log.path).problem is None


def test_log_and_head_are_this_users_alone(log: AuditLog) -> None:
    filled(log, 1)

    for path in (log.path, head_path(log.path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in log.path.parent.iterdir() if path.name.startswith(".")] == []


def _append(path: Path, count: int) -> None:
    log = AuditLog(path)
    for _ in range(count):
        log.append(EVENT)


def test_several_processes_append_to_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert verify(path).count == 60
    assert verify(path).problem is None


def test_a_kill_at_any_moment_leaves_a_log_that_verifies(log: AuditLog) -> None:
    context = multiprocessing.get_context("spawn")
    for seconds in (0.0, 0.013, 0.037):
        count = verify(log.path).count if log.path.exists() else 0
        process = context.Process(target=_append, args=(log.path, 1_000_000))
        process.start()
        wait_until(lambda count=count: log.path.exists() and verify(log.path).count > count)  # type: ignore[misc]
        time.sleep(seconds)
        process.kill()
        process.join(60)

        assert verify(log.path).problem is None
    last = log.append(EVENT)

    assert (verify(log.path).count, verify(log.path).problem) == (last.id, None)


def test_the_newest_come_first_page_by_page(log: AuditLog) -> None:
    filled(log, 90)

    ids: list[int] = []
    before: int | None = None
    while True:
        entries, before = log.newest(40, before)
        ids += [entry.id for entry in entries]
        if before is None:
            break

    assert ids == list(range(90, 0, -1))
    assert log.newest(90) == (log.newest(100)[0], None)
    assert [entry.id for entry in log.newest(2, 10**9)[0]] == [90, 89]


def test_an_offset_that_was_made_up_shows_whole_entries_only(log: AuditLog) -> None:
    lines = filled(log, 3)

    assert [entry.id for entry in log.newest(5, len(lines[0]) + 7)[0]] == [1]
    assert log.newest(5, 0) == ([], None)


def test_without_a_log_there_are_no_entries(log: AuditLog) -> None:
    assert log.newest(5) == ([], None)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_what_a_crash_leaves_of_a_line_is_remarked_on_and_makes_room(log: AuditLog, kept: int) -> None:
    lines = filled(log, 3)
    head = head_path(log.path).read_bytes()
    torn = log.append(EVENT).line[:kept]
    log.path.write_bytes(b"".join(lines) + torn)
    head_path(log.path).write_bytes(head)  # it is written after the line
    assert verify(log.path) == Verdict(
        3, log.newest(1)[0][0].hash, None, "line 4 is incomplete: a crash while it was written"
    )

    last = log.append(EVENT)

    assert verify(log.path) == Verdict(4, last.hash, None, None)
    assert log.path.read_bytes() == b"".join(lines) + last.line


def test_what_a_crash_leaves_of_the_first_line_makes_room_too(log: AuditLog) -> None:
    first = log.append(EVENT)
    log.path.write_bytes(first.line[:50])
    write_head(log.path, Head(0, NO_HASH))

    log.append(EVENT)

    assert (verify(log.path).count, verify(log.path).problem) == (1, None)


def test_nothing_is_appended_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "gone" / "audit.jsonl")

    for ask in (log.check, lambda: log.append(EVENT)):
        with pytest.raises(FileNotFoundError):
            ask()


@pytest.mark.parametrize("behind", [1, 2, 3])
def test_a_head_that_is_behind_is_no_alarm(log: AuditLog, behind: int) -> None:
    heads = [Head(0, NO_HASH)]
    for _ in range(3):
        entry = log.append(EVENT)
        heads.append(Head(entry.id, entry.hash))
    write_head(log.path, heads[3 - behind])
    assert verify(log.path).problem is None

    last = log.append(EVENT)

    assert verify(log.path).problem is None
    assert read_head(log.path) == Head(4, last.hash)


def test_a_full_disk_is_an_error_and_leaves_no_part_of_a_line(log: AuditLog) -> None:
    lines = filled(log, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError, match=r"only 100 of \d+ bytes could be written"):
            log.append(EVENT)
        assert log.path.read_bytes() == b"".join(lines)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    log.append(EVENT)

    assert (verify(log.path).count, verify(log.path).problem) == (3, None)


def test_a_link_in_place_of_the_log_is_not_followed(log: AuditLog, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    log.path.symlink_to(tmp_path / "precious")

    with pytest.raises(OSError, match="symbolic links"):
        log.append(EVENT)

    assert (tmp_path / "precious").read_text() == "kept"
