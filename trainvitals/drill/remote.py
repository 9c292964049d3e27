"""The drill on an Alertmanager that is there: marked test alerts through its real routes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from alerts.rules import AlertRule
from alerts.telemetry import WATCHDOG
from exporters import calling
from trainvitals import interruption
from trainvitals.drill.routing import Config, Way

MARK = {"drill": "true"}
PLACEHOLDER = "trainvitals-drill"
# What a test alert says of itself, and nobody else may.
OWN_LABELS = ("alertname", "severity", "scope", "run", "instance", "gpu", "drill")
# An alert that is not taken back, because this was killed, ends by itself.
ENDS_AFTER = timedelta(minutes=15)
_SETTLE_SECONDS = 2.0  # until Alertmanager knows what holds an alert back
_ANSWER_SECONDS = 10.0
_PEER_SECONDS = 15.0  # Alertmanager's own: each replica waits so long for the one before it
_REQUESTS = "alertmanager_notification_requests"
_FAILED_REQUESTS = "alertmanager_notification_requests_failed"


class RemoteError(Exception):
    """An Alertmanager cannot be drilled; the message says why, and what to do."""


class _Told(NamedTuple):
    """What Alertmanager says of an alert it was sent."""

    labels: Mapping[str, str]
    receivers: tuple[str, ...]
    inhibited_by: tuple[str, ...]
    silenced_by: tuple[str, ...]


class _Calls(NamedTuple):
    """How often an Alertmanager has called by an integration since its start, and how often in vain."""

    made: int
    failed: int


class _Routed(NamedTuple):
    """An alert on its way to somebody: by which integrations, after how long, and whether at any time."""

    alert: str
    integrations: frozenset[str]
    wait_seconds: float
    at_any_time: bool = True


def drill(
    url: str, alerts: Sequence[AlertRule], labels: Mapping[str, str] | None = None, *, anyway: bool = False
) -> int:
    """Send a test alert of each, say who is told, take them back, and return how many may tell nobody.

    `labels` are further ones of each, those by which a Prometheus names itself for example. Alerts of
    severity none are not sent: a further Watchdog would hide that the real one is not there. Unless `anyway`,
    nothing is sent where a test could hold back a real alert. Raises RemoteError.
    """
    alertmanager = _Alertmanager(url)
    config, replicas = alertmanager.config()
    sent = {alert.name: _test_alert(alert, labels or {}) for alert in alerts if alert.severity != "none"}
    if not anyway:
        _check_that_none_holds_back(sent, config, alertmanager.url)
    unheard, routed = 0, list[_Routed]()
    width = max(len(alert.name) for alert in alerts)
    before = alertmanager.calls()
    with alertmanager.firing(list(sent.values())):
        if sent:
            time.sleep(_SETTLE_SECONDS)
        for alert in alerts:
            interruption.check()
            if alert.name in sent:
                told = alertmanager.told(sent[alert.name])
                way, said = _outcome(alert.name, told, config)
                if way:
                    routed.append(way)
                unheard += not (way and way.at_any_time)
                shown = ", ".join(f"{name}={value}" for name, value in told.labels.items())
                said += f"\n{'':<{width}}  the routes see {shown}"
            else:
                is_well, said = _of_no_severity(alert, labels or {}, alertmanager, config)
                unheard += not is_well
            print(f"{alert.name:<{width}}  {said}", flush=True)
        if routed:
            wait = max(each.wait_seconds for each in routed) + _PEER_SECONDS * (replicas - 1)
            print(f"they are told within {wait:g} s, and taken back after that …", flush=True)
            _wait(wait + _SETTLE_SECONDS)
            unheard += _unheard([way for way in routed if way.at_any_time], before, alertmanager)
    return unheard


def _test_alert(alert: AlertRule, labels: Mapping[str, str]) -> dict[str, Any]:
    """The labels by which an alert is routed, with a run and an instance that nothing real has."""
    # Its own, so that none holds another back; each has a run, so that none is told together with a real one.
    placeholder = f"{PLACEHOLDER}-{alert.name}"
    placeholders = {
        "run": {},
        "hardware": {"instance": placeholder, "gpu": PLACEHOLDER},
        "telemetry": {"instance": placeholder},
    }
    return {
        "labels": {
            "alertname": alert.name,
            "severity": alert.severity,
            "scope": alert.scope,
            "run": placeholder,
            **placeholders[alert.scope],
            **labels,
            **MARK,
        },
        "annotations": {
            "summary": f"DRILL: this is a test of {alert.name}; nothing has happened.",
            "description": "Sent by `trainvitals alerts drill`, which takes it back; else it ends by itself.",
        },
    }


def _check_that_none_holds_back(sent: Mapping[str, Mapping[str, Any]], config: Config, url: str) -> None:
    """Raises RemoteError where a test alert could hold back a real one, which lacks its placeholders."""
    for rule in config.inhibit_rules:
        names = [
            name
            for name, alert in sent.items()
            if rule.lets_hold_back(
                alert["labels"], {"run", "instance", "gpu", *MARK} & alert["labels"].keys()
            )
        ]
        if names:
            raise RemoteError(
                f"a test of {', '.join(names)} could hold back real alerts, and is not sent: by an inhibit "
                f'rule of {url} {rule}; give its source_matchers drill != "true" as well, leave these alerts '
                "out, or take --anyway"
            )


def _outcome(name: str, told: _Told, config: Config) -> tuple[_Routed | None, str]:
    """On which way an alert is, and to whom; None for nobody, with why."""
    ways = {way.receiver: way for way in config.ways(told.labels)}
    taken = [ways.get(receiver, Way(receiver)) for receiver in told.receivers]
    receivers = ", ".join(_described(way, config) for way in taken)
    for how, by in (("silenced by", told.silenced_by), ("held back by", told.inhibited_by)):
        if by:
            return None, f"tells nobody: {how} {', '.join(by)}; else it would tell {receivers}"
    set_up = [way for way in taken if config.integrations.get(way.receiver)]
    if not set_up:
        return None, f"tells nobody: {receivers}"
    at_any_time = [way for way in set_up if not way.times]
    integrations = frozenset(each for way in at_any_time for each in config.integrations[way.receiver])
    wait = max(way.wait_seconds for way in set_up)
    said = "is routed to" if at_any_time else "may tell nobody now:"
    return _Routed(name, integrations, wait, bool(at_any_time)), f"{said} {receivers}"


def _described(way: Way, config: Config) -> str:
    """A receiver with its integrations, and with the times to which the way to it is bound."""
    integrations = ", ".join(config.integrations.get(way.receiver, ())) or "nothing is set up there"
    bound = f"; bound to the times {', '.join(way.times)}" if way.times else ""
    return f"{way.receiver} ({integrations}{bound})"


def _of_no_severity(
    alert: AlertRule, labels: Mapping[str, str], alertmanager: _Alertmanager, config: Config
) -> tuple[bool, str]:
    """Whether all is well with an alert that is not sent, and what there is to say of it."""
    if alert.name != WATCHDOG:
        return True, "tells nobody by itself, and is not sent: it would hold back real alerts"
    told = alertmanager.real({"alertname": alert.name, "scope": alert.scope, **labels})
    if told is None:
        return False, "is not there: no Prometheus with these rules sends its alerts to this Alertmanager"
    way, said = _outcome(alert.name, told, config)
    return way is not None and way.at_any_time, f"is there, and {said}"


def _unheard(routed: Sequence[_Routed], before: Mapping[str, _Calls], alertmanager: _Alertmanager) -> int:
    """Of how many alerts not all calls went through, as far as that can be told; says what was called."""
    if not routed:
        return 0
    after = alertmanager.calls()
    if not after:
        print(f"whether they were told is not known: {alertmanager.url}/metrics cannot be read", flush=True)
        return 0
    silent = set[str]()
    for integration in sorted({each for way in routed for each in way.integrations}):
        was, now = (calls.get(integration, _Calls(0, 0)) for calls in (before, after))
        made, failed = now.made - was.made, now.failed - was.failed
        if failed or not made:
            silent.add(integration)
        print(f"calls by {integration} meanwhile, for these or others: {made}, of which {failed} failed")
    lost = [way.alert for way in routed if way.integrations & silent]
    if lost:
        print(
            f"not everybody may have been told of {', '.join(lost)}: Alertmanager's log says why a call "
            "failed; where there was none, the alert has joined a group that was told of not long ago",
            flush=True,
        )
    return len(lost)


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

    def config(self) -> tuple[Config, int]:
        """With how many replicas there are. Raises RemoteError where there is no Alertmanager."""
        status = self._get("/api/v2/status")
        try:
            peers = status["cluster"].get("peers") or ()
            return Config.parse(status["config"]["original"]), max(1, len(peers))
        except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError):
            raise RemoteError(self._is_none("what it says of itself is not what Alertmanager says")) from None

    def calls(self) -> Mapping[str, _Calls]:
        """By integration; empty where its metrics cannot be read."""
        counts: dict[str, dict[str, int]] = {_REQUESTS: {}, _FAILED_REQUESTS: {}}
        try:
            for family in text_string_to_metric_families(self._ask("GET", "/metrics").text):
                for sample in family.samples:
                    counted = counts.get(sample.name.removesuffix("_total"))
                    if counted is not None:
                        integration = sample.labels["integration"]
                        counted[integration] = counted.get(integration, 0) + int(sample.value)
        except (RemoteError, KeyError, ValueError):
            return {}
        failed = counts[_FAILED_REQUESTS]
        return {name: _Calls(made, failed.get(name, 0)) for name, made in counts[_REQUESTS].items()}

    @contextmanager
    def firing(self, alerts: list[dict[str, Any]]) -> Iterator[None]:
        """Within it the alerts fire; a Ctrl-C waits until they are taken back, or said not to be."""
        began = datetime.now(UTC)
        try:
            with interruption.held():
                self._send(alerts, began, began + ENDS_AFTER)
            yield
        finally:
            with interruption.held():
                self._take_back(alerts, began)

    def _take_back(self, alerts: list[dict[str, Any]], began: datetime) -> None:
        if not alerts:
            return
        try:
            self._send(alerts, began, datetime.now(UTC))
        except RemoteError as error:
            ends = (began + ENDS_AFTER).astimezone()
            print(
                f"{len(alerts)} test alerts could not be taken back; they end by {ends:%H:%M}: {error}",
                file=sys.stderr,
            )
        else:
            print("the test alerts are taken back", flush=True)

    def told(self, alert: Mapping[str, Any]) -> _Told:
        """What becomes of an alert that fires; raises RemoteError when it does not come back."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            interruption.check()
            for found in self._alerts(alert["labels"]["alertname"]):
                if found["labels"] == alert["labels"] and found["status"]["state"] != "unprocessed":
                    return self._as_told(found)
            time.sleep(0.2)
        raise RemoteError(
            f"{self.url} took {alert['labels']['alertname']}, but does not have it; give the "
            "address of one replica, for each keeps alerts of its own"
        )

    def real(self, labels: Mapping[str, str]) -> _Told | None:
        """What becomes of an alert with these labels that somebody else sent; None where there is none."""
        for found in self._alerts(labels["alertname"]):
            if labels.items() <= found["labels"].items() and not MARK.items() <= found["labels"].items():
                return self._as_told(found)
        return None

    def _as_told(self, alert: Mapping[str, Any]) -> _Told:
        status = alert["status"]
        return _Told(
            alert["labels"],
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
