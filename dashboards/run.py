"""Run: one training from its state down to its GPUs, in the order in which one asks."""

from __future__ import annotations

from alerts.thresholds import Thresholds
from dashboards import events, links
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import Query, TimeSeries
from dashboards.grafana.tables import Table
from dashboards.queries import per_run
from dashboards.rows import run_checkpoints, run_hardware, run_learning, run_pace, run_state
from dashboards.variables import VARIABLES_OF_ONE_RUN
from exporters import catalog

UID = links.RUN


def facts() -> Table:
    return Table.of_labels(
        title="What it is",
        description=(
            "All that the newest attempt told of itself: model, dataset, precision, framework and whatever "
            "else the script gave, with the node of rank 0. Look here first when two runs differ and should "
            "not; Compare runs has the same of several side by side."
        ),
        expr=f"topk(1, {per_run.facts()})",
        no_value="nobody tells of it",
    )


def scalars() -> TimeSeries:
    return TimeSeries(
        title="Whatever else it logs",
        description=(
            "Any other number that the trainer logs, by its name: rewards, margins, auxiliary losses and the "
            "like. Click a name to see it alone, for they have different scales. What they mean is the "
            "script's affair; one that jumps together with the loss is a lead."
        ),
        unit="short",
        decimals=3,
        legend_values=("lastNotNull", "min", "max"),
        legend_placement="right",
        targets=[Query(expr=per_run.by_label(catalog.TRAINING_SCALAR, "name"), legend="{{name}}")],
        no_value="it logs nothing else",
    )


def dashboard(thresholds: Thresholds) -> Dashboard:
    stands, learning, speed = run_state, run_learning, run_pace
    room, hardware = run_checkpoints, run_hardware
    return Dashboard(
        uid=UID,
        title="Run",
        description=(
            "One run: how it stands, what happened, whether it learns, what holds it up, what is lost if it "
            "dies, and how its ranks and GPUs do. Choose it above."
        ),
        variables=VARIABLES_OF_ONE_RUN,
        events=events.of_one_run(),
        panels=stack(
            Shelf(
                "How does it stand?",
                [
                    (stands.state(), 4),
                    (stands.progress(), 4),
                    (stands.eta(), 4),
                    (stands.deadline_margin(), 4),
                    (stands.pace(thresholds), 4),
                    (stands.alert_count(), 4),
                    (stands.last_loss(), 4),
                    (stands.steps(), 4),
                    (stands.epochs(), 4),
                    (stands.mfu(thresholds), 4),
                    (stands.checkpoint_age(), 4),
                    (speed.ranks(), 4),
                ],
                height=4,
            ),
            Shelf(
                "What happened, and what is wrong?",
                [(stands.timeline(), 10), (stands.alerts_of_the_run(), 10), (stands.attempt(), 4)],
                height=9,
            ),
            Shelf(
                "Does it learn?",
                [
                    (learning.losses(), 12),
                    (learning.perplexities(), 6),
                    (learning.accuracies(), 6),
                    (learning.learning_rates(), 8),
                    (learning.gradient_norm(thresholds), 8),
                    (learning.not_finite(), 8),
                ],
                height=9,
            ),
            Shelf(
                "How fast is it, and what holds it up?",
                [
                    (speed.tokens(thresholds), 12),
                    (speed.phases(), 12),
                    (speed.step_times(), 12),
                    (speed.step_durations(), 12),
                    (speed.utilization(thresholds), 8),
                    (speed.data_loading(), 8),
                    (speed.counts(thresholds), 8),
                ],
                height=9,
            ),
            Shelf(
                "Do its ranks keep together?",
                [
                    (speed.slowest_rank(thresholds), 8),
                    (speed.waiting_ranks(thresholds), 8),
                    (speed.silence(), 8),
                ],
                height=9,
            ),
            Shelf(
                "What is lost if it dies now?",
                [
                    (room.age(thresholds), 8),
                    (room.cost(thresholds), 8),
                    (room.room(), 8),
                ],
                height=9,
            ),
            Shelf(
                "Does it fit its memory?",
                [
                    (hardware.cuda_memory(), 8),
                    (hardware.allocation_trouble(), 8),
                    (hardware.host_memory(), 8),
                ],
                height=10,
            ),
            Shelf(
                "How do its GPUs do?",
                [
                    (hardware.gpu_utilization(), 8),
                    (hardware.gpu_power(), 8),
                    (hardware.gpu_temperature(), 8),
                    (hardware.gpu_table(thresholds), 24),
                ],
                height=10,
            ),
            Shelf("What is it, and what else does it log?", [(facts(), 8), (scalars(), 16)], height=11),
            Shelf(
                "More of its loss and its checkpoints",
                [(learning.mean_loss(), 10), (room.interval(), 8), (room.results(), 6)],
                collapsed=True,
            ),
        ),
    )
