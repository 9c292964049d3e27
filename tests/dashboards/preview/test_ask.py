"""What is asked of Prometheus for a dashboard, and what its refusals come to."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from dashboards.preview import ask
from dashboards.preview.queries import Window

WINDOW = Window(1_000_000, 1_003_600)


class Answers:
    """Stands for Prometheus: values of labels, and a refusal of every query that names `broken`."""

    def __init__(self, labels: dict[str, list[str]]) -> None:
        self.labels = labels
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        text = request.content.decode() or request.url.query.decode()
        parameters = {name: values[0] for name, values in parse_qs(text).items()}
        self.asked.append((request.url.path, parameters))
        if request.url.path.startswith("/api/v1/label/"):
            data: Any = self.labels[request.url.path.split("/")[-2]]
        elif "broken" in parameters["query"]:
            return httpx.Response(400, json={"status": "error", "error": "parse error: broken"})
        else:
            data = {"resultType": "vector", "result": []}
        return httpx.Response(200, json={"status": "success", "data": data})


def page(dashboard: dict[str, Any], answers: Answers, **choices: list[str]) -> dict[str, Any]:
    async def made() -> dict[str, Any]:
        transport = httpx.MockTransport(answers)
        async with httpx.AsyncClient(base_url="http://prometheus", transport=transport) as client:
            return await ask.page(ask.Prometheus(client), dashboard, WINDOW, 1600, choices, False)

    return asyncio.run(made())


def dashboard(*exprs: str) -> dict[str, Any]:
    return {
        "uid": "made",
        "title": "Made",
        "templating": {
            "list": [
                {
                    "name": "node",
                    "type": "query",
                    "query": {"query": "label_values(up, instance)"},
                    "current": {},
                },
                {
                    "name": "run",
                    "type": "query",
                    "query": 'label_values(info{instance=~"$node"}, run)',
                    "current": {},
                },
            ]
        },
        "panels": [
            {
                "id": place,
                "type": "stat",
                "title": expr,
                "gridPos": {"x": 0, "y": 8 * place, "w": 6, "h": 8},
                "targets": [{"refId": "A", "expr": expr, "instant": True}],
            }
            for place, expr in enumerate(exprs)
        ],
    }


def test_a_variable_is_asked_for_by_those_before_it_and_fills_in_the_panels() -> None:
    answers = Answers({"instance": ["node-1"], "run": ["first", "second"]})
    made = page(dashboard('loss{run=~"$run"}'), answers)
    assert answers.asked[1] == (
        "/api/v1/label/run/values",
        {"match[]": 'info{instance=~"node-1"}', "start": "1000000.000", "end": "1003600.000"},
    )
    assert answers.asked[2] == ("/api/v1/query", {"query": 'loss{run=~"first"}', "time": "1003600.000"})
    assert made["texts"] == {"node": "node-1", "run": "first"}


def test_a_choice_that_is_given_is_made() -> None:
    answers = Answers({"instance": ["node-1"], "run": ["first", "second"]})
    page(dashboard("loss{run='$run'}"), answers, run=["second"])
    assert answers.asked[-1][1]["query"] == "loss{run='second'}"


def test_a_refused_query_stands_in_its_panel_and_one_that_finds_nothing_is_empty() -> None:
    answers = Answers({"instance": ["node-1"], "run": ["first"]})
    refused, nothing = page(dashboard("broken(", "nothing"), answers)["panels"]
    assert (refused["errors"], refused["empty"]) == (["A: parse error: broken"], False)
    assert (nothing["errors"], nothing["empty"]) == ([], True)


def test_a_query_on_two_panels_is_asked_once() -> None:
    answers = Answers({"instance": ["node-1"], "run": ["first"]})
    page(dashboard("same", "same"), answers)
    assert [parameters["query"] for path, parameters in answers.asked if path == "/api/v1/query"] == ["same"]


def test_a_prometheus_that_is_not_there_is_named() -> None:
    with pytest.raises(ask.AnswerError, match=r"127\.0\.0\.1:1/? does not answer as a Prometheus"):
        asyncio.run(ask.pages([], "http://127.0.0.1:1", WINDOW, [1600], choices={}, open_rows=False))


def test_a_panel_that_is_to_be_repeated_says_that_it_is_not() -> None:
    answers = Answers({"instance": ["node-1"], "run": ["first"]})
    made = dashboard("loss")
    made["panels"][0]["repeat"] = "run"
    assert page(made, answers)["panels"][0]["errors"] == [
        "the preview repeats no panels, and this one is to be by run"
    ]
