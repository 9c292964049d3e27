from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from alerts.thresholds import Thresholds
from dashboards.build import documents, render
from dashboards.grafana.panels import Json
from dashboards.preview.picture import PanelReport, Picture
from tests.dashboards.grafana import TOKEN, StubGrafana
from trainvitals.dashboards import app


def dashboards(*arguments: str | Path, token: str | None = None) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"GRAFANA_TOKEN": token})


@pytest.fixture
def grafana() -> Iterator[StubGrafana]:
    with StubGrafana(under="/grafana") as grafana:
        yield grafana


def test_without_figures_the_files_are_those_that_are_generated(tmp_path: Path) -> None:
    done = dashboards("build", "-o", tmp_path)

    assert done.exit_code == 0, done.output
    texts = render(Thresholds())
    assert done.output.splitlines() == [str(tmp_path / name) for name in texts]
    for name, text in texts.items():
        assert (tmp_path / name).read_text() == text


def test_limits_on_panels_follow_figures_of_ones_own(tmp_path: Path) -> None:
    done = dashboards("build", "-o", tmp_path, "--set", "gpu_memory_ratio=0.85", "--set", "stall_minutes=20")

    assert done.exit_code == 0, done.output
    own = render(Thresholds(gpu_memory_ratio=0.85, stall_seconds=1200))
    assert own != render(Thresholds())
    assert {name: (tmp_path / name).read_text() for name in own} == own


@pytest.mark.parametrize(
    "command", [["build", "-o", "nowhere"], ["push", "--url", "http://127.0.0.1:9", "--token", "x"]]
)
def test_a_figure_that_will_not_do_is_said_and_nothing_is_written(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = dashboards(*command, "--set", "gpu_memory_ratio=90")

    assert done.exit_code == 1
    assert done.stderr.startswith(f"trainvitals dashboards {command[0]}: gpu_memory_ratio is 90")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = dashboards("build", "-o", tmp_path / "taken")

    assert (done.exit_code, done.output) == (
        1,
        f"trainvitals dashboards build: {tmp_path}/taken: File exists\n",
    )


def test_a_push_says_a_line_a_dashboard_with_its_url(grafana: StubGrafana) -> None:
    done = dashboards("push", "--url", grafana.url, token=TOKEN)

    assert done.exit_code == 0, done.output
    assert grafana.folders == {"folder1": "trainvitals"}
    assert done.stdout.splitlines() == [
        f"created   {grafana.url}/dashboards/f/folder1 folder trainvitals",
        *(f"created   {grafana.url}/d/{each['uid']} {each['title']}" for each in documents(Thresholds())),
    ]
    again = dashboards("push", "--url", grafana.url, token=TOKEN)
    assert {line.split()[0] for line in again.stdout.splitlines()} == {"unchanged"}


def test_a_push_has_the_figures_and_the_folder_it_is_told(grafana: StubGrafana) -> None:
    figure = ("--set", "gpu_memory_ratio=0.85")
    done = dashboards("push", "--url", grafana.url, "--token", TOKEN, "--folder", "Training", *figure)

    assert done.exit_code == 0, done.output
    assert set(grafana.folders.values()) == {"Training"}
    for own in documents(Thresholds(gpu_memory_ratio=0.85)):
        assert grafana.dashboards[own["uid"]].document["panels"] == own["panels"]
    said = dashboards("push", "--url", grafana.url, "--folder", "Training", "--dry-run", token=TOKEN).stdout
    shipped = render(Thresholds())
    changed = {
        name for name, text in render(Thresholds(gpu_memory_ratio=0.85)).items() if text != shipped[name]
    }
    assert said.count("would be updated ") == len(changed) > 0
    assert said.count("unchanged ") == len(shipped) - len(changed)


def test_a_dry_run_writes_nothing(grafana: StubGrafana) -> None:
    done = dashboards("push", "--url", grafana.url, "--dry-run", token=TOKEN)

    assert done.exit_code == 0, done.output
    assert {line[:17] for line in done.stdout.splitlines()} == {"would be created "}
    assert (grafana.writes, grafana.folders) == (0, {})


def test_a_failure_is_one_line_without_the_token(grafana: StubGrafana) -> None:
    done = dashboards("push", "--url", grafana.url, token="glsa_wrong")

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"trainvitals dashboards push: {grafana.url} does not accept the token (401"
    )
    assert done.stderr.count("\n") == 1
    assert "glsa_wrong" not in done.stderr


