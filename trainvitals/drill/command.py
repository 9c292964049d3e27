"""What `trainvitals alerts drill` does with its options: which alerts, and where."""

from __future__ import annotations

import difflib
import re
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


def run(
    names: Sequence[str],
    everything: bool,
    alertmanager: str | None,
    labels: Sequence[str] = (),
    anyway: bool = False,
) -> None:
    """Drill these alerts, or all; raises typer.Exit with the exit status where that is not 0.

    `labels`, each as NAME=VALUE, and `anyway` are for an `alertmanager`.
    """
    if bool(names) == everything:
        raise typer.BadParameter("name alerts by --alert NAME, or take --all of them")
    if alertmanager is None and (labels or anyway):
        raise typer.BadParameter("--label and --anyway are for test alerts: name an --alertmanager URL")
    further = dict(map(_label, labels))
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
        elif remote.drill(alertmanager, [ALERTS[name] for name in chosen], further, anyway=anyway):
            raise typer.Exit(1)
    except (ChildError, local.DrillError, remote.RemoteError) as error:
        options.stop(COMMAND, str(error))
    except KeyboardInterrupt:
        stopped = "; everything it started is stopped" if alertmanager is None else ""
        print(f"trainvitals {COMMAND}: interrupted{stopped}", file=sys.stderr)
        raise typer.Exit(130) from None


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not value or not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
        raise typer.BadParameter(f"--label {text} is no NAME=VALUE of a label")
    if name in remote.OWN_LABELS:
        raise typer.BadParameter(f"--label {text}: what {name} is, the test alert says itself")
    return name, value


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
