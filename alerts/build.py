"""Write the rule files and the Alertmanager configuration: `python -m alerts.build [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alerts.alertmanager import Routing, alertmanager_config
from alerts.gpu_health import gpu_health
from alerts.lifecycle import lifecycle
from alerts.rules import Group
from alerts.run_efficiency import run_efficiency
from alerts.telemetry import telemetry
from alerts.thresholds import Thresholds
from exporters import generated

GENERATED = Path(__file__).parent / "generated"
ALERTMANAGER_FILE = "alertmanager.yml"
COMMAND = "python -m alerts.build"
PATTERN = "*.y*ml"

_HEADER = f"# Written by `{COMMAND}` from {{source}}; change that and run it again.\n"


def groups(thresholds: Thresholds) -> tuple[Group, ...]:
    """All rule groups; each lives in the module of its name."""
    return (
        lifecycle(thresholds),
        gpu_health(thresholds),
        run_efficiency(),
        telemetry(thresholds),
    )


def rule_files(thresholds: Thresholds) -> dict[str, str]:
    """The text of each rule file by its name, one file a group."""
    return {
        f"{group.name}.yaml": _HEADER.format(source=f"alerts/{group.name}.py") + group.to_yaml(thresholds)
        for group in groups(thresholds)
    }


def files(thresholds: Thresholds, routing: Routing) -> dict[str, str]:
    """The text of everything that is generated, by file name."""
    alertmanager = _HEADER.format(source="alerts/alertmanager.py") + alertmanager_config(routing)
    return rule_files(thresholds) | {ALERTMANAGER_FILE: alertmanager}


def write(directory: Path, thresholds: Thresholds | None = None, routing: Routing | None = None) -> None:
    """Make the YAML files in `directory` the rule files and `alertmanager.yml`, by default as shipped.

    Raises OSError when it cannot be written.
    """
    generated.write(directory, files(thresholds or Thresholds(), routing or Routing()), PATTERN)


def main(arguments: Sequence[str] | None = None, directory: Path = GENERATED) -> int:
    """The command; returns its exit status."""
    return generated.main(COMMAND, directory, files(Thresholds(), Routing()), PATTERN, arguments)


if __name__ == "__main__":
    sys.exit(main())
