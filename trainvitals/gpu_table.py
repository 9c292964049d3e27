"""What `trainvitals gpus` shows: the table of GPUs, as a function of what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from alerts.thresholds import Thresholds
from exporters import catalog
from exporters.gpu.node import GpuStatus
from exporters.gpu.xid import OTHER, xid_class

UNKNOWN = "\N{EN DASH}"
FULL_MEMORY_RATIO = Thresholds().gpu_memory_ratio
NARROWEST_RUNS = 12
GAP = 2


class View(NamedTuple):
    """What is shown of one moment.

    `devices` is how many GPUs the driver counts, those that never answered included; None is unknown.
    `problems` say why something is missing. `age_seconds` is that of the figures where there are none newer;
    None when they are of now.
    """

    gpus: Sequence[GpuStatus]
    devices: int | None = None
    problems: Sequence[str] = ()
    age_seconds: float | None = None


class Column(NamedTuple):
    """One column of the table: what it shows of a GPU, and the width it has at least, so that none jumps."""

    header: str
    cell: Callable[[GpuStatus], Text]
    justify: Literal["left", "right"] = "left"
    least_width: int = 0

    def width(self, gpus: Sequence[GpuStatus]) -> int:
        return max(len(self.header), self.least_width, *(self.cell(gpu).cell_len for gpu in gpus))


def render(view: View, width: int) -> Group:
    """The table, as much of it as this width holds, beneath what is wrong and above what is missing."""
    problems = [Text(problem, "bold red") for problem in view.problems]
    silent = (view.devices or 0) - len(view.gpus)
    if silent > 0:
        problems.append(
            Text(f"{silent} of {view.devices} GPUs never answered: see `trainvitals doctor`", "bold red")
        )
    if not view.gpus:
        return Group(*problems or [Text("The driver is loaded and reports no GPU.")])
    above = [_headline(view.gpus), *problems, Text()]
    return Group(*above, table(view.gpus, width, view.age_seconds), *_what_is_missing(view.gpus))


def table(gpus: Sequence[GpuStatus], width: int, age_seconds: float | None = None) -> Table:
    """One row a GPU; with an age the rows say how old they are, but for a fault, which stays."""
    columns, runs_width = _columns(gpus, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.header,
            justify=column.justify,
            no_wrap=True,
            overflow="ellipsis",
            width=runs_width if column is _RUNS else column.width(gpus),
        )
    for gpu in gpus:
        cells = [_runs(gpu, runs_width) if column is _RUNS else column.cell(gpu) for column in columns]
        if age_seconds is None:
            table.add_row(*cells)
        else:
            last_known = (Text(each.plain, "dim") for each in cells[:-1])
            table.add_row(*last_known, _fault(gpu) or Text(f"{age_seconds:.0f} s old", "yellow"))
    return table


def _columns(gpus: Sequence[GpuStatus], width: int) -> tuple[list[Column], int]:
    """Those that fit, the less important ones left out first, and the width left for the runs."""
    columns, steps = [*_ALL], [*_LESS]
    if not any(gpu.sm_active_ratio is not None or gpu.tensor_active_ratio is not None for gpu in gpus):
        # GPUs before Hopper: their utilization is all they tell.
        steps = [{_TENSOR: None, _SM: None}, *(step for step in steps if _UTILIZATION not in step)]
    whole = _RUNS.width(gpus)
    while True:
        rest = width - sum(column.width(gpus) + GAP for column in columns if column is not _RUNS)
        # The name of a GPU, which the headline has too, gives way to the whole name of a run.
        least = whole if _NAME in columns else min(whole, NARROWEST_RUNS)
        if rest >= least or not steps:
            return columns, max(least, min(whole, rest))
        step = steps.pop(0)
        columns = [kept for each in columns if (kept := step.get(each, each)) is not None]


def _headline(gpus: Sequence[GpuStatus]) -> Text:
    kinds: dict[str, list[str]] = {}
    for gpu in gpus:
        kinds.setdefault(_name(gpu), []).append(str(gpu.gpu))
    if len(kinds) == 1:
        return Text(f"{len(gpus)} {_name(gpus[0])}", "bold")
    return Text(", ".join(f"{len(of)} {name} (GPU {', '.join(of)})" for name, of in kinds.items()), "bold")


def _what_is_missing(gpus: Sequence[GpuStatus]) -> list[Text]:
    by_reason: dict[str, dict[str, None]] = {}
    for gpu in gpus:
        for metric, name in _SHOWN.items():
            if metric in gpu.unsupported:
                by_reason.setdefault(gpu.unsupported[metric], {})[name] = None
    notes = [
        Text(f"{UNKNOWN} {', '.join(names)}: {reason}, see `trainvitals doctor`", "dim")
        for reason, names in by_reason.items()
    ]
    return [Text(), *notes] if notes else []


_SHOWN = {
    catalog.NVIDIA_GPU_MEMORY_USED_BYTES.name: "memory",
    catalog.NVIDIA_GPU_UTILIZATION_PERCENT.name: "utilization",
    catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL.name: "tensor cores",
    catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL.name: "SMs",
    catalog.NVIDIA_GPU_POWER_WATTS.name: "power",
    catalog.NVIDIA_GPU_POWER_LIMIT_WATTS.name: "power limit",
    catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL.name: "throttling",
    catalog.NVIDIA_GPU_XID_ERRORS_TOTAL.name: "XID errors",
}


def _name(gpu: GpuStatus) -> str:
    return (gpu.name or "unnamed").removeprefix("NVIDIA ")


def _runs(gpu: GpuStatus, width: int | None = None) -> Text:
    """Every run with its ranks. The rank tells GPUs apart, so the name is what is cut to fit."""
    ranks: dict[str, list[str]] = {}
    for each in gpu.ranks:
        ranks.setdefault(each.run, []).append(str(each.rank))
    words = [f"{run}/{','.join(of_run)}" for run, of_run in ranks.items()]
    text = " ".join(words) or UNKNOWN
    if width is not None and len(words) == 1 and len(text) > width:
        run, _, of_run = text.rpartition("/")
        text = f"{run[: max(1, width - len(of_run) - 2)]}\N{HORIZONTAL ELLIPSIS}/{of_run}"
    return Text(text)


def _memory_ratio(gpu: GpuStatus) -> float | None:
    if gpu.memory_used_bytes is None or not gpu.memory_total_bytes:
        return None
    return gpu.memory_used_bytes / gpu.memory_total_bytes


def _memory(gpu: GpuStatus, digits: int = 1) -> Text:
    ratio = _memory_ratio(gpu)
    if ratio is None or gpu.memory_used_bytes is None or gpu.memory_total_bytes is None:
        return Text(UNKNOWN)
    used, total = gpu.memory_used_bytes / 2**30, gpu.memory_total_bytes / 2**30
    return Text(f"{used:.{digits}f}/{total:.{digits}f} GiB {ratio:4.0%}", _memory_style(ratio))


def _memory_percent(gpu: GpuStatus) -> Text:
    ratio = _memory_ratio(gpu)
    return Text(UNKNOWN) if ratio is None else Text(f"{ratio:.0%}", _memory_style(ratio))


def _memory_style(ratio: float) -> str:
    return "bold red" if ratio > FULL_MEMORY_RATIO else ""


def _ratio(ratio: float | None) -> Text:
    return Text(UNKNOWN if ratio is None else f"{ratio:.0%}")


def _utilization(gpu: GpuStatus) -> Text:
    return _ratio(None if gpu.utilization_percent is None else gpu.utilization_percent / 100)


def _power(gpu: GpuStatus) -> Text:
    return Text(UNKNOWN if gpu.power_watts is None else f"{gpu.power_watts:.0f} W")


def _power_of_limit(gpu: GpuStatus) -> Text:
    if gpu.power_watts is None or gpu.power_limit_watts is None:
        return _power(gpu)
    return Text(f"{gpu.power_watts:.0f}/{gpu.power_limit_watts:.0f} W")


def _temperature(gpu: GpuStatus) -> Text:
    return Text(UNKNOWN if gpu.temperature_celsius is None else f"{gpu.temperature_celsius:.0f} °C")


def _held_back(gpu: GpuStatus) -> list[str]:
    """Why it is slower than it should be: at its power limit any busy GPU is."""
    return [reason for reason in gpu.throttled if reason != "sw_power_cap"]


def _throttled(gpu: GpuStatus) -> Text:
    if gpu.throttled:
        return Text(", ".join(gpu.throttled), "yellow" if _held_back(gpu) else "")
    is_known = gpu.up and catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL.name not in gpu.unsupported
    return Text("no" if is_known else UNKNOWN)


def _state(gpu: GpuStatus) -> Text:
    fault = _fault(gpu)
    if fault is not None:
        return fault
    return Text("throttled", "yellow") if _held_back(gpu) else Text("ok", "green")


def _state_with_reason(gpu: GpuStatus) -> Text:
    fault = _fault(gpu)
    reasons = _held_back(gpu)
    if fault is not None or not reasons:
        return fault or Text("ok", "green")
    first, *others = reasons
    return Text(f"{first} +{len(others)}" if others else first, "yellow")


def _fault(gpu: GpuStatus) -> Text | None:
    """That it is lost, and the XID errors it ever had but for those that mean nothing, hardware's first."""
    xids = [xid for xid in gpu.xids if xid_class(xid) != "noise"]
    xids.sort(key=lambda xid: xid_class(xid) != "hardware")
    is_grave = not gpu.up or (xids and xids[0] != OTHER and xid_class(xids[0]) == "hardware")
    words = [] if gpu.up else ["LOST"]
    if xids:
        words.append(f"XID {xids[0]}" + (f" +{len(xids) - 1}" if len(xids) > 1 else ""))
    return Text(", ".join(words), "bold red" if is_grave else "yellow") if words else None


