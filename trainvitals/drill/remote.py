"""The drill on an Alertmanager that is there: marked test alerts through its real routes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import yaml

from alerts.rules import AlertRule
from alerts.telemetry import WATCHDOG
from exporters import calling
from trainvitals import interruption

MARK = {"drill": "true"}
PLACEHOLDER = "trainvitals-drill"
# An alert that is not taken back, because this was killed, ends by itself.
ENDS_AFTER = timedelta(minutes=15)
_SETTLE_SECONDS = 2.0  # until Alertmanager knows what holds an alert back
_ANSWER_SECONDS = 10.0
_GROUP_WAIT_SECONDS = 30.0  # Alertmanager's own
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}


class RemoteError(Exception):
    """An Alertmanager cannot be drilled; the message says why, and what to do."""


class _Way(NamedTuple):
    """A route to a receiver: how long the first notification waits, and the times to which it is bound."""

    wait_seconds: float
    times: tuple[str, ...]


class _Config(NamedTuple):
    """What Alertmanager's configuration says of its receivers, by their names."""

    integrations: Mapping[str, Sequence[str]]
    ways: Mapping[str, Sequence[_Way]]


class _Told(NamedTuple):
    """What Alertmanager says of an alert it was sent."""

    receivers: tuple[str, ...]
    inhibited_by: tuple[str, ...]
    silenced_by: tuple[str, ...]


def drill(url: str, alerts: Sequence[AlertRule]) -> int:
    """Send a test alert of each, say who is told, take them back, and return how many tell nobody.

    Those of severity none are not sent: a further Watchdog would hide that the real one is not there. Raises
    RemoteError.
    """
    alertmanager = _Alertmanager(url)
    config = alertmanager.config()
    sent = {alert.name: _test_alert(alert) for alert in alerts if alert.severity != "none"}
    unheard = 0
    width = max(len(alert.name) for alert in alerts)
    waits = [0.0]
    with alertmanager.firing(list(sent.values())):
        if sent:
            time.sleep(_SETTLE_SECONDS)
        for alert in alerts:
            interruption.check()
            if alert.name in sent:
                told = alertmanager.told(sent[alert.name])
                reached, said = _outcome(told, config)
                if reached:
                    waits += [
                        each.wait_seconds for name in told.receivers for each in config.ways.get(name, ())
                    ]
            else:
                reached, said = _of_no_severity(alert, alertmanager, config)
            unheard += not reached
            print(f"{alert.name:<{width}}  {said}", flush=True)
        if max(waits):
            print(f"they are told within {max(waits):g} s, and taken back after that …", flush=True)
            _wait(max(waits) + _SETTLE_SECONDS)
    if sent:
        print("the test alerts are taken back")
    return unheard


def _test_alert(alert: AlertRule) -> dict[str, Any]:
    """The labels by which an alert is routed, with a run or an instance that nothing real has."""
    placeholder = f"{PLACEHOLDER}-{alert.name}"  # its own, so that none holds another back
    placeholders = {
        "run": {"run": placeholder},
        "hardware": {"instance": placeholder, "gpu": PLACEHOLDER},
        "telemetry": {"instance": placeholder},
    }
    return {
        "labels": {
            "alertname": alert.name,
            "severity": alert.severity,
            "scope": alert.scope,
            **placeholders[alert.scope],
            **MARK,
        },
        "annotations": {
            "summary": f"DRILL: this is a test of {alert.name}; nothing has happened.",
            "description": "Sent by `trainvitals alerts drill`, which takes it back; else it ends by itself.",
        },
    }


def _outcome(told: _Told, config: _Config) -> tuple[bool, str]:
    """Whether somebody is told, and who, or why nobody is."""
    receivers = ", ".join(_described(name, config) for name in told.receivers)
    if told.silenced_by:
        return (
            False,
            f"tells nobody: silenced by {', '.join(told.silenced_by)}; else it would tell {receivers}",
        )
    if told.inhibited_by:
        return (
            False,
            f"tells nobody: held back by {', '.join(told.inhibited_by)}; else it would tell {receivers}",
        )
    if not any(config.integrations.get(name) for name in told.receivers):
        return False, f"tells nobody: {receivers}"
    return True, f"tells {receivers}"


def _described(receiver: str, config: _Config) -> str:
    """A receiver with its integrations, and with the times to which every way to it is bound."""
    integrations = ", ".join(config.integrations.get(receiver, ())) or "nothing is set up there"
    ways = config.ways.get(receiver, ())
    times = ", ".join(dict.fromkeys(name for way in ways for name in way.times))
    bound = times and all(way.times for way in ways)
    return f"{receiver} ({integrations}{f'; bound to the times {times}' if bound else ''})"


def _of_no_severity(alert: AlertRule, alertmanager: _Alertmanager, config: _Config) -> tuple[bool, str]:
    if alert.name != WATCHDOG:
        return True, "tells nobody by itself, and is not sent: it would hold back real alerts"
    told = alertmanager.real(alert.name)
    if told is None:
        return False, "is not there: no Prometheus with these rules sends its alerts to this Alertmanager"
    return True, f"is there, and tells {', '.join(_described(name, config) for name in told.receivers)}"


