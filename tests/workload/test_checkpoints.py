from __future__ import annotations

import os
from pathlib import Path

import pytest

from workload import WorkloadError
from workload.checkpoints import newest_checkpoint, newest_run, read_checkpoint


def test_the_newest_checkpoint_has_the_most_steps_as_a_number(tmp_path: Path) -> None:
    for name in ("step-9.ckpt", "step-100.ckpt", "step-20.ckpt", "last.ckpt", "step-500.ckpt.tmp"):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "step-100.ckpt"


def test_a_folder_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    assert newest_run(tmp_path / "missing") is None


def test_the_newest_run_is_the_one_that_wrote_a_checkpoint_last(tmp_path: Path) -> None:
    for age, run in enumerate(("new", "old")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "step-1.ckpt").touch()
        os.utime(tmp_path / run / "step-1.ckpt", (1000 - age, 1000 - age))
    (tmp_path / "empty").mkdir()
    assert newest_run(tmp_path) == "new"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_broken_checkpoint_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-1.ckpt"
    path.write_bytes(content)
    with pytest.raises(WorkloadError, match=r"cannot resume from .*step-1\.ckpt"):
        read_checkpoint(path)
