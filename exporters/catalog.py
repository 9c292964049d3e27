"""Every metric trainvitals publishes: the one home of names, types, units, labels and help texts.

It needs the standard library alone, so that dashboards and alerts can import names without the service's
dependencies. A value that is unknown is an absent series, never NaN or 0. To add a metric, add it here and
fill it in one collector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer_hooks.recording import STEP_DURATION_BOUNDS_SECONDS

Kind = Literal["gauge", "counter", "histogram", "info"]
# `window` is never published: see exporters/gpu/last_window.py.
Scope = Literal["run", "rank", "gpu", "mig", "service", "window"]

RUN = ("run",)
RANK = ("run", "rank")
GPU = ("gpu", "uuid")
# Not `instance`, which is the name Prometheus gives to what it scrapes.
MIG = (*GPU, "mig_instance", "mig_profile")


@dataclass(frozen=True, slots=True, eq=False)  # there is one of each name
class Metric:
    """One metric family.

    `lifecycle` series outlive their run by 25 hours, all others by 15 minutes. An info metric may carry
    further labels beside `labels`: what is known of the run or the device. `source` is where the value comes
    from, `otel` the name that OpenTelemetry's semantic conventions have for it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    scope: Scope
    unit: str = ""
    lifecycle: bool = False
    buckets: tuple[float, ...] = ()
    source: str = ""
    otel: str = ""

    def __str__(self) -> str:
        return self.name


CATALOG: dict[str, Metric] = {}


def _add(metric: Metric) -> Metric:
    if metric.name in CATALOG:
        raise ValueError(f"{metric.name} stands in the catalog twice")
    CATALOG[metric.name] = metric
    return metric


def _run(name: str, kind: Kind, help: str, *labels: str, unit: str = "", lifecycle: bool = False) -> Metric:
    return _add(Metric(name, kind, help, RUN + labels, "run", unit, lifecycle, source="recordings"))


def _rank(
    name: str,
    kind: Kind,
    help: str,
    *labels: str,
    unit: str = "",
    lifecycle: bool = False,
    source: str = "the recording",
) -> Metric:
    return _add(Metric(name, kind, help, RANK + labels, "rank", unit, lifecycle, source=source))


def _gpu(
    name: str, kind: Kind, help: str, *labels: str, unit: str = "", source: str, otel: str = ""
) -> Metric:
    return _add(Metric(name, kind, help, GPU + labels, "gpu", unit, source=source, otel=otel))


def _mig(name: str, kind: Kind, help: str, *, unit: str = "", source: str) -> Metric:
    return _add(Metric(name, kind, help, MIG, "mig", unit, source=source))


def _service(
    name: str, kind: Kind, help: str, *labels: str, unit: str = "", source: str = "the service"
) -> Metric:
    return _add(Metric(name, kind, help, labels, "service", unit, source=source))


