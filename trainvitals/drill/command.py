"""What `trainvitals alerts drill` does with its options: which alerts, and where."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence

import typer

from alerts.build import groups
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from trainvitals import interruption, options
from trainvitals.child import ChildError
from trainvitals.drill import gpus, local, remote, runs, telemetry
from trainvitals.drill.condition import Condition
from trainvitals.drill.unprovoked import UNPROVOKED

COMMAND = "alerts drill"

ALERTS: Mapping[str, AlertRule] = {
    rule.name: rule for group in groups(Thresholds()) for rule in group.rules if isinstance(rule, AlertRule)
}
CONDITIONS: Mapping[str, Condition] = {
    condition.alert: condition for condition in (*runs.CONDITIONS, *gpus.CONDITIONS, *telemetry.CONDITIONS)
}


def run(names: Sequence[str], everything: bool, alertmanager: str | None) -> None:
    """Drill these alerts, or all; raises typer.Exit with the exit status where that is not 0."""
    if bool(names) == everything:
        raise typer.BadParameter("name alerts by --alert NAME, or take --all of them")
    for name in names:
        if name not in ALERTS:
            near = difflib.get_close_matches(name, ALERTS, n=1)
            said = f"did you mean {near[0]}?" if near else "alerts/generated/ALERTS.md lists them"
            options.stop(COMMAND, f"there is no alert {name}; {said}")
    chosen = list(ALERTS) if everything else list(dict.fromkeys(names))
    interruption.listen()
    try:
        if alertmanager is None:
            _on_this_machine(chosen, everything)
        elif remote.drill(alertmanager, [ALERTS[name] for name in chosen]):
            raise typer.Exit(1)
    except (ChildError, local.DrillError, remote.RemoteError) as error:
        options.stop(COMMAND, str(error))
    except KeyboardInterrupt:
        print(
            f"trainvitals {COMMAND}: interrupted; what it started is stopped, and what it sent taken back",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def _on_this_machine(names: Sequence[str], everything: bool) -> None:
    for name in names:
        if not everything and name in UNPROVOKED:
            options.stop(
                COMMAND,
                f"{name} cannot be provoked here: {UNPROVOKED[name]}; "
                "--alertmanager URL sends a test alert of it instead",
            )
    chosen = [CONDITIONS[name] for name in names if name in CONDITIONS]
    print(
        f"Provoking {len(chosen)} of {len(ALERTS)} alerts on this machine, with seconds for the minutes and "
        "hours that are shipped:",
        flush=True,
    )
    outcome = local.drill({condition: ALERTS[condition.alert] for condition in chosen})
    if everything:
        for name, reason in UNPROVOKED.items():
            print(f"{name} is not provoked: {reason}")
    print(f"{outcome.arrived} of {len(chosen)} arrived")
    # One that was named and cannot be provoked here has not been seen to arrive either.
    if outcome.missing or (outcome.not_here and not everything):
        raise typer.Exit(1)
