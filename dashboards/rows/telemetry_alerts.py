"""Whether we still see and still tell: the panels of the alerts in alerts/telemetry.py."""

from __future__ import annotations

from alerts import telemetry
from alerts.thresholds import Thresholds, duration
from dashboards.colors import BAD, GOOD
from dashboards.grafana.panels import DataPanel, Query, Stat, Threshold, TimeSeries
from dashboards.rows.alert_panels import judged, per_second
from dashboards.variables import of_alerts, of_node, of_other_exporter, of_recorded, of_run, of_target
from exporters import catalog

UP = "up"
SCRAPE_DURATION_SECONDS = "scrape_duration_seconds"
RULE_EVALUATION_FAILURES_TOTAL = "prometheus_rule_evaluation_failures_total"
RULE_GROUP_ITERATIONS_MISSED_TOTAL = "prometheus_rule_group_iterations_missed_total"
NOTIFICATIONS_FAILED_TOTAL = "alertmanager_notifications_failed_total"

_SERVICE = "(cluster, instance)"
_RANK = "(cluster, run, rank)"
_RANK_LEGEND = "{{run}} rank {{rank}}"


def panels(thresholds: Thresholds) -> dict[str, DataPanel]:
    """The panel of each alert, by the alert's name."""
    return {
        **_service(thresholds),
        **_recordings_and_history(thresholds),
        **_hook(thresholds),
        telemetry.WATCHDOG: _watchdog(),
        **_delivery(thresholds),
    }


def _service(thresholds: Thresholds) -> dict[str, TimeSeries]:
    restarts = duration(thresholds.service_restarts_window_seconds)
    up = of_target(UP)
    wallclock = of_node(catalog.WALLCLOCK_SECONDS)
    running = of_run(catalog.TRAINING_RUN_STATE, 'state="running"')
    return {
        telemetry.TRAINING_SERVICE_DOWN: judged(
            title="Whether each training service answers",
            worst="lowest",
            description=(
                "1 where the last scrape succeeded. At 0 nobody watches what trains there, though the "
                "training itself may be well: see whether the service runs and whether its port can be "
                "reached. No line at all: Prometheus has no such target, so look at its configuration and at "
                "service discovery."
            ),
            unit="none",
            maximum=1,
            shown=[Query(expr=f"max by (cluster, job, instance) ({up})", legend="{{instance}}")],
            value_texts={0: "does not answer", 1: "answers"},
        ),
        telemetry.TRAINING_SERVICE_RESTARTING: judged(
            title=f"Starts of each training service within {restarts}",
            description=(
                "Counted twice: how often what it has written into its history began anew, which stays at 0 "
                "while nothing trains, and how often it went away and came back. A deployment is one start; "
                "above the red line something ends it again and again. Its log and its container's state say "
                "what."
            ),
            unit="none",
            shown=[
                Query(
                    expr=of_recorded(telemetry.RESTARTS),
                    legend="{{instance}} began anew",
                ),
                Query(
                    expr=f"ceil(max by {_SERVICE} (changes({up}[{restarts}])) / 2)",
                    legend="{{instance}} came back",
                ),
            ],
            limit_at=thresholds.service_restarts,
        ),
        telemetry.TRAINING_RUN_NOT_SCRAPED: judged(
            title="Ranks of which Prometheus sees steps",
            worst="lowest",
            description=(
                "Solid: how many ranks of each run it sees. Dashed: 1 for a run that its service calls "
                "running. A dashed line without a solid one above it is a run that nobody can judge: "
                "something between the service and Prometheus drops its series. Look at relabeling, at "
                "sample limits and at the size of the scraped page."
            ),
            unit="none",
            shown=[
                Query(
                    expr="count by (cluster, run) (max by (cluster, run, rank) "
                    f"({of_run(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS)}))",
                    legend="{{run}} ranks",
                )
            ],
            moving_limit=Query(
                expr=f"max by (cluster, run) ({running})",
                legend="{{run}} runs",
            ),
        ),
        telemetry.TELEMETRY_CLOCK_SKEW: judged(
            title="Difference of a node's clock and Prometheus's",
            description=(
                "A scrape takes a moment, so some tenths of a second are always there. Above the red line "
                "alerts that compare a time of that node with now come too early or too late. Set the clock "
                "by NTP or chrony; where all nodes differ alike it is Prometheus's own."
            ),
            unit="s",
            shown=[
                Query(
                    expr=f"abs(max by {_SERVICE} (timestamp({wallclock})) - on {_SERVICE} "
                    f"max by {_SERVICE} ({wallclock}))",
                    legend="{{instance}}",
                )
            ],
            limit_at=thresholds.clock_skew_seconds,
        ),
        telemetry.TELEMETRY_COLLECTOR_FAILING: judged(
            title="Whether each collector brings something",
            worst="lowest",
            description=(
                "1 where the collector's last round succeeded within its deadline. At 0 its series are gone "
                "and alerts about them are silent. On a node without a GPU those of GPUs fail for ever, "
                "which is no alert. The service's log says why one fails."
            ),
            unit="none",
            maximum=1,
            shown=[
                Query(
                    expr=f"max by (cluster, instance, collector) ({of_node(catalog.COLLECTOR_SUCCESS)})",
                    legend="{{collector}} on {{instance}}",
                )
            ],
            value_texts={0: "fails", 1: "succeeds"},
        ),
        telemetry.PROMETHEUS_SCRAPE_SLOW: judged(
            title="Duration of a scrape",
            description=(
                "Of each training service. It takes milliseconds, for the service only renders what it "
                "already knows. Above the red line the node or the network is overloaded, and a scrape that "
                "outlives Prometheus's timeout brings nothing at all. Look at the node's load and at the "
                "page's size."
            ),
            unit="s",
            shown=[
                Query(
                    expr=f"max by {_SERVICE} ({of_target(SCRAPE_DURATION_SECONDS)})",
                    legend="{{instance}}",
                )
            ],
            limit_at=thresholds.scrape_slow_seconds,
        ),
    }