TRAINING_EPOCH_CURRENT = _run(
    "training_epoch_current", "gauge", "Current epoch; fractions count the way through it."
)
TRAINING_EPOCHS_EXPECTED = _run("training_epochs_expected", "gauge", "Epochs the run is to make.")
TRAINING_STEP_CURRENT = _run(
    "training_step_current", "gauge", "Optimizer steps made, those of earlier attempts included."
)
TRAINING_STEPS_EXPECTED = _run(
    "training_steps_expected", "gauge", "Optimizer steps the run is to make in all."
)
TRAINING_PROGRESS_RATIO = _run(
    "training_progress_ratio", "gauge", "Share of the expected steps that is done, 0 to 1.", unit="ratio"
)
TRAINING_ETA_SECONDS = _run(
    "training_eta_seconds",
    "gauge",
    "Seconds to the end at the pace of the last 15 minutes, evaluation and checkpoints included.",
    unit="seconds",
)
TRAINING_DEADLINE_TIMESTAMP_SECONDS = _run(
    "training_deadline_timestamp_seconds",
    "gauge",
    "Unix time at which the time the run was given ends: of its Slurm job, or as it was told.",
    unit="seconds",
)
TRAINING_LOSS = _run(
    "training_loss", "gauge", "Loss of the last optimizer step, token-weighted over its micro-batches."
)
VALIDATION_LOSS = _run(
    "validation_loss",
    "gauge",
    "Loss of the last evaluation, token-weighted over the ranks that evaluate and record here; absent where "
    "their losses differ and have no tokens to weigh them, and while some of them still evaluate.",
)
VALIDATION_LOSS_BEST = _run(
    "validation_loss_best",
    "gauge",
    "Lowest validation loss of the attempt; absent where several ranks evaluate and do not agree on it.",
)
TRAINING_PERPLEXITY = _run(
    "training_perplexity",
    "gauge",
    "exp of the token-weighted mean loss over the last 5 minutes or 20 steps, whichever is longer; "
    "only for a cross-entropy loss.",
)
VALIDATION_PERPLEXITY = _run(
    "validation_perplexity",
    "gauge",
    "exp of the token-weighted mean loss of the last evaluation; only for a cross-entropy loss.",
)
TRAINING_ACCURACY = _run("training_accuracy", "gauge", "Training accuracy as the trainer reports it, 0 to 1.")
VALIDATION_ACCURACY = _run(
    "validation_accuracy", "gauge", "Validation accuracy as the trainer reports it, 0 to 1."
)
TRAINING_DATA_LOADING_TIME_SECONDS = _run(
    "training_data_loading_time_seconds",
    "gauge",
    "Time the last optimizer step waited for data.",
    unit="seconds",
)
TRAINING_PREPROCESSING_TIME_SECONDS = _run(
    "training_preprocessing_time_seconds", "gauge", "Preprocessing time of the last batch.", unit="seconds"
)
TRAINING_STEP_DURATION_SECONDS = _add(
    Metric(
        "training_step_duration_seconds",
        "histogram",
        "Duration of an optimizer step, from end to end.",
        RUN,
        "run",
        "seconds",
        buckets=STEP_DURATION_BOUNDS_SECONDS,
        source="recordings",
    )
)
TRAINING_LEARNING_RATE = _run(
    "training_learning_rate",
    "gauge",
    "Learning rate of the last optimizer step, by parameter group.",
    "group",
)
TRAINING_GRADIENT_NORM = _run(
    "training_gradient_norm",
    "gauge",
    "Gradient norm of the last optimizer step before clipping, where the trainer computes it.",
)
TRAINING_LOSS_SCALE = _run("training_loss_scale", "gauge", "Loss scale of mixed-precision training.")
TRAINING_CHECKPOINTS_TOTAL = _run(
    "training_checkpoints_total", "counter", "Checkpoints written, by result.", "result"
)
TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS = _run(
    "training_checkpoint_last_success_timestamp_seconds",
    "gauge",
    "When the last good checkpoint was complete.",
    unit="seconds",
)
TRAINING_CHECKPOINT_DURATION_SECONDS = _run(
    "training_checkpoint_duration_seconds", "gauge", "Time the last good checkpoint took.", unit="seconds"
)
TRAINING_CHECKPOINT_SIZE_BYTES = _run(
    "training_checkpoint_size_bytes", "gauge", "Size of the last good checkpoint.", unit="bytes"
)
TRAINING_CHECKPOINT_INTERVAL_SECONDS = _run(
    "training_checkpoint_interval_seconds",
    "gauge",
    "Time between the last two good checkpoints of the attempt; those of one step count as one.",
    unit="seconds",
)
TRAINING_CHECKPOINT_VOLUME_SIZE_BYTES = _run(
    "training_checkpoint_volume_size_bytes",
    "gauge",
    "Size of the file system the last good checkpoint was written to, as rank 0 saw it then.",
    unit="bytes",
)
TRAINING_CHECKPOINT_VOLUME_FREE_BYTES = _run(
    "training_checkpoint_volume_free_bytes",
    "gauge",
    "What a process without privileges could still take of that file system right after the checkpoint.",
    unit="bytes",
)
TRAINING_RUN_START_TIMESTAMP_SECONDS = _run(
    "training_run_start_timestamp_seconds",
    "gauge",
    "Start of the newest attempt.",
    unit="seconds",
    lifecycle=True,
)
TRAINING_RUN_END_TIMESTAMP_SECONDS = _run(
    "training_run_end_timestamp_seconds",
    "gauge",
    "End of the newest attempt; absent while it may still be alive.",
    unit="seconds",
    lifecycle=True,
)
TRAINING_RUN_STATE = _run(
    "training_run_state", "gauge", "1 for the state the run is in, 0 for the others.", "state", lifecycle=True
)
TRAINING_RESTARTS_TOTAL = _run("training_restarts_total", "counter", "Attempts after the first.")
TRAINING_RESUMED_FROM_STEP = _run(
    "training_resumed_from_step",
    "gauge",
    "Step at which the newest attempt took up; absent when it began at 0.",
)
TRAINING_STAGE_START_TIMESTAMP_SECONDS = _run(
    "training_stage_start_timestamp_seconds",
    "gauge",
    "When the training entered the stage it is in, as the script told it; there is one series, that of the "
    "newest stage, and none where it told of no stage.",
    "stage",
    unit="seconds",
)
TRAINING_WORLD_SIZE = _run("training_world_size", "gauge", "Ranks of the run.")
TRAINING_PEAK_FLOPS = _run(
    "training_peak_flops",
    "gauge",
    "Dense FLOP/s of the run's devices at most, at the precision it trains with, bf16 where it tells none; "
    "absent for a device that is not known, or where ranks record on other nodes.",
)
TRAINING_RUN_INFO = _run(
    "training_run_info",
    "info",
    "What is known of the run: framework, model, dataset, precision, loss kind, attempt.",
    lifecycle=True,
)
TRAINING_SCALAR = _run("training_scalar", "gauge", "Any other number the trainer logs, by name.", "name")

