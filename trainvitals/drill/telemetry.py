"""The conditions of the telemetry group: services that end, hang or cannot read, ways that are blocked."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from alerts import telemetry
from exporters import catalog
from trainvitals.drill.condition import Condition, Drill, NotHereError
from trainvitals.drill.noisy import Asks
from trainvitals.node import Node
from trainvitals.stack import ALERTMANAGER, PROMETHEUS

NOISY = "trainvitals.drill.noisy"
NOT_SCRAPED = "drill-not-scraped"
AHEAD_SECONDS = 120
HOLD_SECONDS = 3.5  # a scrape gives up after 1 s, and a service that answers none for 8 s is down
RULES_INTERVAL_SECONDS = 1

# What stands between the service and Prometheus, and drops the time of a run's newest step.
METRIC_RELABEL = [
    {
        "source_labels": ["__name__", "run"],
        "regex": f"{catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS};{NOT_SCRAPED}",
        "action": "drop",
    }
]
# The many meet the many.
_FAILING_RULE = '(vector(1) or label_replace(vector(1), "of", "two", "", "")) * on () up'
_SLOW_RULE = 'count(held_far_away{store="slow"})'
# A volume of the service's own: nobody else sees it, and it goes with the service.
_UNSHARE = "unshare --map-root-user --mount"
_ON_A_SMALL_VOLUME = """\
mount -t tmpfs -o size=64m drill "$0" && mkdir -p "$0/drill/node" && : > "$0/drill/node/rank-0.1.steps" &&
exec "$@"
"""
_AHEAD = """\
import time

