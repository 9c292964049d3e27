"""The variables every dashboard has, and the selectors through which its queries obey them."""

from __future__ import annotations

from typing import Literal

import attr

from dashboards.grafana.dashboard import DatasourceVariable, LabelVariable
from exporters import catalog
from exporters.catalog import Metric

SERVICE_JOB = "training-service"

_CLUSTER = 'cluster=~"$cluster"'
_JOB = f'{_CLUSTER}, job=~"$job"'
_NODE = f'{_JOB}, instance=~"$instance"'
_RUN = f'{_NODE}, run=~"$run"'

# By what a recorded series can be chosen: the first part of its name says of what each series is.
_KEPT = {
    "run": 'run=~"$run"',
    "run_attempt": 'run=~"$run"',
    "run_gpu": 'run=~"$run"',
    "rank": 'run=~"$run"',
    "rank_gpu": 'instance=~"$instance", run=~"$run"',
    "gpu": 'instance=~"$instance"',
    "gpu_xid": 'instance=~"$instance"',
    "node": 'instance=~"$instance"',
}

# Every service publishes the state of its collectors, runs or no runs, GPUs or no GPUs.
_ALWAYS_THERE = catalog.COLLECTOR_SUCCESS
# Outlives its run, so that a finished run can be chosen for a day.
_EVERY_RUN = catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS

_EVERY_RANK = catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS
# Tells of those that are lost, too.
_EVERY_GPU = catalog.NVIDIA_GPU_UP

# Prometheus adds this label only where it is told to: without it, All must match its absence. Where one is to
# be chosen and there is none, Grafana fills in nothing, and that matches its absence too.
_CLUSTERS = LabelVariable(name="cluster", query=f"label_values({_ALWAYS_THERE}, cluster)", all_value=".*")
# Two clusters may have a run, a node and a GPU of the same names: their lines could not be told apart.
_ONE_CLUSTER = attr.evolve(_CLUSTERS, single=True)
_TARGETS = (
    LabelVariable(name="job", query=f"label_values({_ALWAYS_THERE}{{{_CLUSTER}}}, job)", default=SERVICE_JOB),
    LabelVariable(name="instance", query=f"label_values({_ALWAYS_THERE}{{{_JOB}}}, instance)"),
)
_RUNS = LabelVariable(name="run", query=f"label_values({_EVERY_RUN}{{{_NODE}}}, run)")

# Every dashboard has one of these three: of any number of runs in one cluster, of those of all clusters, and
# of one run.
VARIABLES = (DatasourceVariable(), _ONE_CLUSTER, *_TARGETS, _RUNS)
VARIABLES_OF_ALL_CLUSTERS = (DatasourceVariable(), _CLUSTERS, *_TARGETS, _RUNS)
VARIABLES_OF_SOME_RUNS = (
    *(DatasourceVariable(), _ONE_CLUSTER, *_TARGETS),
    attr.evolve(_RUNS, opens_on_first=True),
)
VARIABLES_OF_ONE_RUN = (DatasourceVariable(), _ONE_CLUSTER, *_TARGETS, attr.evolve(_RUNS, single=True))
RANK_VARIABLE = LabelVariable(name="rank", query=f"label_values({_EVERY_RANK}{{{_RUN}}}, rank)", numbers=True)
GPU_VARIABLE = LabelVariable(
    name="gpu", query=f"label_values({_EVERY_GPU}{{{_NODE}}}, gpu)", label="GPU", numbers=True
)


def of_run(metric: Metric, *matchers: str) -> str:
    """Selects a metric of run or rank scope for the chosen runs.

    Raises ValueError for a metric that carries no run.
    """
    if "run" not in metric.labels:
        raise ValueError(f"{metric} has no label run: select it with of_node")
    return _select(metric.name, _RUN, *matchers)


def of_histogram(histogram: Metric, part: Literal["bucket", "count", "sum"]) -> str:
    """Selects the buckets of a histogram of run scope for the chosen runs, or their count or sum.

    Raises ValueError for a metric that is no histogram.
    """
    if histogram.kind != "histogram":
        raise ValueError(f"{histogram} is a {histogram.kind} and has no {part}")
    return _select(f"{histogram}_{part}", _RUN)


def of_rank(metric: Metric, *matchers: str) -> str:
    """Selects a metric of rank scope for the chosen runs and ranks, where a dashboard has both variables.

    Raises ValueError for a metric that carries no rank.
    """
    if "rank" not in metric.labels:
        raise ValueError(f"{metric} has no label rank: select it with of_run")
    return of_run(metric, 'rank=~"$rank"', *matchers)


def of_node(metric: Metric, *matchers: str) -> str:
    """Selects a metric for the chosen instances, whatever run it belongs to."""
    return _select(metric.name, _NODE, *matchers)


def of_gpu(metric: Metric, *matchers: str) -> str:
    """Selects a metric of GPU scope for the chosen GPUs, where a dashboard has the variable.

    Raises ValueError for a metric that carries no GPU.
    """
    if "gpu" not in metric.labels:
        raise ValueError(f"{metric} has no label gpu: select it with of_node")
    return of_node(metric, 'gpu=~"$gpu"', *matchers)


def of_target(name: str) -> str:
    """Selects what Prometheus says of scraping the chosen instances, such as `up`."""
    return _select(name, _NODE)


def of_other_exporter(name: str, *matchers: str) -> str:
    """Selects a metric that another exporter publishes, under a job and an instance that are its own."""
    return _select(name, _CLUSTER, 'job=~".+"', 'instance=~".+"', *matchers)


def of_recorded(name: str, *matchers: str) -> str:
    """Selects a series that rules record, by what its level keeps of the labels; none keeps the job.

    Raises ValueError for a level that is not known.
    """
    level = name.partition(":")[0]
    if level not in _KEPT:
        raise ValueError(f"{name} is recorded at the level {level!r}: say in _KEPT what it can be chosen by")
    return _select(name, _CLUSTER, _KEPT[level], *matchers)


def of_every_instance(name: str) -> str:
    """Selects a recorded series of the chosen runs, whatever instance is chosen.

    What has no run is there while all runs are chosen, where a dashboard has `.*` for them.
    """
    return _select(name, _CLUSTER, _KEPT["run"])


def of_alerts(name: str, *matchers: str) -> str:
    """Selects from `ALERTS` or `ALERTS_FOR_STATE` ours, of what is chosen and of what belongs to none of it.

    That of `vector(1)` has no cluster even where every target has one.
    """
    either = [f'{label}=~"${label}|"' for label in ("cluster", "job", "instance", "run")]
    return _select(name, *either, 'scope=~".+"', *matchers)


def _select(name: str, *matchers: str) -> str:
    return f"{name}{{{', '.join(matchers)}}}"