TRAINING_BATCHES_PROCESSED_TOTAL = _rank(
    "training_batches_processed_total", "counter", "Micro-batches processed."
)
TRAINING_STEPS_TOTAL = _rank("training_steps_total", "counter", "Optimizer steps made by this attempt.")
TRAINING_SAMPLES_PROCESSED_TOTAL = _rank("training_samples_processed_total", "counter", "Samples processed.")
TRAINING_TOKENS_PROCESSED_TOTAL = _rank(
    "training_tokens_processed_total",
    "counter",
    "Tokens processed: all of them, and those whose label counts in the loss (trained).",
    "kind",
)
TRAINING_LOSS_TOKEN_SUM_TOTAL = _rank(
    "training_loss_token_sum_total",
    "counter",
    "Sum of loss times tokens, of a plain cross-entropy only: another loss may be negative. With "
    "training_loss_tokens_total it gives exact means over time and ranks.",
)
TRAINING_LOSS_TOKENS_TOTAL = _rank(
    "training_loss_tokens_total", "counter", "Tokens behind training_loss_token_sum_total; absent with it."
)
TRAINING_NONFINITE_TOTAL = _rank(
    "training_nonfinite_total",
    "counter",
    "NaN or infinite values seen, also where the trainer hides them.",
    "what",
)
TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL = _rank(
    "training_optimizer_steps_skipped_total",
    "counter",
    "Optimizer steps skipped, by mixed precision for example.",
)
TRAINING_PHASE_SECONDS_TOTAL = _rank(
    "training_phase_seconds_total",
    "counter",
    "Wall time by phase; the phases partition the age of the rank.",
    "phase",
    unit="",
)
TRAINING_PHASE_ACTIVE = _rank(
    "training_phase_active", "gauge", "1 for the phase the rank is in; the others are absent.", "phase"
)
TRAINING_DEVICE_SECONDS_TOTAL = _rank(
    "training_device_seconds_total",
    "counter",
    "Time on the CUDA device by phase, from one border of phases on its stream to the next.",
    "phase",
)
TRAINING_MODEL_FLOPS_TOTAL = _rank(
    "training_model_flops_total",
    "counter",
    "FLOPs the model's tokens took, forward and backward, by its active and its trained weights; "
    "recomputation is left out. Over training_peak_flops its rate is the utilization (MFU).",
)
TRAINING_CUDA_MEMORY_ALLOCATED_BYTES = _rank(
    "training_cuda_memory_allocated_bytes",
    "gauge",
    "Device memory that tensors of the rank take, as torch's allocator counts it.",
    unit="bytes",
)
TRAINING_CUDA_MEMORY_RESERVED_BYTES = _rank(
    "training_cuda_memory_reserved_bytes",
    "gauge",
    "Device memory torch's allocator holds for the rank.",
    unit="bytes",
)
TRAINING_CUDA_MEMORY_RESERVED_PEAK_BYTES = _rank(
    "training_cuda_memory_reserved_peak_bytes",
    "gauge",
    "Most device memory torch's allocator has held, since the training itself last reset that.",
    unit="bytes",
)
TRAINING_CUDA_ALLOC_RETRIES_TOTAL = _rank(
    "training_cuda_alloc_retries_total",
    "counter",
    "Allocations for which torch's allocator had to empty its cache first.",
)
TRAINING_OOM_TOTAL = _rank("training_oom_total", "counter", "Out-of-memory errors the hook saw.")
TRAINING_HOST_MEMORY_BYTES = _rank(
    "training_host_memory_bytes",
    "gauge",
    "Resident memory of the rank and its child processes.",
    unit="bytes",
)
TRAINING_LAST_STEP_TIMESTAMP_SECONDS = _rank(
    "training_last_step_timestamp_seconds",
    "gauge",
    "When the last optimizer step ended; the start time before the first.",
    unit="seconds",
    lifecycle=True,
)
TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS = _rank(
    "training_last_progress_timestamp_seconds",
    "gauge",
    "When the rank last made progress: a batch, an evaluation batch, a checkpoint; at first its start.",
    unit="seconds",
    lifecycle=True,
)
HOOK_SECONDS_TOTAL = _rank(
    "trainvitals_hook_seconds_total", "counter", "Time the hook itself took inside the trainer."
)
HOOK_ERRORS_TOTAL = _rank(
    "trainvitals_hook_errors_total", "counter", "Faults of the hook, caught before they reached the trainer."
)
HOOK_DROPPED_TOTAL = _rank(
    "trainvitals_hook_dropped_total", "counter", "Values and events the hook could not record."
)

