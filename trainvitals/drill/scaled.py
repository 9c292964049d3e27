"""The thresholds of the drill: what is shipped as minutes and hours comes down to seconds.

One set for all conditions. Rules are evaluated every second and services scraped as often, so a window over
which a rate is taken is 5 s at least, and nothing waits for less than 1 s.
"""

from __future__ import annotations

from alerts.thresholds import Thresholds

SCALED = Thresholds(
    evaluation_interval_seconds=1,
    stall_seconds=10,
    restart_grace_seconds=1,
    rank_missing_silence_seconds=2,
    rank_missing_for_seconds=2,
    restart_loop_restarts=2,
    restart_loop_window_seconds=90,
    service_down_for_seconds=8,
    loss_recent_seconds=8,
    loss_usual_seconds=16,
    loss_lookback_seconds=30,
    loss_diverging_for_seconds=3,
    loss_plateau_for_seconds=3,
    learning_rate_zero_for_seconds=3,
    evaluation_regressed_for_seconds=3,
    steps_skipped_window_seconds=10,
    steps_skipped_for_seconds=3,
    gpu_memory_for_seconds=3,
    gpu_lost_for_seconds=5,
    gpu_state_for_seconds=3,
    gpu_throttle_for_seconds=3,
    gpu_pcie_replay_seconds=10,
    gpu_rate_seconds=5,
    gpu_link_for_seconds=3,
    gpu_unsupported_for_seconds=3,
    checkpoint_stale_seconds=5,
    checkpoint_stale_for_seconds=3,
    checkpoint_slow_for_seconds=3,
    oom_trend_seconds=15,
    oom_retries_seconds=5,
    oom_predicted_for_seconds=3,
    host_memory_for_seconds=3,
    throughput_window_seconds=8,
    throughput_rate_seconds=5,
    throughput_usual_seconds=60,
    throughput_for_seconds=3,
    throughput_history_seconds=15,
    data_wait_for_seconds=3,
    gpu_idle_for_seconds=3,
    straggler_for_seconds=3,
    overdue_seconds=4,
    overdue_for_seconds=1,
    hung_seconds=4,
    hung_for_seconds=1,
    deadline_after_seconds=8,
    deadline_for_seconds=3,
    run_not_scraped_for_seconds=3,
    clock_skew_for_seconds=3,
    collector_failing_for_seconds=4,
    scrape_slow_seconds=0.5,  # a scrape's timeout is 1 s
    scrape_slow_for_seconds=1,
    service_restarts=1,
    service_restarts_window_seconds=180,  # two, on a busy machine
    recordings_skipped_for_seconds=3,
    recordings_volume_for_seconds=3,
    history_failing_for_seconds=3,
    history_lost_window_seconds=20,
    hook_window_seconds=10,
    hook_slow_for_seconds=3,
    delivery_window_seconds=6,
    delivery_failing_for_seconds=7,
)
