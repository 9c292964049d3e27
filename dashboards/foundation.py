"""Foundation Model Training: what one fine-tuning learns, how fast it goes, and what it does to its GPUs."""

from __future__ import annotations

from alerts import rank_gpus
from alerts.thresholds import Thresholds
from dashboards import events, links
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import Query, Stat, TimeSeries, dashed_steps, limit
from dashboards.grafana.tables import Column, Table
from dashboards.queries import per_run
from dashboards.variables import VARIABLES_OF_ONE_RUN, of_other_exporter, of_recorded, of_run
from exporters import catalog

UID = links.FOUNDATION

# cAdvisor's metrics, which the kubelet publishes for every container.
CONTAINER_CPU_USAGE_SECONDS_TOTAL = "container_cpu_usage_seconds_total"
CONTAINER_MEMORY_USAGE_BYTES = "container_memory_usage_bytes"
CONTAINER_SPEC_MEMORY_LIMIT_BYTES = "container_spec_memory_limit_bytes"
CADVISOR_METRICS = (
    CONTAINER_CPU_USAGE_SECONDS_TOTAL,
    CONTAINER_MEMORY_USAGE_BYTES,
    CONTAINER_SPEC_MEMORY_LIMIT_BYTES,
)
# A container's name is empty on the sums cAdvisor adds for the whole pod: they would count everything twice.
_SERVICE_CONTAINERS = ('pod=~"training-service.*"', 'container!=""')
# Why a run may have no line there.
_NO_GPU = "no whole GPU of this run"


def epoch() -> Stat:
    return Stat(
        title="Epoch",
        description=(
            "The epoch the run is in; 1.25 is a quarter into the second. The line behind it should climb "
            "evenly: a flat stretch means that nothing is being trained. Then see below whether "
            "micro-batches still come in, and whether the run is evaluating or writing a checkpoint."
        ),
        unit="none",
        decimals=2,
        targets=[Query(expr=per_run.newest(catalog.TRAINING_EPOCH_CURRENT), legend="{{run}}")],
        data_links=[links.to_run()],
    )


def loss() -> TimeSeries:
    return TimeSeries(
        title="Loss",
        description=(
            "Solid: training loss of the last optimizer step. Dashed: validation loss, which holds its value "
            "until the next evaluation. Both should fall. Validation rising while training falls is "
            "overfitting: stop, or go back to the checkpoint of the lowest point. A line that jumps up or "
            "ends is divergence: lower the learning rate or clip harder. A loss that is NaN is not drawn."
        ),
        unit="none",
        targets=[
            Query(expr=per_run.newest(catalog.TRAINING_LOSS), legend="{{run}} training"),
            Query(expr=per_run.newest(catalog.VALIDATION_LOSS), legend="{{run}} validation"),
        ],
        overrides=[dashed_steps("B")],
        data_links=[links.to_run()],
    )


def accuracy_and_perplexity() -> Table:
    return Table.of(
        title="Accuracy and perplexity",
        description=(
            "Newest training accuracy and perplexity of the run. Perplexity is e to the mean loss a token: "
            "the number of tokens the model hesitates between; lower is better, 1 is certainty. Compare runs "
            "with the same tokenizer only. What is not reported the trainer does not log; for perplexity it "
            "may also be that the loss is not plain cross-entropy."
        ),
        labels={"run": "Run"},
        columns=[
            Column("Accuracy", per_run.newest(catalog.TRAINING_ACCURACY), "percentunit", 1),
            Column("Perplexity", per_run.newest(catalog.TRAINING_PERPLEXITY), "short", 2),
        ],
        data_links=[links.to_run(links.CELL)],
    )


def micro_batches() -> TimeSeries:
    batches = of_run(catalog.TRAINING_BATCHES_PROCESSED_TOTAL)
    return TimeSeries(
        title="Micro-batches per second",
        description=(
            "Forward and backward passes a second on each rank. It should be level, with gaps for evaluation "
            "and checkpoints. Falling slowly: longer sequences, a throttling GPU or data that comes more "
            "slowly; zero for long: the run hangs. Ranks of one run go at the pace of the slowest, so one "
            "line apart from the others is a rank that is lost or restarting."
        ),
        unit="none",
        axis_label="batches / s",
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(
                expr=f"max by {per_run.RANK} (rate({batches}[$__rate_interval]))",
                legend="{{run}} rank {{rank}}",
            )
        ],
        data_links=[links.to_run()],
    )


def data_loading() -> TimeSeries:
    return TimeSeries(
        title="Data loading and preprocessing",
        description=(
            "Waiting: how long the last optimizer step stood still for its data. Preprocessing: the time its "
            "last batch took, which workers hide as long as they keep up. Waiting should be near zero. Where "
            "it is a visible part of a step, the GPU starves: give the loader more workers, prefetch "
            "further, or preprocess once and store the result."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=per_run.newest(catalog.TRAINING_DATA_LOADING_TIME_SECONDS), legend="{{run}} waiting"),
            Query(
                expr=per_run.newest(catalog.TRAINING_PREPROCESSING_TIME_SECONDS),
                legend="{{run}} preprocessing",
            ),
        ],
        data_links=[links.to_run()],
    )