TRAINING_RUN_GPU_INFO = _rank(
    "training_run_gpu_info",
    "info",
    "The GPUs a rank trains on, while it runs; on a MIG device also mig_instance and mig_profile. The left "
    "side of a join: training_run_gpu_info * on (cluster, uuid) group_left () nvidia_gpu_power_watts.",
    "gpu",
    "uuid",
    source="the recording's device, else NVML's processes",
)

NVIDIA_GPU_INFO = _gpu(
    "nvidia_gpu_info",
    "info",
    "Identity of the GPU: name, driver_version, vbios, pci_bus_id, serial, mig_mode.",
    source="nvmlDeviceGetName …",
)
NVIDIA_GPU_UP = _gpu(
    "nvidia_gpu_up",
    "gauge",
    "1 while the GPU answers, 0 when it was seen before and is lost.",
    source="whether calls give GPU_IS_LOST",
    otel="hw.status",
)
NVIDIA_GPU_DEVICES = _service(
    "nvidia_gpu_devices", "gauge", "GPUs the driver reports on this node.", source="nvmlDeviceGetCount"
)
NVIDIA_GPU_UTILIZATION_PERCENT = _gpu(
    "nvidia_gpu_utilization_percent",
    "gauge",
    "Share of time in which at least one kernel ran, 0 to 100.",
    unit="percent",
    source="nvmlDeviceGetUtilizationRates",
    otel="hw.gpu.utilization",
)
NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT = _gpu(
    "nvidia_gpu_memory_controller_active_percent",
    "gauge",
    "Share of time in which device memory was read or written, 0 to 100.",
    unit="percent",
    source="nvmlDeviceGetUtilizationRates",
)
NVIDIA_GPU_MEMORY_USED_BYTES = _gpu(
    "nvidia_gpu_memory_used_bytes",
    "gauge",
    "Device memory in use, the driver's reserve not counted.",
    unit="bytes",
    source="nvmlDeviceGetMemoryInfo_v2",
    otel="hw.gpu.memory.usage",
)
NVIDIA_GPU_MEMORY_TOTAL_BYTES = _gpu(
    "nvidia_gpu_memory_total_bytes",
    "gauge",
    "Device memory.",
    unit="bytes",
    source="nvmlDeviceGetMemoryInfo_v2",
    otel="hw.gpu.memory.limit",
)
NVIDIA_GPU_MEMORY_RESERVED_BYTES = _gpu(
    "nvidia_gpu_memory_reserved_bytes",
    "gauge",
    "Device memory the driver keeps for itself.",
    unit="bytes",
    source="nvmlDeviceGetMemoryInfo_v2",
)
NVIDIA_GPU_POWER_WATTS = _gpu(
    "nvidia_gpu_power_watts",
    "gauge",
    "Power the board draws: at this instant where the GPU tells, else its average over a second.",
    unit="watts",
    source="field 186, else 185, else nvmlDeviceGetPowerUsage",
    otel="hw.power",
)
NVIDIA_GPU_POWER_LIMIT_WATTS = _gpu(
    "nvidia_gpu_power_limit_watts",
    "gauge",
    "Power limit in force.",
    unit="watts",
    source="nvmlDeviceGetEnforcedPowerLimit",
)
NVIDIA_GPU_ENERGY_JOULES_TOTAL = _gpu(
    "nvidia_gpu_energy_joules_total",
    "counter",
    "Energy the board has taken since the driver was loaded.",
    unit="joules",
    source="field 83",
    otel="hw.energy",
)
NVIDIA_GPU_TEMPERATURE_CELSIUS = _gpu(
    "nvidia_gpu_temperature_celsius",
    "gauge",
    "Temperature of the chip (gpu) and of its memory.",
    "sensor",
    unit="celsius",
    source="nvmlDeviceGetTemperature, field 82",
    otel="hw.temperature",
)
NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS = _gpu(
    "nvidia_gpu_temperature_limit_celsius",
    "gauge",
    "Temperature of the chip at which it slows down, and at which it shuts down.",
    "limit",
    unit="celsius",
    source="nvmlDeviceGetTemperatureThreshold",
    otel="hw.temperature.limit",
)
NVIDIA_GPU_CLOCK_HERTZ = _gpu(
    "nvidia_gpu_clock_hertz",
    "gauge",
    "Clock of the SMs and of the memory.",
    "domain",
    unit="hertz",
    source="nvmlDeviceGetClockInfo",
)
NVIDIA_GPU_CLOCK_MAX_HERTZ = _gpu(
    "nvidia_gpu_clock_max_hertz",
    "gauge",
    "Highest clock of the SMs and of the memory.",
    "domain",
    unit="hertz",
    source="nvmlDeviceGetMaxClockInfo",
)
NVIDIA_GPU_THROTTLE_SECONDS_TOTAL = _gpu(
    "nvidia_gpu_throttle_seconds_total",
    "counter",
    "Time for which clocks were held down, by reason. Reason thermal: of a GPU that does not tell sw_thermal "
    "from hw_thermal.",
    "reason",
    unit="seconds",
    source="fields 74, 76, 77, 79, 269 to 271, else 75",
)
NVIDIA_GPU_ECC_ERRORS_TOTAL = _gpu(
    "nvidia_gpu_ecc_errors_total",
    "counter",
    "Memory errors in the GPU's life: corrected, and uncorrected.",
    "severity",
    source="nvmlDeviceGetTotalEccErrors, aggregate",
    otel="hw.errors",
)
NVIDIA_GPU_REMAPPED_ROWS = _gpu(
    "nvidia_gpu_remapped_rows",
    "gauge",
    "Rows of memory replaced by spare ones, by the kind of error that caused it.",
    "cause",
    source="fields 142, 143",
)
NVIDIA_GPU_ROW_REMAP_PENDING = _gpu(
    "nvidia_gpu_row_remap_pending",
    "gauge",
    "1 when rows wait to be replaced at the next reset.",
    source="field 144",
)
NVIDIA_GPU_ROW_REMAP_FAILED = _gpu(
    "nvidia_gpu_row_remap_failed",
    "gauge",
    "1 when a row could not be replaced: the board is due for exchange.",
    source="field 145",
)
NVIDIA_GPU_XID_ERRORS_TOTAL = _gpu(
    "nvidia_gpu_xid_errors_total",
    "counter",
    "XID errors seen, by number and class; a number's series begins with its first event. Numbers beyond the "
    "first 32 of a GPU count as other.",
    "xid",
    "class",
    source="NVML's events, the kernel log",
    otel="hw.errors",
)
NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS = _gpu(
    "nvidia_gpu_xid_last_timestamp_seconds",
    "gauge",
    "When the XID was last seen.",
    "xid",
    "class",
    unit="seconds",
    source="NVML's events, the kernel log",
)
NVIDIA_GPU_PCIE_TRANSMIT_BYTES_TOTAL = _gpu(
    "nvidia_gpu_pcie_transmit_bytes_total",
    "counter",
    "Bytes the GPU sent over PCIe.",
    unit="bytes",
    source="field 197",
    otel="hw.gpu.io",
)
NVIDIA_GPU_PCIE_RECEIVE_BYTES_TOTAL = _gpu(
    "nvidia_gpu_pcie_receive_bytes_total",
    "counter",
    "Bytes the GPU received over PCIe.",
    unit="bytes",
    source="field 198",
    otel="hw.gpu.io",
)
NVIDIA_GPU_PCIE_REPLAYS_TOTAL = _gpu(
    "nvidia_gpu_pcie_replays_total", "counter", "PCIe packets sent again.", source="field 94"
)
NVIDIA_GPU_PCIE_LINK_GENERATION = _gpu(
    "nvidia_gpu_pcie_link_generation",
    "gauge",
    "PCIe generation in use; an idle GPU may lower it.",
    source="nvmlDeviceGetCurrPcieLinkGeneration",
)
NVIDIA_GPU_PCIE_LINK_GENERATION_MAX = _gpu(
    "nvidia_gpu_pcie_link_generation_max",
    "gauge",
    "Highest PCIe generation that GPU and slot have in common.",
    source="nvmlDeviceGetMaxPcieLinkGeneration",
)
NVIDIA_GPU_PCIE_LINK_WIDTH = _gpu(
    "nvidia_gpu_pcie_link_width",
    "gauge",
    "PCIe lanes in use.",
    source="nvmlDeviceGetCurrPcieLinkWidth",
)
NVIDIA_GPU_PCIE_LINK_WIDTH_MAX = _gpu(
    "nvidia_gpu_pcie_link_width_max",
    "gauge",
    "PCIe lanes that GPU and slot have in common.",
    source="nvmlDeviceGetMaxPcieLinkWidth",
)
NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL = _gpu(
    "nvidia_gpu_nvlink_transmit_bytes_total",
    "counter",
    "Bytes of data the GPU sent over all its NVLinks.",
    unit="bytes",
    source="field 138",
    otel="hw.gpu.io",
)
NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL = _gpu(
    "nvidia_gpu_nvlink_receive_bytes_total",
    "counter",
    "Bytes of data the GPU received over all its NVLinks.",
    unit="bytes",
    source="field 139",
    otel="hw.gpu.io",
)
NVIDIA_GPU_NVLINK_ERRORS_TOTAL = _gpu(
    "nvidia_gpu_nvlink_errors_total",
    "counter",
    "Errors of all NVLinks: replay, recovery, crc.",
    "kind",
    source="fields 161 to 163",
    otel="hw.errors",
)
NVIDIA_GPU_NVLINK_LINKS = _gpu(
    "nvidia_gpu_nvlink_links",
    "gauge",
    "NVLinks of the GPU that are up, and that are down.",
    "state",
    source="nvmlDeviceGetNvLinkState",
)
NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL = _gpu(
    "nvidia_gpu_sm_active_seconds_total",
    "counter",
    "SM activity summed over time: its rate is the share of SMs at work, 0 to 1, over any window.",
    unit="seconds",
    source="GPM 2",
)
NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL = _gpu(
    "nvidia_gpu_tensor_active_seconds_total",
    "counter",
    "Tensor core activity summed over time; its rate is the share, 0 to 1.",
    unit="seconds",
    source="GPM 5",
)
NVIDIA_GPU_DRAM_ACTIVE_SECONDS_TOTAL = _gpu(
    "nvidia_gpu_dram_active_seconds_total",
    "counter",
    "Use of the memory's bandwidth summed over time; its rate is the share, 0 to 1.",
    unit="seconds",
    source="GPM 10",
)
NVIDIA_GPU_SM_OCCUPANCY_SECONDS_TOTAL = _gpu(
    "nvidia_gpu_sm_occupancy_seconds_total",
    "counter",
    "Resident warps over the most possible, summed over time; its rate is the share, 0 to 1.",
    unit="seconds",
    source="GPM 3",
)
NVIDIA_GPU_PIPE_ACTIVE_SECONDS_TOTAL = _gpu(
    "nvidia_gpu_pipe_active_seconds_total",
    "counter",
    "Activity of the pipes that are no tensor cores, summed over time; its rate is the share, 0 to 1.",
    "pipe",
    unit="seconds",
    source="GPM 11, 12, 13, 4",
)
NVIDIA_GPU_PROCESS_MEMORY_BYTES = _gpu(
    "nvidia_gpu_process_memory_bytes",
    "gauge",
    "Device memory of the ranks that run here, by run and rank; of all other processes together with run and "
    "rank empty.",
    "run",
    "rank",
    unit="bytes",
    source="nvmlDeviceGetComputeRunningProcesses_v3",
)
NVIDIA_GPU_RECOVERY_ACTION = _gpu(
    "nvidia_gpu_recovery_action",
    "gauge",
    "What the driver asks for: 0 nothing, 1 reset of the GPU, 2 reboot of the node, 3 drain of P2P traffic, "
    "4 drain and reset, 5 recovery of the IMEX domain, 6 reset of the bus, 7 reboot of the system.",
    source="field 230",
)
NVIDIA_GPU_MIG_MEMORY_USED_BYTES = _mig(
    "nvidia_gpu_mig_memory_used_bytes",
    "gauge",
    "Memory of the MIG instance in use.",
    unit="bytes",
    source="nvmlDeviceGetMemoryInfo_v2",
)
NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES = _mig(
    "nvidia_gpu_mig_memory_total_bytes",
    "gauge",
    "Memory of the MIG instance.",
    unit="bytes",
    source="nvmlDeviceGetMemoryInfo_v2",
)
NVIDIA_GPU_MIG_SM_ACTIVE_SECONDS_TOTAL = _mig(
    "nvidia_gpu_mig_sm_active_seconds_total",
    "counter",
    "As nvidia_gpu_sm_active_seconds_total, of the instance's own SMs.",
    unit="seconds",
    source="GPM 2",
)
NVIDIA_GPU_MIG_TENSOR_ACTIVE_SECONDS_TOTAL = _mig(
    "nvidia_gpu_mig_tensor_active_seconds_total",
    "counter",
    "As nvidia_gpu_tensor_active_seconds_total, of the instance's own tensor cores.",
    unit="seconds",
    source="GPM 5",
)
NVIDIA_GPU_MIG_DRAM_ACTIVE_SECONDS_TOTAL = _mig(
    "nvidia_gpu_mig_dram_active_seconds_total",
    "counter",
    "As nvidia_gpu_dram_active_seconds_total, of the instance's own share of the memory.",
    unit="seconds",
    source="GPM 10",
)
NVIDIA_GPU_METRIC_UNSUPPORTED = _gpu(
    "nvidia_gpu_metric_unsupported",
    "gauge",
    "1 for a metric that this GPU does not give, or not whole, by reason: not_supported, no_permission, "
    "function_not_found (an older driver), pid_namespace (processes of others are hidden), failed.",
    "metric",
    "reason",
    source="NVML's error codes",
)

