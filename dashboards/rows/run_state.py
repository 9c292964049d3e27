"""How a run stands: its figures of now, what happened to it, and what is wrong."""

from __future__ import annotations

from alerts.fleet import STATE
from alerts.lifecycle import UNFINISHED
from alerts.thresholds import Thresholds, duration
from dashboards import colors, links
from dashboards.events import ALERTS, ALERTS_FOR_STATE, FIRING, TELLS_SOMEBODY
from dashboards.grafana.panels import Query, Stat, Text, Threshold, colored, falling, unit_of
from dashboards.grafana.tables import Table, colored_words, widths
from dashboards.grafana.timelines import StateTimeline
from dashboards.queries.per_run import (
    ONE,
    RUN,
    by_label,
    flops_utilization,
    newest,
    restarts,
    usual_pace,
)
from dashboards.rows import run_checkpoints
from dashboards.states import STATE_TEXTS
from dashboards.variables import of_alerts, of_recorded, of_run
from exporters import catalog

# On the timeline: what rank 0 does, as numbers beyond those of states.
_RANK_0 = 'rank="0"'
_DOING = {
    11: ('phase="init"', Text("starts", colors.PHASES["init"])),
    12: (
        'phase=~"forward|backward|compute|optimizer|other"',
        Text("trains", colors.PHASES["forward"]),
    ),
    13: ('phase="data"', Text("waits for data", colors.PHASES["data"])),
    14: ('phase="evaluation"', Text("evaluates", colors.PHASES["evaluation"])),
    15: ('phase="checkpoint"', Text("writes a checkpoint", colors.PHASES["checkpoint"])),
}
_IN_STAGE = 21
_FIRES = 31
# How long a GPU's alerts are the run's after a rank of it was last seen there.
_GPU_KEPT = "1h"


def state() -> Stat:
    return Stat(
        title="State",
        description=(
            "Running: it makes progress. Stalled: it lives and does not. Killed: it died without a word, by "
            "the kernel or a scheduler. Failed: an exception ended it. Aborted: somebody ended it. For "
            "anything but running and finished see the alerts below, then the run's log."
        ),
        unit="none",
        colored=True,
        named=False,
        course=False,
        color_mode="thresholds",
        thresholds=[Threshold(colors.NEUTRAL, None)],
        value_texts=STATE_TEXTS,
        targets=[Query(expr=of_recorded(STATE), legend="{{run}}")],
        no_value="nobody tells of it",
    )


def progress() -> Stat:
    return Stat(
        title="Progress",
        description=(
            "Share of the expected optimizer steps that is done, those of earlier attempts included. The "
            "line behind climbs evenly in a healthy run; it falls back where the run was started again from "
            "a checkpoint. None: the trainer has told no number of steps."
        ),
        unit="percentunit",
        decimals=1,
        minimum=0,
        named=False,
        targets=[Query(expr=newest(catalog.TRAINING_PROGRESS_RATIO), legend="{{run}}")],
        overrides=[colored("A", colors.TRAINING)],
        no_value="no end is known",
    )


def eta() -> Stat:
    return Stat(
        title="Time left",
        description=(
            "At the pace of the last 15 minutes, evaluation and checkpoints included. It should shrink as "
            "time goes by; where it stays or grows the run has become slower than it was: see what holds it "
            "up below, and whether the deadline beside it still holds."
        ),
        unit="s",
        decimals=1,
        named=False,
        course=False,
        targets=[Query(expr=newest(catalog.TRAINING_ETA_SECONDS), legend="{{run}}", instant=True)],
        no_value="not known",
    )


def deadline_margin() -> Stat:
    deadline = newest(catalog.TRAINING_DEADLINE_TIMESTAMP_SECONDS)
    return Stat(
        title="Spare time",
        description=(
            "The time left before the run's deadline, that of its Slurm job or one it was told, less the "
            "time it still needs. Below 0 it will be cut off: ask for more time, make fewer steps, or see to "
            "it that a checkpoint is written right before."
        ),
        unit="s",
        decimals=1,
        named=False,
        course=False,
        colored=True,
        color_mode="thresholds",
        thresholds=falling(warning=1800, bad=0),
        targets=[
            Query(
                expr=f"{deadline} - {ONE} {newest(catalog.TRAINING_ETA_SECONDS)} - time()",
                legend="{{run}}",
                instant=True,
            )
        ],
        no_value="no deadline",
    )


