"""What our rules would have made of recorded samples: asked of a Prometheus, and written beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx

from alerts.rules import AlertRule, Group, RecordingRule
from trainvitals.scenarios.period import Period
from trainvitals.scenarios.tape import Tape, series

_NAME = re.compile(r"[a-zA-Z_][\w]*:[\w:]+")
_AT_ONCE = 3
_ANSWER_SECONDS = 120.0


class Recorded(NamedTuple):
    """One series: its labels, and unix seconds with values as Prometheus writes them."""

    labels: dict[str, str]
    points: list[tuple[float, str]]


def levels(groups: Iterable[Group]) -> list[list[RecordingRule]]:
    """Recording rules in the order in which they can be evaluated: each rests on earlier levels alone.

    Raises ValueError where some rest on each other.
    """
    waiting = [rule for group in groups for rule in group.rules if isinstance(rule, RecordingRule)]
    found: list[list[RecordingRule]] = []
    while waiting:
        missing = {rule.name for rule in waiting}
        ready = [rule for rule in waiting if not missing & set(_NAME.findall(rule.expr))]
        if not ready:
            raise ValueError(f"these rules rest on each other: {', '.join(sorted(missing))}")
        found.append(ready)
        waiting = [rule for rule in waiting if rule not in ready]
    return found


def record(url: str, rules: Sequence[RecordingRule], period: Period, tape: Tape) -> None:
    """Write what the rules record; their inputs are in the Prometheus at `url`. Raises httpx.HTTPError."""
    for rule, found in zip(rules, _ask(url, [rule.expr for rule in rules], period), strict=True):
        for labels, points in found:
            tape.add_series(series(rule.name, labels), points)


def alert(url: str, rules: Sequence[AlertRule], period: Period, tape: Tape) -> None:
    """Write ALERTS and ALERTS_FOR_STATE as Prometheus keeps them. Raises httpx.HTTPError."""
    for rule, found in zip(rules, _ask(url, [rule.expr for rule in rules], period), strict=True):
        for labels, points in found:
            own = {**labels, "alertname": rule.name, "severity": rule.severity, "scope": rule.scope}
            moments = [at for at, _ in points]
            pending: list[tuple[float, str]] = []
            firing: list[tuple[float, str]] = []
            since: list[tuple[float, str]] = []
            for at, state, active_since in states(rule, moments, period):
                (firing if state == "firing" else pending).append((at, "1"))
                since.append((at, f"{active_since:.0f}"))
            tape.add_series(series("ALERTS", {**own, "alertstate": "pending"}), pending)
            tape.add_series(series("ALERTS", {**own, "alertstate": "firing"}), firing)
            tape.add_series(series("ALERTS_FOR_STATE", own), since)


def states(rule: AlertRule, active: Sequence[float], period: Period) -> Iterator[tuple[float, str, float]]:
    """The moments at which an alert is pending or firing, given those at which its expression has a result.

    With each: "pending" or "firing", and since when it has been active.
    """
    results = set(active)
    since = over_since = math.nan
    firing = False
    for at in period.moments():
        if at in results:
            if math.isnan(since):
                since = at
            over_since = math.nan
            firing = firing or at - since >= rule.for_seconds
        else:
            # It is kept from the first evaluation without a result on, not from the last with one.
            over_since = at if math.isnan(over_since) else over_since
            if not firing or at - over_since >= rule.keep_firing_for_seconds:
                since, firing = math.nan, False
        if not math.isnan(since):
            yield at, "firing" if firing else "pending", since


def _ask(url: str, expressions: Sequence[str], period: Period) -> list[list[Recorded]]:
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=_ANSWER_SECONDS) as client,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        return list(pool.map(lambda expression: _asked(client, expression, period), expressions))


def _asked(client: httpx.Client, expression: str, period: Period) -> list[Recorded]:
    form: Mapping[str, str] = {
        "query": expression,
        "start": f"{period.start:.3f}",
        "end": f"{period.end:.3f}",
        "step": f"{period.step:g}",
    }
    answer = client.post("/api/v1/query_range", data=form)
    answer.raise_for_status()
    found = []
    for each in answer.json()["data"]["result"]:
        labels = {name: value for name, value in each["metric"].items() if name != "__name__"}
        found.append(Recorded(labels, [(float(at), value) for at, value in each["values"]]))
    return found
