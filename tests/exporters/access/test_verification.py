from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters.access.audit import AuditLog, head_path
from exporters.access.entry import hash_of
from exporters.access.verification import verify
from tests.exporters.access.test_audit import EVENT, filled

COUNT = 8
Lines = list[bytes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with eight entries and its head."""
    log = AuditLog(tmp_path_factory.mktemp("written") / "audit.jsonl")
    filled(log, COUNT)
    return log.path


@pytest.fixture
def log(written: Path, tmp_path: Path) -> AuditLog:
    for path in (written, head_path(written)):
        shutil.copy(path, tmp_path)
    return AuditLog(tmp_path / written.name)


def problem_of(log: AuditLog, lines: Lines) -> str | None:
    log.path.write_bytes(b"".join(lines))
    return verify(log.path).problem


def lines_of(log: AuditLog) -> Lines:
    return log.path.read_bytes().splitlines(keepends=True)


def changed(line: bytes, **values: object) -> bytes:
    """The line with other values and the hash that goes with them."""
    entry = {**json.loads(line), **values}
    entry["hash"] = hash_of(entry)
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_a_changed_line_is_named(log: AuditLog) -> None:
    lines = lines_of(log)
    lines[4] = lines[4].replace(b'"ci"', b'"me"')

    assert problem_of(log, lines) == "line 5 was changed: its hash is not that of what it says"


def test_a_line_changed_with_its_hash_breaks_the_chain_behind_it(log: AuditLog) -> None:
    lines = lines_of(log)
    lines[4] = changed(lines[4], actor="me")

    assert problem_of(log, lines) == (
        "line 6 does not follow the one before it: one of them was changed or replaced"
    )


def test_the_last_line_changed_with_its_hash_does_not_match_the_head(log: AuditLog) -> None:
    lines = lines_of(log)
    lines[-1] = changed(lines[-1], actor="me")

    assert problem_of(log, lines) == "line 8 was replaced: audit.head knows another last entry"


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (slice(0, 1), "before line 1 something was removed: entry 1 is missing"),
        (slice(2, 3), "before line 3 something was removed: entry 3 is missing"),
        (slice(2, 5), "before line 3 something was removed: entries 3 to 5 are missing"),
        (
            slice(7, 8),
            "after line 7 something was removed: the log ends with entry 7, and audit.head knows 8",
        ),
        (
            slice(0, 8),
            "after line 0 something was removed: the log ends with entry 0, and audit.head knows 8",
        ),
    ],
)
def test_removed_lines_are_named_those_at_the_end_by_the_head(log: AuditLog, gone: slice, said: str) -> None:
    lines = lines_of(log)
    del lines[gone]

    assert problem_of(log, lines) == said


def test_moved_lines_are_named(log: AuditLog) -> None:
    lines = lines_of(log)
    lines[2], lines[5] = lines[5], lines[2]

    assert problem_of(log, lines) == "line 3 is out of order: it is entry 6, and 3 comes later"


def test_a_line_that_is_there_twice_is_named(log: AuditLog) -> None:
    lines = lines_of(log)

    assert problem_of(log, [*lines[:3], *lines[2:]]) == (
        "line 4 is out of order or there twice: it is entry 3, and 4 follows"
    )


def test_a_line_that_is_no_entry_is_named_wherever_it_is(log: AuditLog) -> None:
    lines = lines_of(log)

    assert problem_of(log, [*lines[:3], b"{}\n", *lines[3:]]) == "line 4 was changed: it is no entry"
    assert problem_of(log, [*lines, b"#\n"]) == "line 9 was changed: it is no entry"
    log.append(EVENT)
    assert verify(log.path).problem == "line 9 was changed: it is no entry"


@pytest.mark.parametrize("head", [None, b"", b"{}", b'{"count": true, "hash": ""}', b"\xff"])
def test_without_a_head_it_is_not_known_whether_the_end_is_missing(log: AuditLog, head: bytes | None) -> None:
    head_path(log.path).unlink()
    if head is not None:
        head_path(log.path).write_bytes(head)

    said = verify(log.path).problem

    assert said is not None
    assert said.endswith("whether lines are missing at the end is not known")


@pytest.mark.parametrize("gone", [1, 3, COUNT])
def test_what_was_removed_at_the_end_is_missed_after_more_was_written_too(log: AuditLog, gone: int) -> None:
    lines = lines_of(log)
    log.path.write_bytes(b"".join(lines[: COUNT - gone]))

    log.append(EVENT)

    said = verify(log.path).problem
    assert said is not None
    assert said.startswith(f"before line {COUNT - gone + 1} something was removed: ")


def test_a_last_line_cut_in_half_by_somebody_is_missed(log: AuditLog) -> None:
    lines = lines_of(log)
    log.path.write_bytes(b"".join(lines)[:-20])
    assert verify(log.path).problem is not None

    log.append(EVENT)

    assert verify(log.path).problem == "before line 8 something was removed: entry 8 is missing"


def test_a_last_line_replaced_before_more_was_written_is_found(log: AuditLog) -> None:
    lines = lines_of(log)
    log.path.write_bytes(b"".join([*lines[:-1], changed(lines[-1], actor="me")]))

    log.append(EVENT)

    assert verify(log.path).problem == (
        "line 9 does not follow the one before it: one of them was changed or replaced"
    )


@pytest.mark.parametrize("gone", [0, 3])
@pytest.mark.parametrize("head", [None, b"{}"])
def test_lines_removed_with_the_head_are_missed_for_ever(
    log: AuditLog, gone: int, head: bytes | None
) -> None:
    log.path.write_bytes(b"".join(lines_of(log)[: COUNT - gone]))
    head_path(log.path).unlink()
    if head is not None:
        head_path(log.path).write_bytes(head)

    for _ in range(2):
        log.append(EVENT)

        assert verify(log.path).problem == (
            f"before line {COUNT - gone + 1} something may have been removed: "
            "audit.head was missing when it was written"
        )


def test_a_last_line_without_its_end_is_not_the_entry_that_was_counted(log: AuditLog) -> None:
    log.path.write_bytes(b"".join(lines_of(log))[:-1])

    verdict = verify(log.path)

    assert verdict.problem == (
        "after line 7 something was removed: the log ends with entry 7, and audit.head knows 8"
    )
    assert verdict.remark == "line 8 is incomplete: a crash while it was written"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_no_change_removal_move_or_copy_goes_unnoticed(
    log: AuditLog, written: Path, data: st.DataObject
) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    number = data.draw(st.integers(0, COUNT - 1))
    other = data.draw(st.integers(0, COUNT - 1))
    what = data.draw(st.sampled_from(["byte", "remove", "move", "copy", "insert", "join"]))
    result = list(lines)
    if what == "byte":
        place = data.draw(st.integers(0, len(lines[number]) - 1))
        result[number] = (
            lines[number][:place] + bytes([data.draw(st.integers(0, 255))]) + lines[number][place + 1 :]
        )
    elif what == "remove":
        del result[number:other]
    elif what == "move":
        result.insert(other, result.pop(number))
    elif what == "copy":
        result.insert(other, lines[number])
    elif what == "insert":
        result.insert(number, data.draw(st.binary(min_size=1)) + b"\n")
    else:
        result[number] = result[number][:-1]

    text = b"".join(result)
    log.path.write_bytes(text)

    assert (verify(log.path).problem is None) is (text == b"".join(lines))
