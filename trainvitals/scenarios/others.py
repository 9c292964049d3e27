"""What other exporters publish beside the service, for the panels that read it: plain courses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from alerts import memory
from alerts.build import groups
from alerts.thresholds import Thresholds

_GIB = 1024**3


class Published(NamedTuple):
    """One sample of a page: the metric's name, its labels, and its value."""

    name: str
    labels: dict[str, str]
    value: float


def node_exporter(age_seconds: float, ranks: int) -> Iterator[Published]:
    """A node's own, with so many ranks on it."""
    available = (1900 - 12 * ranks - 4 * math.sin(age_seconds / 700)) * _GIB
    yield Published(memory.NODE_MEMORY_TOTAL, {}, 2048 * _GIB)
    yield Published(memory.NODE_MEMORY_AVAILABLE, {}, available)
    yield Published(memory.NODE_OOM_KILLS, {}, 0)


def cadvisor(age_seconds: float) -> Iterator[Published]:
    """The service's container, and the sum cAdvisor adds for its pod."""
    for node in ("a", "c"):
        pod = f"training-service-{node}7f5c"
        for container, name in (("trainvitals", "service"), ("", "")):
            labels = {
                "namespace": "training",
                "pod": pod,
                "container": container,
                "id": f"/kubepods/{pod}/{name}",
            }
            cores = 0.06 * age_seconds + 1.5 * math.sin(age_seconds / 400)
            used = (
                0.21 + 0.05 * (1 - math.exp(-age_seconds / 3000)) + 0.004 * math.sin(age_seconds / 70)
            ) * _GIB
            yield Published("container_cpu_usage_seconds_total", labels, 2 + cores)
            yield Published("container_memory_usage_bytes", labels, used)
            yield Published("container_spec_memory_limit_bytes", labels, 0.5 * _GIB)


def prometheus(age_seconds: float) -> Iterator[Published]:
    """Prometheus's own account of our rules, of its database and of what it scrapes."""
    for group in groups(Thresholds()):
        labels = {"rule_group": f"/etc/prometheus/rules/{group.name}.yaml;trainvitals.{group.name}"}
        lasts = 0.004 + 0.0007 * len(group.rules) * (1 + 0.2 * math.sin(age_seconds / 60 + len(group.name)))
        yield Published("prometheus_rule_evaluations_total", labels, len(group.rules) * (age_seconds // 15))
        yield Published("prometheus_rule_evaluation_failures_total", labels, 0)
        yield Published("prometheus_rule_group_iterations_total", labels, age_seconds // 15)
        yield Published("prometheus_rule_group_iterations_missed_total", labels, 0)
        yield Published("prometheus_rule_group_last_duration_seconds", labels, lasts)
        yield Published("prometheus_rule_group_interval_seconds", labels, 15)
    yield Published("prometheus_tsdb_head_series", {}, 5200 + 90 * (age_seconds // 1800))
    yield Published("prometheus_tsdb_head_samples_appended_total", {"type": "float"}, 340 * age_seconds)
    yield Published("prometheus_notifications_dropped_total", {}, 0)
    yield Published("prometheus_notifications_alertmanagers_discovered", {}, 1)


def alertmanager(age_seconds: float) -> Iterator[Published]:
    """Alertmanager's own account of what it told whom."""
    labels = {"integration": "webhook"}
    yield Published("alertmanager_notifications_total", labels, age_seconds // 300)
    # The receiver was away once.
    yield Published(
        "alertmanager_notifications_failed_total", labels, min(3, max(0, age_seconds // 1200 - 4))
    )
    yield Published("alertmanager_alerts", {"state": "active"}, 3 + age_seconds // 3600)
