"""Ranks and stragglers: which rank of a run is slow, and why."""

from __future__ import annotations

from alerts.thresholds import Thresholds
from dashboards import events, links
from dashboards.colors import NEUTRAL
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import Query, Stat, Threshold, falling, rising
from dashboards.queries.per_run import RANK, RUN, age_of_rank
from dashboards.rows import rank_causes, rank_tables, rank_work
from dashboards.rows.rank_causes import (
    CHOSEN,
    beside_median,
    clock_ratio,
    forward,
    forward_of_median,
    phase_share,
)
from dashboards.variables import RANK_VARIABLE, VARIABLES_OF_ONE_RUN, of_run
from exporters import catalog

UID = links.RANKS


def _worst(title: str, description: str, unit: str, expr: str, steps: list[Threshold], no_value: str) -> Stat:
    """One rank's figure, with its number."""
    return Stat(
        title=title,
        description=description,
        unit=unit,
        decimals=0,
        colored=True,
        color_mode="thresholds",
        course=False,
        thresholds=steps,
        no_value=no_value,
        targets=[Query(expr=expr, legend="rank {{rank}}", instant=True)],
    )


def alive() -> Stat:
    active = f"max by {RANK} ({of_run(catalog.TRAINING_PHASE_ACTIVE)})"
    return Stat(
        title="Ranks alive",
        description=(
            "Ranks that record and have not ended, beside those the run is to have. Fewer than it is to have "
            "are dead, or on a node that is not scraped: see which numbers are missing in the table below, "
            "and look at their nodes. After the run's end there are none."
        ),
        unit="none",
        decimals=0,
        course=False,
        color_mode="thresholds",
        thresholds=[Threshold(NEUTRAL, None)],
        targets=[
            Query(expr=f"count({active}) or vector(0)", legend="alive", instant=True),
            Query(expr=f"max({of_run(catalog.TRAINING_WORLD_SIZE)})", legend="of the run", instant=True),
        ],
    )


def figures(thresholds: Thresholds) -> list[tuple[Stat, int]]:
    excess, lost = thresholds.straggler_excess_ratio, thresholds.straggler_wait_ratio
    wait = thresholds.data_wait_ratio
    return [
        (alive(), 4),
        (
            _worst(
                "Slowest rank",
                "Time of its forward passes over the last ten minutes, as a share of the median rank's. "
                "Around 100 % all are alike. From "
                f"{100 + 100 * excess:g} % on it is a straggler, and all others wait for it: the table below "
                "puts what may hold it up beside it.",
                "percentunit",
                f"topk(1, {beside_median()})",
                rising(1 + excess / 2, 1 + excess),
                "no forward pass",
            ),
            4,
        ),
        (
            Stat(
                title="Time lost to it",
                description=(
                    "Share of the run's time in which the median rank waits for the slowest one's forward "
                    f"passes. From {100 * lost:g} % on it is worth to move that rank to another GPU; below, "
                    "something else is worth more."
                ),
                unit="percentunit",
                decimals=1,
                named=False,
                course=False,
                colored=True,
                color_mode="thresholds",
                thresholds=rising(lost / 2, lost),
                no_value="no forward pass",
                targets=[
                    Query(
                        expr=f"max by {RUN} ({forward()}) - on {RUN} {forward_of_median()}", legend="{{run}}"
                    )
                ],
            ),
            4,
        ),
        (
            _worst(
                "Data wait",
                "Share of its time that the rank that waits longest stands still for its next batch. It "
                f"should be near 0; from {100 * wait:g} % on more loader workers, more prefetching or a "
                "faster disk pay off at once.",
                "percentunit",
                f"topk(1, {phase_share('data')})",
                rising(wait / 2, wait),
                "not running",
            ),
            4,
        ),
        (
            _worst(
                "Lowest clock",
                "SM clock of the GPU that is lowered most, as a share of its highest, and whose it is: the "
                "slowest rank's or another's. Training at the power limit runs at 80 to 95 %. One rank far "
                "below the others is held down by heat or by the power brake: open its GPU from the table.",
                "percentunit",
                f"bottomk(1, {clock_ratio()})",
                falling(0.75, 0.6),
                "no GPU",
            ),
            4,
        ),
        (
            _worst(
                "Progress age",
                "How long ago the rank that is furthest behind last ended a batch, an evaluation batch or a "
                "checkpoint. Seconds are normal; a rank minutes behind hangs, and the others wait for it in "
                "a collective. Take a stack trace of that one first.",
                "s",
                f"topk(1, {age_of_rank(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS, CHOSEN)})",
                rising(thresholds.overdue_seconds, thresholds.hung_seconds),
                "not running",
            ),
            4,
        ),
    ]


def dashboard(thresholds: Thresholds) -> Dashboard:
    return Dashboard(
        uid=UID,
        title="Ranks and stragglers",
        description=(
            "Whether a rank of the run is slower than the others, since when, and why: its data, its GPU, "
            "its share of the work, or what it does beside training."
        ),
        variables=(*VARIABLES_OF_ONE_RUN, RANK_VARIABLE),
        events=events.of_one_run(),
        panels=stack(
            Shelf("Is a rank slow?", figures(thresholds), height=4),
            Shelf(
                "Which one, and since when?",
                [(rank_causes.slowness(thresholds), 14), (rank_work.forward_spread(), 10)],
                height=10,
            ),
            Shelf("Why is it slow?", [(rank_tables.causes(thresholds), 24)], height=10),
            Shelf(
                "Is it the data, the work, or the GPU?",
                [
                    (rank_causes.data_waits(thresholds), 8),
                    (rank_causes.tokens_beside_median(), 8),
                    (rank_causes.beside_training(), 8),
                    (rank_causes.clocks_lowered(), 8),
                    (rank_causes.held_down(thresholds), 8),
                    (rank_causes.device_still(), 8),
                ],
                height=9,
            ),
            Shelf("What does each rank do, and does one hang?", [(rank_work.phases_now(), 24)], height=10),
            Shelf(
                "Where does each rank's time go?",
                [(rank_tables.phases(), 24)],
                height=10,
            ),
            Shelf(
                "Do all do the same work?",
                [
                    (rank_work.steps(), 6),
                    (rank_work.micro_batches(), 6),
                    (rank_work.samples(), 6),
                    (rank_work.losses(), 6),
                ],
                height=9,
            ),
            Shelf(
                "Does it fit each of them, and is each sound?",
                [
                    (rank_causes.reserved(), 12),
                    (rank_causes.host_memory(), 12),
                    (rank_tables.memory_and_faults(), 24),
                ],
                height=9,
            ),
        ),
    )
