from __future__ import annotations

from pathlib import Path

from alerts.alertmanager import Routing
from alerts.build import main, write
from alerts.thresholds import Thresholds


def test_the_committed_files_are_what_the_code_says() -> None:
    assert main(["--check"]) == 0


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_demonstration_writes_its_own_figures(tmp_path: Path) -> None:
    write(tmp_path / "stack", Thresholds(stall_seconds=600), Routing(webhook_url="http://127.0.0.1:9/hook"))
    assert "max > 600\n" in (tmp_path / "stack" / "lifecycle.yaml").read_text()
    assert "http://127.0.0.1:9/hook" in (tmp_path / "stack" / "alertmanager.yml").read_text()