def _by_gpu(recorded: str) -> str:
    """What is recorded of the GPUs of each rank, of each GPU once: ranks may share one."""
    return f"max by (cluster, instance, gpu, uuid) ({of_recorded(recorded)})"


def gpu_utilization() -> TimeSeries:
    return TimeSeries(
        title="GPU utilization",
        description=(
            "Share of time in which at least one kernel ran, on every GPU that the run trains on. "
            "Training should keep it above 90 %. Lower, or in a saw-tooth: the GPU waits; look at data "
            "loading first. High does not mean efficient, only not idle: one small kernel at a time also "
            "reads 100 %."
        ),
        unit="percent",
        minimum=0,
        maximum=100,
        legend_values=("lastNotNull", "mean", "min"),
        legend_lowest="mean",
        targets=[
            Query(
                expr=_by_gpu(rank_gpus.UTILIZATION),
                legend="GPU {{gpu}} on {{instance}}",
            )
        ],
        no_value=_NO_GPU,
        data_links=[links.to_gpu()],
    )


def gpu_memory(thresholds: Thresholds) -> TimeSeries:
    high = round(100 * thresholds.gpu_memory_ratio, 6)
    return TimeSeries(
        title="GPU memory",
        description=(
            "Device memory in use on every GPU that the run trains on, in percent of what it has. "
            f"The red line at {high:g} % is where the alert GPUMemoryHigh begins to count. Frameworks keep "
            "what they once took, so a high level line can be healthy; a line that still climbs ends in an "
            "out-of-memory error: smaller micro-batches with more accumulation, shorter sequences, or "
            "gradient checkpointing."
        ),
        unit="percent",
        minimum=0,
        maximum=100,
        thresholds=limit(high),
        threshold_line=True,
        legend_values=("lastNotNull", "mean", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=f"{_by_gpu(rank_gpus.MEMORY_USED)} * 100",
                legend="GPU {{gpu}} on {{instance}}",
            )
        ],
        no_value=_NO_GPU,
        data_links=[links.to_gpu()],
    )


def container_cpu() -> TimeSeries:
    usage = of_other_exporter(CONTAINER_CPU_USAGE_SECONDS_TOTAL, *_SERVICE_CONTAINERS)
    return TimeSeries(
        title="Container CPU",
        description=(
            "Cores in use by each container of the training service, as cAdvisor sees it; empty outside "
            "Kubernetes. Level at the container's limit means that it is throttled: data loading slows "
            "first. Raise the limit, or use fewer loader workers."
        ),
        unit="none",
        axis_label="cores",
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(
                expr=f"sum by (cluster, namespace, pod, container) (rate({usage}[$__rate_interval]))",
                legend="{{pod}} {{container}}",
            )
        ],
    )


def container_memory() -> TimeSeries:
    usage = of_other_exporter(CONTAINER_MEMORY_USAGE_BYTES, *_SERVICE_CONTAINERS)
    memory_limit = of_other_exporter(CONTAINER_SPEC_MEMORY_LIMIT_BYTES, *_SERVICE_CONTAINERS)
    # A container that was restarted has two series for a while, which differ by `id` alone.
    container = "(cluster, namespace, pod, container)"
    return TimeSeries(
        title="Container memory",
        description=(
            "Memory of each container of the training service, in percent of its limit, as cAdvisor sees "
            "it; empty outside Kubernetes, and for a container without a limit. It counts the page cache, "
            "which the kernel gives back, so near 100 % by itself is no fault. Climbing evenly from epoch to "
            "epoch is a leak, mostly in loader workers, and the kernel ends the process at 100 %: raise the "
            "limit and look for the leak."
        ),
        unit="percent",
        minimum=0,
        maximum=100,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(
                # A container without a limit has the limit 0.
                expr=f"max by {container} ({usage}) / on {container} "
                f"max by {container} ({memory_limit} > 0) * 100",
                legend="{{pod}} {{container}}",
            )
        ],
    )


def dashboard(thresholds: Thresholds) -> Dashboard:
    return Dashboard(
        uid=UID,
        title="Foundation Model Training",
        description=(
            "One fine-tuning at a glance: does it learn, does it move, are its GPUs fed, does it fit. "
            "Choose the run above; a click on a line leads to all of it."
        ),
        variables=VARIABLES_OF_ONE_RUN,
        events=events.of_one_run(),
        panels=stack(
            Shelf("Does it learn?", [(epoch(), 4), (loss(), 12), (accuracy_and_perplexity(), 8)], height=10),
            Shelf("Does it move?", [(micro_batches(), 12), (data_loading(), 12)], height=10),
            Shelf(
                "Are the GPUs busy, and does it fit?", [(gpu_utilization(), 12), (gpu_memory(thresholds), 12)]
            ),
            Shelf("The service's containers", [(container_cpu(), 12), (container_memory(), 12)]),
        ),
    )