def test_a_push_takes_a_token() -> None:
    done = dashboards("push", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 2
    assert "GRAFANA_TOKEN" in dashboards("push", "--help").output


def test_the_help_does_not_show_the_token_of_the_environment() -> None:
    assert TOKEN not in dashboards("push", "--help", token=TOKEN).output


def test_what_is_built_is_json_that_grafana_imports(tmp_path: Path) -> None:
    dashboards("build", "-o", tmp_path)
    for path in tmp_path.iterdir():
        document = json.loads(path.read_text())
        # Wrapped, or with an id of another Grafana, it is refused.
        assert path.stem == document["uid"]
        assert document["title"]
        assert document.get("id") is None


def test_a_preview_of_a_dashboard_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    done = dashboards("preview", "-o", tmp_path, "--dashboard", "fleet")

    assert done.exit_code == 1
    assert done.stderr.startswith(
        "trainvitals dashboards preview: --dashboard fleet: there is none of that uid"
    )
    assert "trainvitals-foundation" in done.stderr


def test_a_preview_into_what_is_no_folder_is_said_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = dashboards("preview", "-o", tmp_path / "taken")

    assert (done.exit_code, done.output) == (
        1,
        f"trainvitals dashboards preview: {tmp_path}/taken: File exists\n",
    )


def test_a_preview_without_what_draws_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = dashboards("preview")

    assert done.exit_code == 1
    assert "playwright is not installed: in a checkout, pip install ./trainer_hooks '.[dev]'" in done.stderr


def test_a_preview_asks_the_prometheus_it_is_told_of_the_last_hours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def render(
        chosen: list[Json], url: str, start: float, end: float, output: Path, **how: Any
    ) -> list[Picture]:
        asked.update(how, uids=[each["uid"] for each in chosen], url=url, hours=(end - start) / 3600)
        panels = (PanelReport(1, "Loss", True, ()), PanelReport(2, "Epoch", False, ("parse error",)))
        return [Picture(output / "first.png", "first", "light", 800, panels, ())]

    monkeypatch.setattr("dashboards.preview.render.render", render)
    monkeypatch.setattr("dashboards.preview.bundle.bundle", lambda: None)
    how = ("--theme", "light", "--width", "800", "--run", "wayfarer-lora", "--hours", "2", "--open-rows")
    uid = "trainvitals-foundation"
    done = dashboards("preview", "-o", tmp_path, "--prometheus", "http://p", "--dashboard", uid, *how)

    assert asked == {
        "uids": [uid],
        "url": "http://p",
        "hours": pytest.approx(2),
        "themes": ["light"],
        "widths": [800],
        "choices": {"run": ["wayfarer-lora"]},
        "open_rows": True,
    }
    assert done.stdout == f"{tmp_path}/first.png (no data: Loss)\n"
    assert (done.exit_code, done.stderr) == (1, f"{tmp_path}/first.png: Epoch: parse error\n")


@pytest.mark.long
def test_a_preview_draws_the_recorded_scenarios(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainvitals", "dashboards", "preview", "-o", str(tmp_path)]
    how = ["--theme", "dark", "--width", "1000", "--dashboard", "trainvitals-foundation"]
    done = subprocess.run([*command, *how], capture_output=True, text=True, check=False)

    picture = tmp_path / "trainvitals-foundation-dark-1000.png"
    assert (done.returncode, done.stdout) == (0, f"{picture}\n"), done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