_true_time = time.time
time.time = lambda: _true_time() + {seconds}
"""


def remote_read(url: str) -> list[dict[str, Any]]:
    """A store far away, which Prometheus asks for series of `store="slow"` alone."""
    return [
        {"url": url, "required_matchers": {"store": "slow"}, "read_recent": True, "remote_timeout": "10s"}
    ]


def _node_and_training(
    drill: Drill, name: str, asks: Asks | None = None, *, cluster: str | None = None
) -> Node:
    """A node of this name, with a run of this name on it."""
    node = drill.node(name, cluster=cluster)
    if asks is None:
        drill.train(node, name)
    else:
        drill.train(node, name, "--asks", asks, module=NOISY)
    return node


def _is_up(drill: Drill, node: Node) -> bool:
    return drill.seen(f'up{{instance="{node.name}"}} == 1')


def _service_down(drill: Drill) -> dict[str, str]:
    # In a cluster of its own: a service that is down excuses the calls of webhooks that fail.
    node = drill.node("drill-down", cluster="drill-down")
    drill.until(partial(_is_up, drill, node), then=node.stop)
    return {"instance": node.name}


def _service_restarting(drill: Drill) -> dict[str, str]:
    node = drill.node("drill-restarting")
    is_gone = partial(drill.seen, f'up{{instance="{node.name}"}} == 0')

    def kill(more: int) -> None:
        node.kill()
        drill.until(is_gone, then=partial(start, more))

    def start(more: int) -> None:
        node.restart()
        if more:
            drill.until(partial(_is_up, drill, node), then=partial(kill, more - 1))

    drill.until(partial(_is_up, drill, node), then=partial(kill, drill.thresholds.service_restarts))
    return {"instance": node.name}


def _run_not_scraped(drill: Drill) -> dict[str, str]:
    _node_and_training(drill, NOT_SCRAPED)
    return {"run": NOT_SCRAPED}


def _clock_skew(drill: Drill) -> dict[str, str]:
    folder = drill.folder / "ahead"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_AHEAD.format(seconds=AHEAD_SECONDS))
    node = drill.node("drill-ahead", environment={"PYTHONPATH": str(folder)})
    return {"instance": node.name}


def _collector_failing(drill: Drill) -> dict[str, str]:
    node = _node_and_training(drill, "drill-locked")
    database = sqlite3.connect(node.history, isolation_level=None, timeout=0)
    drill.opened.callback(database.close)

    def lock() -> None:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # the service writes just now
            drill.after(0, lock)

    drill.until(
        partial(drill.seen, f'{catalog.HISTORY_STEPS_TOTAL}{{instance="{node.name}"}} > 0'), then=lock
    )
    return {"instance": node.name, "collector": "history"}


def _scrape_slow(drill: Drill) -> dict[str, str]:
    node = drill.node("drill-slow")

    def hold() -> None:
        node.hold()
        drill.after(HOLD_SECONDS, let_go)

    def let_go() -> None:
        node.let_go()
        drill.until(partial(_is_up, drill, node), then=hold)

    drill.until(partial(_is_up, drill, node), then=hold)
    return {"instance": node.name}


def _recordings_skipped(drill: Drill) -> dict[str, str]:
    node = drill.node("drill-damaged")
    folder = node.recordings / "drill-damaged" / "node"
    folder.mkdir(parents=True)
    (folder / "rank-0.1.steps").write_bytes(b"no recording" * 1000)
    return {"instance": node.name}


def _volume_filling(drill: Drill) -> dict[str, str]:
    tried = ["sh", "-c", f'{_UNSHARE} mount -t tmpfs drill "$0"', str(drill.folder)]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        raise NotHereError("nobody may mount a small volume in a namespace of his own")
    node = drill.node(
        "drill-full",
        wrapper=lambda recordings: (*_UNSHARE.split(), "sh", "-c", _ON_A_SMALL_VOLUME, str(recordings)),
    )
    return {"instance": node.name}


def _history_failing(drill: Drill) -> dict[str, str]:
    node = _node_and_training(drill, "drill-hurried", Asks.many_steps)
    return {"instance": node.name}


def _hook(name: str, asks: Asks) -> Callable[[Drill], Mapping[str, str]]:
    def provoke(drill: Drill) -> dict[str, str]:
        drill.train(drill.node("drill-hooks"), name, "--asks", asks, module=NOISY)
        return {"run": name}

    return provoke


def _watchdog(drill: Drill) -> dict[str, str]:
    return {}


def _info_inhibitor(drill: Drill) -> dict[str, str]:
    _node_and_training(drill, "drill-alone", Asks.many_values, cluster="drill-alone")
    return {"cluster": "drill-alone"}


def _rules(drill: Drill, name: str, expression: str) -> dict[str, str]:
    """A rule file of ours, by name, with one more rule in it."""
    group = {
        "name": f"trainvitals.{name}",
        "interval": f"{RULES_INTERVAL_SECONDS}s",
        "rules": [{"record": f"drill:{name}:count", "expr": expression}],
    }
    path = drill.stack.add_rules(name, json.dumps({"groups": [group]}))
    return {"instance": PROMETHEUS, "rule_group": f"{path};trainvitals.{name}"}


def _rule_failures(drill: Drill) -> dict[str, str]:
    return _rules(drill, "failing", _FAILING_RULE)


def _missed_iterations(drill: Drill) -> dict[str, str]:
    return _rules(drill, "slow", _SLOW_RULE)


def _notifications_failing(drill: Drill) -> dict[str, str]:
    def refuse() -> None:
        drill.sink.refuses_deadman = True

    def has_come() -> bool:
        return any(each.name == telemetry.WATCHDOG for each in drill.sink.arrivals)

    drill.until(has_come, then=refuse)
    return {"instance": ALERTMANAGER, "integration": "webhook"}


# An alert of severity info is told only where a worse one fires beside it.
WORSE_THAN_INFO = Condition(
    telemetry.TELEMETRY_RECORDINGS_SKIPPED,
    "a file that is no recording lies among the recordings",
    _recordings_skipped,
)
CONDITIONS = (
    Condition(telemetry.TRAINING_SERVICE_DOWN, "a service is stopped", _service_down),
    Condition(
        telemetry.TRAINING_SERVICE_RESTARTING,
        "a service is killed each time it is back",
        _service_restarting,
    ),
    Condition(
        telemetry.TRAINING_RUN_NOT_SCRAPED,
        "Prometheus is told to drop the time of a run's newest step",
        _run_not_scraped,
    ),
    Condition(
        telemetry.TELEMETRY_CLOCK_SKEW,
        f"a service is given a clock that is {AHEAD_SECONDS} s ahead",
        _clock_skew,
    ),
    Condition(
        telemetry.TELEMETRY_COLLECTOR_FAILING,
        "another process keeps the database of the history locked",
        _collector_failing,
    ),
    Condition(
        telemetry.PROMETHEUS_SCRAPE_SLOW,
        f"a service is held by SIGSTOP for {HOLD_SECONDS:g} s, again and again",
        _scrape_slow,
    ),
    WORSE_THAN_INFO,
    Condition(
        telemetry.TELEMETRY_RECORDINGS_VOLUME_FILLING,
        "recordings lie on a volume of 64 MiB",
        _volume_filling,
    ),
    Condition(
        telemetry.TELEMETRY_HISTORY_FAILING,
        "a training makes steps faster than the service reads them",
        _history_failing,
    ),
    Condition(
        telemetry.TELEMETRY_HOOK_ERRORS,
        "a training tells the hook of a phase that does not exist",
        _hook("drill-hook-errors", Asks.unknown_phase),
    ),
    Condition(
        telemetry.TELEMETRY_HOOK_DROPPED,
        "a training logs more names than the hook keeps",
        _hook("drill-hook-drops", Asks.many_names),
    ),
    Condition(
        telemetry.TELEMETRY_HOOK_SLOW,
        "a training logs values for a fifth of its time",
        _hook("drill-hook-slow", Asks.many_values),
    ),
    Condition(telemetry.WATCHDOG, "it fires always, and calls the dead-man's switch", _watchdog),
    Condition(
        telemetry.INFO_INHIBITOR,
        "in a cluster of its own a training has but an alert of severity info",
        _info_inhibitor,
    ),
    Condition(
        telemetry.PROMETHEUS_RULE_FAILURES,
        "Prometheus is given a rule that matches many series with many",
        _rule_failures,
    ),
    Condition(
        telemetry.PROMETHEUS_MISSED_ITERATIONS,
        "Prometheus is given a rule whose series lie in a store that is slow",
        _missed_iterations,
    ),
    Condition(
        telemetry.ALERTMANAGER_NOTIFICATIONS_FAILING,
        "the dead-man's switch refuses Alertmanager's calls",
        _notifications_failing,
    ),
)
