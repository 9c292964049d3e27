"""The drill on this machine: provokes alerts on a stack of its own, and awaits what Alertmanager sends."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from alerts.alertmanager import DEADMAN, NOBODY, Routing, way
from alerts.rules import AlertRule
from alerts.telemetry import WATCHDOG
from trainvitals import interruption
from trainvitals.child import loopback
from trainvitals.drill import telemetry
from trainvitals.drill.condition import Condition, Drill, NotHereError
from trainvitals.drill.scaled import SCALED
from trainvitals.drill.sink import DEADMAN_PATH, NOTIFICATIONS_PATH, SLOW_PATH, Arrival, Sink
from trainvitals.stack import Stack, Surroundings

AWAITED_SECONDS = 300.0
_LOOK_EVERY_SECONDS = 0.5


class DrillError(Exception):
    """The drill cannot go on; the message says why."""


@dataclass
class _Awaited:
    """An alert that was provoked, at this time (monotonic seconds), and who is to hear of it."""

    condition: Condition
    receiver: str
    labels: Mapping[str, str]
    since: float

    @property
    def name(self) -> str:
        return self.condition.alert

    def is_this(self, labels: Mapping[str, str]) -> bool:
        return labels.get("alertname") == self.name and self.labels.items() <= labels.items()


class Outcome(NamedTuple):
    """Of how many alerts the notification arrived, of how many not, and how many cannot be provoked here."""

    arrived: int
    missing: int
    not_here: int


def drill(alerts: Mapping[Condition, AlertRule], awaited_seconds: float = AWAITED_SECONDS) -> Outcome:
    """Provoke all of these at once, and print a line when one arrives, or when it has not within the time.

    Raises ChildError or DrillError where the stack does not start or does not last.
    """
    with tempfile.TemporaryDirectory(prefix="trainvitals-drill-") as name, Sink() as sink:
        folder = Path(name)
        with Stack(folder / "stack", SCALED, surroundings=_surroundings(folder, sink)) as stack:
            ground = Drill(folder, SCALED, stack, sink)
            with ground.opened:
                return _drill(ground, alerts, awaited_seconds)


def _drill(ground: Drill, alerts: Mapping[Condition, AlertRule], awaited_seconds: float) -> Outcome:
    waiting = _Waiting(ground, width=max(len(alert.name) for alert in alerts.values()))
    try:
        not_here = sum(not waiting.provoke(*each) for each in alerts.items())
        severities = {alert.severity for alert in alerts.values()}
        if "info" in severities and telemetry.WORSE_THAN_INFO not in alerts:
            telemetry.WORSE_THAN_INFO.provoke(ground)
        missing = waiting.until_all_arrived(awaited_seconds)
    except httpx.HTTPError as error:
        raise DrillError(ground.stack.failure() or str(error)) from error
    return Outcome(len(alerts) - not_here - missing, missing, not_here)


def receiver_of(alert: AlertRule) -> str:
    """Who is to hear of an alert, with a dead-man's switch; NOBODY where Alertmanager only keeps it."""
    return DEADMAN if alert.name == WATCHDOG else way(alert)


def _surroundings(folder: Path, sink: Sink) -> Surroundings:
    token = folder / "token"  # the sink asks nobody who he is
    token.write_text("none")
    routing = Routing(
        webhook_url=f"{sink.url}{NOTIFICATIONS_PATH}",
        token_file=str(token),
        group_wait_seconds=1,
        group_interval_seconds=1,
        digest_wait_seconds=1,
        digest_interval_seconds=1,
        digest_at_any_hour=True,
        deadman_url=f"{sink.url}{DEADMAN_PATH}",
        deadman_seconds=1,
    )
    return Surroundings(
        routing,
        metric_relabel=telemetry.METRIC_RELABEL,
        remote_read=telemetry.remote_read(f"{sink.url}{SLOW_PATH}"),
    )


