"""What a rule and a group of rules are, and the YAML that Prometheus loads."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from alerts.thresholds import Thresholds, duration

# "none" is for alerts that keep Alertmanager going: they tell nobody of anything.
Severity = Literal["critical", "warning", "info", "none"]
# What is at fault, which says who is called: a run's owner, whoever looks after the machines, or us.
AlertScope = Literal["run", "hardware", "telemetry"]
# The uid of the dashboard that has a panel for every alert.
ALERTS_DASHBOARD = "trainvitals-alerts"
# Below are the ids of that dashboard's other panels, above those of alerts.
_FIRST_PANEL = 1000
_PANELS = 1_000_000


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
    in human units. The runbook is the file in runbooks/ that bears the alert's name. One that waits for no
    time says in `at_once` why the first look is enough.

    Groups are evaluated up to an interval apart. One that holds back an alert of another group, where both
    end together, keeps firing for two intervals longer than that.
    """

    name: str
    expr: str
    severity: Severity
    scope: AlertScope
    summary: str
    description: str
    for_seconds: float = 0
    at_once: str = ""
    keep_firing_for_seconds: float = 0

    @property
    def runbook(self) -> str:
        return f"{self.name}.md"

    @property
    def panel(self) -> int:
        """The id of its panel: made of its name, so that it stays while other alerts come and go."""
        return _FIRST_PANEL + zlib.crc32(self.name.encode()) % _PANELS

    def to_mapping(self, thresholds: Thresholds) -> dict[str, Any]:
        mapping: dict[str, Any] = {"alert": self.name, "expr": self.expr}
        if self.for_seconds:
            mapping["for"] = duration(self.for_seconds)
        if self.keep_firing_for_seconds:
            mapping["keep_firing_for"] = duration(self.keep_firing_for_seconds)
        mapping["labels"] = {"severity": self.severity, "scope": self.scope}
        mapping["annotations"] = {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": f"{thresholds.runbook_base.rstrip('/')}/{self.runbook}",
        }
        if self.scope == "run":  # a run's name needs no escaping in a link
            page = f"{thresholds.page_base.rstrip('/')}/#/runs/{{{{ $labels.run }}}}"
            mapping["annotations"]["page_url"] = page
        if thresholds.grafana_base:
            mapping["annotations"]["dashboard_url"] = self._dashboard_url(thresholds.grafana_base)
        return mapping

    def _dashboard_url(self, grafana_base: str) -> str:
        run = "&var-run={{ $labels.run }}" if self.scope == "run" else ""
        return f"{grafana_base.rstrip('/')}/d/{ALERTS_DASHBOARD}?viewPanel={self.panel}{run}"


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that Prometheus evaluates in this order: the later ones see what the earlier ones record.

    In this order Alertmanager hears of them, too, unless Prometheus was told to evaluate rules concurrently.
    So one that another holds back stands before it: where a cause and its effect end together, the effect is
    not told alone.
    """

    name: str
    rules: tuple[RecordingRule | AlertRule, ...]

    def to_mapping(self, thresholds: Thresholds) -> dict[str, Any]:
        """The group as Prometheus and its operator read it."""
        rules = [
            rule.to_mapping(thresholds) if isinstance(rule, AlertRule) else rule.to_mapping()
            for rule in self.rules
        ]
        interval = duration(thresholds.evaluation_interval_seconds)
        return {"name": f"trainvitals.{self.name}", "interval": interval, "rules": rules}

    def to_yaml(self, thresholds: Thresholds) -> str:
        """The group as a rule file of its own."""
        return dump({"groups": [self.to_mapping(thresholds)]})

    def to_manifest(self, thresholds: Thresholds) -> str:
        """The group as a PrometheusRule, for the Prometheus operator."""
        return dump(
            {
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PrometheusRule",
                "metadata": {"name": f"trainvitals-{self.name.replace('_', '-')}"},
                "spec": {"groups": [self.to_mapping(thresholds)]},
            }
        )


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
