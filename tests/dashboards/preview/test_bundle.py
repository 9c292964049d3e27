"""The bundle's packages, and what is said where they cannot be installed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dashboards.preview import bundle
from dashboards.preview.picture import PreviewError


def test_every_package_has_its_exact_version_and_no_address() -> None:
    package = json.loads((bundle.HERE / "package.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
    lock = (bundle.HERE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert json.loads(lock)["packages"][""]["dependencies"] == package["dependencies"]


def test_without_node_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_PROGRAMS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreviewError, match=r"npm is not installed: .* brings it, or Node\.js 20 or newer"):
        bundle.bundle(tmp_path)


def test_an_installation_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text("#!/bin/sh\necho 'no such host' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(bundle, "_PROGRAMS", str(programs))
    kept = tmp_path / "cache"
    with pytest.raises(PreviewError, match=r"(?s)npm ci .* failed.*no such host"):
        bundle.bundle(kept)
    assert list(kept.iterdir()) == []


def test_a_bundle_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_install", lambda scratch: (scratch / "node_modules").mkdir())
    made: list[Path] = []
    monkeypatch.setattr(bundle, "_bundle", lambda modules, scratch: made.append(modules))
    assert bundle.bundle(tmp_path) == bundle.bundle(tmp_path)
    assert len(made) == 1
