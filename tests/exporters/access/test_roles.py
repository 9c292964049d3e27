from __future__ import annotations

import re

import pytest

from exporters.access.roles import RULES, Need, Role, rule_for


def test_an_admin_is_an_operator_is_a_viewer() -> None:
    assert [[one.includes(other) for other in Role] for one in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/health", Need.open),
        ("HEAD", "/health", Need.open),
        ("POST", "/health", Need.admin),
        ("GET", "/metrics", Need.scrape),
        ("GET", "/api/v1/runs/a-run/series", Need.viewer),
        ("DELETE", "/api/v1/runs/a-run", Need.operator),
        ("delete", "/api/v1/runs/a-run", Need.admin),
        ("GET", "/api/v1/audit", Need.admin),
        ("GET", "/api/v1/audit\n", Need.admin),
        ("GET", "/api/v1/audit/", Need.viewer),
        ("GET", "/assets/../api/v1/audit", Need.viewer),
        ("GET", "/nowhere", Need.viewer),
        ("PUT", "/nowhere", Need.admin),
        ("WEBSOCKET", "/api/v1/stream", Need.viewer),
        ("GET", "/api/v1/stream", Need.viewer),
    ],
)
def test_what_a_call_needs_is_in_the_table_and_else_the_safe_thing(
    method: str, path: str, need: Need
) -> None:
    assert rule_for(method, path).need is need


def test_no_two_rules_are_of_one_call() -> None:
    for rule in RULES:
        assert rule_for(rule.method, re.sub(r"\{\w+\}", "release", rule.path)) is rule
