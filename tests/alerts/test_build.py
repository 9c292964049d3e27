from __future__ import annotations

from pathlib import Path

import pytest

from alerts.alertmanager import Routing
from alerts.build import GENERATED, main, stale_files, write
from alerts.thresholds import Thresholds


def test_the_committed_files_are_what_the_code_says() -> None:
    assert stale_files(GENERATED) == []


def test_what_is_built_passes_its_own_check(tmp_path: Path) -> None:
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["lifecycle.yaml", "alertmanager.yml"])
def test_a_check_names_a_file_that_was_edited_and_leaves_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    (tmp_path / name).write_text("edited: by hand\n")
    assert main(["--check"], tmp_path) == 1
    complaint = capsys.readouterr().err
    assert str(tmp_path / name) in complaint
    assert "python -m alerts.build" in complaint
    assert (tmp_path / name).read_text() == "edited: by hand\n"


def test_a_check_names_a_file_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    (tmp_path / "telemetry.yaml").unlink()
    assert main(["--check"], tmp_path) == 1
    assert "telemetry.yaml" in capsys.readouterr().err
    assert not (tmp_path / "telemetry.yaml").exists()


def test_a_check_names_a_file_that_no_group_writes_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    (tmp_path / "former_group.yaml").write_text("groups: []\n")
    assert main(["--check"], tmp_path) == 1
    assert "former_group.yaml" in capsys.readouterr().err


def test_a_build_removes_what_is_left_of_a_former_group_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "former_group.yaml").write_text("groups: []\n")
    (tmp_path / "notes.txt").write_text("mine\n")
    assert main([], tmp_path) == 0
    assert not (tmp_path / "former_group.yaml").exists()
    assert (tmp_path / "notes.txt").exists()


def test_a_demonstration_writes_its_own_figures(tmp_path: Path) -> None:
    write(tmp_path / "stack", Thresholds(stall_seconds=10), Routing(webhook_url="http://127.0.0.1:9/hook"))
    assert "max > 10\n" in (tmp_path / "stack" / "lifecycle.yaml").read_text()
    assert "http://127.0.0.1:9/hook" in (tmp_path / "stack" / "alertmanager.yml").read_text()
