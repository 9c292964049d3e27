from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomllib

import trainer_hooks
from tests.trainer_hooks.processes import ROOT, ended

IMPORTS = """
    import json, os, signal, sys, threading
    from pathlib import Path

    registered = []
    register_at_fork = os.register_at_fork

    def register(**hooks):
        registered.append(sys._getframe(1).f_globals["__name__"])
        register_at_fork(**hooks)

    os.register_at_fork = register

    def handlers():
        return {number: str(signal.getsignal(number)) for number in signal.valid_signals()}

    modules, descriptors, handled = set(sys.modules), os.listdir("/proc/self/fd"), handlers()
    import trainer_hooks, trainer_hooks.monitor, trainer_hooks.recording

    new = set(sys.modules) - modules - {"__mp_main__"}  # what multiprocessing calls this script
    brought = sorted({name.partition(".")[0] for name in new})
    print(json.dumps({
        "foreign": [name for name in brought if name not in sys.stdlib_module_names],
        "threads": [thread.name for thread in threading.enumerate()],
        "tasks": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")) - len(descriptors),
        "handlers": handlers() == handled,
        "at_fork": [name for name in registered if name.startswith("trainer_hooks")],
    }))
"""


def project(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
    return content


def test_importing_the_hook_brings_in_the_standard_library_alone_and_does_nothing(tmp_path: Path) -> None:
    words, warnings = ended(IMPORTS, tmp_path)

    assert words == {
        "foreign": ["trainer_hooks"],
        "threads": ["MainThread"],
        "tasks": 1,
        "descriptors": 0,
        "handlers": True,
        "at_fork": [],
    }
    assert warnings == ""


def test_both_distributions_have_one_version_and_the_hook_needs_nothing() -> None:
    hook, whole = project(ROOT / "trainer_hooks"), project(ROOT)
    version = {"attr": "trainer_hooks.__version__"}

    assert hook["tool"]["setuptools"]["dynamic"]["version"] == version
    assert whole["tool"]["setuptools"]["dynamic"]["version"] == version
    assert whole["project"]["dependencies"] == [f"trainvitals-hook=={trainer_hooks.__version__}"]
    assert hook["project"]["dependencies"] == []
    assert "optional-dependencies" not in hook["project"]
    assert hook["tool"]["setuptools"]["packages"] == ["trainer_hooks"]
    assert "trainer_hooks" not in whole["tool"]["setuptools"]["packages"]


def test_the_hook_takes_the_licence_and_a_readme_of_its_own_along() -> None:
    hook = project(ROOT / "trainer_hooks")["project"]

    assert (hook["license"], hook["license-files"], hook["readme"]) == (
        "Apache-2.0",
        ["LICENSE"],
        "README.md",
    )
    assert (ROOT / "trainer_hooks" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.long
def test_the_hook_installs_into_an_empty_environment_as_one_distribution(tmp_path: Path) -> None:
    """Built with the setuptools of the environment that runs the tests, so that no index is asked."""
    source, built, empty = tmp_path / "trainer_hooks", tmp_path / "built", tmp_path / "empty"
    shutil.copytree(
        ROOT / "trainer_hooks", source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    )
    pip(sys.executable, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", built, source)
    (wheel,) = built.iterdir()
    venv.create(empty, with_pip=True)
    python = empty / "bin" / "python"
    before = installed(python)
    pip(python, "install", "--no-index", wheel)

    assert wheel.name == f"trainvitals_hook-{trainer_hooks.__version__}-py3-none-any.whl"
    assert installed(python) - before == {"trainvitals-hook"}
    with zipfile.ZipFile(wheel) as content:
        files = {name for name in content.namelist() if ".dist-info/" not in name}
        information = f"trainvitals_hook-{trainer_hooks.__version__}.dist-info"
        licence = content.read(f"{information}/licenses/LICENSE")
        metadata = content.read(f"{information}/METADATA").decode()
    modules = {f"trainer_hooks/{path.name}" for path in source.glob("*.py")}
    assert files == modules | {"trainer_hooks/py.typed", "trainer_hooks/autoload/sitecustomize.py"}
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / "trainer_hooks" / "README.md").read_text() in metadata
    code = "import trainer_hooks.monitor as m; print(m.Monitor(run='run', directory='recordings').recording)"
    done = subprocess.run(
        [python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n", done.stderr


def pip(python: Path | str, *arguments: Path | str) -> str:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(python: Path) -> set[str]:
    return {each["name"] for each in json.loads(pip(python, "list", "--format", "json"))}
