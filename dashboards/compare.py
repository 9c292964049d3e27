"""Compare runs: several runs on each other by optimizer step, how they were made, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence

from alerts import run_efficiency, throughput
from alerts.fleet import STATE
from alerts.lifecycle import UNFINISHED
from alerts.thresholds import Thresholds
from dashboards import events, links
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import Override
from dashboards.grafana.tables import Column, Table, widths
from dashboards.grafana.trend import RUN_OF_LINE, Trend
from dashboards.queries import over_range
from dashboards.queries.per_run import ONE, RANK, RUN, counted, flops_utilization, last_known, newest
from dashboards.states import STATE_TEXTS
from dashboards.variables import VARIABLES_OF_SOME_RUNS, of_recorded, of_run
from exporters import catalog
from exporters.catalog import Metric

UID = links.COMPARE

# As many as can be told apart.
_MOST_RUNS = 6
# Room for the names of runs on a small screen, too.
_NAMES = Override("byName", "Run", {"custom.minWidth": 160})
_CHOOSE = f"Of more than {_MOST_RUNS} chosen runs the newest are shown."


def _of_newest_runs(expr: str) -> str:
    """Of a quantity by cluster and run that of the newest runs: the same ones over the whole time range."""
    start = of_run(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS)
    newest_runs = f"topk({_MOST_RUNS}, max by {RUN} (last_over_time({start}[$__range] @ end())))"
    return f"({expr}) and {ONE} {newest_runs}"


def _while_it_lives(expr: str) -> str:
    """Without what lies beyond a run's end, where all rates are 0 and the step is still its last."""
    return f"{expr} and {ONE} {of_recorded(UNFINISHED)}"


def _by_step(
    title: str,
    description: str,
    unit: str,
    value: str,
    *,
    decimals: int | None = None,
    logarithmic: int | None = None,
    minimum: float | None = None,
    legend_values: Sequence[str] = (),
) -> Trend:
    return Trend.by_step(
        title=title,
        description=f"{description} {_CHOOSE}",
        unit=unit,
        decimals=decimals,
        minimum=minimum,
        logarithmic=logarithmic,
        legend_values=legend_values,
        value=value,
        step=_of_newest_runs(newest(catalog.TRAINING_STEP_CURRENT)),
        data_links=[links.to_run(RUN_OF_LINE)],
    )


def training_loss() -> Trend:
    return _by_step(
        "Training loss by step",
        "At the same step the lower line learns faster. Lines that cross show one that is quick at first and "
        "worse later: judge the end, not the start. A line that lies apart from its twin from the first step "
        "on has other data or another seed. Compare runs with the same data and tokenizer only.",
        "none",
        newest(catalog.TRAINING_LOSS),
        decimals=3,
        legend_values=("lastNotNull", "min"),
    )


def validation_loss() -> Trend:
    return _by_step(
        "Validation loss by step",
        "This decides which run is better: the lowest point of each, and the step of it. A line that turns "
        "up has begun to learn by heart there, whatever its training loss does. It holds its value from one "
        "evaluation to the next.",
        "none",
        newest(catalog.VALIDATION_LOSS),
        decimals=3,
        legend_values=("lastNotNull", "min"),
    )


def perplexity() -> Trend:
    return _by_step(
        "Validation perplexity by step",
        "e to the validation loss a token, on a logarithmic scale; lower is better. It can be compared "
        "between runs with the same tokenizer only. Runs whose loss is no plain cross-entropy have none.",
        "none",
        newest(catalog.VALIDATION_PERPLEXITY),
        decimals=2,
        logarithmic=2,
    )


def learning_rate() -> Trend:
    return _by_step(
        "Learning rate by step",
        "The highest of each run's parameter groups. Look here first when losses differ: another warm-up, "
        "another peak or another end of the schedule explains most of it. Lines on each other mean that the "
        "difference lies elsewhere.",
        "sci",
        newest(catalog.TRAINING_LEARNING_RATE),
        decimals=2,
        minimum=0,
    )


def gradient_norm() -> Trend:
    return _by_step(
        "Gradient norm by step",
        "Before clipping, on a logarithmic scale. A run whose norm lies high above the others' is near the "
        "edge: its learning rate is too high for its batch. Peaks that all runs have at one step come from "
        "the data of that step.",
        "none",
        newest(catalog.TRAINING_GRADIENT_NORM),
        decimals=2,
        logarithmic=10,
    )


def tokens() -> Trend:
    return _by_step(
        "Tokens per second by step",
        "Of all ranks together. The higher line costs less time for the same training. Divide by the ranks "
        "in the first table before you call a run efficient. Dips are evaluations and checkpoints.",
        "short",
        _while_it_lives(of_recorded(throughput.TOKENS)),
        minimum=0,
    )


def utilization(thresholds: Thresholds) -> Trend:
    return _by_step(
        "MFU by step",
        "FLOPs that the model's tokens need, as a share of what the devices could do: the one figure of "
        "efficiency that can be compared between models, batches and devices. 30 to 50 % is good for large "
        "models.",
        "percentunit",
        _while_it_lives(flops_utilization(thresholds)),
        decimals=1,
        minimum=0,
    )


def energy() -> Trend:
    return _by_step(
        "Energy per token by step",
        "Joules that the GPUs of a run draw for each token, pauses included; lower is better. It shows what "
        "a setting costs beside what it brings. Where it climbs in one run alone, its GPUs throttle or "
        "wait. Runs on MIG instances have none.",
        "joule",
        _while_it_lives(of_recorded(run_efficiency.JOULES_PER_TOKEN)),
        minimum=0,
    )


