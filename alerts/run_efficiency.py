"""What a run costs in GPUs and energy, and what it gets for that.

All of it joins `training_run_gpu_info` with what those GPUs say. That exists only while a rank runs, so
nothing here outlives its run. Ranks of a run on one GPU count it once, wherever they are told from. The power
and the energy of a GPU that several runs share are divided equally among them: nobody measures what each
draws. A run on MIG instances has none of all this, for power and energy are those of the whole GPU.

Means over five minutes count only a GPU that its run had five minutes ago: before, they would charge the run
with what the GPU did earlier, often for another run.

How many GPU hours run r1 has taken so far, all its attempts included, and how many watt hours:

    sum_over_time(run:training_run_gpu_info:count{run="r1"}[30d:1m]) / 60
    sum_over_time(run:nvidia_gpu_power_watts:sum{run="r1"}[30d:1m]) / 60

Each looks once a minute, at whatever interval the rules are evaluated, and adds up the minutes in which the
run had a GPU; pauses between attempts add nothing. `avg_over_time(…[30d])` times the window would charge it
for thirty days: that mean is over those times only at which the run was there. What Prometheus did not see is
not counted, nor is what it no longer keeps (15 days by default). A GPU that runs share is each one's for all
of its time.
"""

from __future__ import annotations

from alerts.rules import Group, RecordingRule
from exporters import catalog
from exporters.catalog import Metric

_WINDOW = "5m"
# Of ranks on whole GPUs.
_INFO = f'{catalog.TRAINING_RUN_GPU_INFO}{{mig_instance=""}}'

# The GPUs that a run trains on now, and how many they are.
GPU_OF_RUN = f"run_gpu:{catalog.TRAINING_RUN_GPU_INFO}:max"
GPUS = f"run:{catalog.TRAINING_RUN_GPU_INFO}:count"
# One over the number of runs on the GPU.
SHARE = "run_gpu:training_run_gpu_share:ratio"
POWER = f"run:{catalog.NVIDIA_GPU_POWER_WATTS}:sum"
# Joules per second; idle time, evaluation and checkpoints of the run included.
ENERGY = f"run:{catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL.name.removesuffix('_total')}:rate5m"
# The mean of the run's GPUs, each with all that is done on it, as a ratio.
TENSOR_ACTIVE = f"run:{catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL.name.removesuffix('_total')}:avg_rate5m"
TOKENS_PER_JOULE = "run:training_tokens_per_joule:rate5m"
JOULES_PER_TOKEN = "run:training_joules_per_token:rate5m"


def run_efficiency() -> Group:
    return Group(
        "run_efficiency",
        (
            RecordingRule(GPU_OF_RUN, f"max by (cluster, run, uuid) ({_INFO})"),
            RecordingRule(GPUS, f"count by (cluster, run) ({GPU_OF_RUN})"),
            RecordingRule(
                SHARE,
                f"{GPU_OF_RUN}\n"
                "  / on (cluster, uuid) group_left ()\n"
                f"count by (cluster, uuid) ({GPU_OF_RUN})",
            ),
            RecordingRule(
                POWER,
                "sum by (cluster, run) (\n"
                f"  {SHARE}\n"
                "    * on (cluster, uuid) group_left ()\n"
                f"  max by (cluster, uuid) ({catalog.NVIDIA_GPU_POWER_WATTS})\n"
                ")",
            ),
            RecordingRule(
                ENERGY,
                "sum by (cluster, run) (\n"
                f"  ({SHARE} and on (cluster, run, uuid) {GPU_OF_RUN} offset {_WINDOW})\n"
                "    * on (cluster, uuid) group_left ()\n"
                f"  {_rate_of_gpu(catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL)}\n"
                ")",
            ),
            RecordingRule(
                TENSOR_ACTIVE,
                "avg by (cluster, run) (\n"
                f"  ({GPU_OF_RUN} and on (cluster, run, uuid) {GPU_OF_RUN} offset {_WINDOW})\n"
                "    * on (cluster, uuid) group_left ()\n"
                f"  {_rate_of_gpu(catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL)}\n"
                ")",
            ),
            # The tokens of those ranks alone whose GPU's energy is counted.
            RecordingRule(
                TOKENS_PER_JOULE,
                "sum by (cluster, run) (\n"
                "  max by (cluster, run, rank) (\n"
                f'    rate({catalog.TRAINING_TOKENS_PROCESSED_TOTAL}{{kind="all"}}[{_WINDOW}])\n'
                "  )\n"
                "    and on (cluster, run, rank)\n"
                f"  ({_INFO} and on (cluster, run, rank, uuid) {_INFO} offset {_WINDOW})\n"
                ")\n"
                "  / on (cluster, run)\n"
                f"({ENERGY} > 0)",
            ),
            RecordingRule(JOULES_PER_TOKEN, f"1 / ({TOKENS_PER_JOULE} > 0)"),
        ),
    )


def _rate_of_gpu(counter: Metric) -> str:
    """Of each GPU once, however often it is scraped; a driver's reset of the counter is no drop."""
    return f"max by (cluster, uuid) (rate({counter}[{_WINDOW}]))"
