"""Files that code writes and that are committed all the same: they are written, or compared with the code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def write(directory: Path, texts: Mapping[str, str], pattern: str | None) -> None:
    """Make the files of `directory` that match the pattern those of `texts`, by name; others of these go.

    Without a pattern none goes. Makes the directory where it is missing. Raises OSError when it cannot be
    written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob(pattern) if pattern else ():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def differences(directory: Path, texts: Mapping[str, str], pattern: str) -> list[str]:
    """One line for each file that is missing, is not what the code says, or that nothing writes any more."""
    present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob(pattern)}
    lines = []
    for name in sorted(texts.keys() | present.keys()):
        if name not in texts:
            lines.append(f"{directory / name} is written by nothing any more")
        elif name not in present:
            lines.append(f"{directory / name} is missing")
        elif texts[name] != present[name]:
            lines.append(f"{directory / name} is not what the code says")
    return lines


def main(
    command: str, directory: Path, texts: Mapping[str, str], pattern: str, arguments: Sequence[str] | None
) -> int:
    """Write the files, or with --check name what differs and return 1."""
    parser = argparse.ArgumentParser(prog=command, description="Write what is generated anew.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when a file is not current"
    )
    if not parser.parse_args(arguments).check:
        write(directory, texts, pattern)
        return 0
    lines = differences(directory, texts, pattern)
    for line in lines:
        print(f"{line}: run `{command}`", file=sys.stderr)
    return 1 if lines else 0
