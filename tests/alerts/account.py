"""What comes of the rules in some hours of a fleet: who is told of what, and what is held back.

All rules are evaluated as often as the fleet is scraped. promtool goes by the interval of the test alone, not
by that of a group, so rules that count their own evaluations are built for it. At the shipped 15 s a day
would take a quarter of an hour; in steps of a minute it takes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alerts.alertmanager import INHIBITIONS, Inhibition, Routing, alertmanager_config, way
from alerts.build import groups, rule_files
from alerts.lifecycle import TRAINING_RUN_KILLED
from alerts.rules import AlertRule
from alerts.telemetry import INFO_INHIBITOR
from alerts.thresholds import Thresholds
from tests.alerts.answers import Sample, ask
from tests.alerts.day import Fleet

RULES = {
    rule.name: rule for group in groups(Thresholds()) for rule in group.rules if isinstance(rule, AlertRule)
}
# What tells of the alert, beside its name.
_ABOUT = ("run", "instance", "gpu", "rank", "what", "xid", "collector", "metric", "reason", "rule_group")
_ROUTE = yaml.safe_load(alertmanager_config(Routing()))["route"]
# When each first and last was told, and how often anew.
_FIGURES = ("min_over_time(day:{}[2d])", "max_over_time(day:{}[2d])", "count_over_time(day:{}_anew[2d])")


class Entry(NamedTuple):
    """An alert that fired: of what, from when to when in seconds, and how often it began."""

    alert: str
    about: str
    first: float
    last: float
    times: int

    def __str__(self) -> str:
        times = "" if self.times == 1 else f", {self.times} times"
        return f"{self.alert} ({self.about}) from {clock(self.first)} to {clock(self.last)}{times}"

    @property
    def group(self) -> tuple[str, ...]:
        """Those of one group are one notification, where they come at the same time."""
        told = way(RULES[self.alert])
        labels = {"alertname": self.alert, **dict(part.split("=", 1) for part in self.about.split())}
        return (told, *(labels.get(label, "") for label in _group_by(told)))

    @property
    def repeat_seconds(self) -> float:
        routing = Routing()
        if way(RULES[self.alert]) == "digest":
            return 24 * 60 * 60
        is_killed = self.alert == TRAINING_RUN_KILLED
        return routing.killed_repeat_seconds if is_killed else routing.repeat_seconds


class Account(NamedTuple):
    """Who was told of what, in order of time, and what fired but was held back."""

    told: list[Entry]
    held_back: list[Entry]
    hours: float
    scrape_seconds: float

    def notifications(self) -> list[tuple[list[Entry], int]]:
        """Each group of alerts, and how many followed its first: others of it, repeats, the end."""
        groups: dict[tuple[str, ...], list[Entry]] = {}
        for entry in self.told:
            groups.setdefault(entry.group, []).append(entry)
        return [(entries, self._further(entries)) for entries in groups.values()]

    def _further(self, entries: Sequence[Entry]) -> int:
        moments = set()
        for entry in entries:
            lasted = entry.last - entry.first
            moments |= {("told", entry.first), *(("again", each) for each in range(1, entry.times))}
            moments |= {("repeated", each) for each in range(1, 1 + int(lasted // entry.repeat_seconds))}
            if entry.last < self.hours * 3600:
                moments.add(("ended", entry.last))
        return len(moments) - 1


def _group_by(told: str) -> list[str]:
    """By which labels alerts of a way are one notification, in the configuration as it is shipped."""
    by_way = {route["receiver"]: route.get("group_by") for route in _ROUTE["routes"]}
    labels: list[str] = by_way.get(told) or _ROUTE["group_by"]
    return labels


def clock(moment: float) -> str:
    return f"{int(moment) // 3600}:{int(moment) // 60 % 60:02}"


def account(fleet: Fleet, directory: Path, inhibitions: Sequence[Inhibition] = INHIBITIONS) -> Account:
    """Raises RuntimeError when promtool cannot evaluate, or when its answers do not belong together."""
    interval = f"{fleet.scrape_seconds}s"
    thresholds = replace(Thresholds(), evaluation_interval_seconds=fleet.scrape_seconds)
    for name, text in rule_files(thresholds).items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "book.yaml").write_text(
        yaml.safe_dump({"groups": [_book(inhibitions, interval)]}), encoding="utf-8"
    )
    test = {
        "rule_files": [*rule_files(thresholds), "book.yaml"],
        "evaluation_interval": interval,
        "group_eval_order": [*(f"trainvitals.{group.name}" for group in groups(thresholds)), "book"],
    }
    scenario = {"interval": interval, "input_series": fleet.input_series()}
    queries = {book: [figure.format(book) for figure in _FIGURES] for book in ("told", "held_back")}
    every_query = [query for of_book in queries.values() for query in of_book]
    answers = ask(directory / "day.yaml", test, scenario, every_query, f"{round(fleet.hours * 60)}m")
    told, held_back = (
        entries(*(answers[query] for query in queries[book])) for book in ("told", "held_back")
    )
    return Account(told, held_back, fleet.hours, fleet.scrape_seconds)


def _book(inhibitions: Iterable[Inhibition], interval: str) -> dict[str, Any]:
    """Rules that note, after all others, when each alert is told and when it is held back."""
    held_back = [_held_back(_firing(each.sources), _firing(each.targets), each.equal) for each in inhibitions]
    held_back.append(_held_back(_firing([INFO_INHIBITOR]), _firing_of("info"), ("cluster",)))
    rules = []
    firing, held = _firing_of("critical|warning|info"), " or ".join(held_back)
    for book, expr in (("told", f"{firing} unless ({held})"), ("held_back", f"{firing} and ({held})")):
        rules.append({"record": f"day:{book}", "expr": f"0 * ({expr}) + time()"})
        before = f"day:{book} unless day:{book} offset {interval}"
        rules.append({"record": f"day:{book}_anew", "expr": before})
    return {"name": "book", "rules": rules}


def _firing(names: Iterable[str]) -> str:
    return f'ALERTS{{alertstate="firing", alertname=~"{"|".join(names)}"}}'


def _firing_of(severities: str) -> str:
    return f'ALERTS{{alertstate="firing", severity=~"{severities}"}}'


def _held_back(sources: str, targets: str, equal: Iterable[str]) -> str:
    return f"({targets} and on ({', '.join(equal)}) {sources})"


def entries(first: Iterable[Sample], last: Iterable[Sample], times: Iterable[Sample]) -> list[Entry]:
    """A book, in order of time. Raises RuntimeError where one of the three lacks what another knows."""
    figures = [
        {frozenset(sample.labels.items()): sample.value for sample in answer}
        for answer in (first, last, times)
    ]
    known = set().union(*figures)
    for labels in known:
        if not all(labels in figure for figure in figures):
            raise RuntimeError(f"of {dict(labels)} not all is known: the first, the last, how many times")
    found = [_entry(dict(labels), *(figure[labels] for figure in figures)) for labels in known]
    return sorted(found, key=lambda entry: (entry.first, entry.alert, entry.about))


def _entry(labels: Mapping[str, str], first: float, last: float, times: float) -> Entry:
    about = " ".join(f"{label}={labels[label]}" for label in _ABOUT if label in labels)
    return Entry(labels["alertname"], about, first, last, int(times))