COLLECTOR_SUCCESS = _service(
    "trainvitals_collector_success",
    "gauge",
    "1 when the collector's last round succeeded within its deadline.",
    "collector",
)
COLLECTOR_DURATION_SECONDS = _service(
    "trainvitals_collector_duration_seconds",
    "gauge",
    "Duration of the collector's last finished round.",
    "collector",
    unit="seconds",
)
COLLECTOR_LAST_SUCCESS_TIMESTAMP_SECONDS = _service(
    "trainvitals_collector_last_success_timestamp_seconds",
    "gauge",
    "When the collector last succeeded; absent before the first time.",
    "collector",
    unit="seconds",
)
RECORDINGS_SKIPPED = _service(
    "trainvitals_recordings_skipped",
    "gauge",
    "Recordings present that cannot be read, by reason: corrupt, truncated, newer_version, not_permitted.",
    "reason",
)
RUNS_PUBLISHED = _service(
    "trainvitals_runs_published",
    "gauge",
    "Runs on this node by what is published of them: full, lifecycle (ended or beyond 50), hidden.",
    "detail",
)
RECORDINGS_VOLUME_SIZE_BYTES = _service(
    "trainvitals_recordings_volume_size_bytes",
    "gauge",
    "Size of the file system that recordings are on; of several, that with the least room.",
    unit="bytes",
)
RECORDINGS_VOLUME_FREE_BYTES = _service(
    "trainvitals_recordings_volume_free_bytes",
    "gauge",
    "What a process without privileges can still take of it.",
    unit="bytes",
)
HISTORY_STEPS_TOTAL = _service(
    "trainvitals_history_steps_total",
    "counter",
    "Step records that this service has written into its history.",
)
HISTORY_LOST_STEPS_TOTAL = _service(
    "trainvitals_history_lost_steps_total",
    "counter",
    "Step records that were overwritten in their recordings before they could be written into the history.",
)
HISTORY_FAILING_RECORDINGS = _service(
    "trainvitals_history_failing_recordings",
    "gauge",
    "Recordings that could not be written into the history at the last try.",
)
HISTORY_SIZE_BYTES = _service(
    "trainvitals_history_size_bytes", "gauge", "Size of the history's database.", unit="bytes"
)
WALLCLOCK_SECONDS = _service(
    "trainvitals_wallclock_seconds",
    "gauge",
    "The service's clock, to be compared with Prometheus's.",
    unit="seconds",
)
