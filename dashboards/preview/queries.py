"""What Grafana makes of a dashboard's variables and queries before it asks Prometheus."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]

# What Grafana's Prometheus source takes for granted where nobody says otherwise.
SCRAPE_SECONDS = 15.0
# Grafana asks for no more points of a series, Prometheus answers no more.
MOST_POINTS = 11_000
ALL = "$__all"

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
# The steps Grafana rounds to, in seconds.
_STEPS = (
    *(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 20, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY for days in (1, 7, 30, 365)),
)
_REFERENCE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::\w+)?\}|(?P<bare>\w+))|\[\[(?P<old>\w+)\]\]")


class Window(NamedTuple):
    """What the dashboard shows, in unix seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def aligned(self, step_seconds: float) -> Window:
        """Both ends moved back to a multiple of the step, as Grafana does."""
        return Window(
            self.start // step_seconds * step_seconds,
            self.end // step_seconds * step_seconds,
        )


class Choice(NamedTuple):
    """What a variable stands for: in PromQL, and to the reader at the head of the dashboard."""

    name: str
    label: str
    promql: str
    text: str
    hidden: bool


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """`text` with `$name`, `${name}` and `[[name]]` replaced; names without a value stay as they are."""

    def value_of(reference: re.Match[str]) -> str:
        name = reference["braced"] or reference["bare"] or reference["old"]
        return values.get(name, reference[0])

    return _REFERENCE.sub(value_of, text)


def seconds(duration: str) -> float:
    """A duration such as `1m`, `>30s` or `1h30m`. Raises ValueError for what is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdwy])", duration)
    if "".join(number + unit for number, unit in parts) != duration.lstrip(">") or not parts:
        raise ValueError(f"{duration!r} is no duration such as 30s or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def as_duration(length_seconds: float) -> str:
    """In the form PromQL reads: whole seconds, else milliseconds."""
    whole = length_seconds == int(length_seconds)
    return f"{int(length_seconds)}s" if whole else f"{round(length_seconds * 1000)}ms"


def step_seconds(window: Window, points: float, least_seconds: float = SCRAPE_SECONDS) -> float:
    """The time between two points, so that `points` of them fill the window; never below `least_seconds`."""
    wanted = window.seconds / max(points, 1)
    nearest = min(_STEPS, key=lambda step: (abs(step - wanted), -step))
    step = max(nearest, least_seconds)
    return max(step, math.ceil(window.seconds / MOST_POINTS))


def built_in(window: Window, step: float, scrape_seconds: float = SCRAPE_SECONDS) -> dict[str, str]:
    """Grafana's own variables, by name."""
    range_seconds = round(window.seconds)
    return {
        "__interval": as_duration(step),
        "__interval_ms": str(round(step * 1000)),
        "__rate_interval": as_duration(max(step + scrape_seconds, 4 * scrape_seconds)),
        "__range": f"{range_seconds}s",
        "__range_s": str(range_seconds),
        "__range_ms": str(range_seconds * 1000),
        "__from": str(round(window.start * 1000)),
        "__to": str(round(window.end * 1000)),
    }


def chosen(variable: Json, found: Sequence[str], wanted: Sequence[str] = ()) -> Choice:
    """What a variable that was `found` to have these values stands for: `wanted`, else what it is set to.

    Where it is set to nothing that was found, it is the first value, as when Grafana opens the dashboard.
    """
    several = bool(variable.get("multi") or variable.get("includeAll"))
    set_to = _listed(variable.get("current", {}).get("value"))
    if wanted:
        values = list(wanted if several else wanted[:1])
    elif ALL in set_to or (not set_to and variable.get("includeAll")):
        values = [ALL]
    else:
        values = [value for value in set_to if value in found] or list(found[:1])
    if values == [ALL]:
        promql = variable.get("allValue") or _any_of(found)
        text = "All"
    else:
        promql = _any_of(values) if several else _escaped(values)
        text = " + ".join(values)
    return Choice(
        variable["name"],
        variable.get("label") or variable["name"],
        promql,
        text or "None",
        variable.get("hide", 0) == 2,
    )


def ordered(values: Sequence[str], variable: Json) -> list[str]:
    """The values a variable's `regex` leaves, in the order its `sort` asks for."""
    pattern = variable.get("regex") or ""
    if pattern:
        found = (re.search(pattern.strip("/"), value) for value in values)
        values = [match[1] if match.re.groups else match[0] for match in found if match]
    sort = variable.get("sort", 0)
    if sort in (3, 4):
        return sorted(values, key=_number, reverse=sort == 4)
    return sorted(values, key=str.lower, reverse=sort == 2) if sort else list(values)


def _number(value: str) -> float:
    digits = re.search(r"\d+(?:\.\d+)?", value)
    return float(digits[0]) if digits else -1


def _listed(value: Any) -> list[str]:
    if value in (None, "", []):
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _any_of(values: Sequence[str]) -> str:
    escaped = [
        re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\")) for value in values
    ]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _escaped(values: Sequence[str]) -> str:
    return "".join(value.replace("\\", "\\\\").replace("'", "\\'") for value in values)
