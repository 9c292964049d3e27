"""The `trainvitals` command. Standard library only: it finds the command first, and imports it then."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

import trainer_hooks


class Command(NamedTuple):
    """Where a command lives; its module holds a typer application named `app`, that of `run` a `main`."""

    module: str
    extra: str
    summary: str


COMMANDS = {
    "demo": Command("trainvitals.demo", "all", "run the whole loop once: train, scrape, alert, draw"),
    "serve": Command("trainvitals.serve", "service", "start the service: metrics, API, alert inbox"),
    "run": Command("trainer_hooks.run", "", "record the training that a command makes, its script unchanged"),
    "train": Command("trainvitals.train", "workload", "run the bundled fine-tuning workload"),
    "gpus": Command("trainvitals.gpus", "service", "watch the GPUs, and which run trains on each"),
    "runs": Command("trainvitals.runs", "service", "show the runs and how they are doing"),
    "report": Command("trainvitals.report", "service", "write what runs came to into one file"),
    "alerts": Command(
        "trainvitals.alerts", "service", "write the alert rules and who is told, and drill them"
    ),
    "dashboards": Command(
        "trainvitals.dashboards", "service,dashboards", "write the dashboards, for Grafana or as pictures"
    ),
    "token": Command("trainvitals.token", "service", "make and revoke the tokens that open the service"),
    "audit": Command("trainvitals.audit", "service", "check the log of who did what"),
    "doctor": Command("trainvitals.doctor", "service", "say what works on this machine and what does not"),
}


def usage() -> str:
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: trainvitals COMMAND [OPTIONS]", "", *lines, "", "trainvitals COMMAND --help says more."]
    )


def install_command(extra: str) -> str:
    """What installs an extra, run in a checkout: the hook and the rest are on no package index."""
    return f"pip install ./trainer_hooks '.[{extra}]'"


def main(arguments: list[str] | None = None) -> int:
    """Dispatch to a command and return its exit status; 2 for a wrong call, 3 for a missing extra."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(trainer_hooks.__version__)
        return 0
    if name == "run":  # needs nothing but the hook, and takes options of others
        return importlib.import_module(COMMANDS[name].module).main(rest)  # type: ignore[no-any-return]
    command = COMMANDS.get(name)
    if command is None:
        print(f"trainvitals: no command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("trainvitals", "exporters", "alerts", "dashboards", "workload", "trainer_hooks"):
            raise
        print(
            f"trainvitals {name}: the module {missing} is not installed; "
            f"in a checkout of trainvitals, {install_command(command.extra)} brings it",
            file=sys.stderr,
        )
        return 3
    return int(module.app(args=rest, prog_name=f"trainvitals {name}", standalone_mode=True) or 0)
