from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lightning.fabric
import lightning_fabric
import pytest
import torch
from lightning.fabric.plugins import MixedPrecision
from torch.utils.data import DataLoader

from tests.trainer_hooks.recorded import only, recorded
from trainer_hooks import fabric
from trainer_hooks import lightning_fabric as by_own_package
from trainer_hooks.fabric import TelemetryCallback
from trainer_hooks.monitor import Monitor, current
from trainer_hooks.recording import FINISHED, find


@pytest.fixture(autouse=True)
def _closed(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRAINVITALS", "0")  # only the callbacks that a test gives its Fabric
    yield
    monitor = current()
    if monitor is not None:
        monitor.finish()


def lit(*callbacks: Any, kind: Any = lightning.fabric.Fabric, **options: Any) -> Any:
    made = kind(accelerator="cpu", callbacks=list(callbacks), **options)
    made.launch()
    return made


class Trained:
    """Five batches of four through a linear layer, two of them a step; what it came to."""

    def __init__(self, made: Any, clip: bool = False, apart: bool = False) -> None:
        torch.manual_seed(0)
        linear = torch.nn.Linear(3, 1)
        optimizer: Any = torch.optim.SGD(linear.parameters(), lr=0.1)
        if apart:
            self.network = made.setup_module(linear)
            self.optimizer = made.setup_optimizers(optimizer)
        else:
            self.network, self.optimizer = made.setup(linear, optimizer)
        self.losses: list[float] = []
        self.norms: list[float] = []
        loader = made.setup_dataloaders(DataLoader(cast(Any, torch.randn(20, 3)), batch_size=4))
        for at, batch in enumerate(loader, 1):
            loss = self.network(batch).square().mean()
            self.losses.append(float(loss.detach()))
            made.backward(loss / 2)
            if at % 2 == 0 or at == len(loader):
                if clip:
                    self.norms.append(float(made.clip_gradients(self.network, self.optimizer, max_norm=0.5)))
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.weights = [each.detach().clone() for each in linear.parameters()]


@pytest.mark.parametrize("apart", [False, True], ids=["setup", "setup_module and setup_optimizers"])
@pytest.mark.parametrize(
    ("kind", "callback"),
    [
        (lightning.fabric.Fabric, fabric.TelemetryCallback),
        (lightning_fabric.Fabric, by_own_package.TelemetryCallback),
    ],
    ids=["lightning.fabric", "lightning_fabric"],
)
def test_what_a_fabric_sets_up_is_followed_in_both_namespaces(
    recordings: Path, kind: Any, callback: Any, apart: bool
) -> None:
    telemetry = callback(name="a-name", dataset="toys")
    trained = Trained(lit(telemetry, kind=kind), clip=True, apart=apart)
    telemetry.close()
    seen = only(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (3, 5, 20)
    means = [sum(trained.losses[at : at + 2]) / len(trained.losses[at : at + 2]) for at in (0, 2, 4)]
    assert [record.loss for record in seen.steps] == pytest.approx(means)
    assert [record.gradient_norm for record in seen.steps] == pytest.approx(trained.norms)
    assert seen.live.learning_rates[0] == 0.1
    assert seen.static.run.startswith("a-name-")
    assert (seen.static.info["dataset"], seen.static.info["precision"]) == ("toys", "32-true")
    assert seen.static.info["framework"] == callback.framework
    assert (seen.live.outcome, seen.of("finish")[0]["reason"]) == (FINISHED, "completed")
    assert (seen.live.hook_errors, seen.live.hook_dropped) == (0, 0)


def test_a_fabric_without_an_optimizer_records_nothing(recordings: Path) -> None:
    network = lit(TelemetryCallback()).setup(torch.nn.Linear(3, 1))
    with torch.no_grad():
        network(torch.ones(2, 3))
    assert not list(find(recordings))


def test_a_fabric_without_our_callback_is_left_alone(recordings: Path) -> None:
    made = lit()
    Trained(made)
    assert not list(find(recordings))
    assert not vars(made).keys() & {"save", "clip_gradients"}


def test_saves_are_checkpoints(recordings: Path, tmp_path: Path) -> None:
    telemetry = TelemetryCallback()
    made = lit(telemetry)
    trained = Trained(made)
    made.save(tmp_path / "saved.ckpt", {"model": trained.network})
    telemetry.close()
    made.save(path=tmp_path / "later.ckpt", state={"model": trained.network})
    live = only(recordings).live
    assert (live.checkpoints_ok, live.checkpoint_bytes) == (1, (tmp_path / "saved.ckpt").stat().st_size)
    assert (tmp_path / "later.ckpt").exists()
    assert not vars(made).keys() & {"save", "clip_gradients"}


def test_a_step_that_the_loss_scaler_left_out_is_skipped(recordings: Path) -> None:
    telemetry = TelemetryCallback()
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
    made = lit(telemetry, plugins=[plugin])
    linear = torch.nn.Linear(3, 1)
    network, optimizer = made.setup(linear, torch.optim.SGD(linear.parameters(), lr=0.1))
    losses = []
    for at in range(3):
        loss = network(torch.ones(2, 3)).square().mean()
        losses.append(float(loss.detach()))
        made.backward(loss)
        if at == 1:
            assert linear.weight.grad is not None
            linear.weight.grad[0, 0] = math.inf
        optimizer.step()
        optimizer.zero_grad()
    telemetry.close()
    seen = only(recordings)
    assert (seen.live.steps, seen.live.steps_skipped, seen.live.batches) == (2, 1, 3)
    assert seen.steps[0].loss == pytest.approx(losses[0])  # not the scaled one
    assert seen.live.hook_errors == 0


def test_the_training_of_another_fabric_ends_the_recording(recordings: Path) -> None:
    first, second = TelemetryCallback(run="first"), TelemetryCallback(run="second")
    made = lit(first)
    Trained(made)
    Trained(lit(second))
    assert not vars(made).keys() & {"save", "clip_gradients"}
    second.close()
    for seen in recorded(recordings):
        assert (seen.live.steps, seen.live.batches, seen.live.outcome) == (3, 5, FINISHED)
    assert [seen.static.run for seen in recorded(recordings)] == ["first", "second"]


@pytest.mark.parametrize("first", [False, True], ids=["automatic last", "automatic first"])
def test_an_automatic_callback_yields(recordings: Path, first: bool) -> None:
    explicit, automatic = TelemetryCallback(run="explicit"), TelemetryCallback(run="not", automatic=True)
    Trained(lit(*((automatic, explicit) if first else (explicit, automatic))))
    explicit.close()
    assert only(recordings).static.run == "explicit"
    assert only(recordings).live.batches == 5


def test_of_two_automatic_callbacks_one_records_and_none_beside_a_monitor(recordings: Path) -> None:
    with Monitor(run="by-hand"):
        Trained(lit(TelemetryCallback(run="not", automatic=True)))
    one = TelemetryCallback(run="one", automatic=True)
    Trained(lit(one, TelemetryCallback(run="two", automatic=True)))
    one.close()
    assert [seen.static.run for seen in recorded(recordings)] == ["by-hand", "one"]
    assert [seen.live.steps for seen in recorded(recordings)] == [0, 3]


def test_the_hook_changes_nothing_a_training_computes(recordings: Path) -> None:
    without = Trained(lit(), clip=True)
    random = torch.get_rng_state()
    telemetry = TelemetryCallback()
    with_it = Trained(lit(telemetry), clip=True)
    telemetry.close()
    assert with_it.losses == without.losses
    assert with_it.norms == without.norms
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(mine, other) for mine, other in zip(with_it.weights, without.weights, strict=True))


def test_a_recording_that_cannot_be_opened_costs_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    assert len(Trained(lit(TelemetryCallback())).losses) == 5
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]
