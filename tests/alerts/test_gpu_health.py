from __future__ import annotations

from alerts.build import groups
from alerts.gpu_health import ALERTED_METRICS
from alerts.rules import AlertRule, RecordingRule
from alerts.thresholds import Thresholds
from exporters import catalog
from exporters.catalog import CATALOG
from tests.alerts.expressions import selectors

# What is told of every GPU whatever its driver, and what tells that something is missing.
ALWAYS_TOLD = {
    catalog.NVIDIA_GPU_UP,
    catalog.NVIDIA_GPU_INFO,
    catalog.NVIDIA_GPU_DEVICES,
    catalog.NVIDIA_GPU_METRIC_UNSUPPORTED,
}


def test_every_gpu_metric_that_an_alert_rests_on_is_told_when_it_is_withheld() -> None:
    rules = [rule for group in groups(Thresholds()) for rule in group.rules]
    recorded = {rule.name: rule.expr for rule in rules if isinstance(rule, RecordingRule)}
    read: set[str] = set()
    unread = {rule.expr for rule in rules if isinstance(rule, AlertRule)}
    while unread:
        names = {selector.metric for selector in selectors(unread.pop())} - read
        read |= names
        unread |= {recorded[name] for name in names if name in recorded}
    of_gpus = {CATALOG[name] for name in read if name.startswith("nvidia_gpu_")} - ALWAYS_TOLD
    of_gpus -= {catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS}  # told missing by its count
    assert {metric.name for metric in of_gpus} <= {metric.name for metric in ALERTED_METRICS}
    assert catalog.NVIDIA_GPU_XID_ERRORS_TOTAL in ALERTED_METRICS
    assert len(of_gpus) + 1 == len(ALERTED_METRICS)
