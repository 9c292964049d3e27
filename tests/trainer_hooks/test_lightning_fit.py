"""Traps of Lightning: what is a step, what is its norm, what is its loss, and how it ends."""

from __future__ import annotations

import importlib
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from tests.trainer_hooks.recorded import only, recorded
from trainer_hooks.lightning import TelemetryCallback
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FINISHED


@pytest.fixture(autouse=True)
def _anew(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRAINVITALS", "0")  # only the callbacks that a test gives its Trainer
    clip = torch.nn.utils.clip_grad_norm_
    yield
    assert torch.nn.utils.clip_grad_norm_ is torch.nn.utils.clip_grad.clip_grad_norm_ is clip


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Linear(pl.LightningModule):
    """A regression that remembers the norm of its gradients before each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 1)
        self.norms: list[float] = []

    def loss(self, batch: Any) -> torch.Tensor:
        return cast(torch.Tensor, self.linear(batch).square().mean())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Manual(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for optimizer in cast(Any, self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]


def fit(model: pl.LightningModule, tmp_path: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """Five batches of four, an epoch."""
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[TelemetryCallback(loss_kind="cross_entropy"), *callbacks],
        **{**QUIET, "max_epochs": 1, **options},
    )
    trainer.fit(model, DataLoader(cast(Any, torch.randn(20, 3)), batch_size=4))
    return trainer


def test_the_norm_that_clipping_computes_is_the_gradient_norm(tmp_path: Path, recordings: Path) -> None:
    model = Linear()
    fit(model, tmp_path, gradient_clip_val=0.01, accumulate_grad_batches=2, max_epochs=2)
    seen = only(recordings)
    assert len(model.norms) == 6
    assert [record.gradient_norm for record in seen.steps] == pytest.approx(model.norms)
    assert seen.live.hook_errors == 0


@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, {"gradient_clip_val": None}],
    ids=["by value", "not at all"],
)
def test_where_no_norm_is_computed_none_is_recorded(
    tmp_path: Path, recordings: Path, options: dict[str, Any]
) -> None:
    fit(Linear(), tmp_path, **options)
    assert all(math.isnan(record.gradient_norm) for record in only(recordings).steps)


def test_norms_of_parts_or_of_another_kind_are_no_gradient_norm(tmp_path: Path, recordings: Path) -> None:
    class Parts(Linear):
        def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
            if self.global_step < 2:
                torch.nn.utils.clip_grad_norm_([self.linear.weight], 1.0)
                torch.nn.utils.clip_grad_norm_([self.linear.bias], 1.0)
            elif self.global_step == 2:
                torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0, norm_type=math.inf)
            else:
                torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0, 2.0)

    model = Parts()
    fit(model, tmp_path)
    norms = [record.gradient_norm for record in only(recordings).steps]
    none = math.nan
    assert norms == pytest.approx([none, none, none, *model.norms[3:]], nan_ok=True)


@pytest.mark.parametrize("returned", [None, 3.5])
def test_a_clipping_put_in_torchs_place_may_return_a_number_or_nothing(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch, returned: float | None
) -> None:
    def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> float | None:
        return returned

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.utils, "clip_grad_norm_", clip)
        fit(Linear(), tmp_path, gradient_clip_val=0.01)
    seen = only(recordings)
    expected = [math.nan if returned is None else returned] * 5
    assert [record.gradient_norm for record in seen.steps] == pytest.approx(expected, nan_ok=True)
    assert (seen.live.outcome, seen.live.hook_errors) == (FINISHED, 0)


def test_where_lightning_sees_no_step_the_norms_of_the_clipping_do_not_pile_up(tmp_path: Path) -> None:
    class Raw(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            cast(Any, self.optimizers(use_pl_optimizer=False)).step()

    kept: list[int] = []

    class Looking(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            telemetry = trainer.callbacks[0]
            kept.append(len(telemetry._clipping._norms))

    fit(Raw(), tmp_path, Looking())
    assert kept == [1, 2, 2, 2, 2]


def test_several_optimizers_have_no_expectation_and_no_norm(tmp_path: Path, recordings: Path) -> None:
    """`estimated_stepping_batches` counts batches, `global_step` the steps of both optimizers."""
    fit(Manual(), tmp_path, max_epochs=2)
    live = only(recordings).live
    assert (live.steps, live.step, live.batches) == (10, 20, 10)
    assert (live.steps_expected, live.epochs_expected, live.epoch) == (0, 2.0, 2.0)
    assert all(math.isnan(record.gradient_norm) for record in only(recordings).steps)
    assert live.hook_errors == 0


def test_a_schedule_of_the_accumulation_leaves_the_steps_unknown_and_the_losses_whole(
    tmp_path: Path, recordings: Path
) -> None:
    losses: list[float] = []

    class Remembering(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            losses.append(float(loss.detach()))
            return loss

    fit(Remembering(), tmp_path, GradientAccumulationScheduler({1: 2}), max_epochs=2)
    seen = only(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.steps_expected) == (8, 10, 0)
    assert seen.live.epochs_expected == 2.0
    means = [*losses[:5], *(sum(losses[at : at + 2]) / len(losses[at : at + 2]) for at in (5, 7, 9))]
    assert [record.loss for record in seen.steps] == pytest.approx(means)


class Overflowing(Linear):
    """Of its batches 1 and 2 the gradients are infinite."""

    def on_after_backward(self) -> None:
        if cast(Any, self.trainer).fit_loop.epoch_loop.batch_idx in (1, 2):
            assert self.linear.weight.grad is not None
            self.linear.weight.grad[0, 0] = math.inf


def test_a_step_that_the_loss_scaler_left_out_is_skipped_and_no_step(
    tmp_path: Path, recordings: Path
) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
    model = Overflowing()
    trainer = fit(model, tmp_path, plugins=[plugin], gradient_clip_val=1.0)
    seen = only(recordings)
    assert trainer.global_step == 5  # Lightning counts them all
    assert (seen.live.steps, seen.live.steps_skipped, seen.live.batches, seen.live.step) == (3, 2, 5, 5)
    assert [record.step for record in seen.steps] == [1, 4, 5]
    assert [record.gradient_norm for record in seen.steps] == pytest.approx(
        [model.norms[at] for at in (0, 3, 4)]
    )
    assert (seen.live.loss_scale, seen.live.nonfinite_gradient) == (16.0, 0)
    assert (seen.live.outcome, seen.live.hook_errors) == (FINISHED, 0)


def test_a_fused_optimizer_that_was_told_to_do_nothing_made_no_step(tmp_path: Path, recordings: Path) -> None:
    class Fused(Overflowing):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, fused=True)

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
    fit(Fused(), tmp_path, plugins=[plugin])
    live = only(recordings).live
    assert (live.steps, live.steps_skipped, live.batches, live.loss_scale) == (3, 2, 5, 16.0)


def test_an_auxiliary_loss_is_apart_and_the_sum_has_no_perplexity(tmp_path: Path, recordings: Path) -> None:
    class Mixture(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.loss(batch), "aux_loss": torch.tensor(float(batch_idx))}

    fit(Mixture(), tmp_path)
    seen = only(recordings)
    assert [event["name"] for event in seen.of("scalar")] == ["auxiliary_loss"]
    assert seen.live.scalars[0] == 4.0
    assert seen.told("loss_kind") == ["cross_entropy", "other"]


def test_losses_that_are_not_finite_are_counted_and_left_out(tmp_path: Path, recordings: Path) -> None:
    class Sometimes(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * (math.nan if batch_idx == 1 else 1.0)

    class Harmless(Sometimes):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            for each in self.parameters():
                each.grad = None

    fit(Harmless(), tmp_path)
    seen = only(recordings)
    assert (seen.live.nonfinite_loss, seen.live.steps) == (1, 5)
    assert [math.isnan(record.loss) for record in seen.steps] == [False, True, False, False, False]


def test_sigterm_is_an_end_by_hand(tmp_path: Path, recordings: Path) -> None:
    class Terminated(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.loss(batch)

    with pytest.raises(SIGTERMException):
        fit(Terminated(), tmp_path)
    seen = only(recordings)
    assert (seen.live.outcome, seen.live.steps, seen.of("finish")[0]["reason"]) == (
        FINISHED,
        2,
        "interrupted",
    )


@pytest.mark.parametrize("name", ["grad_2.0_norm_total", "Train/Grad-Norm", "gradient_norm"])
def test_what_the_module_logs_as_its_norm_comes_before_that_of_the_clipping(
    tmp_path: Path, recordings: Path, name: str
) -> None:
    class Logging(Linear):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.log(name, 7.0)

    fit(Logging(), tmp_path, gradient_clip_val=1.0)
    seen = only(recordings)
    assert [record.gradient_norm for record in seen.steps] == [7.0] * 5
    assert not seen.of("scalar")


NAMESPACES = [
    ("lightning.pytorch", "trainer_hooks.lightning"),
    ("pytorch_lightning", "trainer_hooks.pytorch_lightning"),
]


def fit_in(namespace: Any, tmp_path: Path, *callbacks: Any) -> None:
    """A fit with the Trainer and a module of either namespace."""

    class Module(namespace.LightningModule):  # type: ignore[misc]
        configure_optimizers = Linear.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.linear(batch).square().mean()

    namespace.Trainer(
        **QUIET, accelerator="cpu", default_root_dir=tmp_path, callbacks=list(callbacks), max_epochs=1
    ).fit(Module(), DataLoader(cast(Any, torch.randn(20, 3)), batch_size=4))


@pytest.mark.parametrize("namespaces", NAMESPACES, ids=lambda namespaces: namespaces[0])
def test_a_callback_of_either_namespace_is_one_of_that_namespace_and_records(
    namespaces: tuple[str, str], tmp_path: Path, recordings: Path
) -> None:
    namespace, module = map(importlib.import_module, namespaces)
    callback = module.TelemetryCallback(run="a-run")
    assert isinstance(callback, namespace.Callback)
    fit_in(namespace, tmp_path, callback)
    seen = only(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (5, 5, 20)
    assert (seen.live.outcome, seen.live.hook_errors) == (FINISHED, 0)
    name = namespaces[0].removesuffix(".pytorch")
    assert seen.static.info["framework"] == f"{name} {importlib.import_module(name).__version__}"


@pytest.mark.parametrize("first", [False, True], ids=["automatic last", "automatic first"])
@pytest.mark.parametrize("namespaces", NAMESPACES, ids=lambda namespaces: namespaces[0])
def test_an_automatic_callback_yields_to_one_that_was_asked_for(
    namespaces: tuple[str, str], tmp_path: Path, recordings: Path, first: bool
) -> None:
    namespace, module = map(importlib.import_module, namespaces)
    explicit = module.TelemetryCallback(run="explicit")
    automatic = module.TelemetryCallback(run="automatic", automatic=True)
    fit_in(namespace, tmp_path, *((automatic, explicit) if first else (explicit, automatic)))
    assert only(recordings).static.run == "explicit"
    assert only(recordings).live.batches == 5


def test_of_two_automatic_callbacks_one_records_and_none_beside_a_monitor(
    tmp_path: Path, recordings: Path
) -> None:
    with Monitor(run="by-hand"):
        fit_in(pl, tmp_path, TelemetryCallback(run="not", automatic=True))
    fit_in(
        pl,
        tmp_path,
        TelemetryCallback(run="one", automatic=True),
        TelemetryCallback(run="two", automatic=True),
    )
    assert [seen.static.run for seen in recorded(recordings)] == ["by-hand", "one"]
    assert [seen.live.steps for seen in recorded(recordings)] == [0, 5]


def test_an_automatic_callback_takes_over_what_was_opened_for_whatever_comes(
    tmp_path: Path, recordings: Path
) -> None:
    with Monitor(name="provisional", provisional=True):
        fit_in(pl, tmp_path, TelemetryCallback(run="a-run", automatic=True))
    assert only(recordings).static.run == "a-run"
    assert only(recordings).live.steps == 5
