from __future__ import annotations

import pytest

from dashboards import run
from dashboards.colors import BAD, PHASES, STATES
from dashboards.variables import of_histogram
from exporters import catalog
from exporters.catalog import CATALOG
from exporters.runs import RUN_STATES
from tests.dashboards import linter, promql
from tests.dashboards.generated import DASHBOARDS, PUBLISHED

RUN = DASHBOARDS[run.UID]


def panel(title: str) -> linter.Json:
    return next(one for one in linter.panels(RUN) if one["title"] == title)


def exprs(title: str) -> list[str]:
    return [target["expr"] for target in panel(title)["targets"]]


def texts(title: str) -> dict[str, str]:
    (mapping,) = panel(title)["fieldConfig"]["defaults"]["mappings"]
    return {value: shown["text"] for value, shown in mapping["options"].items()}


def test_one_run_is_chosen_and_no_more() -> None:
    chosen = next(one for one in RUN["templating"]["list"] if one["name"] == "run")
    assert (chosen["multi"], chosen["includeAll"]) == (False, False)


def test_every_metric_of_a_run_is_on_it() -> None:
    shown = {
        PUBLISHED[name].name
        for one in linter.panels(RUN)
        for target in one["targets"]
        for name in promql.metric_names(target["expr"])
        if name in PUBLISHED
    }
    # Its state is recorded from this, as a number.
    told_otherwise = {"training_run_state"}
    assert {name for name, metric in CATALOG.items() if metric.scope == "run"} - shown == told_otherwise


def test_a_state_has_its_word_and_colour() -> None:
    (mapping,) = panel("State")["fieldConfig"]["defaults"]["mappings"]
    shown = {one["text"]: one["color"] for one in mapping["options"].values()}
    assert shown == {state: STATES[state] for state in RUN_STATES}


def test_the_timeline_has_a_word_for_every_number_its_queries_make() -> None:
    known = texts("What happened")
    _, doing, stage, alerts = exprs("What happened")
    assert {str(code) for code in range(1, len(RUN_STATES) + 1)} <= known.keys()
    for branch in doing.split(" or "):
        assert branch.partition(" * ")[0] in known
    assert stage.partition(" + ")[0] in known
    assert alerts.partition(" * ")[0] in known


def test_the_timeline_tells_every_phase_apart_or_counts_it_as_training() -> None:
    _, doing, _, _ = exprs("What happened")
    matched = {
        phase
        for node in promql.vector_selectors(doing)
        for matcher in node.expr.matchers.matchers
        if matcher.name == "phase"
        for phase in matcher.value.split("|")
    }
    assert matched == PHASES.keys()


def test_the_phases_lie_on_each_other_with_the_work_below_and_fill_the_time() -> None:
    work, data, rest = exprs("What its time goes into")
    assert 'phase=~"forward|backward|compute|optimizer"' in work
    assert 'phase=~"data"' in data
    assert 'phase=~"evaluation|checkpoint|init|other"' in rest
    defaults = panel("What its time goes into")["fieldConfig"]["defaults"]
    assert (defaults["min"], defaults["max"], defaults["unit"]) == (0, 1, "percentunit")


def test_its_alerts_are_those_of_the_run_and_of_the_gpus_it_trains_on() -> None:
    (expr,) = exprs("Its alerts")
    selected = [node.expr for node in promql.vector_selectors(expr) if node.expr.name == "ALERTS"]
    matchers = [{str(matcher) for matcher in one.matchers.matchers} for one in selected]
    assert any('run!=""' in each for each in matchers)
    assert any('uuid!=""' in each for each in matchers)
    assert "training_run_gpu_info" in promql.metric_names(expr)


def test_no_alert_is_a_figure_too() -> None:
    (expr,) = exprs("Alerts")
    assert expr.endswith(" or vector(0)")
    assert panel("Alerts")["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {
        "color": BAD,
        "value": 1,
    }


def test_what_it_is_lists_all_its_labels() -> None:
    (to_rows, _) = panel("What it is")["transformations"]
    assert to_rows == {"id": "labelsToFields", "options": {"mode": "rows"}}


@pytest.mark.parametrize("title", ["Slowest rank beside the median rank", "Ranks that wait for data"])
def test_panels_of_ranks_lead_to_the_rank(title: str) -> None:
    (link,) = panel(title)["fieldConfig"]["defaults"]["links"]
    assert link["url"].startswith("/d/trainvitals-ranks?var-run=${__field.labels.run}")


def test_events_are_those_of_the_run_and_not_of_every_gpu_there_is() -> None:
    by_name = {one["name"]: one for one in RUN["annotations"]["list"]}
    assert by_name.keys() == {"Alerts", "Checkpoints", "Starts", "Stages"}
    assert by_name["Alerts"]["expr"].count('run!=""') == 2
    assert all('run=~"$run' in one["expr"] for one in by_name.values())


def test_figures_of_now_are_of_now_also_when_the_run_is_over() -> None:
    for title in ("Time left", "Spare time", "Alerts", "Checkpoint", "Ranks", "This attempt"):
        assert all(target["instant"] for target in panel(title)["targets"]), title


def test_only_a_histogram_has_buckets() -> None:
    assert of_histogram(catalog.TRAINING_STEP_DURATION_SECONDS, "bucket").startswith(
        "training_step_duration_seconds_bucket{"
    )
    with pytest.raises(ValueError, match="training_loss is a gauge and has no bucket"):
        of_histogram(catalog.TRAINING_LOSS, "bucket")
