"""What colours mean, on every dashboard alike.

The hues are those of Okabe and Ito (Color Universal Design, 2008), which people with any common form of
colour blindness tell apart; black and white are left out, for themes are dark and light. Where one line only
has to be told from another, it is Grafana's own palette.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NEUTRAL = "text"
# Nothing drawn: the ground below a limit.
NONE = "transparent"

BLUE = "#0072B2"
SKY = "#56B4E9"
AZURE = "#2E93CF"
PALE_BLUE = "#7FA8D9"
GREEN = "#009E73"
YELLOW = "#E0C020"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
PINK = "#CC79A7"
GREY = "#8E8E8E"

GOOD = GREEN
WARNING = ORANGE
BAD = VERMILION

# What a training did, and what it is held against.
TRAINING = SKY
VALIDATION = ORANGE
BASELINE = GREY

STATES: Mapping[str, str] = MappingProxyType(
    {
        "running": GREEN,
        "stalled": ORANGE,
        "finished": SKY,
        "failed": VERMILION,
        "killed": PINK,
        "aborted": GREY,
    }
)
# Work in blues, what it waits for or is interrupted by in other hues.
PHASES: Mapping[str, str] = MappingProxyType(
    {
        "forward": SKY,
        "backward": BLUE,
        "compute": AZURE,
        "optimizer": PALE_BLUE,
        "data": VERMILION,
        "evaluation": GREEN,
        "checkpoint": ORANGE,
        "init": YELLOW,
        "other": GREY,
    }
)
# Why a GPU's clocks are held down: a fault in warm hues, what is set or wanted in cool ones.
THROTTLING: Mapping[str, str] = MappingProxyType(
    {
        "hw_power_brake": PINK,
        "hw_thermal": VERMILION,
        "thermal": VERMILION,
        "sw_thermal": ORANGE,
        "reliability": YELLOW,
        "board_limit": BLUE,
        "sync_boost": GREY,
        "sw_power_cap": SKY,
    }
)
SEVERITIES: Mapping[str, str] = MappingProxyType({"critical": BAD, "warning": WARNING, "info": SKY})
# Of ranks and GPUs, which have numbers: one has its colour on every panel.
BY_NUMBER = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW, GREY)
