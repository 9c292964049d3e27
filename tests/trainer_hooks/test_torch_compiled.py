# mypy: allow-untyped-calls
"""Models that torch compiles, whole or in place: they are compiled as without the hook, and seen."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer_hooks.recorded import only
from trainer_hooks.monitor import Monitor

ROWS = (4, 4, 4, 5, 6)  # a length that changes once is compiled again, for all lengths


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path))
    yield
    torch._dynamo.reset()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def train(model: Any, monitor: Monitor | None, compile_later: Any = None) -> tuple[Any, ...]:
    """The losses, the weights, and how often torch compiled and broke off."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if monitor is not None:
        monitor.watch(model, optimizer)
    if compile_later is not None:
        model.compile(**compile_later)
    losses = []
    for rows in ROWS:
        loss = model(torch.ones(rows, 3)).square().mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    counters = torch._dynamo.utils.counters
    weights = [each.tolist() for each in model.parameters()]
    return losses, weights, counters["stats"]["unique_graphs"], dict(counters["graph_break"])


def assert_seen(recordings: Path, losses: list[float]) -> None:
    seen = only(recordings)
    assert (seen.live.hook_errors, seen.live.hook_dropped) == (0, 0)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (5, 5, sum(ROWS))
    assert [record.loss for record in seen.steps] == losses
    assert seen.live.phase_ns[2] > 0


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_a_compiled_model_is_compiled_as_often_and_computes_the_same(tmp_path: Path, backend: str) -> None:
    def compiled() -> Any:
        return torch.compile(network(), backend=backend, fullgraph=True)

    with Monitor() as monitor:
        with_it = train(compiled(), monitor)
    assert_seen(tmp_path, with_it[0])
    assert with_it == train(compiled(), None)
    assert with_it[2:] == (2, {})


@pytest.mark.parametrize("later", [True, False])
def test_a_model_compiled_in_place_is_seen_before_it_is_watched_and_after(
    tmp_path: Path, later: bool
) -> None:
    how = {"backend": "aot_eager", "fullgraph": True}

    def trained(monitor: Monitor | None) -> tuple[Any, ...]:
        model = network()
        if not later:
            model.compile(**how)
        return train(model, monitor, how if later else None)

    with Monitor() as monitor:
        with_it = trained(monitor)
    assert_seen(tmp_path, with_it[0])
    assert with_it == trained(None)
    assert with_it[2:] == (2, {})


def test_a_model_compiled_in_place_can_be_copied_and_is_its_own_again(tmp_path: Path) -> None:
    model = network()
    model.compile(backend="eager")
    own, compile_ = model._compiled_call_impl, nn.Module.compile
    with Monitor() as monitor:
        monitor.watch(model)
        assert model._compiled_call_impl is not own
        for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(each(torch.ones(2, 3)), model(torch.ones(2, 3)))
        with pytest.raises(RuntimeError, match=r".+"):
            model(torch.ones(2, 2))
    assert model._compiled_call_impl is own
    assert nn.Module.compile is compile_
    assert only(tmp_path).live.hook_errors == 0


def test_a_model_compiled_in_place_within_another_that_is_compiled_is_part_of_it(tmp_path: Path) -> None:
    inner = network()
    inner.compile(backend="eager")

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x)

    outer = torch.compile(Outer(), backend="eager", fullgraph=True)
    with Monitor() as monitor:
        monitor.watch(inner, outer)
        outer(torch.ones(2, 3)).mean().backward()
    live = only(tmp_path).live
    assert (live.hook_errors, live.batches, live.samples) == (0, 1, 2)
