"""`trainvitals runs` over a service that is served."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.exporters.api.service import Service, called
from tests.exporters.kubeflow import served
from tests.exporters.trainers import Trainer
from tests.trainer_hooks.processes import environment
from tests.trainvitals.terminal import Terminal
from trainvitals.runs import app


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with served(called(service.app)) as url:
        yield url


def runs(*arguments: str) -> int:
    """The command in this process; its exit status."""
    try:
        return int(app(args=arguments, standalone_mode=False) or 0)
    except typer.Exit as end:
        return end.exit_code


def test_a_table_in_a_pipe(service: Service, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs("--url", url) == 0
    assert capsys.readouterr().out.startswith("No run yet.")

    with Trainer(service.directory, "first") as first, Trainer(service.directory, "second") as second:
        first.do("monitor.expect(steps=10)")
        first.do("steps(5)")
        second.do("steps(3)")
        second.do("monitor.finish('early_stopping')")
        service.look()
        assert runs("--url", url) == 0
        shown = capsys.readouterr().out
        assert runs("--url", url, "--state", "finished", "--json") == 0
        finished = json.loads(capsys.readouterr().out)
        assert runs("--url", url, "--name", "third") == 0
        none = capsys.readouterr().out

    header, second_row, first_row = shown.splitlines()
    assert header.startswith("State")
    assert second_row.startswith("finished  second")
    assert "early_stopping" in second_row
    assert "50 %" in first_row
    assert "\x1b" not in shown
    assert [run["run"] for run in finished["runs"]] == ["second"]
    assert none == "No run is like that.\n"


def test_one_run_in_detail(service: Service, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Trainer(service.directory) as trainer:
        trainer.do("steps(5)")
        trainer.kill()
        service.look()
    assert runs("a-run", "--url", url) == 0

    shown = capsys.readouterr().out
    assert shown.startswith("a-run  killed")
    assert "What happened last" in shown
    assert runs("another", "--url", url) == 1
    assert capsys.readouterr().err == "trainvitals runs: no run 'another'; known are: a-run\n"


def test_without_a_service_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert runs("--url", "http://127.0.0.1:1") == 1

    assert "start one with `trainvitals serve`" in capsys.readouterr().err


def test_a_state_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert runs("--state", "sleeping") == 1

    assert "there is no state 'sleeping'; there are running, stalled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["a-run", "--state", "failed"],
            "--state, --name and --limit choose among runs: leave them out, or a-run",
        ),
        (["a-run", "--limit", "5"], "leave them out, or a-run"),
        (["a-run", "--name", "b"], "leave them out, or a-run"),
        (["--watch", "--json"], "leave out one of them"),
    ],
)
def test_options_that_do_nothing_together_are_refused(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs(*arguments) == 1

    assert problem in capsys.readouterr().err


def test_in_a_terminal_it_follows_the_runs_until_ctrl_c_and_says_when_the_service_is_gone(
    service: Service,
) -> None:
    with Trainer(service.directory) as trainer:
        trainer.do("steps(5)")
        service.look()
        with served(called(service.app)) as url:
            command = [
                sys.executable,
                "-m",
                "trainvitals",
                "runs",
                "--watch",
                "--interval",
                "0.2",
                "--url",
                url,
            ]
            terminal = Terminal(command, environment(COLUMNS="100", LINES="30", TERM="xterm-256color"))
            try:
                terminal.wait_for("running")
                trainer.kill()
                service.look()
                terminal.wait_for("killed")
            except BaseException:
                terminal.close()
                raise
        try:
            terminal.wait_for("no service answers")
            assert terminal.end() == 0
            assert "Traceback" not in terminal.screen
        finally:
            terminal.close()
