"""Whether a run lives: it stalled, was killed, failed, lacks ranks, is started again and again.

The first three read `last_over_time`: a range skips stale markers, so a run's last values outlive its
process, its node, and a restart of Prometheus. All of it is per (cluster, run): a run that moves to another
node is one run, and so is one whose service is scraped twice.
"""

from __future__ import annotations

from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog
from exporters.catalog import Metric

TRAINING_STALLED = "TrainingStalled"
TRAINING_RUN_KILLED = "TrainingRunKilled"
TRAINING_RUN_FAILED = "TrainingRunFailed"
TRAINING_RANK_MISSING = "TrainingRankMissing"
TRAINING_RESTART_LOOP = "TrainingRestartLoop"


def _newest(metric: Metric) -> str:
    return f"run:{metric}:max"


LAST_PROGRESS = _newest(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS)
START = _newest(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS)
END = _newest(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS)
# The newest start of a run of which no end since then is known.
UNFINISHED = "run:training_run_unfinished_start_timestamp_seconds:max"
# 1 for the newest attempt of each run, by its start, which is the same under every scraper and on every node.
ATTEMPT_STARTED = "run_attempt:training_run_start:count"
# A start is told to the millisecond, and moves by a few where the node's clock was set since.
START_ROUNDED_SECONDS = 10
# Where this exists some time ago, Prometheus has been evaluating since: it is no counter of a run.
EVALUATED = "rules:trainvitals_evaluated:bool"
# The end of a run whose newest attempt was killed, or failed by an exception.
KILLED = "run:training_run_killed_timestamp_seconds:max"
FAILED = "run:training_run_failed_timestamp_seconds:max"
# The ranks that live and are scraped.
RANKS = f"run:{catalog.TRAINING_PHASE_ACTIVE}:count"


def lifecycle(thresholds: Thresholds) -> Group:
    lookback = duration(thresholds.lookback_seconds)

    def record_newest(metric: Metric) -> RecordingRule:
        return RecordingRule(_newest(metric), f"max by (cluster, run) (last_over_time({metric}[{lookback}]))")

    # The end and the state must come from one target: a node on which an earlier attempt was killed goes on
    # saying so for a day, while the run ends well elsewhere.
    def record_ended(name: str, state: str) -> RecordingRule:
        return RecordingRule(
            name,
            "max by (cluster, run) (\n"
            f"    last_over_time({catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS}[{lookback}])\n"
            "  and ignoring (state)\n"
            f'    last_over_time({catalog.TRAINING_RUN_STATE}{{state="{state}"}}[{lookback}]) == 1\n'
            ")\n"
            "  >= on (cluster, run)\n"
            f"{START}",
        )

    window = duration(thresholds.restart_loop_window_seconds)
    return Group(
        "lifecycle",
        (
            RecordingRule(EVALUATED, "vector(1)"),
            # One rank stuck holds up all others at the next collective, so the newest progress of any rank is
            # the run's; the oldest would page for a rank that has ended or moved.
            record_newest(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS),
            record_newest(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS),
            record_newest(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS),
            RecordingRule(
                UNFINISHED,
                f"{START}\n  unless on (cluster, run)\n({END} >= on (cluster, run) {START})",
            ),
            RecordingRule(
                ATTEMPT_STARTED,
                f'count_values by (cluster, run) ("start", round({START}, {START_ROUNDED_SECONDS}))',
            ),
            record_ended(KILLED, "killed"),
            record_ended(FAILED, "failed"),
            RecordingRule(
                RANKS,
                f"count by (cluster, run) (max by (cluster, run, rank) ({catalog.TRAINING_PHASE_ACTIVE}))",
            ),
            AlertRule(
                TRAINING_STALLED,
                f"time() - {LAST_PROGRESS} > {thresholds.stall_seconds}\n"
                "  and on (cluster, run)\n"
                f"{UNFINISHED}\n"
                "  and on ()\n"
                f"{EVALUATED} offset {duration(thresholds.restart_grace_seconds)}",
                at_once="The limit is the wait.",
                severity="critical",
                scope="run",
                summary="Run {{ $labels.run }} has stopped making progress.",
                description="Its last progress was {{ $value | humanizeDuration }} ago (limit "
                f"{duration(thresholds.stall_seconds)}), and no end of it is known: it hangs, or its node is "
                "gone.",
            ),
            # Ranks that live and are scraped are fewer than the run says it has, and nothing moves: where the
            # others go on, the missing ones are well too, on a node that is not scraped. Where rank 0's node
            # is not scraped nobody says how many there are. Both are TrainingServiceDown's.
            AlertRule(
                TRAINING_RANK_MISSING,
                # A node on which an earlier attempt has ended goes on saying how many ranks that had.
                "max by (cluster, run) (\n"
                f"  {catalog.TRAINING_WORLD_SIZE}\n"
                "    unless on (cluster, instance, run)\n"
                f"  {catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS}\n"
                ")\n"
                f"  - on (cluster, run)\n{RANKS} > 0\n"
                "  and on (cluster, run)\n"
                f"time() - {LAST_PROGRESS} > {thresholds.rank_missing_silence_seconds}\n"
                "  and on (cluster, run)\n"
                f"{UNFINISHED}",
                for_seconds=thresholds.rank_missing_for_seconds,
                keep_firing_for_seconds=4 * thresholds.evaluation_interval_seconds,
                severity="critical",
                scope="run",
                summary="Ranks of run {{ $labels.run }} are missing.",
                description="{{ $value | humanize }} of its ranks have not been seen alive for "
                f"{duration(thresholds.rank_missing_for_seconds)}, and it makes no progress: the others wait "
                "for them at the next collective.",
            ),
            AlertRule(
                TRAINING_RUN_KILLED,
                f"time() - {KILLED} < {thresholds.killed_page_seconds}",
                at_once="The kernel has let go of the training's lock: it is dead, and stays so.",
                severity="critical",
                scope="run",
                summary="Run {{ $labels.run }} was killed.",
                description="It died {{ $value | humanizeDuration }} ago without finishing, and has not been "
                "started again.",
            ),
            AlertRule(
                TRAINING_RUN_FAILED,
                f"time() - {FAILED} < {thresholds.killed_page_seconds}",
                at_once="The hook has recorded the exception that ended it.",
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} ended with an exception.",
                description="It failed {{ $value | humanizeDuration }} ago and has not been started again. "
                "Its page names the exception and where it was raised.",
            ),
            # Starts and not the number that a launcher gives its attempts, which begins anew on another node.
            AlertRule(
                TRAINING_RESTART_LOOP,
                f"count by (cluster, run) (count_over_time({ATTEMPT_STARTED}[{window}])) - 1"
                f" >= {thresholds.restart_loop_restarts}",
                at_once="So many restarts are counted, not measured.",
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} is started again and again.",
                description="It was started {{ $value | humanize }} times more within "
                f"{window}: every attempt ends before the run gets anywhere, at the cost of its GPUs.",
            ),
        ),
    )
