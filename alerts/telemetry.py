"""Whether trainvitals itself still sees anything, and whether its alerts still reach somebody.

Everything about a service is per (cluster, instance), everything about the hook per (cluster, run, rank):
what is scraped by two jobs under one instance makes one alert. The series of Prometheus and Alertmanager are
there where Prometheus scrapes the two; where it does not, the alerts about them stay silent, and the Watchdog
is left.

A counter may stand above 0 when it is first seen: a hook that fails as its training begins has done so before
the first scrape, and a service that comes back late has counted what it lost. `increase()` does not see the
first value of a series, so where one event matters, a value of which nothing was known a window ago counts as
a whole.
"""

from __future__ import annotations

from alerts.lifecycle import UNFINISHED
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog
from exporters.catalog import Metric

WATCHDOG = "Watchdog"
INFO_INHIBITOR = "InfoInhibitor"
TRAINING_SERVICE_DOWN = "TrainingServiceDown"
TRAINING_SERVICE_RESTARTING = "TrainingServiceRestarting"
TRAINING_RUN_NOT_SCRAPED = "TrainingRunNotScraped"
TELEMETRY_CLOCK_SKEW = "TelemetryClockSkew"
TELEMETRY_COLLECTOR_FAILING = "TelemetryCollectorFailing"
TELEMETRY_HOOK_ERRORS = "TelemetryHookErrors"
TELEMETRY_HOOK_DROPPED = "TelemetryHookDropped"
TELEMETRY_HOOK_SLOW = "TelemetryHookSlow"
TELEMETRY_HISTORY_FAILING = "TelemetryHistoryFailing"
TELEMETRY_RECORDINGS_SKIPPED = "TelemetryRecordingsSkipped"
TELEMETRY_RECORDINGS_VOLUME_FILLING = "TelemetryRecordingsVolumeFilling"
PROMETHEUS_RULE_FAILURES = "PrometheusRuleFailures"
PROMETHEUS_MISSED_ITERATIONS = "PrometheusMissedIterations"
PROMETHEUS_SCRAPE_SLOW = "PrometheusScrapeSlow"
ALERTMANAGER_NOTIFICATIONS_FAILING = "AlertmanagerNotificationsFailing"

# How often what a service has written began anew within the time in which restarts are counted.
RESTARTS = f"node:{catalog.HISTORY_STEPS_TOTAL.name.removesuffix('_total')}:resets"
# What was counted so far: of the history since the service's start, of the hook in the newest attempt.
HISTORY_LOST = f"node:{catalog.HISTORY_LOST_STEPS_TOTAL.name.removesuffix('_total')}:max"
HOOK_ERRORS = f"rank:{catalog.HOOK_ERRORS_TOTAL.name.removesuffix('_total')}:max"

_SERVICE = "(cluster, instance)"
_RANK = "(cluster, run, rank)"


def telemetry(thresholds: Thresholds) -> Group:
    return Group(
        "telemetry",
        (
            *_service(thresholds),
            *_recordings_and_history(thresholds),
            *_hook(thresholds),
            *_delivery(thresholds),
        ),
    )


def _grown(counter: Metric, so_far: str, labels: str, window: str) -> tuple[str, str]:
    """By how much the counter grew within the window; and of one born within it, what is recorded of it."""
    return (
        f"max by {labels} (round(increase({counter}[{window}]))) > 0",
        f"{so_far} > 0 unless on {labels} {counter} offset {window}",
    )


