"""Writes every dashboard to generated/<uid>.json: `python -m dashboards.build [--check]`.

The files are committed, so that Grafana can be given them as they are. `--check` writes nothing and exits 1
naming the files that differ from the code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from alerts.thresholds import Thresholds
from dashboards import alerts, compare, fleet, foundation, goodput, gpus, ranks, run
from dashboards.grafana.dashboard import Dashboard
from dashboards.grafana.panels import Json
from exporters import generated

DASHBOARDS: tuple[Callable[[Thresholds], Dashboard], ...] = (
    foundation.dashboard,
    fleet.dashboard,
    run.dashboard,
    gpus.dashboard,
    ranks.dashboard,
    compare.dashboard,
    goodput.dashboard,
    alerts.dashboard,
)

GENERATED = Path(__file__).parent / "generated"
COMMAND = "python -m dashboards.build"
PATTERN = "*.json"


def documents(thresholds: Thresholds) -> list[Json]:
    """Every dashboard as Grafana takes it, its limits those of the alerts.

    Raises ValueError when two dashboards have one uid.
    """
    made: dict[str, Json] = {}
    for dashboard in DASHBOARDS:
        document = dashboard(thresholds).to_json_data()
        uid = document["uid"]
        if uid in made:
            raise ValueError(f"two dashboards have the uid {uid}: give one of them another")
        made[uid] = document
    return list(made.values())


def render(thresholds: Thresholds) -> dict[str, str]:
    """The text of every dashboard's file, by file name; raises as `documents` does."""
    return {
        f"{document['uid']}.json": json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for document in documents(thresholds)
    }


def main(arguments: Sequence[str] | None = None, directory: Path = GENERATED) -> int:
    """The command; returns its exit status."""
    return generated.main(COMMAND, directory, render(Thresholds()), PATTERN, arguments)


if __name__ == "__main__":
    sys.exit(main())
