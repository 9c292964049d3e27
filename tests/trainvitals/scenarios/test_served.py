"""Scenarios are made once and served by a real Prometheus: scraped samples, recorded rules and alerts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alerts.build import groups
from alerts.lifecycle import TRAINING_RUN_KILLED
from alerts.rules import RecordingRule
from alerts.thresholds import Thresholds
from exporters import catalog, exposition
from exporters.catalog import CATALOG
from trainer_hooks import recording
from trainvitals.scenarios import making, served
from trainvitals.scenarios.making import MakingError
from trainvitals.scenarios.served import Scenarios, serve_scenarios
from trainvitals.scenarios.story import FINE_TUNING, KILLED, WHOLE_STORY
from trainvitals.scenarios.tape import TapeError

TEN_MINUTES = ("ten_minutes",)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenarios")


@pytest.fixture(scope="module")
def scenarios(directory: Path) -> Iterator[Scenarios]:
    with serve_scenarios(directory, TEN_MINUTES, hours=1 / 6) as scenarios:
        yield scenarios


def query(scenarios: Scenarios, expression: str) -> list[dict[str, Any]]:
    """The result at the end of the scenarios."""
    answer = httpx.get(
        f"{scenarios.url}/api/v1/query",
        params={"query": expression, "time": f"{scenarios.end:.3f}"},
        trust_env=False,
        timeout=60,
    )
    answer.raise_for_status()
    result: list[dict[str, Any]] = answer.json()["data"]["result"]
    return result


def names(scenarios: Scenarios) -> set[str]:
    """Every metric that has a sample."""
    found = query(scenarios, 'count by (__name__) (last_over_time({__name__!=""}[4h]))')
    return {each["metric"]["__name__"] for each in found}


def test_they_end_now_and_last_as_long_as_was_asked_for(scenarios: Scenarios) -> None:
    assert scenarios.end - scenarios.start == 600
    assert 0 <= time.time() - scenarios.end < 300


def test_a_run_trains_under_its_targets_labels(scenarios: Scenarios) -> None:
    target = f'job="training-service",instance="node-a:8003",run="{FINE_TUNING.run}"'
    (steps,) = query(scenarios, f"{catalog.TRAINING_STEP_CURRENT}{{{target}}}")
    (bucket,) = query(scenarios, f'{catalog.TRAINING_STEP_DURATION_SECONDS}_bucket{{{target},le="+Inf"}}')

    assert float(steps["value"][1]) > 50
    assert float(bucket["value"][1]) == float(steps["value"][1])


def test_what_a_run_does_not_publish_any_more_is_gone_at_once(scenarios: Scenarios) -> None:
    active = f'count by (run) (count by (run, phase) ({catalog.TRAINING_PHASE_ACTIVE}{{rank="0"}}))'

    assert {each["metric"]["run"]: each["value"][1] for each in query(scenarios, active)} == {
        FINE_TUNING.run: "1"
    }


def test_rules_record_and_an_alert_fires_for_the_run_that_was_killed(scenarios: Scenarios) -> None:
    (alert,) = query(scenarios, f'ALERTS{{alertname="{TRAINING_RUN_KILLED}"}}')
    (pace,) = query(scenarios, f'run:training_tokens:rate5m{{run="{FINE_TUNING.run}"}}')
    (since,) = query(scenarios, f'time() - ALERTS_FOR_STATE{{alertname="{TRAINING_RUN_KILLED}"}}')

    assert alert["metric"]["run"] == KILLED.run
    assert alert["metric"]["alertstate"] == "firing"
    assert alert["metric"]["severity"] == "critical"
    assert float(pace["value"][1]) > 1000
    assert 400 <= float(since["value"][1]) <= 430


def test_every_target_is_up_and_scraped(scenarios: Scenarios) -> None:
    up = query(scenarios, "up == 1 and scrape_samples_scraped > 0 and scrape_duration_seconds > 0")

    assert {each["metric"]["job"] for each in up} == {
        *("training-service", "node", "kubelet", "prometheus", "alertmanager")
    }


def test_they_are_served_again_and_at_the_same_time_without_being_made_anew(
    directory: Path, scenarios: Scenarios
) -> None:
    with serve_scenarios(directory, TEN_MINUTES, hours=1 / 6) as again:
        assert (again.start, again.end) == (scenarios.start, scenarios.end)
        assert again.url != scenarios.url
        assert names(again) == names(scenarios)


def test_they_are_made_anew_when_what_trainings_record_or_services_publish_changes() -> None:
    code = {Path(module.__file__ or "") for module in (making, exposition, recording)}
    assert code <= set(served.sources())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TapeError("promtool could not make blocks: full"), "promtool could not make blocks: full"),
        (httpx.ReadTimeout("timed out"), "the rules could not be evaluated: timed out"),
    ],
)
def test_what_fails_in_the_making_is_one_error(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(making, "make_in_processes", lambda *arguments: None)
    monkeypatch.setattr(served, "_evaluate", fails)
    with pytest.raises(MakingError, match=said), serve_scenarios(tmp_path, TEN_MINUTES):
        pass


@pytest.mark.long
def test_the_whole_story_has_every_metric_and_every_recorded_rule(tmp_path: Path) -> None:
    with serve_scenarios(tmp_path, WHOLE_STORY) as scenarios:
        found = names(scenarios)
        published = {
            f"{name}_bucket" if metric.kind == "histogram" else name for name, metric in CATALOG.items()
        }
        recorded = {
            rule.name
            for group in groups(Thresholds())
            for rule in group.rules
            if isinstance(rule, RecordingRule)
        }
        states = query(scenarios, f"{catalog.TRAINING_RUN_STATE} == 1")

    assert published - found == set()
    assert recorded - found == set()
    assert {each["metric"]["state"] for each in states} == {
        *("running", "stalled", "finished", "failed", "killed")
    }
