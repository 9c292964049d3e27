"""Where the dashboards are, and links to them that keep the time range and the choices made above."""

from __future__ import annotations

from alerts.rules import ALERTS_DASHBOARD
from dashboards.grafana.panels import DataLink

FOUNDATION = "trainvitals-foundation"
FLEET = "trainvitals-fleet"
RUN = "trainvitals-run"
GPUS = "trainvitals-gpus"
RANKS = "trainvitals-ranks"
COMPARE = "trainvitals-compare"
GOODPUT = "trainvitals-goodput"
ALERTS = ALERTS_DASHBOARD

# What Grafana fills in: the label of the series that is pointed at, and the text of a table's cell.
CLUSTER_OF_SERIES = "${__field.labels.cluster}"
RUN_OF_SERIES = "${__field.labels.run}"
GPU_OF_SERIES = "${__field.labels.gpu}"
INSTANCE_OF_SERIES = "${__field.labels.instance}"
CELL = "${__value.text}"
# Of the table's row, where it has a column of that title.
CLUSTER_OF_ROW = "${__data.fields.Cluster}"
INSTANCE_OF_ROW = "${__data.fields.Instance}"
RUN_OF_ROW = "${__data.fields.Run}"


def to(uid: str, title: str, **choices: str) -> DataLink:
    """A link to a dashboard on which `choices` are made, by variable; all other choices are kept."""
    kept = [name for name in ("datasource", "cluster", "job", "instance") if name not in choices]
    made = [f"var-{name}={value}" for name, value in choices.items()]
    return DataLink(
        title,
        f"/d/{uid}?{'&'.join([*made, *(f'${{{name}:queryparam}}' for name in kept)])}&${{__url_time_range}}",
    )


def to_run(run: str = RUN_OF_SERIES, **choices: str) -> DataLink:
    """To one run: that of a series with the label run, unless another is given.

    Where all clusters are shown `cluster` is to be among the choices, for there one must be chosen.
    """
    return to(RUN, f"All of {run}", run=run, **choices)


def to_gpu(gpu: str = GPU_OF_SERIES, instance: str = INSTANCE_OF_SERIES) -> DataLink:
    """To one GPU: that of a series with the labels gpu and instance, unless others are given."""
    return to(GPUS, f"GPU {gpu} on {instance}", gpu=gpu, instance=instance)
