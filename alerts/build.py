"""Write the rule files and the Alertmanager configuration: `python -m alerts.build [--check]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from alerts.alertmanager import Routing, alertmanager_config, way
from alerts.checkpoint import checkpoint
from alerts.fleet import fleet
from alerts.gpu_health import gpu_health
from alerts.lifecycle import lifecycle
from alerts.loss import loss
from alerts.memory import memory
from alerts.rank_gpus import rank_gpus
from alerts.rules import AlertRule, Group
from alerts.run_efficiency import run_efficiency
from alerts.telemetry import telemetry
from alerts.thresholds import Thresholds, duration
from alerts.throughput import throughput
from exporters import generated

GENERATED = Path(__file__).parent / "generated"
ALERTMANAGER_FILE = "alertmanager.yml"
COMMAND = "python -m alerts.build"
LIST_FILE = "ALERTS.md"
PATTERN = "*.[ym]*"

_HEADER = f"# Written by `{COMMAND}` from {{source}}; change that and run it again.\n"


def groups(thresholds: Thresholds) -> tuple[Group, ...]:
    """All rule groups; each lives in the module of its name."""
    return (
        lifecycle(thresholds),
        loss(thresholds),
        throughput(thresholds),
        memory(thresholds),
        checkpoint(thresholds),
        gpu_health(thresholds),
        run_efficiency(),
        rank_gpus(),
        fleet(thresholds),
        telemetry(thresholds),
    )


def rule_files(thresholds: Thresholds) -> dict[str, str]:
    """The text of each rule file by its name, one file a group."""
    return {
        f"{group.name}.yaml": _HEADER.format(source=f"alerts/{group.name}.py") + group.to_yaml(thresholds)
        for group in groups(thresholds)
    }


def manifests(thresholds: Thresholds) -> dict[str, str]:
    """The text of each PrometheusRule by the name of its file, one a group."""
    return {
        f"{group.name}.yaml": _HEADER.format(source=f"alerts/{group.name}.py") + group.to_manifest(thresholds)
        for group in groups(thresholds)
    }


def alertmanager_file(routing: Routing) -> str:
    """The text of the Alertmanager configuration."""
    return _HEADER.format(source="alerts/alertmanager.py") + alertmanager_config(routing)


def files(thresholds: Thresholds, routing: Routing) -> dict[str, str]:
    """The text of everything that is generated, by file name."""
    return rule_files(thresholds) | {
        ALERTMANAGER_FILE: alertmanager_file(routing),
        LIST_FILE: alert_list(thresholds),
    }


def alert_list(thresholds: Thresholds) -> str:
    """Every alert in a table, a group after the other, as Markdown."""
    parts = [f"# The alerts\n\nWritten by `{COMMAND}`."]
    for group in groups(thresholds):
        alerts = [rule for rule in group.rules if isinstance(rule, AlertRule)]
        if alerts:
            rows = [
                f"| [{alert.name}](../runbooks/{alert.runbook}) | {alert.severity} | {way(alert)} "
                f"| {duration(alert.for_seconds) if alert.for_seconds else 'no'} | {_read(alert.summary)} |"
                for alert in alerts
            ]
            head = "| alert | severity | who is told | waits | says |\n|---|---|---|---|---|"
            parts.append("\n".join([f"## {group.name}\n", head, *rows]))
    return "\n\n".join(parts) + "\n"


def _read(summary: str) -> str:
    """A summary with the names of its labels in the places of their values."""
    conditional = r"{{ with \$labels\.(\w+) }}(.*?)(?:{{ else }}.*?)?{{ end }}"
    summary = re.sub(conditional, lambda found: found[2].replace("{{ . }}", f"*{found[1]}*"), summary)
    return re.sub(r"{{ \$labels\.(\w+)[^}]*}}", r"*\1*", summary)


def write(directory: Path, thresholds: Thresholds | None = None, routing: Routing | None = None) -> None:
    """Make the files in `directory` the rules, `alertmanager.yml` and the list, by default as shipped.

    Raises OSError when it cannot be written.
    """
    generated.write(directory, files(thresholds or Thresholds(), routing or Routing()), PATTERN)


def main(arguments: Sequence[str] | None = None, directory: Path = GENERATED) -> int:
    """The command; returns its exit status."""
    return generated.main(COMMAND, directory, files(Thresholds(), Routing()), PATTERN, arguments)


if __name__ == "__main__":
    sys.exit(main())
