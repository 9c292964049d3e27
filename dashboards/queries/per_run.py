"""A run as one series, on however many nodes its ranks are, wherever it goes on, whoever tells of it twice.

When a run is started again on another node, the first one goes on telling for a while how it stood there.
"""

from __future__ import annotations

from alerts.lifecycle import ATTEMPT_STARTED, START_ROUNDED_SECONDS
from alerts.thresholds import Thresholds, duration
from alerts.throughput import PACE, PACE_MEDIAN
from dashboards.variables import of_node, of_recorded, of_run
from exporters import catalog
from exporters.catalog import Metric

RUN = "(cluster, run)"
RANK = "(cluster, run, rank)"
ONE = "on (cluster, run)"


def newest(metric: Metric, *matchers: str) -> str:
    """A metric of run scope of each chosen run, from the node of its newest attempt.

    Raises ValueError for one of rank scope: other nodes tell of ranks, and not of when the run started.
    """
    return f"max by {RUN} ({_of_newest_attempt(metric, *matchers)})"


def by_label(metric: Metric, label: str) -> str:
    """The same of each value of a label."""
    return f"max by (cluster, run, {label}) ({_of_newest_attempt(metric)})"


def facts() -> str:
    """What the newest attempt of each chosen run told of itself, as labels."""
    return f"max without (job) ({_of_newest_attempt(catalog.TRAINING_RUN_INFO)})"


def last_known(metric: Metric) -> str:
    """As `newest`, but the last value within the time range, also of runs that nobody tells of any more."""
    return f"max by {RUN} ({_of_newest_attempt(metric, window='$__range')})"


def _of_newest_attempt(metric: Metric, *matchers: str, window: str | None = None) -> str:
    if metric.scope != "run":
        raise ValueError(f"{metric} is of {metric.scope} scope: who tells of it does not tell of an attempt")

    def known(selected: str) -> str:
        return f"last_over_time({selected}[{window}])" if window else selected

    start = known(of_run(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS))
    of_newest = f"{start} >= {ONE} group_left () (max by {RUN} ({start}) - {START_ROUNDED_SECONDS})"
    return f"{known(of_run(metric, *matchers))} and on (cluster, instance, run) ({of_newest})"


def restarts() -> str:
    """How often each chosen run was started again within the time range, on whichever node."""
    attempts = f"count_over_time({of_recorded(ATTEMPT_STARTED)}[$__range])"
    return f"count by {RUN} ({attempts}) - 1"


def rate(counter: Metric, *matchers: str) -> str:
    """What all ranks of each chosen run count together in a second."""
    return _of_all_ranks(f"rate({of_run(counter, *matchers)}[$__rate_interval])")


def counted(counter: Metric, window: str, *matchers: str) -> str:
    """What all ranks of each chosen run count together in a window, such as `$__range`, in all attempts."""
    return _of_all_ranks(f"increase({of_run(counter, *matchers)}[{window}])")


def _of_all_ranks(by_rank: str) -> str:
    # A rank that went on on another node has counted on both.
    return f"sum by {RUN} (max by (cluster, instance, run, rank) ({by_rank}))"


def a_second(counter: Metric, thresholds: Thresholds, *matchers: str) -> str:
    """What all ranks of each chosen run count together in a second.

    Over as long as the rules look at throughput: a step may take a minute.
    """
    seconds = thresholds.throughput_rate_seconds
    return f"{counted(counter, duration(seconds), *matchers)} / {seconds:g}"


def flops_utilization(thresholds: Thresholds) -> str:
    """What each chosen run makes of the FLOP/s of its devices (MFU), as a ratio."""
    flops = a_second(catalog.TRAINING_MODEL_FLOPS_TOTAL, thresholds)
    return f"{flops} / {ONE} {newest(catalog.TRAINING_PEAK_FLOPS)}"


def age_of_rank(moment: Metric, *matchers: str) -> str:
    """Seconds since a moment of each rank that is alive, by its own node's clock.

    Between two times of one scrape, so that it does not grow while nobody scrapes.
    """
    clock = f"max by (cluster, instance) ({of_node(catalog.WALLCLOCK_SECONDS)})"
    last, alive = (
        f"max by (cluster, instance, run, rank) ({of_run(metric, *matchers)})"
        for metric in (moment, catalog.TRAINING_PHASE_ACTIVE)
    )
    return (
        f"min by {RANK} ({clock} - on (cluster, instance) group_right () {last} "
        f"and on (cluster, instance, run, rank) {alive})"
    )


def usual_pace() -> str:
    """The pace of a rank outside of pauses, as a ratio of its median of six hours."""
    return f"{of_recorded(PACE)} / {ONE} {of_recorded(PACE_MEDIAN)}"
