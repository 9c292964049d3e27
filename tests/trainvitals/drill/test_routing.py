"""What an Alertmanager's configuration makes of an alert."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from trainvitals.drill import routing
from trainvitals.drill.routing import Config, Way

LABELS = {
    "alertname": "TrainingStalled",
    "severity": "critical",
    "scope": "run",
    "run": "drill",
    "drill": "true",
}
OWN = {"run", "drill"}


def config(**sections: Any) -> Config:
    receivers = [{"name": "first", "slack_configs": [{}], "email_configs": []}, {"name": "second"}]
    text = {"route": {"receiver": "first"}, "receivers": receivers, **sections}
    return Config.parse(yaml.safe_dump(text))


def test_a_receiver_has_the_integrations_that_are_set_up() -> None:
    assert config().integrations == {"first": ["slack"], "second": []}


def test_a_route_inherits_how_long_it_waits_but_not_its_times() -> None:
    below = {"receiver": "second", "matchers": ["severity=critical"]}
    office = {
        "matchers": ["scope=run"],
        "group_wait": "1m30s",
        "active_time_intervals": ["office"],
        "routes": [below],
    }
    assert config(route={"receiver": "first", "routes": [office]}).ways(LABELS) == [Way("second", 90)]
    below["matchers"] = ["severity=info"]
    assert config(route={"receiver": "first", "routes": [office]}).ways(LABELS) == [
        Way("first", 90, ("office",))
    ]


def test_the_first_route_that_matches_is_taken_and_the_next_where_it_says_so() -> None:
    first, second = {"receiver": "first", "group_wait": "1s"}, {"receiver": "second", "group_wait": "2s"}
    top = {"receiver": "first", "routes": [{"receiver": "none", "match": {"run": "x"}}, first, second]}
    assert config(route=top).ways(LABELS) == [Way("first", 1)]
    first["continue"] = True  # type: ignore[assignment]
    assert config(route=top).ways(LABELS) == [Way("first", 1), Way("second", 2)]


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('severity = "critical"', True),
        ("severity=critical", True),
        ("severity != critical", False),
        ('alertname =~ "Training.*|GPULost"', True),
        ('alertname =~ "Stalled"', False),
        ("alertname!~Training.+", False),
        ('{severity="critical",scope="hardware"}', False),
        ('{ severity="critical", "scope"="run" }', True),
        ("cluster=", True),
        ('run="a\\"b"', False),
        (r'alertname =~ "\\pL+"', True),  # Go has it, Python does not
        ("severity ~ critical", True),  # cannot be read
    ],
)
def test_matchers_are_read_as_alertmanager_reads_them_and_match_where_they_cannot_be(
    text: str, matches: bool
) -> None:
    top = {"receiver": "first", "routes": [{"receiver": "second", "matchers": [text]}]}
    assert config(route=top).ways(LABELS) == [Way("second" if matches else "first")]


@pytest.mark.parametrize(
    ("rule", "holds_back"),
    [
        ({"source_matchers": ["severity=critical"], "target_matchers": ["severity=warning"]}, True),
        ({"source_match": {"severity": "critical"}, "target_match_re": {"severity": "warning|info"}}, True),
        ({"source_matchers": ["severity=critical"], "equal": ["cluster", "namespace"]}, True),
        ({"source_matchers": ["severity=critical"], "equal": ["cluster", "run"]}, False),
        ({"source_matchers": ["severity=critical", "drill!=true"]}, False),
        ({"source_matchers": ["severity=warning"]}, False),
        # What kube-prometheus brings: an alert of the same name has the same severity.
        (
            {
                "source_matchers": ["severity = critical"],
                "target_matchers": ["severity =~ warning|info"],
                "equal": ["namespace", "alertname"],
            },
            False,
        ),
        (
            {
                "source_matchers": ["severity = critical"],
                "target_matchers": ["team = ml"],
                "equal": ["alertname"],
            },
            True,
        ),
    ],
)
def test_a_test_holds_back_real_alerts_unless_a_label_of_its_own_is_to_be_equal(
    rule: dict[str, Any], holds_back: bool
) -> None:
    (parsed,) = config(inhibit_rules=[rule]).inhibit_rules
    assert parsed.lets_hold_back(LABELS, OWN) is holds_back


def test_a_duration_is_read_as_prometheus_writes_it() -> None:
    assert [routing.seconds(each) for each in ("1m30s", "500ms", "1d", "0s")] == [90, 0.5, 86_400, 0]
