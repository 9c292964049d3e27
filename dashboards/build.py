"""Writes every dashboard to generated/<uid>.json: `python -m dashboards.build [--check]`.

The files are committed, so that Grafana can be given them as they are. `--check` writes nothing and exits 1
naming the files that differ from the code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dashboards import alerts, foundation
from exporters import generated

DASHBOARDS = (foundation.dashboard, alerts.dashboard)

GENERATED = Path(__file__).parent / "generated"
COMMAND = "python -m dashboards.build"
PATTERN = "*.json"


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


def main(arguments: Sequence[str] | None = None, directory: Path = GENERATED) -> int:
    """The command; returns its exit status."""
    return generated.main(COMMAND, directory, render(), PATTERN, arguments)


if __name__ == "__main__":
    sys.exit(main())
