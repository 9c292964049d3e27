"""The variables every dashboard has, and the selectors through which its queries obey them."""

from __future__ import annotations

from dashboards.dashboard import DatasourceVariable, LabelVariable
from exporters import catalog
from exporters.catalog import Metric

SERVICE_JOB = "training-service"

_CLUSTER = 'cluster=~"$cluster"'
_JOB = f'{_CLUSTER}, job=~"$job"'
_NODE = f'{_JOB}, instance=~"$instance"'
_RUN = f'{_NODE}, run=~"$run"'

# Every service publishes the state of its collectors, runs or no runs, GPUs or no GPUs.
_ALWAYS_THERE = catalog.COLLECTOR_SUCCESS
# Outlives its run, so that a finished run can be chosen for a day.
_EVERY_RUN = catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS

VARIABLES = (
    DatasourceVariable(),
    # Prometheus adds this label only where it is told to: without it, All must match its absence.
    LabelVariable(name="cluster", query=f"label_values({_ALWAYS_THERE}, cluster)", all_value=".*"),
    LabelVariable(name="job", query=f"label_values({_ALWAYS_THERE}{{{_CLUSTER}}}, job)", default=SERVICE_JOB),
    LabelVariable(name="instance", query=f"label_values({_ALWAYS_THERE}{{{_JOB}}}, instance)"),
    LabelVariable(name="run", query=f"label_values({_EVERY_RUN}{{{_NODE}}}, run)"),
)


def of_run(metric: Metric) -> str:
    """Selects a metric of run or rank scope for the chosen runs.

    Raises ValueError for a metric that carries no run.
    """
    if "run" not in metric.labels:
        raise ValueError(f"{metric} has no label run: select it with of_node")
    return f"{metric}{{{_RUN}}}"


def of_node(metric: Metric) -> str:
    """Selects a metric for the chosen instances, whatever run it belongs to."""
    return f"{metric}{{{_NODE}}}"


def of_other_exporter(name: str, *matchers: str) -> str:
    """Selects a metric that another exporter publishes, under a job and an instance that are its own."""
    selector = ", ".join((_CLUSTER, 'job=~".+"', 'instance=~".+"', *matchers))
    return f"{name}{{{selector}}}"
