"""`trainvitals audit` as a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.access.audit import AuditLog
from exporters.access.entry import Event
from trainvitals.audit import app


def verify(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(args=["verify", *arguments], prog_name="trainvitals audit")
    return int(ended.value.code or 0)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    (tmp_path / "trainvitals").mkdir()
    log = AuditLog(tmp_path / "trainvitals" / "audit.jsonl")
    for number in range(3):
        log.append(Event("ci", "operator", "abort", f"/api/v1/runs/{number}", "200", "192.0.2.1"))
    return log


def test_a_log_that_is_as_it_was_written_is_one_line_and_status_0(
    log: AuditLog, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(log.path.parents[1]))

    assert verify() == 0

    last = log.newest(1)[0][0].hash
    assert capsys.readouterr().out == (f"{log.path}: all 3 entries follow each other, the last is {last}\n")


def test_what_is_wrong_is_named_with_its_line_and_status_1(
    log: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text(lines[0] + lines[2])

    assert verify(str(log.path)) == 1

    assert capsys.readouterr().err == (
        f"trainvitals audit verify: {log.path}: before line 2 something was removed: entry 2 is missing\n"
    )


def test_a_head_that_was_removed_with_lines_is_status_1_after_more_was_written_too(
    log: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text(lines[0])
    log.path.with_name("audit.head").unlink()

    assert verify(str(log.path)) == 1
    assert "audit.head is missing" in capsys.readouterr().err
    log.append(Event("ci", "operator", "abort", "/api/v1/runs/3", "200", "192.0.2.1"))

    assert verify(str(log.path)) == 1
    assert "before line 2 something may have been removed" in capsys.readouterr().err


def test_a_torn_line_is_remarked_on(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    with log.path.open("a") as file:
        file.write('{"act')

    assert verify(str(log.path)) == 0

    assert "; line 4 is incomplete: a crash while it was written" in capsys.readouterr().out


def test_a_log_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(str(tmp_path / "none")) == 1

    assert f"{tmp_path}/none cannot be read (No such file or directory); name the log as FILE" in (
        capsys.readouterr().err
    )