def setup() -> Table:
    # Each attempt has its own facts, with the start that its node told at the time.
    node = "(cluster, job, instance, run)"
    start = f"max by {node} ({of_run(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS)})"
    started = f"{of_run(catalog.TRAINING_RUN_INFO)} * on {node} group_left () {start}"
    newest_start = f"max without (job) (max_over_time(({started})[$__range:$__interval]))"
    steps = _of_longest_rank(f"increase({of_run(catalog.TRAINING_STEPS_TOTAL)}[$__range])")
    return Table.of(
        title="How they were made",
        description=(
            "What each run told of itself, and what it was seen to use: look for the column in which two "
            "runs differ. Tokens a step is the batch over all ranks, as it came out on average. Empty: the "
            "script has not told. Of a run that was started again it is what the newest attempt told; all "
            "further facts stand on the run's own dashboard."
        ),
        labels={
            "run": "Run",
            "model": "Model",
            "dataset": "Dataset",
            "precision": "Precision",
            "loss_kind": "Loss",
            "framework": "Framework",
            "attempt": "Attempt",
        },
        columns=[
            Column("Ranks", last_known(catalog.TRAINING_WORLD_SIZE), "none", 0),
            Column("Highest learning rate", _highest(catalog.TRAINING_LEARNING_RATE), "sci", 2, width=150),
            Column("Tokens a step", f"{_tokens()} / {ONE} ({steps} > 0)", "short", 1, width=110),
            Column("Steps expected", last_known(catalog.TRAINING_STEPS_EXPECTED), "locale", 0, width=120),
        ],
        named_by=[f"topk by {RUN} (1, {newest_start})"],
        overrides=[
            _NAMES,
            *widths({"Precision": 104, "Loss": 112, "Framework": 96, "Attempt": 76}),
        ],
        data_links=[links.to_run(links.CELL)],
    )


def outcome() -> Table:
    gpu_hours = over_range.hours(of_recorded(run_efficiency.GPUS))
    energy = over_range.kilowatt_hours(of_recorded(run_efficiency.POWER))
    joules = f"{over_range.JOULES_A_KILOWATT_HOUR} * {energy}"
    return Table.of(
        title="What came of them",
        description=(
            "The last training loss, the best validation loss (a shorter bar is better), the step it has "
            "reached, and what it took: tokens, time, GPU hours and energy of all its attempts within the "
            "time range, so choose one that holds the runs whole. A run that is a little better for twice "
            "the energy is seldom worth it. Energy is that of the GPUs alone."
        ),
        labels={"run": "Run"},
        columns=[
            Column(
                "State",
                f"last_over_time({of_recorded(STATE)}[$__range])",
                "none",
                cell="color-text",
                texts=STATE_TEXTS,
            ),
            Column("Loss", last_known(catalog.TRAINING_LOSS), "none", 3),
            _bar("Best validation", last_known(catalog.VALIDATION_LOSS_BEST), "none", 3),
            Column("Steps", last_known(catalog.TRAINING_STEP_CURRENT), "locale", 0),
            Column("Tokens", _tokens(), "short", 2),
            Column("Time", _seconds_of_work(), "s", 1),
            _bar("Tokens / s", f"{_tokens()} / {ONE} ({_seconds_of_work()} > 0)", "short", 1),
            Column("GPU hours", gpu_hours, "none", 1),
            Column("Energy", energy, "kwatth", 2),
            _bar("Energy a token", f"{joules} / {ONE} ({_tokens()} > 0)", "joule", 1),
        ],
        overrides=[_NAMES],
        data_links=[links.to_run(links.CELL)],
    )


def _bar(title: str, expr: str, unit: str, decimals: int) -> Column:
    return Column(title, expr, unit, decimals, cell="gauge", minimum=0, width=160)


def _highest(metric: Metric) -> str:
    return f"max by {RUN} (max_over_time({of_run(metric)}[$__range]))"


def _tokens() -> str:
    return counted(catalog.TRAINING_TOKENS_PROCESSED_TOTAL, "$__range", 'kind="all"')


def _seconds_of_work() -> str:
    """How long each run lived within the time range, all its attempts."""
    return _of_longest_rank(f"increase({of_run(catalog.TRAINING_PHASE_SECONDS_TOTAL)}[$__range])")


def _of_longest_rank(increases: str) -> str:
    """What a run's rank counted in all its attempts and phases, on whichever nodes; they count alike."""
    once = f"max by (cluster, instance, run, rank, phase) ({increases})"
    return f"max by {RUN} (sum by {RANK} ({once}))"


def dashboard(thresholds: Thresholds) -> Dashboard:
    return Dashboard(
        uid=UID,
        title="Compare runs",
        description=(
            "Runs on each other by optimizer step, whenever and however fast they ran. Choose two or more "
            "above, and a time range that holds them whole."
        ),
        variables=VARIABLES_OF_SOME_RUNS,
        events=events.of_fleet(),
        panels=stack(
            Shelf(
                "How do they differ, and what came of it?",
                [(setup(), 24), (outcome(), 24)],
                height=10,
            ),
            Shelf("Which learns better?", [(training_loss(), 12), (validation_loss(), 12)], height=14),
            Shelf(
                "What explains it?",
                [(learning_rate(), 8), (gradient_norm(), 8), (perplexity(), 8)],
                height=10,
            ),
            Shelf(
                "Which is cheaper?",
                [(tokens(), 8), (utilization(thresholds), 8), (energy(), 8)],
                height=10,
            ),
        ),
    )