def steps() -> Stat:
    return Stat(
        title="Steps",
        description=(
            "Optimizer steps made, those of earlier attempts included, and how many the run is to make. The "
            "figure must grow; how fast, Tokens per second says. Where none are expected the trainer has not "
            "told their number, and there is no progress and no time to the end."
        ),
        unit="locale",
        decimals=0,
        course=False,
        targets=[
            Query(expr=newest(catalog.TRAINING_STEP_CURRENT), legend="made"),
            Query(expr=newest(catalog.TRAINING_STEPS_EXPECTED), legend="of"),
        ],
        no_value="none yet",
    )


def epochs() -> Stat:
    return Stat(
        title="Epochs",
        description=(
            "How often the run has gone through its data, 1.25 is a quarter into the second time, and how "
            "often it is to. After the first epoch the training loss falls faster than the validation loss: "
            "watch the gap below. Runs without epochs, on a stream of data, show none."
        ),
        unit="none",
        decimals=2,
        course=False,
        targets=[
            Query(expr=newest(catalog.TRAINING_EPOCH_CURRENT), legend="made"),
            Query(expr=newest(catalog.TRAINING_EPOCHS_EXPECTED), legend="of"),
        ],
        no_value="no epochs",
    )


def pace(thresholds: Thresholds) -> Stat:
    usual = duration(thresholds.throughput_usual_seconds)
    return Stat(
        title="Pace",
        description=(
            "Tokens a second of a rank outside of pauses, as a share of the run's own median over "
            f"{usual}. Around 100 % is health. Orange and below it has become slower: see what its time goes "
            "into, whether a rank is slower than the others, and whether its GPUs throttle."
        ),
        unit="percentunit",
        decimals=0,
        named=False,
        colored=True,
        color_mode="thresholds",
        thresholds=falling(warning=0.95, bad=thresholds.throughput_ratio),
        targets=[Query(expr=usual_pace(), legend="{{run}}")],
        no_value="no history yet",
    )


def mfu(thresholds: Thresholds) -> Stat:
    return Stat(
        title="MFU",
        description=(
            "FLOPs that the model's tokens need, as a share of what its devices could do at its precision. "
            "30 to 50 % is good for large models, less for small ones. It is the one figure of efficiency "
            "that a busy but wasteful GPU cannot raise; its course is below. Beside it what they are in "
            "FLOP/s."
        ),
        unit="percentunit",
        decimals=1,
        named=False,
        targets=[
            Query(
                expr=f"{flops_utilization(thresholds)} and {ONE} {of_recorded(UNFINISHED)}",
                legend="{{run}}",
            )
        ],
        overrides=[colored("A", colors.TRAINING)],
        no_value="not known",
    )


def last_loss() -> Stat:
    return Stat(
        title="Loss now",
        description=(
            "Training loss of the last optimizer step, and the best validation loss of this attempt. The "
            "course is below; this is the figure to quote. Compare it with other runs by step in Compare "
            "runs, and with runs on the same data and tokenizer only."
        ),
        unit="none",
        decimals=3,
        course=False,
        targets=[
            Query(expr=newest(catalog.TRAINING_LOSS), legend="training"),
            Query(expr=newest(catalog.VALIDATION_LOSS_BEST), legend="best val."),
        ],
        no_value="none yet",
    )


def checkpoint_age() -> Stat:
    return Stat(
        title="Checkpoint",
        description=(
            "How long ago the last good checkpoint was complete: so much work is lost if the run dies now; "
            "and how long lay between the last two. An age far above the interval means that one is overdue "
            "or failed: see What is lost if it dies now."
        ),
        unit="s",
        decimals=0,
        course=False,
        targets=[
            Query(expr=run_checkpoints.checkpoint_age(), legend="ago", instant=True),
            Query(expr=newest(catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS), legend="interval", instant=True),
        ],
        no_value="not known",
    )


def _of_the_run(name: str, *matchers: str) -> str:
    """Alerts of the run itself, and of the GPUs it trains on.

    Of a rank that has died nobody tells which GPU it was on, and often the GPU is the reason.
    """
    held = f"last_over_time({of_run(catalog.TRAINING_RUN_GPU_INFO)}[{_GPU_KEPT}])"
    gpus = f"max by (cluster, uuid) ({held})"
    of_itself = of_alerts(name, *matchers, 'run!=""')
    of_gpus = of_alerts(name, *matchers, 'run=""', 'uuid!=""')
    return f"({of_itself} or {of_gpus} and on (cluster, uuid) {gpus})"


_FIRING = _of_the_run(ALERTS, FIRING, TELLS_SOMEBODY)


