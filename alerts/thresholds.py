"""Every figure the alert rules depend on, in one object.

Times are in seconds, so that a demonstration can scale them down: `Thresholds(stall_seconds=10)`.
"""

from __future__ import annotations

from dataclasses import dataclass

_UNITS_MILLISECONDS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The shipped figures; raises ValueError for a set under which an alert could never fire.

    `job` is the name under which Prometheus scrapes the service. `lookback_seconds` is how long a run is
    remembered after its last sample, by a dead node for example; the service publishes the series this rests
    on for 25 hours after a run's end. `evaluation_interval_seconds` is how often the rules are evaluated,
    whatever Prometheus's own default is. `stall_for_seconds` leaves time for a scrape: a Prometheus that was
    down for long must see a run once before it calls it stalled. `xid_page_seconds` is how long a GPU's XID
    error pages after it was last seen. `gpu_lost_for_seconds` leaves time for the XID that says why a GPU is
    lost: where there is one, it pages instead. `runbook_base` is what stands before a runbook's file name:
    the folder in the repository, or the address under which a site serves it.
    """

    job: str = "training-service"
    evaluation_interval_seconds: float = 15
    lookback_seconds: float = 24 * 60 * 60
    stall_seconds: float = 30 * 60
    stall_for_seconds: float = 60
    killed_page_seconds: float = 60 * 60
    service_down_for_seconds: float = 5 * 60
    gpu_memory_ratio: float = 0.9
    gpu_memory_for_seconds: float = 10 * 60
    gpu_memory_keep_firing_seconds: float = 5 * 60
    xid_page_seconds: float = 15 * 60
    gpu_lost_for_seconds: float = 60
    runbook_base: str = "alerts/runbooks"

    def __post_init__(self) -> None:
        for name in ("stall_seconds", "killed_page_seconds"):
            if not 0 < getattr(self, name) < self.lookback_seconds:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be above 0 and below lookback_seconds "
                    f"({self.lookback_seconds}), or a dead run is forgotten before it pages"
                )
        if not self.xid_page_seconds > 0:
            raise ValueError(
                f"xid_page_seconds is {self.xid_page_seconds}; it must be above 0, or no XID ever pages"
            )
        if not 0 < self.gpu_memory_ratio < 1:
            raise ValueError(
                f"gpu_memory_ratio is {self.gpu_memory_ratio}; give a share between 0 and 1, 0.9 for 90 %"
            )


def duration(seconds: float) -> str:
    """Render seconds as Prometheus and Alertmanager read them: 5400 is 1h30m, 0.25 is 250ms.

    Raises ValueError for a negative time.
    """
    remaining = round(seconds * 1000)
    if remaining < 0:
        raise ValueError(f"{seconds} s is no duration; give 0 or more")
    parts = []
    for unit, milliseconds in _UNITS_MILLISECONDS:
        count, remaining = divmod(remaining, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
