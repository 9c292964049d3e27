"""What happened, drawn over every panel with a time axis: alerts, checkpoints, restarts, changes of stage."""

from __future__ import annotations

from dashboards import colors
from dashboards.grafana.dashboard import Annotation
from dashboards.variables import of_alerts, of_run
from exporters import catalog

# What Prometheus makes of every alert, its state as a label; and since when its condition holds.
ALERTS = "ALERTS"
ALERTS_FOR_STATE = "ALERTS_FOR_STATE"
FIRING = 'alertstate="firing"'
TELLS_SOMEBODY = 'severity!="none"'


def alerts(*matchers: str, enabled: bool = True) -> Annotation:
    """When the condition of an alert that fired began to hold, of those that `matchers` choose.

    A moment and no span: the spans of several alerts would hide what they lie upon.
    """
    chosen = matchers or (TELLS_SOMEBODY,)
    since = of_alerts(ALERTS_FOR_STATE, *chosen)
    return Annotation(
        name="Alerts",
        expr=f"{since} * 1000 and ignoring (alertstate) {of_alerts(ALERTS, FIRING, *chosen)}",
        color=colors.BAD,
        title="{{alertname}}",
        text="{{run}} {{instance}}",
        tags=("severity",),
        at_value=True,
        enabled=enabled,
    )


def checkpoints(enabled: bool = True) -> Annotation:
    last = of_run(catalog.TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS)
    return Annotation(
        name="Checkpoints",
        expr=f"max by (cluster, run) ({last}) * 1000",
        color=colors.GOOD,
        title="Checkpoint of {{run}}",
        at_value=True,
        enabled=enabled,
    )


def restarts(enabled: bool = True) -> Annotation:
    """The start of each attempt, the first among them."""
    start = of_run(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS)
    return Annotation(
        name="Starts",
        expr=f"max by (cluster, run) ({start}) * 1000",
        color=colors.SKY,
        title="{{run}} starts",
        at_value=True,
        enabled=enabled,
    )


def stages(enabled: bool = True) -> Annotation:
    begin = of_run(catalog.TRAINING_STAGE_START_TIMESTAMP_SECONDS)
    return Annotation(
        name="Stages",
        expr=f"max by (cluster, run, stage) ({begin}) * 1000",
        color=colors.PINK,
        title="{{run}} begins {{stage}}",
        at_value=True,
        enabled=enabled,
    )


def of_runs() -> tuple[Annotation, ...]:
    """All four, for dashboards of a few runs."""
    return alerts(), checkpoints(), restarts(), stages()


def of_one_run() -> tuple[Annotation, ...]:
    """All four; of the alerts those of the chosen run alone, not of every GPU and node there is."""
    return alerts(TELLS_SOMEBODY, 'run!=""'), checkpoints(), restarts(), stages()


def of_fleet() -> tuple[Annotation, ...]:
    """For dashboards of many runs, of which one is always in some trouble: for whoever asks for it."""
    return (
        alerts('severity="critical"', enabled=False),
        checkpoints(enabled=False),
        restarts(enabled=False),
        stages(enabled=False),
    )
