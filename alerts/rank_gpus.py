"""What the GPUs of each rank do, for dashboards that show a run among a thousand GPUs.

Each is what the GPU itself says, with the labels cluster, instance, run, rank, gpu and uuid of
`training_run_gpu_info`, so that a panel of one run reads the series of that run alone. They exist only while
the rank runs. A GPU that several ranks share is each one's. Ranks on MIG instances have none, for what is
recorded here is of whole GPUs. The two shares of time look back five minutes, beyond a rank's start too.
"""

from __future__ import annotations

from alerts.gpu_health import MEMORY_USED_RATIO
from alerts.rules import Group, RecordingRule
from exporters import catalog
from exporters.catalog import Metric

# Of these reasons for which clocks are held down none is ever meant.
HEAT_OR_BRAKE = 'reason=~"hw_thermal|sw_thermal|thermal|hw_power_brake"'

UTILIZATION = f"rank_gpu:{catalog.NVIDIA_GPU_UTILIZATION_PERCENT}:max"
MEMORY_USED = "rank_gpu:nvidia_gpu_memory_used:ratio"
MEMORY_TOTAL = f"rank_gpu:{catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES}:max"
POWER = f"rank_gpu:{catalog.NVIDIA_GPU_POWER_WATTS}:max"
POWER_LIMIT = f"rank_gpu:{catalog.NVIDIA_GPU_POWER_LIMIT_WATTS}:max"
# Of the chip, and where it slows down to save itself.
TEMPERATURE = f"rank_gpu:{catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS}:max"
TEMPERATURE_LIMIT = f"rank_gpu:{catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS}:max"
# The SM clock as a share of its highest.
CLOCK = "rank_gpu:nvidia_gpu_sm_clock:ratio"
# Share of time in which heat or the power brake held clocks down: the highest of the reasons, which overlap.
HELD_DOWN = "rank_gpu:nvidia_gpu_held_down:rate5m"
# Share of time in which its tensor cores worked.
TENSOR_ACTIVE = (
    f"rank_gpu:{catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL.name.removesuffix('_total')}:rate5m"
)

_WINDOW = "5m"
_SM = 'domain="sm"'


def rank_gpus() -> Group:
    return Group(
        "rank_gpus",
        (
            _of_rank(UTILIZATION, _of_gpu(catalog.NVIDIA_GPU_UTILIZATION_PERCENT)),
            _of_rank(MEMORY_USED, f"max by (cluster, uuid) ({MEMORY_USED_RATIO})"),
            _of_rank(MEMORY_TOTAL, _of_gpu(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES)),
            _of_rank(POWER, _of_gpu(catalog.NVIDIA_GPU_POWER_WATTS)),
            _of_rank(POWER_LIMIT, _of_gpu(catalog.NVIDIA_GPU_POWER_LIMIT_WATTS)),
            _of_rank(TEMPERATURE, _of_gpu(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 'sensor="gpu"')),
            _of_rank(
                TEMPERATURE_LIMIT, _of_gpu(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, 'limit="slowdown"')
            ),
            _of_rank(
                CLOCK,
                f"(\n  {_of_gpu(catalog.NVIDIA_GPU_CLOCK_HERTZ, _SM)}\n"
                "    / on (cluster, uuid)\n"
                f"  {_of_gpu(catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ, _SM)}\n)",
            ),
            _of_rank(HELD_DOWN, _rate_of_gpu(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, HEAT_OR_BRAKE)),
            _of_rank(TENSOR_ACTIVE, _rate_of_gpu(catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL)),
        ),
    )


def _of_rank(name: str, by_gpu: str) -> RecordingRule:
    return RecordingRule(
        name,
        "max by (cluster, instance, run, rank, gpu, uuid) (\n"
        f'  {catalog.TRAINING_RUN_GPU_INFO}{{mig_instance=""}}\n'
        ")\n"
        "  * on (cluster, uuid) group_left ()\n"
        f"{by_gpu}",
    )


def _of_gpu(metric: Metric, *matchers: str) -> str:
    """Of each GPU once, however often it is scraped."""
    return f"max by (cluster, uuid) ({_selected(metric, *matchers)})"


def _rate_of_gpu(counter: Metric, *matchers: str) -> str:
    return f"max by (cluster, uuid) (rate({_selected(counter, *matchers)}[{_WINDOW}]))"


def _selected(metric: Metric, *matchers: str) -> str:
    return f"{metric}{{{', '.join(matchers)}}}" if matchers else metric.name