def _wait(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        interruption.check()
        time.sleep(0.2)


class _Alertmanager:
    """The HTTP API of an Alertmanager, version 2."""

    def __init__(self, url: str) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise RemoteError(f"{url} is no URL of an Alertmanager, such as http://HOST:9093")
        self.url = str(parsed.copy_with(userinfo=b"")).rstrip("/")  # a password is not repeated
        self._called = str(parsed).rstrip("/")
        self._client = calling.client(answer_seconds=_ANSWER_SECONDS)

    def config(self) -> _Config:
        """Raises RemoteError where there is no Alertmanager."""
        status = self._get("/api/v2/status")
        try:
            original = yaml.safe_load(status["config"]["original"])
            integrations = {
                receiver["name"]: [
                    key.removesuffix("_configs")
                    for key in receiver
                    if key.endswith("_configs") and receiver[key]
                ]
                for receiver in original["receivers"]
            }
            ways: dict[str, list[_Way]] = {}
            for receiver, way in _ways(original["route"], "", _Way(_GROUP_WAIT_SECONDS, ())):
                ways.setdefault(receiver, []).append(way)
        except (KeyError, TypeError, ValueError, yaml.YAMLError):
            raise RemoteError(self._is_none("what it says of itself is not what Alertmanager says")) from None
        return _Config(integrations, ways)

    @contextmanager
    def firing(self, alerts: list[dict[str, Any]]) -> Iterator[None]:
        """Within it the alerts fire; a Ctrl-C waits until they are taken back."""
        began = datetime.now(UTC)
        try:
            with interruption.held():
                self._send(alerts, began, began + ENDS_AFTER)
            yield
        finally:
            with interruption.held():
                self._send(alerts, began, datetime.now(UTC))

    def told(self, alert: Mapping[str, Any]) -> _Told:
        """What becomes of an alert that fires; raises RemoteError when it does not come back."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            interruption.check()
            for found in self._alerts(alert["labels"]["alertname"]):
                if found["labels"] == alert["labels"] and found["status"]["state"] != "unprocessed":
                    return self._as_told(found)
            time.sleep(0.2)
        raise RemoteError(f"{self.url} took {alert['labels']['alertname']}, but does not have it")

    def real(self, name: str) -> _Told | None:
        """What becomes of an alert that somebody else sent; None where there is none."""
        found = [each for each in self._alerts(name) if not MARK.items() <= each["labels"].items()]
        return self._as_told(found[0]) if found else None

    def _as_told(self, alert: Mapping[str, Any]) -> _Told:
        status = alert["status"]
        return _Told(
            tuple(each["name"] for each in alert["receivers"]),
            tuple(map(self._name_of, status["inhibitedBy"])),
            tuple(map(self._name_of_silence, status["silencedBy"])),
        )

    def _alerts(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("/api/v2/alerts", filter=f'alertname="{name}"')
        return found

    def _name_of(self, fingerprint: str) -> str:
        for alert in self._get("/api/v2/alerts"):
            if alert["fingerprint"] == fingerprint:
                return str(alert["labels"].get("alertname", fingerprint))
        return fingerprint

    def _name_of_silence(self, silence: str) -> str:
        said = self._get(f"/api/v2/silence/{silence}")
        return f"{said.get('createdBy') or 'somebody'} ({said.get('comment') or silence})"

    def _send(self, alerts: list[dict[str, Any]], starts: datetime, ends: datetime) -> None:
        times = {"startsAt": starts.isoformat(), "endsAt": ends.isoformat()}
        self._ask("POST", "/api/v2/alerts", json=[{**alert, **times} for alert in alerts])

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._ask("GET", path, params=parameters)
        try:
            return answer.json()
        except ValueError:
            raise RemoteError(self._is_none("its answer is no JSON")) from None

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, f"{self._called}{path}", **more)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(
                f"{self.url} cannot be reached ({error}); give the address at which Alertmanager answers, "
                "http://HOST:9093 for example"
            ) from None
        if not answer.is_success:
            raise RemoteError(self._is_none(f"{method} {path} is answered with {answer.status_code}"))
        return answer

    def _is_none(self, why: str) -> str:
        return (
            f"{self.url} is no Alertmanager, or does not let us in: {why}; give the address at which "
            "Alertmanager answers, http://HOST:9093 for example"
        )


def _ways(route: Mapping[str, Any], receiver: str, inherited: _Way) -> Iterator[tuple[str, _Way]]:
    """Each route of the tree with its receiver; what a route does not say, the one above it does."""
    receiver = route.get("receiver") or receiver
    wait = _seconds(route["group_wait"]) if route.get("group_wait") else inherited.wait_seconds
    times = (*route.get("active_time_intervals", ()), *route.get("mute_time_intervals", ()))
    yield receiver, _Way(wait, times)
    for below in route.get("routes") or ():
        yield from _ways(below, receiver, _Way(wait, ()))


def _seconds(duration: str) -> float:
    """Of a duration as Prometheus writes it, 1m30s; raises ValueError."""
    seconds, rest = 0.0, duration
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        rest = rest[len(digits) :]
        unit = "ms" if rest.startswith("ms") else rest[:1]
        seconds += int(digits) * _UNITS[unit]
        rest = rest[len(unit) :]
    return seconds
