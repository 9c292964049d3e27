"""Whether trainvitals itself still sees anything."""

from __future__ import annotations

from alerts.rules import AlertRule, Group
from alerts.thresholds import Thresholds, duration

TRAINING_SERVICE_DOWN = "TrainingServiceDown"


def telemetry(thresholds: Thresholds) -> Group:
    up = f'up{{job="{thresholds.job}"}}'
    down_for = duration(thresholds.service_down_for_seconds)
    return Group(
        "telemetry",
        (
            # A node that leaves discovery takes its `up` with it and does not page here: nodes come and go,
            # and what it was training pages as a stalled run. A job without any target is a broken set-up.
            AlertRule(
                TRAINING_SERVICE_DOWN,
                f"max by (cluster, job, instance) ({up}) == 0\n  or\nabsent({up})",
                for_seconds=thresholds.service_down_for_seconds,
                severity="critical",
                scope="telemetry",
                summary="{{ with $labels.instance }}The training service on {{ . }} does not answer."
                "{{ else }}Prometheus has no training service to scrape.{{ end }}",
                description="{{ if $labels.instance }}Every scrape of it has failed{{ else }}"
                f"Job {thresholds.job} has had no target{{{{ end }}}} for {down_for}. "
                "Training itself may be well, but nobody watches it.",
            ),
        ),
    )
