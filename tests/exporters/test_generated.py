from __future__ import annotations

from pathlib import Path

import pytest

from exporters import generated

COMMAND = "python -m anything"
TEXTS = {"one.txt": "1\n", "two.txt": "2\n"}


def run(directory: Path, *arguments: str) -> int:
    return generated.main(COMMAND, directory, TEXTS, "*.txt", arguments)


def test_what_is_written_passes_its_own_check(tmp_path: Path) -> None:
    assert run(tmp_path / "new") == 0
    assert run(tmp_path / "new", "--check") == 0
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == TEXTS


def test_a_check_names_what_was_edited_and_leaves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    (tmp_path / "one.txt").write_text("by hand")

    assert run(tmp_path, "--check") == 1
    assert capsys.readouterr().err == f"{tmp_path}/one.txt is not what the code says: run `{COMMAND}`\n"
    assert (tmp_path / "one.txt").read_text() == "by hand"


def test_a_check_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    (tmp_path / "two.txt").unlink()

    assert run(tmp_path, "--check") == 1
    assert capsys.readouterr().err == f"{tmp_path}/two.txt is missing: run `{COMMAND}`\n"
    assert not (tmp_path / "two.txt").exists()


def test_what_nothing_writes_any_more_is_named_and_then_removed_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    (tmp_path / "former.txt").write_text("")
    (tmp_path / "notes.md").write_text("mine")

    assert run(tmp_path, "--check") == 1
    assert f"{tmp_path}/former.txt is written by nothing any more" in capsys.readouterr().err
    assert run(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*TEXTS, "notes.md"}


def test_a_word_it_does_not_know_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--chek")

    assert list(tmp_path.iterdir()) == []
