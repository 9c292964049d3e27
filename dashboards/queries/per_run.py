"""A run as one series, on however many nodes its ranks are and whoever tells of it twice."""

from __future__ import annotations

from alerts.thresholds import Thresholds, duration
from alerts.throughput import PACE, PACE_MEDIAN
from dashboards.variables import of_node, of_recorded, of_run
from exporters import catalog
from exporters.catalog import Metric

RUN = "(cluster, run)"
ONE = "on (cluster, run)"


def newest(metric: Metric, *matchers: str) -> str:
    """The metric of each chosen run; of several ranks or nodes that tell of it, the highest."""
    return f"max by {RUN} ({of_run(metric, *matchers)})"


def by_label(metric: Metric, label: str) -> str:
    """The metric of each chosen run and value of the label."""
    return f"max by (cluster, run, {label}) ({of_run(metric)})"


def rate(counter: Metric, *matchers: str) -> str:
    """What all ranks of each chosen run count together in a second."""
    return (
        f"sum by {RUN} (max by (cluster, run, rank) (rate({of_run(counter, *matchers)}[$__rate_interval])))"
    )


def counted(counter: Metric, window: str, *matchers: str) -> str:
    """What all ranks of each chosen run count together in a window, such as `$__range`."""
    return f"sum by {RUN} (max by (cluster, run, rank) (increase({of_run(counter, *matchers)}[{window}])))"


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


def usual_pace() -> str:
    """The pace of a rank outside of pauses, as a ratio of its median of six hours."""
    return f"{of_recorded(PACE)} / {ONE} {of_recorded(PACE_MEDIAN)}"


def of_its_gpus(by_gpu: str) -> str:
    """A quantity by cluster and uuid, of the GPUs that the chosen runs train on; `of_gpus` makes such.

    The series have the labels cluster, instance, run, rank, gpu and uuid.
    """
    info = f"max by (cluster, instance, run, rank, gpu, uuid) ({of_run(catalog.TRAINING_RUN_GPU_INFO)})"
    return f"{info} * on (cluster, uuid) group_left () {by_gpu}"


def of_gpus(metric: Metric, *matchers: str) -> str:
    """The metric of every GPU once, by cluster and uuid."""
    return f"max by (cluster, uuid) ({of_node(metric, *matchers)})"
