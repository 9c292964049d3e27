"""Writes every dashboard to generated/<uid>.json: `python -m dashboards.build [--check]`.

The files are committed, so that Grafana can be given them as they are. `--check` writes nothing and exits 1
naming the files that differ from the code.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dashboards import foundation

DASHBOARDS = (foundation.dashboard,)

GENERATED = Path(__file__).parent / "generated"
COMMAND = "python -m dashboards.build"


def render() -> dict[str, str]:
    """The text of every dashboard's file, by file name.

    Raises ValueError when two dashboards have one uid.
    """
    texts: dict[str, str] = {}
    for make in DASHBOARDS:
        document = make().to_json_data()
        name = f"{document['uid']}.json"
        if name in texts:
            raise ValueError(f"two dashboards have the uid {document['uid']}: give one of them another")
        texts[name] = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return texts


def differences(texts: Mapping[str, str], directory: Path) -> list[str]:
    """One line for each JSON file in `directory` that is missing, stale, or belongs to no dashboard."""
    present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob("*.json")}
    lines = []
    for name in sorted(texts.keys() | present.keys()):
        path = directory / name
        if name not in texts:
            lines.append(f"{path} belongs to no dashboard")
        elif name not in present:
            lines.append(f"{path} is missing")
        elif texts[name] != present[name]:
            lines.append(f"{path} is stale")
    return lines


def write(texts: Mapping[str, str], directory: Path) -> None:
    """Make the JSON files in `directory` those of `texts`; what is left of former dashboards is removed."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None, directory: Path = GENERATED) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the Grafana dashboards as JSON.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a file differs from the code"
    )
    check = parser.parse_args(arguments).check
    texts = render()
    if not check:
        write(texts, directory)
        return 0
    lines = differences(texts, directory)
    for line in lines:
        print(f"{line}: run `{COMMAND}`", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