def _recordings_and_history(thresholds: Thresholds) -> dict[str, TimeSeries]:
    lost_window = duration(thresholds.history_lost_window_seconds)
    skipped = of_node(catalog.RECORDINGS_SKIPPED)
    failing = of_node(catalog.HISTORY_FAILING_RECORDINGS)
    lost = of_node(catalog.HISTORY_LOST_STEPS_TOTAL)
    free = of_node(catalog.RECORDINGS_VOLUME_FREE_BYTES)
    return {
        telemetry.TELEMETRY_RECORDINGS_SKIPPED: judged(
            title="Recordings that cannot be read",
            description=(
                "On each instance, by reason. It should be 0: nothing is known of the ranks that write them. "
                "Not permitted: put the service into the group of the recordings. Newer version: update the "
                "service. Corrupt or truncated: mostly a disk that was full; the file can go once its run is "
                "over."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by (cluster, instance, reason) ({skipped})",
                    legend="{{instance}} {{reason}}",
                )
            ],
        ),
        telemetry.TELEMETRY_RECORDINGS_VOLUME_FILLING: judged(
            title="Room on the volume of the recordings",
            worst="lowest",
            description=(
                "Free on each instance; of several volumes, on that with the least room. Below the red line "
                "a training that starts may be recorded on a slower disk or not at all. Remove recordings of "
                "runs that are over, or see what else fills the volume: on a tmpfs it is main memory."
            ),
            unit="bytes",
            shown=[Query(expr=f"max by {_SERVICE} ({free})", legend="{{instance}}")],
            limit_at=thresholds.recordings_volume_bytes,
        ),
        telemetry.TELEMETRY_HISTORY_FAILING: judged(
            title="What the history misses",
            description=(
                "Recordings that can be read and could not be kept, and step records that were overwritten "
                f"before they were kept: within {lost_window}, and since the service's start. All should be "
                "0; metrics and alerts are not touched. Look at the room and the speed of the disk that "
                "holds the history."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by {_SERVICE} ({failing}) - on {_SERVICE} "
                    f"sum by {_SERVICE} (max by (cluster, instance, reason) ({skipped}))",
                    legend="{{instance}} recordings",
                ),
                Query(
                    expr=f"round(max by {_SERVICE} (increase({lost}[{lost_window}])))",
                    legend=f"{{{{instance}}}} steps lost within {lost_window}",
                ),
                Query(
                    expr=of_recorded(telemetry.HISTORY_LOST),
                    legend="{{instance}} steps lost since its start",
                ),
            ],
        ),
    }


