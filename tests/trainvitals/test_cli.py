from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import trainer_hooks
from trainvitals import cli

REPOSITORY = Path(__file__).parents[2]


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where this module is not installed."""
    return python(
        f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
from trainvitals.cli import main
sys.exit(main({list(arguments)!r}))
"""
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments or ["--help"]) == 0

    printed = capsys.readouterr().out
    assert printed.startswith("usage: trainvitals COMMAND")
    for name, command in cli.COMMANDS.items():
        assert f"  {name:<10} {command.summary}" in printed


def test_the_command_alone_is_a_call_for_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["trainvitals"])

    assert cli.main() == 0
    assert capsys.readouterr().out.startswith("usage: trainvitals COMMAND")


def test_the_version_is_that_of_the_hook(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{trainer_hooks.__version__}\n"


def test_an_unknown_command_is_named_beside_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sevre", "--listen", "x"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("trainvitals: no command 'sevre'\n")
    assert "  serve " in printed.err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]])
def test_before_a_command_is_chosen_only_the_standard_library_is_imported(arguments: list[str]) -> None:
    done = python(
        f"""
import sys
before = set(sys.modules)
from trainvitals.cli import main
main({arguments!r})
import json
print()
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""
    )

    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert imported - sys.stdlib_module_names == {"trainer_hooks", "trainvitals"}


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("typer", "serve", "service"),
        ("fastapi", "serve", "service"),
        ("prometheus_client", "serve", "service"),
        ("pynvml", "serve", "service"),
        ("pydantic", "serve", "service"),
        ("rich", "doctor", "service"),
        ("rich", "gpus", "service"),
        ("httpx", "dashboards", "service,dashboards"),
        ("attr", "dashboards", "service,dashboards"),
        ("typer", "train", "workload"),
    ],
)
def test_a_missing_extra_is_named_with_what_brings_it(module: str, command: str, extra: str) -> None:
    done = without(module, command, "--help")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"trainvitals {command}: the module {module} is not installed; "
        f"in a checkout of trainvitals, pip install ./trainer_hooks '.[{extra}]' brings it\n"
    )


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra() -> None:
    done = without("exporters", "serve")

    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'exporters" in done.stderr


def test_a_command_tells_its_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainvitals", "serve", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin"},
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "trainvitals serve [OPTIONS]" in done.stdout
    for option in ("--listen", "--dir", "--state", "--simulate-gpus", "--stall-after"):
        assert option in done.stdout