_GPU = Column("GPU", lambda gpu: Text(str(gpu.gpu)), "right")
_NAME = Column("Name", lambda gpu: Text(_name(gpu)))
_RUNS = Column("Run/rank", _runs)
_MEMORY = Column("Memory", _memory, "right", 18)
_MEMORY_ROUNDED = Column("Memory", lambda gpu: _memory(gpu, 0), "right", 14)
_MEMORY_PERCENT = Column("Memory", _memory_percent, "right")
_UTILIZATION = Column("Util", _utilization, "right", 4)
_TENSOR = Column("Tensor", lambda gpu: _ratio(gpu.tensor_active_ratio), "right")
_SM = Column("SM", lambda gpu: _ratio(gpu.sm_active_ratio), "right", 4)
_POWER = Column("Power", _power, "right")
_POWER_OF_LIMIT = Column("Power", _power_of_limit, "right", 9)
_TEMPERATURE = Column("Temp", _temperature, "right")
_THROTTLED = Column("Throttled", _throttled, least_width=14)
_STATE = Column("State", _state, least_width=9)
_STATE_WITH_REASON = Column("State", _state_with_reason, least_width=14)

_ALL = (
    *(_GPU, _NAME, _RUNS, _MEMORY, _UTILIZATION, _TENSOR, _SM),
    *(_POWER_OF_LIMIT, _TEMPERATURE, _THROTTLED, _STATE),
)
# What gives way to a narrow terminal, step by step: a column, and what stands in its place.
_LESS: tuple[dict[Column, Column | None], ...] = (
    {_NAME: None},
    {_UTILIZATION: None},
    {_THROTTLED: None, _STATE: _STATE_WITH_REASON},
    {_POWER_OF_LIMIT: _POWER},
    {_MEMORY: _MEMORY_ROUNDED},
    {_MEMORY_ROUNDED: _MEMORY_PERCENT},
    {_TEMPERATURE: None},
    {_POWER: None},
    {_SM: None},
)
