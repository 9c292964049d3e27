from __future__ import annotations

import yaml

from alerts import fleet
from alerts.build import GENERATED
from alerts.thresholds import Thresholds
from trainer_hooks.recording import PHASES

SCENARIOS = GENERATED.parent / "tests" / "fleet.yaml"


def test_every_recorded_series_has_a_scenario_in_which_it_has_a_value() -> None:
    valued = {
        expectation["expr"].partition("{")[0]
        for scenario in yaml.safe_load(SCENARIOS.read_text())["tests"]
        for expectation in scenario["promql_expr_test"]
        if expectation.get("exp_samples")
    }
    recorded = {rule.name for rule in fleet.fleet(Thresholds()).rules}
    assert recorded - valued == {fleet.DOWN}, "of which the phase down tells"


def test_what_is_productive_is_a_phase_and_being_down_is_none_that_a_hook_records() -> None:
    assert set(fleet.PRODUCTIVE_PHASES) <= set(PHASES)
    assert fleet.DOWN_PHASE not in PHASES


def test_a_run_is_down_for_as_long_as_its_death_pages() -> None:
    [rule] = [
        rule
        for rule in fleet.fleet(Thresholds(killed_page_seconds=900, xid_page_seconds=3600)).rules
        if rule.name == fleet.DOWN
    ]
    assert rule.expr.count("< 900") == 2
