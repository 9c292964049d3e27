"""Write docs/drill.md out of the conditions: `python -m trainvitals.drill.page [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alerts.alertmanager import NOBODY
from alerts.build import groups
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from exporters import generated
from trainvitals.drill.command import CONDITIONS
from trainvitals.drill.local import receiver_of
from trainvitals.drill.unprovoked import UNPROVOKED

DIRECTORY = Path(__file__).resolve().parents[2] / "docs"
NAME = "drill.md"
COMMAND = "python -m trainvitals.drill.page"

_HEAD = """\
# The drill

<!-- Written by `python -m trainvitals.drill.page` out of trainvitals/drill. -->

An alert that nobody has seen arrive may not arrive. `trainvitals alerts drill` sees to it, in two ways.

## On this machine

    trainvitals alerts drill --alert TrainingRunKilled
    trainvitals alerts drill --all

starts services, Prometheus and Alertmanager on loopback and makes the condition of each alert real there:
trainings that are killed or frozen, services that hang, files that are damaged, simulated GPUs that fail.
Then it waits until Alertmanager has sent the notification to the receiver that is to hear of it. The rules
are those that are shipped, with seconds for their minutes and hours (trainvitals/drill/scaled.py). It prints
a line for each alert. The exit status is 1 where one does not arrive, and it says how far that one came.
Ctrl-C stops everything that it started, and so does SIGKILL where util-linux's `setpriv` is installed, but
its folder stays then.

An alert of severity info is held back while nothing worse fires beside it. Where one is drilled, a damaged
recording fires too.

## On your Alertmanager

    trainvitals alerts drill --alert TrainingRunKilled --alertmanager http://alertmanager:9093

provokes nothing. It sends the alert as a test: with the labels by which it is routed, a run and an instance
named `trainvitals-drill-…`, the label `drill="true"`, and a summary that begins with DRILL. **It reaches
whoever the routes name**, at night as well. It says to which receivers it is routed, or who silences the
alert or holds it back, waits until the notification is out, and takes the test back; one that it cannot take
back ends by itself within a quarter of an hour, and it says when. Of several replicas give the address of
one: each keeps alerts of its own.

- Your Prometheus adds its external labels to every alert, and your routes may ask for them. Give them as
  well, and whatever else the routes ask for: `--label cluster=a --label namespace=training`. Beside each
  alert stands which labels the routes saw.
- Whether the calls came through it learns from Alertmanager's own counts before and after, which are by kind
  of integration: a call that failed meanwhile for another alert counts too. Where `/metrics` cannot be read,
  nothing is known beyond the route.
- On a way that is bound to times an alert may tell nobody now, and does not count as told.
- An inhibit rule of yours may let a test hold back real alerts: one by which all that is critical holds back
  all warnings of a cluster, for example. It refuses to send such a test. Where the rule's `source_matchers`
  also have `drill != "true"`, no test holds anything back; `--anyway` sends it nevertheless.
- A digest tells of a test and of real alerts in one message. In our templates the title and the link of a
  message are those of the first real alert that fires.
- Alerts of severity none are not sent. Of the Watchdog, ours with `scope="telemetry"`, it says whether the
  real one is there and calls anybody.

The exit status is 1 where an alert tells nobody, or may not have told everybody, and where there is no
Alertmanager.

## What is provoked

"""


def page() -> str:
    """The whole page."""
    parts = []
    for group in groups(Thresholds()):
        rows = [_row(rule) for rule in group.rules if isinstance(rule, AlertRule)]
        if rows:
            head = "| alert | arrives at | what happens |\n|---|---|---|"
            parts.append("\n".join([f"### {group.name}\n", head, *rows]))
    return _HEAD + "\n\n".join(parts) + "\n"


def _row(alert: AlertRule) -> str:
    receiver = receiver_of(alert)
    where = "Alertmanager alone" if receiver == NOBODY else receiver
    if alert.name in UNPROVOKED:
        return f"| {alert.name} | {where} | *not provoked:* {UNPROVOKED[alert.name]} |"
    return f"| {alert.name} | {where} | {CONDITIONS[alert.name].what} |"


def main(arguments: Sequence[str] | None = None, directory: Path = DIRECTORY) -> int:
    """The command; returns its exit status."""
    return generated.main(COMMAND, directory, {NAME: page()}, NAME, arguments)


if __name__ == "__main__":
    sys.exit(main())
