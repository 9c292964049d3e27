"""The API against its own description: whatever the description allows is answered as it says."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.exporters.api.service import Service, called
from tests.exporters.trainers import small_recording
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FINISHED


@pytest.fixture
def busy(service: Service) -> Service:
    """A service that has runs of several states, and events; none that lives, for it would be ended."""
    small_recording(service.directory, "a-run").close(FINISHED, time.monotonic_ns())
    small_recording(service.directory, "0").disarm()
    monitor = Monitor(run="another", rank=0, world_size=1, directory=service.directory)
    monitor.evaluated(loss=math.inf, tokens=1)
    monitor.stage("one")
    monitor.finish()
    service.look()
    return service


@pytest.mark.parametrize("examples", [10, pytest.param(500, marks=pytest.mark.long)])
def test_what_the_description_allows_is_answered_as_it_says(busy: Service, examples: int) -> None:
    """But for one check: a cursor is any text, and what is none is refused."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", called(busy.app))
    few = functools.partial(
        hypothesis.settings, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    tried = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @few(max_examples=examples)
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        answered()
        tried.append(operation.label)

    print(f"{len(tried)} operations, up to {examples} calls each")
    assert len(tried) >= 15


def test_every_operation_says_what_it_is_for(service: Service) -> None:
    for path, operations in service.app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), f"{method} {path}"


def examples_in(part: Any, definitions: dict[str, Any], seen: frozenset[str] = frozenset()) -> list[Any]:
    """The examples within a schema, and within those it refers to."""
    if isinstance(part, list):
        return [example for each in part for example in examples_in(each, definitions, seen)]
    if not isinstance(part, dict):
        return []
    name = str(part.get("$ref", "")).rpartition("/")[2]
    found = [*part.get("examples", ()), *([part["example"]] if "example" in part else [])]
    found += examples_in(list(part.values()), definitions, seen)
    if name and name not in seen:
        found += examples_in(definitions[name], definitions, seen | {name})
    return found


def test_every_body_that_is_sent_or_answered_has_examples(service: Service) -> None:
    document = service.app.openapi()
    definitions = document["components"]["schemas"]
    bodies = {
        f"{method} {path}": content["application/json"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for content in (
            operation.get("requestBody", {}).get("content", {}),
            operation["responses"].get("200", {}).get("content", {}),
        )
        if "application/json" in content
    }
    assert len(bodies) >= 15
    without = {name for name, body in bodies.items() if not examples_in(body, definitions)}
    assert without == set()
