"""The figures of the alert rules that differ from site to site, in one object.

What follows from how something is measured is a constant beside its rule: the least steps of a percentile,
the least ranks of a median. Times are in seconds, so that a demonstration can scale them down:
`Thresholds(gpu_lost_for_seconds=5)`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

# How long a condition must last, and what is waited for beside it: no time at all is a choice.
_MAY_BE_NONE = ("_for_seconds", "_grace_seconds", "_keep_firing_seconds")
# Ratios that are no shares of something: they may be above 1.
_MULTIPLES = {
    *("loss_spike_ratio", "loss_diverging_ratio", "loss_plateau_ratio", "evaluation_regressed_ratio"),
    *("gradient_norm_ratio", "straggler_excess_ratio", "overdue_steps_ratio"),
    "checkpoint_stale_ratio",
}
# With none of these at all an alert fires where all is well.
_AT_LEAST_ONE = ("restart_loop_restarts", "service_restarts")
# How often a value of the recent past must have changed, so that it is of several steps.
LEAST_CHANGES = 5
# The first must be below the second, or what the text says.
_ASCENDING = (
    ("stall_seconds", "lookback_seconds", "a dead run is forgotten before it pages"),
    ("killed_page_seconds", "lookback_seconds", "a dead run is forgotten before it pages"),
    ("loss_recent_seconds", "loss_usual_seconds", "no loss ever differs from what it was"),
    ("loss_usual_seconds", "loss_lookback_seconds", "no loss ever differs from what it was"),
    ("throughput_history_seconds", "throughput_usual_seconds", "no run ever has a history"),
    ("checkpoint_volume_trend_seconds", "lookback_seconds", "a run's checkpoints are forgotten before that"),
    ("history_failing_for_seconds", "history_lost_window_seconds", "no lost step is told"),
    ("delivery_window_seconds", "delivery_failing_for_seconds", "a notification that fails once is told"),
    ("ecc_page_seconds", "xid_page_seconds", "a memory error that its XID has told is told again"),
)
_UNITS_MILLISECONDS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The shipped figures; raises ValueError for a set under which an alert could never fire, or always does.

    Not every such set is found: windows without length are, shares that are none, and figures that contradict
    each other. A limit that nothing ever reaches is a choice.

    `job` is the name under which Prometheus scrapes the service. `lookback_seconds` is how long a run is
    remembered after its last sample, by a dead node for example; the service publishes the series this rests
    on for 25 hours after a run's end. `evaluation_interval_seconds` is how often the rules are evaluated,
    whatever Prometheus's own default is. `restart_grace_seconds` is how long a Prometheus
    that was started must have evaluated before it calls a run stalled: if it was down for long, it knows the
    run's last values only, and has to scrape it first. Ranks are missing where the run has made no progress
    for `rank_missing_silence_seconds` either: others that go on do not lack them. `xid_page_seconds` is how
    long a GPU's XID error pages after it was last seen, `ecc_page_seconds` how long an uncorrectable memory
    error does: less, for its XID holds it back. `gpu_lost_for_seconds` leaves time for the XID that says why
    a GPU is lost: where there is one, it pages instead. `runbook_base` is what stands before a runbook's file
    name: the folder in the repository, or the address under which a site serves it. `page_base` is where
    people reach the service: an alert about a run links to its page. `grafana_base` is where people reach
    Grafana: an alert links to its panel there, unless this is empty.

    Of losses: a NaN pages for `nonfinite_page_seconds` after it was last counted. What a loss or a gradient
    norm was at the least in `loss_recent_seconds` is compared with its median of `loss_usual_seconds` before
    that; how the median moves is judged over `loss_lookback_seconds`. The ratios are of the magnitude: a loss
    has risen when it is higher by that and by `loss_rise_minimum`, which spares a loss around zero. No
    gradient norm up to `gradient_norm_minimum` is too high: mostly it is clipped there. A learning rate of 0
    is told after `warmup_steps` and before `schedule_end_ratio` of the expected steps. `steps_skipped_ratio`
    is below a half, for some trainers count a step left out as made too.

    Of GPUs: `gpu_state_for_seconds` leaves time for a reset or a boot. `gpu_thermal_ratio` and
    `gpu_power_brake_ratio` are the shares of time for which clocks may be held down, judged for
    `gpu_throttle_for_seconds`, which is longer than a rate looks back: a minute of it is no news.
    `gpu_pcie_replays` packets may be sent again within `gpu_pcie_replay_seconds`. A PCIe link is judged where
    its GPU works for more than `gpu_link_busy_ratio` of the time, and for `gpu_link_for_seconds`. Rates are
    those of `gpu_rate_seconds`. `gpu_remembered_seconds` is how long a GPU or an NVLink that is gone is
    missed, `gpu_unsupported_for_seconds` how long a metric may be withheld.

    Of memory: `oom_told_seconds` is how long an out-of-memory error of a run is told, `host_oom_page_seconds`
    how long the kernel's kill of a process pages. `oom_trend_seconds` is the past, in three thirds, of which
    each must lead to full memory within `oom_ahead_seconds`; an allocator's single retry counts for
    `oom_retries_seconds`, and `oom_predicted_for_seconds` is longer. `host_memory_ratio` of a node's memory
    is to stay available, but for dips of `host_memory_for_seconds`.

    Of throughput: a run's pace, the tokens of `throughput_rate_seconds`, is held against its own median of
    `throughput_usual_seconds` once that rests on `throughput_history_seconds` of it; `throughput_ratio` is
    the least share of it. How a run spends its time is that of `throughput_window_seconds`, and of a run that
    is older. When a run ends is not believed before it is `deadline_after_seconds` old: the service reckons
    with the pace of so long. `data_wait_ratio` is the most of its time that a rank may wait for data,
    `gpu_idle_ratio` the least that a GPU must work. A straggler takes `straggler_excess_ratio` more time than
    the median rank, and thereby `straggler_wait_ratio` of the run's. A step is overdue at
    `overdue_steps_ratio` times the run's own 99th percentile, but not before `overdue_seconds`. A collective
    hangs where nothing moves for `hung_seconds`, while every GPU works for `hung_utilization_ratio` of the
    time at less than `hung_power_ratio` of its power limit.

    Of checkpoints: one is late at `checkpoint_stale_ratio` times the longest that lay between two within
    `lookback_seconds`, but not before `checkpoint_stale_seconds`; `checkpoint_stale_for_seconds` is for the
    first steps after a long evaluation. One that failed is told for `checkpoint_failed_told_seconds`. One may
    take `checkpoint_slow_ratio` of the time between two, but for one of `checkpoint_slow_for_seconds`. What
    is free on their volume is held against what was free in the `checkpoint_volume_trend_seconds` before.

    Of telemetry itself: `clock_skew_seconds` is above what a scrape may take, 10 s by default, and
    `scrape_slow_seconds` below it. A service may restart `service_restarts` times within
    `service_restarts_window_seconds`. With less than `recordings_volume_bytes` free a hook takes a disk where
    it would take a tmpfs. Steps lost within `history_lost_window_seconds` are told. The hook's
    errors, the values it drops (`hook_dropped_values` may be) and its share of the time (`hook_slow_ratio`
    may be) are those of `hook_window_seconds`. `delivery_failing_for_seconds` is longer than
    `delivery_window_seconds`: rules and notifications that fail once and then work again are not told.
    """

    job: str = "training-service"
    evaluation_interval_seconds: float = 15
    lookback_seconds: float = 24 * 60 * 60
    stall_seconds: float = 30 * 60
    restart_grace_seconds: float = 60
    killed_page_seconds: float = 60 * 60
    rank_missing_silence_seconds: float = 60
    rank_missing_for_seconds: float = 2 * 60
    restart_loop_restarts: int = 3
    restart_loop_window_seconds: float = 60 * 60
    service_down_for_seconds: float = 5 * 60
    nonfinite_page_seconds: float = 10 * 60
    loss_recent_seconds: float = 10 * 60
    loss_usual_seconds: float = 60 * 60
    loss_lookback_seconds: float = 6 * 60 * 60
    loss_rise_minimum: float = 0.01
    loss_spike_ratio: float = 0.5
    loss_diverging_ratio: float = 0.1
    loss_diverging_for_seconds: float = 30 * 60
    loss_plateau_ratio: float = 0.005
    loss_plateau_for_seconds: float = 60 * 60
    gradient_norm_ratio: float = 10
    gradient_norm_minimum: float = 1
    learning_rate_zero_for_seconds: float = 10 * 60
    warmup_steps: int = 10
    schedule_end_ratio: float = 0.99
    evaluation_regressed_ratio: float = 0.05
    evaluation_regressed_for_seconds: float = 60 * 60
    steps_skipped_ratio: float = 0.1
    steps_skipped_window_seconds: float = 30 * 60
    steps_skipped_for_seconds: float = 10 * 60
    gpu_memory_ratio: float = 0.9
    gpu_memory_for_seconds: float = 10 * 60
    gpu_memory_keep_firing_seconds: float = 5 * 60
    xid_page_seconds: float = 15 * 60
    ecc_page_seconds: float = 10 * 60
    gpu_lost_for_seconds: float = 60
    gpu_state_for_seconds: float = 5 * 60
    gpu_thermal_ratio: float = 0.05
    gpu_power_brake_ratio: float = 0.01
    gpu_throttle_for_seconds: float = 10 * 60
    gpu_pcie_replays: int = 60
    gpu_pcie_replay_seconds: float = 15 * 60
    gpu_rate_seconds: float = 5 * 60
    gpu_link_busy_ratio: float = 0.5
    gpu_link_for_seconds: float = 10 * 60
    gpu_remembered_seconds: float = 24 * 60 * 60
    gpu_unsupported_for_seconds: float = 60 * 60
    oom_told_seconds: float = 15 * 60
    oom_trend_seconds: float = 30 * 60
    oom_ahead_seconds: float = 60 * 60
    oom_retries_seconds: float = 5 * 60
    oom_predicted_for_seconds: float = 10 * 60
    host_oom_page_seconds: float = 15 * 60
    host_memory_ratio: float = 0.05
    host_memory_for_seconds: float = 5 * 60
    throughput_window_seconds: float = 10 * 60
    throughput_rate_seconds: float = 5 * 60
    throughput_usual_seconds: float = 6 * 60 * 60
    throughput_ratio: float = 0.8
    throughput_for_seconds: float = 15 * 60
    throughput_history_seconds: float = 30 * 60
    data_wait_ratio: float = 0.2
    data_wait_for_seconds: float = 15 * 60
    gpu_idle_ratio: float = 0.05
    gpu_idle_for_seconds: float = 5 * 60
    straggler_excess_ratio: float = 0.15
    straggler_wait_ratio: float = 0.05
    straggler_for_seconds: float = 10 * 60
    overdue_steps_ratio: float = 10
    overdue_seconds: float = 60
    overdue_for_seconds: float = 4 * 60
    hung_seconds: float = 2 * 60
    hung_for_seconds: float = 2 * 60
    hung_utilization_ratio: float = 0.99
    hung_power_ratio: float = 0.4
    deadline_after_seconds: float = 15 * 60
    deadline_for_seconds: float = 30 * 60
    checkpoint_stale_ratio: float = 2.5
    checkpoint_stale_seconds: float = 15 * 60
    checkpoint_stale_for_seconds: float = 15 * 60
    checkpoint_failed_told_seconds: float = 60 * 60
    checkpoint_slow_ratio: float = 0.1
    checkpoint_slow_for_seconds: float = 30 * 60
    checkpoint_volume_trend_seconds: float = 12 * 60 * 60
    run_not_scraped_for_seconds: float = 10 * 60
    clock_skew_seconds: float = 30
    clock_skew_for_seconds: float = 10 * 60
    collector_failing_for_seconds: float = 10 * 60
    scrape_slow_seconds: float = 5
    scrape_slow_for_seconds: float = 15 * 60
    service_restarts: int = 3
    service_restarts_window_seconds: float = 30 * 60
    recordings_skipped_for_seconds: float = 15 * 60
    recordings_volume_bytes: float = 256 * 2**20
    recordings_volume_for_seconds: float = 15 * 60
    history_failing_for_seconds: float = 10 * 60
    history_lost_window_seconds: float = 15 * 60
    hook_window_seconds: float = 15 * 60
    hook_dropped_values: int = 100
    hook_slow_ratio: float = 0.02
    hook_slow_for_seconds: float = 5 * 60
    delivery_window_seconds: float = 10 * 60
    delivery_failing_for_seconds: float = 15 * 60
    runbook_base: str = "alerts/runbooks"
    page_base: str = "http://127.0.0.1:8003"
    grafana_base: str = "http://127.0.0.1:3000"

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("_seconds"):
                if value < 0 or (value == 0 and not each.name.endswith(_MAY_BE_NONE)):
                    raise ValueError(f"{each.name} is {value}; it must be above 0, or its alert never fires")
            elif each.name in _MULTIPLES:
                if not value > 0:
                    raise ValueError(f"{each.name} is {value}; it must be above 0, or it always fires")
            elif each.name.endswith("_ratio") and not 0 < value < 1:
                raise ValueError(f"{each.name} is {value}; give a share between 0 and 1, 0.9 for 90 %")
            elif each.name in _AT_LEAST_ONE and not value >= 1:
                raise ValueError(
                    f"{each.name} is {value}; it must be 1 or more, or it fires where all is well"
                )
            elif not isinstance(value, str) and not value >= 0:
                raise ValueError(f"{each.name} is {value}; it must be 0 or more, or it always fires")
        for lower, upper, otherwise in _ASCENDING:
            if not getattr(self, lower) < getattr(self, upper):
                raise ValueError(
                    f"{lower} is {getattr(self, lower)}; it must be below {upper} ({getattr(self, upper)}), "
                    f"or {otherwise}"
                )
        if not self.overdue_told_seconds < self.stall_seconds:
            raise ValueError(
                f"overdue_seconds and overdue_for_seconds are {self.overdue_told_seconds} together; "
                f"they must be below stall_seconds ({self.stall_seconds}), or no step is overdue before its "
                "run stalls"
            )
        # The samples of a window of so many evaluations differ once less.
        least_recent_seconds = (LEAST_CHANGES + 1) * self.evaluation_interval_seconds
        if not self.loss_recent_seconds >= least_recent_seconds:
            raise ValueError(
                f"loss_recent_seconds is {self.loss_recent_seconds}; it must be {least_recent_seconds} or "
                f"more, {LEAST_CHANGES + 1} times evaluation_interval_seconds, or no loss changes so often"
            )
        if not self.steps_skipped_ratio < 0.5:
            raise ValueError(
                f"steps_skipped_ratio is {self.steps_skipped_ratio}; give a share below 0.5: "
                "where a step left out counts as made too, there are never more"
            )
        if not self.gradient_norm_ratio > 1:
            raise ValueError(
                f"gradient_norm_ratio is {self.gradient_norm_ratio}; it must be above 1, or a usual gradient "
                "norm fires"
            )

    @property
    def overdue_told_seconds(self) -> float:
        """How long a run has stood still, at the least, when its step is told to be overdue."""
        return self.overdue_seconds + self.overdue_for_seconds


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
