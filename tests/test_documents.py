"""What the documents point to is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def tracked() -> set[Path]:
    """The files of the repository and their folders, relative to its root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = {Path(name) for name in listed.stdout.split("\0") if name}
    return files | {folder for file in files for folder in file.parents}


TRACKED = tracked()
DOCUMENTS = sorted(path for path in TRACKED if path.suffix == ".md")


def dead_links(document: Path, text: str) -> list[str]:
    """The links to files of the repository that are not there."""
    targets = [target.partition("#")[0] for target in _LINK.findall(text)]
    places = {
        target: Path(*(document.parent / target).parts)
        for target in targets
        if target and not re.match(r"\w+:", target)
    }
    return [
        target
        for target, place in places.items()
        if (ROOT / place).resolve().relative_to(ROOT.resolve()) not in TRACKED
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    assert dead_links(document, (ROOT / document).read_text(encoding="utf-8")) == []


def test_a_dead_link_is_found() -> None:
    text = "[one](../README.md#alerts) [other](images/none.png) [site](https://example.org/x)"
    assert dead_links(Path("docs/some.md"), text) == ["images/none.png"]
