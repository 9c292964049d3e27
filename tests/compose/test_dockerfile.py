from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import trainer_hooks
from tests.compose.stack import CONSTRAINTS, DOCKERFILE, FOLDER, ROOT, dockerfile, image_environment
from tests.trainer_hooks.processes import environment
from trainvitals.child import start_server

_BIN = Path(sys.executable).parent
_IGNORE = DOCKERFILE.with_name("Dockerfile.dockerignore")


def hadolint(text: str) -> list[str]:
    """The rules that a Dockerfile breaks; none can be switched off within it."""
    command = [str(_BIN / "hadolint"), "--no-fail", "--format=json", "--disable-ignore-pragma", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return [finding["code"] for finding in json.loads(done.stdout)]


def test_hadolint_finds_nothing() -> None:
    assert hadolint(DOCKERFILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("python:3.13.16-slim-trixie AS", "python AS", "DL3006"),
        ("python:3.13.16-slim-trixie\n", "python:latest\n", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ("--no-cache-dir --no-index", "--no-index", "DL3042"),
        ('ENTRYPOINT ["trainvitals"]', "ENTRYPOINT trainvitals", "DL3025"),
        ("WORKDIR /source", "WORKDIR source", "DL3000"),
    ],
)
def test_hadolint_finds_a_planted_fault(old: str, new: str, rule: str) -> None:
    text = DOCKERFILE.read_text()
    assert old in text
    assert rule in hadolint(text.replace(old, new))


def test_every_stage_begins_with_one_pinned_image() -> None:
    images = {line.split()[1] for line in dockerfile() if line.startswith("FROM ")}
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", images.pop())


def test_the_service_runs_as_a_user_that_is_not_root_and_tells_of_its_health() -> None:
    last = dockerfile()[max(n for n, line in enumerate(dockerfile()) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last
    assert [line for line in last if line.startswith("HEALTHCHECK ")]
    assert f'org.opencontainers.image.version="{trainer_hooks.__version__}"' in "".join(last)


def test_every_copied_file_exists_and_is_not_ignored() -> None:
    sources = [source for copied, _ in copies() for source in copied]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists() or not _is_sent(source)] == []


def test_nothing_is_sent_to_the_build_that_is_not_copied() -> None:
    allowed = {line[1:] for line in _IGNORE.read_text().splitlines() if line.startswith("!")}
    assert allowed == {source.rstrip("/") for copied, _ in copies() for source in copied}


def test_every_package_of_the_project_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages <= {source.rstrip("/") for copied, _ in copies() for source in copied}


def test_what_the_service_needs_is_pinned_to_one_version_that_it_takes() -> None:
    """All that these need in turn is seen where the image's own steps are run, below."""
    pinned = {name: version for name, _, version in (line.partition("==") for line in _pinned())}
    assert all(pinned.values())
    [step] = [line for line in dockerfile() if line.startswith("RUN pip wheel ")]
    assert f"--constraint {CONSTRAINTS.name} " in step
    [extra] = re.findall(r'"\.\[(\w+)\]"', step)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


@pytest.mark.long
def test_what_the_image_is_built_of_serves_with_the_image_s_own_command(tmp_path: Path) -> None:
    """The steps of the Dockerfile in folders of this machine, without the user and the file system."""
    source, wheels, state = tmp_path / "source", tmp_path / "wheels", tmp_path / "lib"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    programs = {"PATH": f"{tmp_path / 'python/bin'}:{os.environ['PATH']}"}
    for copied, target in copies():
        for name in copied:
            _copy(ROOT / name, source / target / (Path(name).name if target == "./" else ""))
    for step in (line for line in dockerfile() if re.match(r"RUN .*\bpip ", line)):
        command = re.sub(r"--mount=\S+ ", "", step.removeprefix("RUN ")).replace("/wheels", str(wheels))
        subprocess.run(["/bin/sh", "-c", command], cwd=source, env={**os.environ, **programs}, check=True)
    installed = set((tmp_path / "python").rglob("*"))
    ours = {f"{name}=={trainer_hooks.__version__}" for name in ("trainvitals", "trainvitals-hook")}
    built = [wheel.name.split("-")[:2] for wheel in wheels.iterdir()]
    assert {f"{canonicalize_name(name)}=={version}" for name, version in built} == _pinned() | ours

    variables = {name: value.replace("/var/lib", str(state)) for name, value in image_environment().items()}
    variables["TRAINVITALS_DIR"] = str(tmp_path)
    variables = {**environment(), **variables, **programs, "PYTHONPATH": "", "HOME": "/"}
    program = [str(tmp_path / "python/bin" / _words("ENTRYPOINT")[0])]
    # What the service `setup` does with the same image.
    settings = [str(FOLDER / "alertmanager/settings.yaml"), "--output", str(tmp_path / "made")]
    subprocess.run([*program, "alerts", "config", *settings], env=variables, cwd="/", check=True)
    made = [*program, "token", "create", "someone", "--role", "viewer"]
    token = subprocess.run(made, env=variables, cwd="/", check=True, capture_output=True, text=True).stdout

    def serve(address: str) -> list[str]:
        words = [word.replace("/var/lib", str(state)) for word in _words("CMD")]
        return [*program, *(word.replace("0.0.0.0:8003", address) for word in words)]

    child, url = start_server("service", serve, tmp_path / "log", ready_path="/ready", environment=variables)
    try:
        [line] = [line for line in dockerfile() if line.startswith("HEALTHCHECK ")]
        check = [word.replace("http://127.0.0.1:8003", url) for word in json.loads(line.partition("CMD ")[2])]
        subprocess.run(check, env=variables, check=True)
        assert httpx.get(f"{url}/api/v1/runs", trust_env=False).status_code == 401
        known = {"Authorization": f"Bearer {token.strip()}"}
        assert httpx.get(f"{url}/api/v1/runs", headers=known, trust_env=False).status_code == 200
    finally:
        child.stop()
    assert subprocess.run(check, env=variables, capture_output=True, check=False).returncode != 0
    assert set((tmp_path / "python").rglob("*")) == installed


def _pinned() -> set[str]:
    """The lines of constraints.txt, its comment left out."""
    return {line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")}


def copies() -> list[tuple[list[str], str]]:
    """What the Dockerfile copies out of the repository, and where to."""
    lines = (line.split()[1:] for line in dockerfile() if line.startswith("COPY "))
    return [(words[:-1], words[-1]) for words in lines if not words[0].startswith("--from")]


def _words(instruction: str) -> list[str]:
    [line] = [line for line in dockerfile() if line.startswith(f"{instruction} ")]
    return [str(word) for word in json.loads(line.removeprefix(instruction))]


def _is_sent(source: str) -> bool:
    """Whether Docker sends it: the last line of the file that matches decides."""
    sent = True
    for line in _IGNORE.read_text().splitlines():
        if line and not line.startswith("#") and fnmatch(source.rstrip("/"), line.removeprefix("!")):
            sent = line.startswith("!")
    return sent


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = [line[3:] for line in _IGNORE.read_text().splitlines() if line.startswith("**/")]
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignored))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