class _Waiting:
    """What was provoked, and what of it has not arrived yet."""

    def __init__(self, ground: Drill, width: int) -> None:
        """`width` is that of the longest name."""
        self._ground = ground
        self._width = width
        self._waiting: list[_Awaited] = []

    def provoke(self, condition: Condition, alert: AlertRule) -> bool:
        """Whether the condition could be made real."""
        interruption.check()
        try:
            labels = condition.provoke(self._ground)
        except NotHereError as error:
            print(f"{alert.name:<{self._width}}  cannot be provoked here: {error}", flush=True)
            return False
        self._waiting.append(_Awaited(condition, receiver_of(alert), labels, time.monotonic()))
        self._look()
        return True

    def until_all_arrived(self, seconds: float) -> int:
        """How many did not within the seconds."""
        deadline = time.monotonic() + seconds
        while self._waiting and time.monotonic() < deadline:
            interruption.check()
            self._look()
            time.sleep(_LOOK_EVERY_SECONDS)
        for awaited in self._waiting:
            name, what = awaited.name, awaited.condition.what
            print(f"{name:<{self._width}}  has not arrived within {seconds:g} s: {what}")
            for line in self._explained(awaited):
                print(f"    {line}")
        if self._waiting:
            came = {each.name for each in self._arrivals() if each.status == "firing"}
            print(f"what did come: {', '.join(sorted(came)) or 'nothing'}")
        return len(self._waiting)

    def _look(self) -> None:
        """Do what is due in the conditions, and take what has arrived."""
        self._ground.poll()
        ended = self._ground.stack.ended()
        if ended:
            raise DrillError(ended)
        kept = [each for each in self._waiting if each.receiver == NOBODY]
        in_alertmanager = self._alerts_in_alertmanager() if kept else []
        for awaited in list(self._waiting):
            if awaited.receiver == NOBODY:
                held = any(awaited.is_this(each["labels"]) for each in in_alertmanager)
                if held:
                    self._has_arrived(awaited, time.monotonic(), "in Alertmanager, which tells nobody of it")
                continue
            arrival = next(filter(lambda each: self._is_expected(each, awaited), self._arrivals()), None)
            if arrival is not None:
                self._has_arrived(awaited, arrival.at, f"by {arrival.receiver}")

    def _arrivals(self) -> Sequence[Arrival]:
        return self._ground.sink.arrivals

    @staticmethod
    def _is_expected(arrival: Arrival, awaited: _Awaited) -> bool:
        told = arrival.status == "firing" and arrival.receiver == awaited.receiver
        return told and awaited.is_this(arrival.labels)

    def _has_arrived(self, awaited: _Awaited, at: float, how: str) -> None:
        self._waiting.remove(awaited)
        took = max(0.0, at - awaited.since)
        print(
            f"{awaited.name:<{self._width}}  arrived after {took:3.0f} s {how}: {awaited.condition.what}",
            flush=True,
        )

    def _alerts_in_alertmanager(self) -> list[dict[str, Any]]:
        answer = loopback.get(f"{self._ground.stack.alertmanager_url}/api/v2/alerts")
        answer.raise_for_status()
        alerts: list[dict[str, Any]] = answer.json()
        return alerts

    def _explained(self, awaited: _Awaited) -> list[str]:
        """How far an alert has come that did not arrive."""
        selector = ", ".join(f'{name}="{value}"' for name, value in awaited.labels.items())
        found = self._ground.stack.query(f'ALERTS{{alertname="{awaited.name}", {selector}}}')
        states = {each["metric"]["alertstate"] for each in found}
        lines = [
            f"Prometheus has it {' and '.join(sorted(states))}" if states else "Prometheus does not have it"
        ]
        in_alertmanager = self._alerts_in_alertmanager()
        names = {each["fingerprint"]: each["labels"]["alertname"] for each in in_alertmanager}
        for alert in in_alertmanager:
            if awaited.is_this(alert["labels"]):
                by = [names.get(each, each) for each in alert["status"]["inhibitedBy"]]
                lines.append(
                    f"Alertmanager has it for {', '.join(each['name'] for each in alert['receivers'])}"
                    + (f", held back by {', '.join(by)}" if by else "")
                )
        came = sorted({each.receiver for each in self._arrivals() if awaited.is_this(each.labels)})
        if came:
            lines.append(f"it came by {', '.join(came)}, but was expected by {awaited.receiver}")
        for child in self._ground.trainings.get(awaited.labels.get("run", ""), ()):
            if not child.running and child.last_lines():
                lines += [f"the end of the log of {child.name}:", *child.last_lines().splitlines()]
        return lines
