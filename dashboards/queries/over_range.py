"""What recorded series come to over the time range: hours of GPUs, energy, goodput."""

from __future__ import annotations

from alerts import fleet
from dashboards.variables import of_recorded

JOULES_A_KILOWATT_HOUR = 3_600_000


def hours(recorded: str) -> str:
    """A selected number of things, such as GPUs, times the hours for which they were there.

    It looks once a minute, at whatever interval the rules are evaluated.
    """
    return f"sum_over_time({recorded}[$__range:1m]) / 60"


def kilowatt_hours(recorded: str) -> str:
    """The energy of a selected power in watts."""
    return f"{hours(recorded)} / 1000"


def seconds(recorded: str) -> str:
    """How long a selected share of the time, such as that of a phase, is in all."""
    return f"sum_over_time({recorded}[$__range:1m]) * 60"


def goodput() -> str:
    """The share of each run's time that trained the model, by cluster and run."""
    return f"avg_over_time({of_recorded(fleet.GOODPUT)}[$__range])"


def goodput_of_all() -> str:
    """The same of all runs together, each by its time and whatever its GPUs."""
    of_each = of_recorded(fleet.GOODPUT)
    return f"sum(sum_over_time({of_each}[$__range])) / sum(count_over_time({of_each}[$__range]))"