def _hook(thresholds: Thresholds) -> dict[str, TimeSeries]:
    window = duration(thresholds.hook_window_seconds)
    errors = of_run(catalog.HOOK_ERRORS_TOTAL)
    dropped = of_run(catalog.HOOK_DROPPED_TOTAL)
    seconds = per_second(of_run(catalog.HOOK_SECONDS_TOTAL), thresholds.hook_window_seconds)
    return {
        telemetry.TELEMETRY_HOOK_ERRORS: judged(
            title="Errors of the telemetry hook",
            description=(
                f"Of each rank, within {window} and in this attempt: the first may come before anybody "
                "looks. The training goes on, but some of its numbers may be missing or stand still. The "
                "trainer's output has one line that names the error; report it with that line."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"round(max by {_RANK} (increase({errors}[{window}])))",
                    legend=f"{_RANK_LEGEND} within {window}",
                ),
                Query(expr=of_recorded(telemetry.HOOK_ERRORS), legend=f"{_RANK_LEGEND} in this attempt"),
            ],
        ),
        telemetry.TELEMETRY_HOOK_DROPPED: judged(
            title=f"Values and events the hook could not record within {window}",
            description=(
                "Of each rank. Some may be; above the red line curves and events have gaps. Mostly the "
                "trainer logs more different names, or more events, than a recording takes, or the disk of "
                "the recordings is full: log fewer names, and see how much room there is."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"round(max by {_RANK} (increase({dropped}[{window}])))",
                    legend=_RANK_LEGEND,
                )
            ],
            limit_at=thresholds.hook_dropped_values,
        ),
        telemetry.TELEMETRY_HOOK_SLOW: judged(
            title=f"Share of its time that the hook takes from a rank, over {window}",
            description=(
                "Far below the red line is usual. Above it the training could be faster by so much: mostly "
                "it logs very many values a step, its steps are very short, or the disk of the recordings is "
                "slow. Log less often, or put the recordings on a tmpfs."
            ),
            unit="percentunit",
            shown=[Query(expr=f"max by {_RANK} ({seconds})", legend=_RANK_LEGEND)],
            limit_at=thresholds.hook_slow_ratio,
        ),
    }


def _watchdog() -> Stat:
    fires = of_alerts("ALERTS", f'alertname="{telemetry.WATCHDOG}"', 'alertstate="firing"')
    return Stat(
        title="Watchdog",
        description=(
            "It fires always, as long as Prometheus evaluates our rules; somebody outside is called when it "
            "no longer arrives. Where it does not fire here, no other alert does: see whether Prometheus has "
            "loaded the rules, and what it says of their evaluation."
        ),
        unit="none",
        targets=[Query(expr=f"max by (cluster) ({fires}) or on () vector(0)", legend="Watchdog {{cluster}}")],
        value_texts={0: "does not fire", 1: "fires"},
        color_mode="thresholds",
        colored=True,
        course=False,
        named=False,
        thresholds=[Threshold(BAD, None), Threshold(GOOD, 1)],
    )


def _delivery(thresholds: Thresholds) -> dict[str, TimeSeries]:
    window = duration(thresholds.delivery_window_seconds)
    ours = 'rule_group=~".*;trainvitals[.].+"'
    failures = of_other_exporter(RULE_EVALUATION_FAILURES_TOTAL, ours)
    missed = of_other_exporter(RULE_GROUP_ITERATIONS_MISSED_TOTAL, ours)
    failed = of_other_exporter(NOTIFICATIONS_FAILED_TOTAL)
    info = of_alerts("ALERTS", 'severity="info"')
    higher = of_alerts("ALERTS", 'severity=~"warning|critical"', 'alertstate="firing"')
    return {
        telemetry.INFO_INHIBITOR: judged(
            title="Alerts of severity info, and those they wait for",
            description=(
                "How many are there of severity info, waiting or firing, and how many of severity warning or "
                "critical fire. While there are none of the latter, Alertmanager holds the former back: "
                "alone they need nobody. There is nothing to be done about this."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"count by (cluster) ({info})",
                    legend="info {{cluster}}",
                ),
                Query(
                    expr=f"count by (cluster) ({higher})",
                    legend="warning or critical {{cluster}}",
                ),
            ],
        ),
        telemetry.PROMETHEUS_RULE_FAILURES: judged(
            title=f"Evaluations of our rules that failed within {window}",
            description=(
                "By group of rules, as Prometheus says of itself. It should be 0: alerts of a group that "
                "fails do not come. Prometheus's log and its page of rules name the error; series that exist "
                "twice, by a label too few, are the usual one."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"round(max by (cluster, instance, rule_group) (increase({failures}[{window}])))",
                    legend="{{rule_group}}",
                )
            ],
        ),
        telemetry.PROMETHEUS_MISSED_ITERATIONS: judged(
            title=f"Evaluations of our rules that were left out within {window}",
            description=(
                "By group of rules, as Prometheus says of itself. It should be 0: alerts of a group that "
                "misses some come late. Prometheus is too slow for its rules: give it more CPU, or look for "
                "queries of others that take it."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"round(max by (cluster, instance, rule_group) (increase({missed}[{window}])))",
                    legend="{{rule_group}}",
                )
            ],
        ),
        telemetry.ALERTMANAGER_NOTIFICATIONS_FAILING: judged(
            title=f"Notifications that failed within {window}",
            description=(
                "By integration, as Alertmanager says of itself; each has failed for good, after all its "
                "tries. It should be 0: somebody is not told of what fires. Alertmanager's log says why: "
                "mostly a secret that has changed, a rate limit, or a network that it cannot reach."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"round(max by (cluster, instance, integration) (increase({failed}[{window}])))",
                    legend="{{integration}} on {{instance}}",
                )
            ],
        ),
    }
