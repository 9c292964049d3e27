"""The Alertmanager configuration: who is told of an alert, how soon, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from alerts.gpu_health import GPU_LOST, GPU_XID_HARDWARE
from alerts.lifecycle import TRAINING_RUN_KILLED
from alerts.rules import dump
from alerts.thresholds import duration


@dataclass(frozen=True, slots=True)
class Routing:
    """Where notifications go and when; times in seconds, those of a demonstration can be short.

    `webhook_url` reaches the service on Alertmanager's own machine; `token_file` holds a token that may write
    there, for Alertmanager to read: a copy of the service's local token, or one of an operator.
    `group_wait_seconds` often spares a page for a killed run that its launcher restarts at once. A kill is
    known within 5 s, scraped within 15 and evaluated within 15 more: with this wait the page is out within a
    minute.
    `group_interval_seconds` is how soon a change is told, an end for example. `repeat_seconds` is when an
    alert that still fires is told again; a kill fires for an hour and repeats after a day: it is told once.
    `max_alerts` bounds what one notification carries; Alertmanager says how many it cut off.
    """

    webhook_url: str = "http://127.0.0.1:8003/api/v1/alerts"
    token_file: str = "/etc/prometheus/trainvitals-token"
    group_wait_seconds: float = 15
    group_interval_seconds: float = 60
    repeat_seconds: float = 4 * 60 * 60
    killed_repeat_seconds: float = 24 * 60 * 60
    max_alerts: int = 100


def alertmanager_config(routing: Routing) -> str:
    """The YAML that Alertmanager 0.25 and later load."""
    receiver = "training-service"
    return dump(
        {
            "route": {
                "receiver": receiver,
                "group_by": ["cluster", "run", "alertname"],
                "group_wait": duration(routing.group_wait_seconds),
                "group_interval": duration(routing.group_interval_seconds),
                "repeat_interval": duration(routing.repeat_seconds),
                "routes": [
                    {
                        "matchers": [f'alertname = "{TRAINING_RUN_KILLED}"'],
                        "repeat_interval": duration(routing.killed_repeat_seconds),
                    }
                ],
            },
            # The XID says why the GPU is lost. By uuid: a GPU's index may pass to another once it is gone.
            "inhibit_rules": [
                {
                    "source_matchers": [f'alertname = "{GPU_XID_HARDWARE}"'],
                    "target_matchers": [f'alertname = "{GPU_LOST}"'],
                    "equal": ["cluster", "instance", "uuid"],
                }
            ],
            "receivers": [
                {
                    "name": receiver,
                    "webhook_configs": [
                        {
                            "url": routing.webhook_url,
                            "http_config": {"authorization": {"credentials_file": routing.token_file}},
                            "send_resolved": True,
                            "max_alerts": routing.max_alerts,
                        }
                    ],
                }
            ],
        }
    )
