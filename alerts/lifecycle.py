"""Whether a run lives: it stalled, or it was killed.

Both alerts read `last_over_time`: a range skips stale markers, so a run's last values outlive its process,
its node, and a restart of Prometheus. All of it is per (cluster, run): a run that moves to another node is
one run, and so is one whose service is scraped twice.
"""

from __future__ import annotations

from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog
from exporters.catalog import Metric

TRAINING_STALLED = "TrainingStalled"
TRAINING_RUN_KILLED = "TrainingRunKilled"


def _newest(metric: Metric) -> str:
    return f"run:{metric}:max"


LAST_PROGRESS = _newest(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS)
START = _newest(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS)
END = _newest(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS)
# The newest start of a run of which no end since then is known.
UNFINISHED = "run:training_run_unfinished_start_timestamp_seconds:max"
# The end of a run whose newest attempt was killed.
KILLED = "run:training_run_killed_timestamp_seconds:max"


def lifecycle(thresholds: Thresholds) -> Group:
    lookback = duration(thresholds.lookback_seconds)

    def record_newest(metric: Metric) -> RecordingRule:
        return RecordingRule(_newest(metric), f"max by (cluster, run) (last_over_time({metric}[{lookback}]))")

    return Group(
        "lifecycle",
        (
            # One rank stuck holds up all others at the next collective, so the newest progress of any rank is
            # the run's; the oldest would page for a rank that has ended or moved.
            record_newest(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS),
            record_newest(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS),
            record_newest(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS),
            RecordingRule(
                UNFINISHED,
                f"{START}\n  unless on (cluster, run)\n({END} >= on (cluster, run) {START})",
            ),
            # The end and the state must come from one target: a node on which an earlier attempt was killed
            # goes on saying so for a day, while the run ends well elsewhere.
            RecordingRule(
                KILLED,
                "max by (cluster, run) (\n"
                f"    last_over_time({catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS}[{lookback}])\n"
                "  and ignoring (state)\n"
                f'    last_over_time({catalog.TRAINING_RUN_STATE}{{state="killed"}}[{lookback}]) == 1\n'
                ")\n"
                "  >= on (cluster, run)\n"
                f"{START}",
            ),
            AlertRule(
                TRAINING_STALLED,
                f"time() - {LAST_PROGRESS} > {thresholds.stall_seconds}\n"
                "  and on (cluster, run)\n"
                f"{UNFINISHED}",
                for_seconds=thresholds.stall_for_seconds,
                severity="critical",
                scope="run",
                summary="Run {{ $labels.run }} has stopped making progress.",
                description="Its last progress was {{ $value | humanizeDuration }} ago (limit "
                f"{duration(thresholds.stall_seconds)}), and no end of it is known: it hangs, or its node is "
                "gone.",
            ),
            AlertRule(
                TRAINING_RUN_KILLED,
                f"time() - {KILLED} < {thresholds.killed_page_seconds}",
                severity="critical",
                scope="run",
                summary="Run {{ $labels.run }} was killed.",
                description="It died {{ $value | humanizeDuration }} ago without finishing, and has not been "
                "started again.",
            ),
        ),
    )