def alert_count() -> Stat:
    return Stat(
        title="Alerts",
        description=(
            "Of the run itself, and of the GPUs on which it trains or did within the last hour; their names "
            "are in the table below. 0 is health, as long as the Watchdog in Alerts and telemetry health "
            "fires. Each has a runbook that says what to do, and a panel there that shows what it judges."
        ),
        unit="none",
        decimals=0,
        named=False,
        colored=True,
        course=False,
        color_mode="thresholds",
        thresholds=[Threshold(colors.GOOD, None), Threshold(colors.BAD, 1)],
        targets=[Query(expr=f"count{_FIRING} or vector(0)", legend="firing", instant=True)],
        data_links=[links.to(links.ALERTS, "What they judge", run="${run}")],
    )


def timeline() -> StateTimeline:
    doing = " or ".join(
        f"{code} * max by {RUN} ({of_run(catalog.TRAINING_PHASE_ACTIVE, _RANK_0, phases)})"
        for code, (phases, _) in _DOING.items()
    )
    stage = by_label(catalog.TRAINING_STAGE_START_TIMESTAMP_SECONDS, "stage")
    alerts = f"max by (alertname) {_FIRING}"
    return StateTimeline(
        title="What happened",
        description=(
            "From above: the state of the run, what its rank 0 does, a row for each stage it told of, and "
            "one for each alert of it while that fires. A gap is time in which nobody told of it. Read it "
            "from left to right for what came first: an alert before the state changed is often the cause. "
            "The lines in the panels below mark the same moments."
        ),
        value_texts={
            **STATE_TEXTS,
            **{code: text for code, (_, text) in _DOING.items()},
            _IN_STAGE: Text("under way", colors.PINK),
            _FIRES: Text("fires", colors.BAD),
        },
        thresholds=[Threshold(colors.NEUTRAL, None)],
        targets=[
            Query(expr=of_recorded(STATE), legend="state"),
            Query(expr=doing, legend="rank 0"),
            Query(expr=f"{_IN_STAGE} + 0 * {stage}", legend="stage {{stage}}"),
            Query(expr=f"{_FIRES} * {alerts}", legend="{{alertname}}"),
        ],
        no_value="nobody tells of it",
    )


def alerts_of_the_run() -> Table:
    held = f"time() - {_of_the_run(ALERTS_FOR_STATE, TELLS_SOMEBODY)}"
    return Table.of_series(
        title="Its alerts",
        description=(
            "What fires of the run, and of the GPUs on which it trains or did within the last hour, the "
            "newest first, and for how long the condition has held. Critical means that the training is lost "
            "or about to be. What an alert judges is in Alerts and telemetry health; its runbook says what "
            "to do."
        ),
        expr=_told_where(f"{held} and ignoring (alertstate) {_FIRING}"),
        labels={"severity": "Severity", "alertname": "Alert", "where": "Where"},
        value="For",
        unit="s",
        no_value="nothing fires",
        overrides=[
            colored_words("Severity", colors.SEVERITIES),
            *widths({"Severity": 72, "Where": 64, "For": 88}),
        ],
    )


def _told_where(alerts: str) -> str:
    """The alerts with the rank or the GPU that they are about in one label."""
    for label, word in (("rank", "rank"), ("gpu", "GPU")):
        alerts = f'label_replace({alerts}, "where", "{word} $1", "{label}", "(.+)")'
    return alerts


def attempt() -> Stat:
    start = newest(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS)
    end = newest(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS)
    # Those on a node that saw an earlier attempt: for where no rules record every start.
    seen = f"increase({of_run(catalog.TRAINING_RESTARTS_TOTAL)}[$__range])"
    of_nodes = f"round(sum by {RUN} (max by (cluster, instance, run) ({seen})))"
    return Stat(
        title="This attempt",
        description=(
            "How long ago the newest attempt began and, where it is over, ended; how often the run was "
            "started again within the time range; and the step at which this attempt took up, none where it "
            "began anew. Restarts that repeat at the same step are no accident: stop it and look at its log."
        ),
        unit="s",
        course=False,
        targets=[
            Query(expr=f"time() - {start}", legend="began, ago", instant=True),
            Query(expr=f"time() - ({end} >= {ONE} {start})", legend="ended, ago", instant=True),
            Query(expr=f"{restarts()} or {ONE} {of_nodes}", legend="restarts", instant=True),
            Query(expr=newest(catalog.TRAINING_RESUMED_FROM_STEP), legend="from step", instant=True),
        ],
        overrides=[unit_of("C", "none"), unit_of("D", "locale")],
        no_value="nobody tells of it",
    )
