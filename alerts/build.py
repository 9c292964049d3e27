"""Write the rule files and the Alertmanager configuration: `python -m alerts.build [--check]`."""

from __future__ import annotations

import argparse
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

GENERATED = Path(__file__).parent / "generated"
ALERTMANAGER_FILE = "alertmanager.yml"
COMMAND = "python -m alerts.build"

_YAML = "*.y*ml"
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

    Makes the directory where it is missing; what is left of former groups is removed. Raises OSError when it
    cannot be written.
    """
    texts = files(thresholds or Thresholds(), routing or Routing())
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob(_YAML):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def stale_files(directory: Path) -> list[Path]:
    """Files of `directory` that differ from what the code says, are missing, or that nothing writes."""
    expected = files(Thresholds(), Routing())
    present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob(_YAML)}
    names = sorted(expected.keys() | present.keys())
    return [directory / name for name in names if expected.get(name) != present.get(name)]


def main(arguments: Sequence[str] | None = None, directory: Path = GENERATED) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when a generated file is not current"
    )
    if not parser.parse_args(arguments).check:
        write(directory)
        return 0
    stale = stale_files(directory)
    for path in stale:
        print(f"{path} is not what the code says; run `{COMMAND}`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
