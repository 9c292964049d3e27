from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from exporters import catalog
from exporters.gpu.node import GpuStatus, RankOnGpu
from trainvitals.gpu_table import UNKNOWN, View, render

GIB = 2**30
SOUND = GpuStatus(
    gpu=0,
    uuid="GPU-0",
    up=True,
    name="NVIDIA H100 80GB HBM3",
    utilization_percent=98.0,
    memory_used_bytes=64 * GIB,
    memory_total_bytes=80 * GIB,
    sm_active_ratio=0.91,
    tensor_active_ratio=0.52,
    power_watts=668.4,
    power_limit_watts=700.0,
    temperature_celsius=62.0,
    ranks=(RankOnGpu("llama-8b", 3),),
)
LOST = GpuStatus(gpu=1, uuid="GPU-1", up=False, name="NVIDIA H100 80GB HBM3")


def lines(view: View | Sequence[GpuStatus], width: int = 140, *, color: bool = False) -> list[str]:
    page = io.StringIO()
    console = Console(
        file=page, width=width, force_terminal=color, color_system="standard" if color else None
    )
    console.print(render(view if isinstance(view, View) else View(view), width))
    return [line.rstrip() for line in page.getvalue().splitlines()]


def test_a_wide_terminal_shows_all_there_is() -> None:
    assert lines([SOUND, LOST]) == [
        "2 H100 80GB HBM3",
        "",
        "GPU  Name            Run/rank                Memory  Util  Tensor    SM      Power   Temp  Throttled"
        "       State",
        "  0  H100 80GB HBM3  llama-8b/3  64.0/80.0 GiB  80%   98%     52%   91%  668/700 W  62 °C  no"
        "              ok",
        "  1  H100 80GB HBM3  -                            -     -       -     -          -      -  -"
        "               LOST".replace("-", UNKNOWN),
    ]


def test_a_narrow_terminal_keeps_what_matters_most_and_no_line_is_wider() -> None:
    throttled = replace(SOUND, throttled=("sw_power_cap", "hw_thermal"))
    a_long_name = replace(SOUND, ranks=(RankOnGpu("a-run-of-which-the-name-is-long", 12),))

    at_80 = lines([throttled, a_long_name, LOST], 80)

    assert at_80[2].split() == ["GPU", "Run/rank", "Memory", "Tensor", "SM", "Power", "Temp", "State"]
    assert at_80[3].endswith("hw_thermal")
    assert "…/12 " in at_80[4]
    for width in range(40, 200):
        shown = lines([throttled, a_long_name, LOST], width)
        assert all(len(line) <= width for line in shown), width
        assert [line.split()[0] for line in shown[3:]] == ["0", "0", "1"], width


def test_what_is_unknown_is_a_dash_and_what_is_zero_is_a_zero() -> None:
    bare = GpuStatus(gpu=0, uuid="GPU-0", up=True, name="NVIDIA L4")
    idle = replace(SOUND, sm_active_ratio=0.0, tensor_active_ratio=0.0, memory_used_bytes=0.0)

    assert "0" not in lines([bare])[3].removeprefix("  0")
    assert lines([bare])[3].count(UNKNOWN) == 7
    assert "0.0/80.0 GiB   0%   98%      0%    0%" in lines([idle])[3]


def test_gpus_without_profiling_show_their_utilization_in_its_place() -> None:
    reason = {catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL.name: "not_supported"}
    old = replace(SOUND, sm_active_ratio=None, tensor_active_ratio=None, unsupported=reason)

    shown = lines([old], 80)

    assert "Util" in shown[2]
    assert "98%" in shown[3]
    assert shown[-1] == f"{UNKNOWN} tensor cores: not_supported, see `trainvitals doctor`"


@pytest.mark.parametrize(
    ("gpu", "state", "code"),
    [
        (SOUND, "ok", "32"),
        (replace(SOUND, throttled=("hw_thermal",)), "throttled", "33"),
        (LOST, "LOST", "1;31"),
        (replace(LOST, xids=("13", "79")), "LOST, XID 79 +1", "1;31"),
        (replace(SOUND, xids=("79",)), "XID 79", "1;31"),
        (replace(SOUND, xids=("31",)), "XID 31", "33"),
        (replace(SOUND, xids=("63",)), "ok", "32"),
    ],
)
def test_the_state_has_a_colour(gpu: GpuStatus, state: str, code: str) -> None:
    row = lines([gpu], color=True)[3]

    assert f"\x1b[{code}m{state}" in row


def test_memory_that_is_nearly_full_is_red() -> None:
    nearly, almost = (
        lines([replace(SOUND, memory_used_bytes=used * GIB)], color=True)[3] for used in (73, 72)
    )

    assert "\x1b[1;31m73.0/80.0 GiB  91%" in nearly
    assert "\x1b[1;31m" not in almost


def test_figures_of_a_driver_that_hangs_say_how_old_they_are() -> None:
    view = View([SOUND, LOST], devices=2, problems=["NVML gives no answer within 10 s"], age_seconds=12.3)

    shown = lines(view)

    assert shown[1] == "NVML gives no answer within 10 s"
    assert shown[4].endswith("12 s old")
    assert "64.0/80.0 GiB" in shown[4]
    assert shown[5].endswith("LOST")


def test_gpus_of_several_kinds_are_listed_by_kind() -> None:
    other = replace(SOUND, gpu=4, name="NVIDIA L4")

    assert lines([SOUND, other], 80)[0] == "1 H100 80GB HBM3 (GPU 0), 1 L4 (GPU 4)"


def test_a_gpu_that_never_answered_is_not_passed_over() -> None:
    assert lines(View([SOUND], devices=3))[1] == "2 of 3 GPUs never answered: see `trainvitals doctor`"


def test_several_ranks_share_a_gpu() -> None:
    shared = replace(SOUND, ranks=(RankOnGpu("a", 0), RankOnGpu("a", 1), RankOnGpu("b", 0)))

    assert " a/0,1 b/0 " in lines([shared])[3]


def test_a_node_without_gpus_says_so() -> None:
    assert lines(View([], devices=0)) == ["The driver is loaded and reports no GPU."]
