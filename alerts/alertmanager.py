"""The Alertmanager configuration: who is told of an alert, how soon, and how often.

An alert takes one of four ways. `page` calls somebody at night, `hardware` is a ticket for whoever looks
after the machines, a node in one message, `ticket` is work of the day for the run's owner, `digest` comes in
office hours. Each of them also tells the service, whose page shows the alert at its run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from alerts import checkpoint, gpu_health, lifecycle, memory, telemetry, throughput
from alerts.rules import AlertRule, dump
from alerts.thresholds import duration

TEMPLATES = Path(__file__).parent / "templates"
WAYS = ("page", "hardware", "ticket", "digest")
NOBODY, DEADMAN = "nobody", "deadman"


class Inhibition(NamedTuple):
    """While one of `sources` fires, none of `targets` is told of that has the same labels `equal`."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    equal: tuple[str, ...]


_RUN = ("cluster", "run")
# Why a run makes no progress, the deepest cause first; all after that is what every such run does.
_CAUSES = (
    (lifecycle.TRAINING_RUN_KILLED, lifecycle.TRAINING_RUN_FAILED),
    (lifecycle.TRAINING_RANK_MISSING,),
    (throughput.TRAINING_COLLECTIVE_HUNG,),
    (lifecycle.TRAINING_STALLED,),
    (throughput.TRAINING_STEP_OVERDUE,),
    (
        throughput.TRAINING_GPU_IDLE,
        throughput.TRAINING_THROUGHPUT_REGRESSED,
        throughput.TRAINING_DATA_LOADER_BOUND,
        throughput.TRAINING_STRAGGLER_RANK,
        throughput.TRAINING_DEADLINE_AT_RISK,
        checkpoint.TRAINING_CHECKPOINT_STALE,
    ),
)
# So that one cause is one page. Nothing holds itself back, by way of others either: it would be told never.
INHIBITIONS = (
    *(
        Inhibition(causes, tuple(name for later in _CAUSES[depth:] for name in later), _RUN)
        for depth, causes in enumerate(_CAUSES[:-1], 1)
    ),
    Inhibition((throughput.TRAINING_DATA_LOADER_BOUND,), (throughput.TRAINING_GPU_IDLE,), _RUN),
    # The exception that ended it is that of the write, or that of the memory.
    Inhibition((lifecycle.TRAINING_RUN_FAILED,), (checkpoint.TRAINING_CHECKPOINT_FAILED,), _RUN),
    Inhibition(
        (lifecycle.TRAINING_RUN_KILLED, lifecycle.TRAINING_RUN_FAILED), (memory.TRAINING_OUT_OF_MEMORY,), _RUN
    ),
    Inhibition(
        (checkpoint.TRAINING_CHECKPOINT_FAILED,),
        (checkpoint.TRAINING_CHECKPOINT_STALE, checkpoint.TRAINING_CHECKPOINT_VOLUME_FILLING),
        _RUN,
    ),
    # The XID says why the GPU is lost, or links of it. By uuid: a GPU's index may pass to another once it is
    # gone.
    Inhibition(
        (gpu_health.GPU_XID_HARDWARE,),
        (
            gpu_health.GPU_LOST,
            gpu_health.GPU_ECC_UNCORRECTABLE,
            gpu_health.GPU_NVLINK_DOWN,
            gpu_health.GPU_RECOVERY_ACTION_NEEDED,
        ),
        ("cluster", "instance", "uuid"),
    ),
    Inhibition(
        (telemetry.TRAINING_SERVICE_DOWN,), (telemetry.PROMETHEUS_SCRAPE_SLOW,), ("cluster", "instance")
    ),
)


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

    `receivers` are Alertmanager's own settings of who is told on each way, beside the service, and `globals`
    those of all. `digest_at_any_hour` spares the digest its office hours. `deadman_url` is called every
    minute for as long as the whole way from Prometheus to there works: who expects the call tells when it
    stays away. `templates` is where Alertmanager finds ours.
    """

    webhook_url: str = "http://127.0.0.1:8003/api/v1/alerts"
    token_file: str = "/etc/prometheus/trainvitals-token"
    group_wait_seconds: float = 15
    group_interval_seconds: float = 60
    repeat_seconds: float = 4 * 60 * 60
    killed_repeat_seconds: float = 24 * 60 * 60
    digest_wait_seconds: float = 5 * 60
    digest_interval_seconds: float = 60 * 60
    digest_at_any_hour: bool = False
    deadman_seconds: float = 60
    max_alerts: int = 100
    receivers: Mapping[str, Mapping[str, list[dict[str, Any]]]] = field(default_factory=dict)
    globals: Mapping[str, Any] = field(default_factory=dict)
    deadman_url: str | None = None
    templates: str | None = None


def way(alert: AlertRule) -> str:
    """Which receiver hears of an alert: what the routes below come to."""
    if alert.severity == "none":
        return NOBODY
    if alert.severity == "critical":
        return "page"
    if alert.severity == "info":
        return "digest"
    return "hardware" if alert.scope == "hardware" else "ticket"


def alertmanager_config(routing: Routing) -> str:
    """The YAML that Alertmanager 0.25 and later load."""
    config: dict[str, Any] = {}
    if routing.globals:
        config["global"] = dict(routing.globals)
    if routing.templates:
        config["templates"] = [routing.templates]
    return dump(
        {
            **config,
            "route": _route(routing),
            "time_intervals": [
                {
                    "name": "office",
                    "time_intervals": [
                        {
                            "weekdays": ["monday:friday"],
                            "times": [{"start_time": "08:00", "end_time": "18:00"}],
                        }
                    ],
                }
            ],
            "inhibit_rules": [*map(_inhibition, INHIBITIONS), _LONE_INFO],
            "receivers": [*(_receiver(way, routing) for way in WAYS), *_others(routing)],
        }
    )


# Those of severity info are told of where something worse is, too: alone they wait for the next time.
_LONE_INFO = {
    "source_matchers": [f'alertname = "{telemetry.INFO_INHIBITOR}"'],
    "target_matchers": ['severity = "info"'],
    "equal": ["cluster"],
}


def _route(routing: Routing) -> dict[str, Any]:
    deadman = duration(routing.deadman_seconds)
    return {
        "receiver": "ticket",
        # By instance too: what a second node has must not join what somebody has taken on of the first.
        "group_by": ["cluster", "run", "instance", "alertname"],
        "group_wait": duration(routing.group_wait_seconds),
        "group_interval": duration(routing.group_interval_seconds),
        "repeat_interval": duration(routing.repeat_seconds),
        "routes": [
            {
                "receiver": DEADMAN if routing.deadman_url else NOBODY,
                "matchers": [f'alertname = "{telemetry.WATCHDOG}"'],
                "group_by": ["alertname"],
                "group_wait": "0s",
                "group_interval": deadman,
                "repeat_interval": deadman,
            },
            {"receiver": NOBODY, "matchers": [f'alertname = "{telemetry.INFO_INHIBITOR}"']},
            {
                "receiver": "page",
                "matchers": [f'alertname = "{lifecycle.TRAINING_RUN_KILLED}"'],
                "repeat_interval": duration(routing.killed_repeat_seconds),
            },
            {"receiver": "page", "matchers": ['severity = "critical"']},
            {
                "receiver": "hardware",
                "matchers": ['scope = "hardware"', 'severity = "warning"'],
                "group_by": ["cluster", "instance"],
            },
            {
                "receiver": "digest",
                "matchers": ['severity = "info"'],
                "group_by": ["cluster"],
                "group_wait": duration(routing.digest_wait_seconds),
                "group_interval": duration(routing.digest_interval_seconds),
                "repeat_interval": "1d",
                **({} if routing.digest_at_any_hour else {"active_time_intervals": ["office"]}),
            },
        ],
    }


def _inhibition(inhibition: Inhibition) -> dict[str, Any]:
    return {
        "source_matchers": [_any_of(inhibition.sources)],
        "target_matchers": [_any_of(inhibition.targets)],
        "equal": list(inhibition.equal),
    }


def _any_of(names: Iterable[str]) -> str:
    names = list(names)
    return f'alertname = "{names[0]}"' if len(names) == 1 else f'alertname =~ "{"|".join(names)}"'


def _receiver(way: str, routing: Routing) -> dict[str, Any]:
    """Who is told on a way, and the service."""
    told = {kind: list(configs) for kind, configs in routing.receivers.get(way, {}).items()}
    service = {
        "url": routing.webhook_url,
        "http_config": {"authorization": {"credentials_file": routing.token_file}},
        "send_resolved": True,
        "max_alerts": routing.max_alerts,
    }
    return {"name": way, **told, "webhook_configs": [*told.get("webhook_configs", []), service]}


def _others(routing: Routing) -> list[dict[str, Any]]:
    deadman = {"name": DEADMAN, "webhook_configs": [{"url": routing.deadman_url, "send_resolved": False}]}
    return [{"name": NOBODY}, *([deadman] if routing.deadman_url else [])]
