from __future__ import annotations

import re

import yaml

from alerts.build import GENERATED
from alerts.rank_gpus import HEAT_OR_BRAKE, rank_gpus
from exporters.gpu.simulated import THROTTLE_REASONS

SCENARIOS = GENERATED.parent / "tests" / "rank_gpus.yaml"


def test_every_recorded_series_has_a_scenario_in_which_it_has_a_value() -> None:
    valued = {
        sample["labels"].partition("{")[0]
        for scenario in yaml.safe_load(SCENARIOS.read_text())["tests"]
        for expectation in scenario["promql_expr_test"]
        for sample in expectation["exp_samples"]
    }
    assert {rule.name for rule in rank_gpus().rules} == valued


def test_a_gpu_is_held_down_by_heat_and_brake_and_not_by_what_is_meant() -> None:
    [pattern] = re.findall(r'reason=~"(.*)"', HEAT_OR_BRAKE)
    held = {reason for reason in THROTTLE_REASONS if re.fullmatch(pattern, reason)}
    assert held == {"hw_thermal", "sw_thermal", "hw_power_brake"}