def _service(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    up = f'up{{job="{thresholds.job}"}}'
    down_for = duration(thresholds.service_down_for_seconds)
    restarts = duration(thresholds.service_restarts_window_seconds)
    collector = "(cluster, instance, collector)"
    return (
        # Of a service that answers now and then at least: one that never does pages as down.
        AlertRule(
            PROMETHEUS_SCRAPE_SLOW,
            f'max by {_SERVICE} (scrape_duration_seconds{{job="{thresholds.job}"}}) '
            f"> {thresholds.scrape_slow_seconds}\n"
            f"  unless on {_SERVICE}\n"
            f"max by {_SERVICE} (max_over_time({up}[{down_for}])) == 0",
            for_seconds=thresholds.scrape_slow_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="Scraping the training service on {{ $labels.instance }} takes long.",
            description="A scrape takes {{ $value | humanizeDuration }} (limit "
            f"{duration(thresholds.scrape_slow_seconds)}). One that outlives Prometheus's timeout brings "
            "nothing at all.",
        ),
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
        # The service publishes no start time. What it has written into its history begins anew with it, but
        # stays at 0 while nothing trains; and a start that takes long enough fails a scrape.
        RecordingRule(RESTARTS, f"max by {_SERVICE} (resets({catalog.HISTORY_STEPS_TOTAL}[{restarts}]))"),
        AlertRule(
            TRAINING_SERVICE_RESTARTING,
            f"{RESTARTS} > {thresholds.service_restarts}\n"
            "  or\n"
            f"ceil(max by {_SERVICE} (changes({up}[{restarts}])) / 2) > {thresholds.service_restarts}",
            at_once="The restarts of half an hour are counted.",
            severity="warning",
            scope="telemetry",
            summary="The training service on {{ $labels.instance }} restarts again and again.",
            description=f"Within {restarts} it began anew, or went away and came back, "
            "{{ $value | humanize }} times "
            f"(limit {thresholds.service_restarts}). What happens between two starts is seen late.",
        ),
        # Both come from one page, so this is no outage: something between the service and Prometheus drops
        # series of it. State and not start, for a run that is over may be known by its lifecycle alone.
        AlertRule(
            TRAINING_RUN_NOT_SCRAPED,
            f'max by (cluster, run) ({catalog.TRAINING_RUN_STATE}{{state="running"}}) == 1\n'
            "  unless on (cluster, run)\n"
            f"{catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS}",
            for_seconds=thresholds.run_not_scraped_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="Run {{ $labels.run }} trains, but Prometheus sees no step of it.",
            description="Its service has said for "
            f"{duration(thresholds.run_not_scraped_for_seconds)} that it runs, and Prometheus has no time of "
            "a step of any of its ranks: alerts about it may stay silent.",
        ),
        # Of the newest scrape, by the clock of either; a scrape takes seconds at most, so the limit is above.
        AlertRule(
            TELEMETRY_CLOCK_SKEW,
            "abs(\n"
            f"  max by {_SERVICE} (timestamp({catalog.WALLCLOCK_SECONDS}))\n"
            f"    - on {_SERVICE}\n"
            f"  max by {_SERVICE} ({catalog.WALLCLOCK_SECONDS})\n"
            f") > {thresholds.clock_skew_seconds}",
            for_seconds=thresholds.clock_skew_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="The clock of {{ $labels.instance }} and that of Prometheus differ.",
            description="They are {{ $value | humanizeDuration }} apart (limit "
            f"{duration(thresholds.clock_skew_seconds)}): alerts that compare a time of that node with now "
            "come too early or too late.",
        ),
        # A node without a GPU has all of its GPU collectors failing for ever, and no count of its devices.
        # One whose driver goes away had a count within the last day. Not the success of another collector:
        # that of XID errors works wherever the kernel log can be read.
        AlertRule(
            TELEMETRY_COLLECTOR_FAILING,
            f'max by {collector} ({catalog.COLLECTOR_SUCCESS}{{collector!~"gpu.*"}}) == 0\n'
            "  or\n"
            "(\n"
            f'  max by {collector} ({catalog.COLLECTOR_SUCCESS}{{collector=~"gpu.*"}}) == 0\n'
            f"    and on {_SERVICE}\n"
            f"  last_over_time({catalog.NVIDIA_GPU_DEVICES}[{duration(thresholds.lookback_seconds)}]) > 0\n"
            ")",
            for_seconds=thresholds.collector_failing_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="Collector {{ $labels.collector }} on {{ $labels.instance }} fails.",
            description="It has brought nothing for "
            f"{duration(thresholds.collector_failing_for_seconds)}: its series are gone, and alerts about "
            "them are silent. The service's log says why.",
        ),
    )


def _recordings_and_history(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    skipped = f"max by (cluster, instance, reason) ({catalog.RECORDINGS_SKIPPED})"
    lost_window = duration(thresholds.history_lost_window_seconds)
    lost, lost_at_first = _grown(catalog.HISTORY_LOST_STEPS_TOTAL, HISTORY_LOST, _SERVICE, lost_window)
    failing_for = duration(thresholds.history_failing_for_seconds)
    return (
        AlertRule(
            TELEMETRY_RECORDINGS_SKIPPED,
            f"{skipped} > 0",
            for_seconds=thresholds.recordings_skipped_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="Recordings on {{ $labels.instance }} cannot be read ({{ $labels.reason }}).",
            description="{{ $value | humanize }} of them for "
            f"{duration(thresholds.recordings_skipped_for_seconds)}: nothing is known of the ranks that "
            "write them, whether they live or not.",
        ),
        # A rank that records has all its room, but for its events; the next that starts may find none.
        AlertRule(
            TELEMETRY_RECORDINGS_VOLUME_FILLING,
            f"max by {_SERVICE} ({catalog.RECORDINGS_VOLUME_FREE_BYTES}) "
            f"< {thresholds.recordings_volume_bytes:g}",
            for_seconds=thresholds.recordings_volume_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="The volume of the recordings on {{ $labels.instance }} is almost full.",
            description="{{ $value | humanize1024 }}B of it have been free, or little more, for "
            f"{duration(thresholds.recordings_volume_for_seconds)}: a training that starts now may be "
            "recorded on a slower disk, or not at all, and those that run may lose events.",
        ),
        RecordingRule(HISTORY_LOST, f"max by {_SERVICE} ({catalog.HISTORY_LOST_STEPS_TOTAL})"),
        # What cannot be read cannot be written into the history either: the alert above tells of it.
        AlertRule(
            TELEMETRY_HISTORY_FAILING,
            "label_replace(\n"
            f"  max by {_SERVICE} ({catalog.HISTORY_FAILING_RECORDINGS})\n"
            f"    - on {_SERVICE}\n"
            f"  sum by {_SERVICE} ({skipped})\n"
            '    > 0, "what", "recordings", "", ""\n'
            ")\n"
            "  or\n"
            f'label_replace({lost}, "what", "steps", "", "")\n'
            "  or\n"
            f'label_replace({lost_at_first}, "what", "steps", "", "")',
            for_seconds=thresholds.history_failing_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="The history on {{ $labels.instance }} has gaps: {{ $labels.what }} are missing.",
            description='{{ if eq $labels.what "steps" }}{{ $value | humanize }} steps of ranks were '
            f"overwritten within {lost_window} before they were kept: they are lost{{{{ else }}}}"
            "{{ $value | humanize }} recordings that can be read could not be kept for "
            f"{failing_for}{{{{ end }}}}. Metrics and alerts are not touched by it.",
        ),
    )


def _hook(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    window = duration(thresholds.hook_window_seconds)
    errors, errors_at_first = _grown(catalog.HOOK_ERRORS_TOTAL, HOOK_ERRORS, _RANK, window)
    unfinished = f"  and on (cluster, run)\n{UNFINISHED}"
    return (
        RecordingRule(HOOK_ERRORS, f"max by {_RANK} ({catalog.HOOK_ERRORS_TOTAL})"),
        AlertRule(
            TELEMETRY_HOOK_ERRORS,
            f"(\n  {errors}\n    or\n  {errors_at_first}\n)\n{unfinished}",
            at_once="An error that was counted has happened, and the next may take hours.",
            severity="warning",
            scope="telemetry",
            summary="The telemetry hook in rank {{ $labels.rank }} of run {{ $labels.run }} has errors.",
            description=f"{{{{ $value | humanize }}}} within {window}, caught before they reached the "
            "training: it goes on, but some of its numbers may be missing or stand still.",
        ),
        AlertRule(
            TELEMETRY_HOOK_DROPPED,
            f"max by {_RANK} (round(increase({catalog.HOOK_DROPPED_TOTAL}[{window}])))"
            f" > {thresholds.hook_dropped_values}\n{unfinished}",
            at_once="A single value that is dropped does not count, and many are counted over a window.",
            severity="warning",
            scope="telemetry",
            summary="The telemetry hook in rank {{ $labels.rank }} of run {{ $labels.run }} drops values.",
            description=f"{{{{ $value | humanize }}}} values and events within {window} (limit "
            f"{thresholds.hook_dropped_values}) could not be recorded: curves and events have gaps.",
        ),
        # The rate is that of the whole window, so a training's first minutes come out too low, not too high.
        AlertRule(
            TELEMETRY_HOOK_SLOW,
            f"max by {_RANK} (rate({catalog.HOOK_SECONDS_TOTAL}[{window}]))"
            f" > {thresholds.hook_slow_ratio}\n{unfinished}",
            for_seconds=thresholds.hook_slow_for_seconds,
            severity="info",
            scope="telemetry",
            summary="The telemetry hook slows down rank {{ $labels.rank }} of run {{ $labels.run }}.",
            description=f"Over {window} it took {{{{ $value | humanizePercentage }}}} of the time (limit "
            f"{100 * thresholds.hook_slow_ratio:g}%): the training could be faster by so much.",
        ),
    )


def _delivery(thresholds: Thresholds) -> tuple[AlertRule, ...]:
    """From the rules to whoever is called: what fails once and works again is not told."""
    window = duration(thresholds.delivery_window_seconds)
    ours = 'rule_group=~".*;trainvitals[.].+"'
    rule_group = "(cluster, instance, rule_group)"
    failing_for = duration(thresholds.delivery_failing_for_seconds)
    return (
        AlertRule(
            WATCHDOG,
            "vector(1)",
            at_once="It fires always: what matters is that it arrives.",
            severity="none",
            scope="telemetry",
            summary="Alerts reach you: this one always fires.",
            description="It is sent to something outside that calls somebody when it does not come any more: "
            "then Prometheus, Alertmanager or the way between them is down, and no other alert comes either.",
        ),
        # One that waits counts already: what is to be held back is there half a minute later, not before.
        # Only alerts with a scope: others that this Prometheus has are no company for ours.
        AlertRule(
            INFO_INHIBITOR,
            'group by (cluster) (ALERTS{severity="info", scope=~".+"})\n'
            "  unless on (cluster)\n"
            'ALERTS{severity=~"warning|critical", scope=~".+", alertstate="firing"}',
            at_once="It has to come before the alerts that it holds back.",
            severity="none",
            scope="telemetry",
            summary="Only alerts of severity info{{ with $labels.cluster }} in cluster {{ . }}{{ end }}.",
            description="Alertmanager holds them back for as long as nothing of severity warning or critical "
            "fires beside them: alone they need nobody.",
        ),
        AlertRule(
            PROMETHEUS_RULE_FAILURES,
            f"max by {rule_group} "
            f"(round(increase(prometheus_rule_evaluation_failures_total{{{ours}}}[{window}]))) > 0",
            for_seconds=thresholds.delivery_failing_for_seconds,
            severity="critical",
            scope="telemetry",
            summary="Prometheus on {{ $labels.instance }} cannot evaluate rules of "
            "{{ $labels.rule_group | reReplaceAll `.*;` `` }}.",
            description=f"{{{{ $value | humanize }}}} evaluations failed within {window}, and others did "
            f"for {failing_for}: alerts of this group do not come.",
        ),
        AlertRule(
            PROMETHEUS_MISSED_ITERATIONS,
            f"max by {rule_group} "
            f"(round(increase(prometheus_rule_group_iterations_missed_total{{{ours}}}[{window}]))) > 0",
            for_seconds=thresholds.delivery_failing_for_seconds,
            severity="warning",
            scope="telemetry",
            summary="Prometheus on {{ $labels.instance }} is too slow for the rules of "
            "{{ $labels.rule_group | reReplaceAll `.*;` `` }}.",
            description=f"{{{{ $value | humanize }}}} evaluations were left out within {window}, and others "
            f"for {failing_for}: alerts come late.",
        ),
        # Failed for good, after all tries. With nobody else to tell, it is on another way or the Watchdog.
        # Every receiver also calls the webhook of the service: while that is down, its page tells of it.
        AlertRule(
            ALERTMANAGER_NOTIFICATIONS_FAILING,
            "max by (cluster, instance, integration) "
            f"(round(increase(alertmanager_notifications_failed_total[{window}]))) > 0\n"
            "  unless on (cluster, integration)\n"
            f'label_replace(ALERTS{{alertname="{TRAINING_SERVICE_DOWN}", alertstate="firing"}}, '
            '"integration", "webhook", "", "")',
            for_seconds=thresholds.delivery_failing_for_seconds,
            severity="critical",
            scope="telemetry",
            summary="Alertmanager on {{ $labels.instance }} cannot notify by {{ $labels.integration }}.",
            description=f"{{{{ $value | humanize }}}} notifications failed within {window}, and others did "
            f"for {failing_for}: somebody is not told of what fires.",
        ),
    )
