"""What an Alertmanager's configuration makes of an alert: which ways it takes, and what it holds back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import yaml

_GROUP_WAIT_SECONDS = 30.0  # Alertmanager's own
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_MATCHER = re.compile(
    rf'\s*({_QUOTED}|[^\s"=!~,]+)\s*(=~|!~|!=|=)\s*({_QUOTED}|[^",]*?)\s*(?:,\s*|$)', re.DOTALL
)


class Matcher(NamedTuple):
    """A condition on a label, as `severity="critical"`; one whose `label` is empty could not be read."""

    label: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """A label that is not there is empty. True where that cannot be told."""
        value = labels.get(self.label, "")
        if not self.label:
            return True
        if not self.operator.endswith("~"):
            return (value == self.value) == (self.operator == "=")
        try:
            return bool(re.fullmatch(self.value, value)) == (self.operator == "=~")
        except re.error:  # what Go's regular expressions have, and Python's do not
            return True

    def __str__(self) -> str:
        return f'{self.label}{self.operator}"{self.value}"' if self.label else self.value


class Way(NamedTuple):
    """A route to a receiver: how long the first notification waits, and the times to which it is bound."""

    receiver: str
    wait_seconds: float = _GROUP_WAIT_SECONDS
    times: tuple[str, ...] = ()


class InhibitRule(NamedTuple):
    """While an alert fires that all `sources` match, those are held back that all `targets` match and whose
    labels `equal` are the same."""

    sources: Sequence[Matcher]
    targets: Sequence[Matcher]
    equal: Sequence[str]

    def lets_hold_back(self, labels: Mapping[str, str], own: Collection[str]) -> bool:
        """Whether an alert with these labels may hold back another, which lacks the values of those that are
        its `own`."""
        if not all(each.matches(labels) for each in self.sources) or set(self.equal) & set(own):
            return False
        same = set(self.equal)
        if "alertname" in same:  # one rule has made both
            same |= {"severity", "scope"}
        return all(each.matches(labels) for each in self.targets if each.label in same)

    def __str__(self) -> str:
        sources, targets = (" and ".join(map(str, side)) for side in (self.sources, self.targets))
        return f"{sources} holds back {targets} with the same {', '.join(self.equal) or '(no label)'}"


class Config(NamedTuple):
    """The integrations of each receiver by name, the route at the top, and what holds what back."""

    integrations: Mapping[str, Sequence[str]]
    route: Mapping[str, Any]
    inhibit_rules: Sequence[InhibitRule]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises KeyError, TypeError, ValueError or YAMLError where it is no configuration."""
        config = yaml.safe_load(text)
        rules = [
            InhibitRule(_matchers(each, "source_"), _matchers(each, "target_"), each.get("equal") or ())
            for each in config.get("inhibit_rules") or ()
        ]
        return cls(
            {each["name"]: _integrations(each) for each in config["receivers"]}, config["route"], rules
        )

    def ways(self, labels: Mapping[str, str]) -> list[Way]:
        """Those that an alert with these labels takes."""
        return _taken(self.route, labels, Way(""))


def _integrations(receiver: Mapping[str, Any]) -> list[str]:
    return [key.removesuffix("_configs") for key in receiver if key.endswith("_configs") and receiver[key]]


def _taken(route: Mapping[str, Any], labels: Mapping[str, str], inherited: Way) -> list[Way]:
    """What a route does not say, the one above it does, but for the times."""
    if not all(each.matches(labels) for each in _matchers(route)):
        return []
    receiver = route.get("receiver") or inherited.receiver
    wait = seconds(route["group_wait"]) if route.get("group_wait") else inherited.wait_seconds
    times = (*(route.get("active_time_intervals") or ()), *(route.get("mute_time_intervals") or ()))
    below: list[Way] = []
    for each in route.get("routes") or ():
        found = _taken(each, labels, Way(receiver, wait))
        below += found
        if found and not each.get("continue"):
            break
    return below or [Way(receiver, wait, times)]


def _matchers(section: Mapping[str, Any], side: str = "") -> list[Matcher]:
    """Those of a route, or of one side of an inhibit rule, in all ways in which they may be written."""
    found = [each for text in section.get(f"{side}matchers") or () for each in _parsed(text)]
    found += [Matcher(*each) for each in _mapped(section.get(f"{side}match"), "=")]
    return found + [Matcher(*each) for each in _mapped(section.get(f"{side}match_re"), "=~")]


def _mapped(values: Mapping[str, Any] | None, operator: str) -> Iterator[tuple[str, str, str]]:
    for label, value in (values or {}).items():
        yield label, operator, str(value)


def _parsed(text: str) -> Iterator[Matcher]:
    """Of `severity = "critical"`, or several with commas between and braces around."""
    rest = text.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1].strip()
    while rest:
        found = _MATCHER.match(rest)
        if found is None:
            yield Matcher("", "", rest)
            return
        yield Matcher(_unquoted(found[1]), found[2], _unquoted(found[3]))
        rest = rest[found.end() :]


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text[1:-1], flags=re.DOTALL)


def seconds(duration: str) -> float:
    """Of a duration as Prometheus writes it, 1m30s; raises ValueError or KeyError."""
    total, rest = 0.0, duration
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        rest = rest[len(digits) :]
        unit = "ms" if rest.startswith("ms") else rest[:1]
        total += int(digits) * _UNITS[unit]
        rest = rest[len(unit) :]
    return total
