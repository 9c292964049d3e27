from __future__ import annotations

from dashboards import compare
from tests.dashboards import linter, promql
from tests.dashboards.generated import DASHBOARDS

COMPARE = DASHBOARDS[compare.UID]
CURVES = [panel for panel in linter.panels(COMPARE) if panel["type"] == "trend"]


def panel(title: str) -> linter.Json:
    return next(one for one in linter.panels(COMPARE) if one["title"] == title)


def test_every_curve_is_over_the_steps_of_its_runs() -> None:
    assert len(CURVES) == 8
    for curve in CURVES:
        assert curve["title"].endswith(" by step")
        assert curve["options"]["xField"] == "Step"
        steps, value = (target["expr"] for target in curve["targets"])
        assert "training_step_current" in promql.metric_names(steps)
        assert value.endswith(f"and on (cluster, run) ({steps})")


def test_no_curve_has_more_runs_than_can_be_told_apart() -> None:
    for curve in CURVES:
        assert "topk(6, " in curve["targets"][0]["expr"]
        assert "@ end()" in curve["targets"][0]["expr"], "else the runs would change along the range"


def test_a_line_leads_to_its_run() -> None:
    for curve in CURVES:
        (link,) = curve["fieldConfig"]["defaults"]["links"]
        assert link["url"].startswith("/d/trainvitals-run?var-run=${__field.name}&")


def test_the_facts_of_a_run_are_columns_beside_its_numbers() -> None:
    keep, merge, _ = panel("How they were made")["transformations"]
    names = keep["options"]["include"]["names"]
    assert {"run", "model", "dataset", "precision"} <= set(names)
    targets = panel("How they were made")["targets"]
    assert f"Value #{targets[-1]['refId']}" not in names, "the facts' own value says nothing"
    assert merge["id"] == "merge"


def test_what_a_run_cost_is_summed_over_the_time_range() -> None:
    for target in panel("What came of them")["targets"]:
        assert "[$__range" in target["expr"]
