"""What a rule and a group of rules are, and the YAML that Prometheus loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from alerts.thresholds import Thresholds, duration

Severity = Literal["critical", "warning", "info"]
# What is at fault, which says who is called: a run's owner, whoever looks after the machines, or us.
AlertScope = Literal["run", "hardware", "telemetry"]


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A query whose result is stored under `name`, formed as level:metric:operations."""

    name: str
    expr: str

    def to_mapping(self) -> dict[str, Any]:
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True, slots=True)
class AlertRule:
    """A condition that somebody must hear of.

    `summary` holds no number, so that it reads the same while the value moves; `description` has the value
    in human units. The runbook is the file in runbooks/ that bears the alert's name.
    """

    name: str
    expr: str
    severity: Severity
    scope: AlertScope
    summary: str
    description: str
    for_seconds: float = 0
    keep_firing_for_seconds: float = 0

    @property
    def runbook(self) -> str:
        return f"{self.name}.md"

    def to_mapping(self, runbook_base: str) -> dict[str, Any]:
        mapping: dict[str, Any] = {"alert": self.name, "expr": self.expr}
        if self.for_seconds:
            mapping["for"] = duration(self.for_seconds)
        if self.keep_firing_for_seconds:
            mapping["keep_firing_for"] = duration(self.keep_firing_for_seconds)
        mapping["labels"] = {"severity": self.severity, "scope": self.scope}
        mapping["annotations"] = {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": f"{runbook_base.rstrip('/')}/{self.runbook}",
        }
        return mapping


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that Prometheus evaluates in this order: the later ones see what the earlier ones record."""

    name: str
    rules: tuple[RecordingRule | AlertRule, ...]

    def to_yaml(self, thresholds: Thresholds) -> str:
        """The group as a rule file of its own."""
        rules = [
            rule.to_mapping(thresholds.runbook_base) if isinstance(rule, AlertRule) else rule.to_mapping()
            for rule in self.rules
        ]
        interval = duration(thresholds.evaluation_interval_seconds)
        return dump({"groups": [{"name": f"trainvitals.{self.name}", "interval": interval, "rules": rules}]})


class _Dumper(yaml.SafeDumper):
    """Writes queries of several lines as blocks and indents lists, as a person would."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_string)


def dump(document: dict[str, Any]) -> str:
    """The same YAML for the same document, keys in the order given."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
