from __future__ import annotations

from pathlib import Path

import pytest

from exporters import metrics_page
from exporters.catalog import CATALOG


def test_every_metric_is_on_the_page_once_and_says_where_it_comes_from() -> None:
    lines = metrics_page.page().splitlines()

    for metric in CATALOG.values():
        (row,) = (line for line in lines if line.startswith(f"| `{metric.name}` |"))
        assert metric.source, metric.name
        assert f"| {metric.source} |" in row
        assert all(f"`{label}`" in row for label in metric.labels)


def test_the_page_in_the_repository_is_current() -> None:
    assert metrics_page.main(["--check"]) == 0


def test_a_page_that_is_not_current_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_page, "PAGE", tmp_path / "METRICS.md")
    metrics_page.PAGE.write_text("old")

    assert metrics_page.main(["--check"]) == 1
    assert "run make generate" in capsys.readouterr().err
    metrics_page.main([])
    assert metrics_page.main(["--check"]) == 0
