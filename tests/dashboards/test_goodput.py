from __future__ import annotations

import re
from typing import Any

from alerts.fleet import DOWN_PHASE, PRODUCTIVE_PHASES
from alerts.thresholds import Thresholds
from dashboards import goodput
from dashboards.queries import over_range
from tests.dashboards import linter
from trainer_hooks.recording import PHASES

Json = dict[str, Any]
EVERY_PHASE = {*PHASES, DOWN_PHASE}


def panel(title: str) -> Json:
    document = goodput.dashboard(Thresholds()).to_json_data()
    return next(each for each in linter.panels(document) if each["title"] == title)


def test_every_phase_has_a_colour_of_its_own() -> None:
    colors = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel("Where the time goes")["fieldConfig"]["overrides"]
    }
    assert colors.keys() == EVERY_PHASE
    assert len(set(colors.values())) == len(EVERY_PHASE)


def test_only_bands_of_one_run_lead_to_a_run() -> None:
    config = panel("Power by run")["fieldConfig"]
    linked = [
        override["matcher"]["options"]
        for override in config["overrides"]
        for one in override["properties"]
        if one["id"] == "links"
    ]
    assert (config["defaults"]["links"], linked) == ([], ["A"])


def test_what_a_run_did_beside_training_is_told_phase_by_phase() -> None:
    exprs = [target["expr"] for target in panel("What took the time of each run")["targets"]]
    told = {phase for expr in exprs for phase in re.findall(r'phase="(\w+)"', expr)}
    assert told == EVERY_PHASE - {*PRODUCTIVE_PHASES, "other"}


def test_gpu_hours_do_not_go_by_how_often_the_rules_are_evaluated() -> None:
    assert over_range.hours("gpus") == "sum_over_time(gpus[$__range:1m]) / 60"
    assert over_range.kilowatt_hours("watts") == "sum_over_time(watts[$__range:1m]) / 60 / 1000"
