"""What comes of the rules in some hours of a fleet: who is told of what, and what is held back.

All rules are evaluated as often as the fleet is scraped. promtool goes by the interval of the test alone, not
by that of a group, so rules that count their own evaluations are built for it. At the shipped 15 s a day
would take a quarter of an hour; in steps of a minute it takes one. A test file can only expect. The one
written here expects silence, and what promtool complains of is the account.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alerts.alertmanager import INHIBITIONS, Inhibition, Routing, way
from alerts.build import groups, rule_files
from alerts.lifecycle import TRAINING_RUN_KILLED
from alerts.rules import AlertRule
from alerts.telemetry import INFO_INHIBITOR
from alerts.thresholds import Thresholds
from tests.alerts.day import Fleet

RULES = {
    rule.name: rule for group in groups(Thresholds()) for rule in group.rules if isinstance(rule, AlertRule)
}
# What tells of the alert, beside its name.
_ABOUT = ("run", "instance", "gpu", "rank", "what", "xid", "collector", "metric", "reason", "rule_group")
_QUERIES = {
    (book, figure): query.format(f"day:{book}")
    for book in ("told", "held_back")
    for figure, query in {
        "first": "min_over_time({}[2d])",
        "last": "max_over_time({}[2d])",
        "times": "count_over_time({}_anew[2d])",
    }.items()
}


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
        rule = RULES[self.alert]
        told = way(rule)
        if told == "digest":
            return (told,)
        return (told, self.about.split()[0]) if told == "hardware" else (told, self.alert, self._run)

    @property
    def _run(self) -> str:
        return self.about.split()[0] if RULES[self.alert].scope == "run" else ""

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

    def notifications(self) -> list[tuple[Entry, int]]:
        """The first of each group of alerts, and how many followed: others of it, repeats, the end."""
        groups: dict[tuple[str, ...], list[Entry]] = {}
        for entry in self.told:
            groups.setdefault(entry.group, []).append(entry)
        return [(entries[0], self._further(entries)) for entries in groups.values()]

    def _further(self, entries: Sequence[Entry]) -> int:
        moments = set()
        for entry in entries:
            lasted = entry.last - entry.first
            moments |= {("told", entry.first), *(("again", each) for each in range(1, entry.times))}
            moments |= {("repeated", each) for each in range(1, 1 + int(lasted // entry.repeat_seconds))}
            if entry.last < self.hours * 3600:
                moments.add(("ended", entry.last))
        return len(moments) - 1


def clock(moment: float) -> str:
    return f"{int(moment) // 3600}:{int(moment) // 60 % 60:02}"


def account(fleet: Fleet, directory: Path, inhibitions: Sequence[Inhibition] = INHIBITIONS) -> Account:
    """Raises RuntimeError with promtool's words when it cannot evaluate."""
    interval = f"{fleet.scrape_seconds}s"
    thresholds = replace(Thresholds(), evaluation_interval_seconds=fleet.scrape_seconds)
    for name, text in rule_files(thresholds).items():
        (directory / name).write_text(text, encoding="utf-8")
    names = [*rule_files(thresholds), "book.yaml"]
    (directory / "book.yaml").write_text(
        yaml.safe_dump({"groups": [_book(inhibitions, interval)]}), encoding="utf-8"
    )
    end = f"{round(fleet.hours * 60)}m"
    test = {
        "rule_files": names,
        "evaluation_interval": interval,
        "group_eval_order": [*(f"trainvitals.{group.name}" for group in groups(thresholds)), "book"],
        "tests": [
            {
                "interval": interval,
                "input_series": fleet.input_series(),
                "promql_expr_test": [{"expr": query, "eval_time": end} for query in _QUERIES.values()],
            }
        ],
    }
    file = directory / "day.yaml"
    file.write_text(yaml.dump(test, Dumper=yaml.CSafeDumper, width=10**9), encoding="utf-8")
    tested = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    return Account(*_read(tested), fleet.hours, fleet.scrape_seconds)


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


def _read(tested: subprocess.CompletedProcess[str]) -> tuple[list[Entry], list[Entry]]:
    """The books, in order of time, out of what promtool got in place of the silence it was to expect."""
    complaint = tested.stdout + tested.stderr
    got = {
        query: {labels: float(value) for labels, value in re.findall(r"(\{[^}]*\}) ([^,\s]+)", samples)}
        for query, samples in re.findall(r'expr: "(.+)", time: .*\n\s*exp: .*\n\s*got: (.*)', complaint)
    }
    if tested.returncode != 0 and not got:
        raise RuntimeError(complaint.strip())
    told, held_back = (
        sorted(
            (
                _entry(
                    labels, first, got[_QUERIES[book, "last"]][labels], got[_QUERIES[book, "times"]][labels]
                )
                for labels, first in got.get(_QUERIES[book, "first"], {}).items()
            ),
            key=lambda entry: (entry.first, entry.alert, entry.about),
        )
        for book in ("told", "held_back")
    )
    return told, held_back


def _entry(labels: str, first: float, last: float, times: float) -> Entry:
    told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    about = " ".join(f"{label}={told[label]}" for label in _ABOUT if label in told)
    return Entry(told["alertname"], about, first, last, int(times))
