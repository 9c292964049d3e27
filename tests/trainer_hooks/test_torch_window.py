"""What is held of losses and counts that are on a device: no number is read, and nothing besides is kept.

A tensor on the meta device has no number: to read or compare it, which would wait for a real device, raises.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from tests.trainer_hooks.recorded import only
from trainer_hooks.batches import count_tokens, count_tokens_unshifted, kept, samples, split_auxiliary
from trainer_hooks.lightning import TelemetryCallback
from trainer_hooks.monitor import Monitor
from trainer_hooks.torch_calls import Call
from trainer_hooks.torch_window import Evaluation, Scalar, Window
from trainer_hooks.transformers_loss import TrainerLoss

META = torch.device("meta")


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with Monitor(run="a-run", directory=tmp_path) as made:
        yield made


def there(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty((), dtype=dtype, device=META)


def rows() -> dict[str, torch.Tensor]:
    return {
        name: torch.ones(2, 5, dtype=torch.int64, device=META)
        for name in ("input_ids", "attention_mask", "labels")
    }


def call_there() -> Call:
    call = Call()
    call.loss, call.samples = there(), 2
    call.tokens, call.trained_tokens = count_tokens(rows())
    call.normalizer = there(torch.int64)
    return call


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3, device=META)

    def forward(self, input_ids: Any, labels: Any, attention_mask: Any = None) -> Any:
        loss = self.head(input_ids.float()).mean() * labels.ne(-100).sum()
        return SimpleNamespace(loss=loss, aux_loss=None)


def test_no_count_loss_or_mean_is_read() -> None:
    for count in (count_tokens, count_tokens_unshifted):
        tokens, trained = count(rows())
        assert (tokens.device, trained.device) == (META, META)
    assert samples(rows()) == 2
    outputs = SimpleNamespace(loss=there(), aux_loss=there())
    model = SimpleNamespace(config=SimpleNamespace(router_aux_loss_coef=0.1))
    loss, auxiliary, apart = split_auxiliary(outputs, outputs.loss, model)
    assert (loss.device, auxiliary.device, apart) == (META, META, True)
    evaluation = Evaluation()
    for _ in range(2):
        evaluation.add(call_there())
    mean, weight = evaluation.result()
    assert (mean.device, weight.device) == (META, META)


def test_a_window_reads_nothing_it_holds(monitor: Monitor, tmp_path: Path) -> None:
    window = Window(monitor)
    loss = nn.Linear(5, 1, device=META)(torch.ones(2, 5, device=META)).sum()
    for scale in (1, 2, torch.ones((), device=META)):
        for calls in ([call_there()], [call_there(), call_there()], [Call()], [Call(), Call()], []):
            window.take(calls, loss / scale)
            window.take([], Scalar(loss * scale))
    passes = len(window)
    window.record()
    seen = only(tmp_path).live
    assert (seen.batches, seen.hook_errors) == (passes, 0)


def test_a_watched_loop_reads_nothing(monitor: Monitor, tmp_path: Path) -> None:
    model, criterion = Model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor.watch(model, criterion, optimizer)
    for _ in range(2):
        model.train()
        for _ in range(2):
            (model(**rows()).loss / 2).backward()
            target = torch.zeros(2, dtype=torch.int64, device=META)
            criterion(model.head(torch.ones(2, 5, device=META)), target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.eval()
        with torch.no_grad():
            for _ in range(2):
                model(**rows())
    monitor.finish()
    seen = only(tmp_path).live
    assert (seen.steps, seen.batches, seen.hook_errors) == (2, 8, 0)
    assert seen.hook_dropped > 0  # what no number is known of


def test_what_lightning_and_transformers_hand_out_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path))
    callback = TelemetryCallback(run="a-run")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    module = pl.LightningModule()
    callback.setup(trainer, module, "fit")
    monitor = callback.monitor
    assert monitor is not None
    callback._end_batch(monitor, SimpleNamespace(accumulate_grad_batches=2), {"loss": there()}, rows())
    told = SimpleNamespace(sanity_checking=False, callback_metrics={"val_loss": there(), "val_acc": there()})
    callback.on_validation_start(told, module)
    callback.on_validation_batch_end(told, module, {"loss": there()}, rows(), 0)
    callback.on_validation_end(told, module)

    loss = TrainerLoss.__new__(TrainerLoss)
    loss._trainer = SimpleNamespace(current_gradient_accumulation_steps=2)
    loss._count, loss._by_tokens, loss._divides, loss._scale = count_tokens, True, True, 2
    loss._items_are_trained, loss._coefficient, loss._auxiliary_per_step = False, 0.1, True
    for training in (True, False):
        call = Call()
        loss.count(call, rows(), there(torch.int64), training=training)
        assert loss.read(call, there(), there(torch.int64), there(), training=training)
        evaluation = Evaluation()
        evaluation.add(call)
        assert evaluation.result()[0].device == META
    monitor.finish()
    seen = only(tmp_path).live
    assert (seen.batches, seen.hook_errors) == (1, 0)


def test_nothing_is_calculated_while_a_cuda_graph_is_captured(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with FakeTensorMode():
        on_cuda = torch.empty((), device="cuda")
    assert on_cuda.is_cuda
    assert kept(on_cuda) is None
    outputs = SimpleNamespace(loss=on_cuda, aux_loss=on_cuda)
    model = SimpleNamespace(config=SimpleNamespace(router_aux_loss_coef=0.1))
    assert split_auxiliary(outputs, on_cuda, model).loss is None
    call = Call()
    call.loss = call.trained_tokens = on_cuda
    evaluation = Evaluation()
    evaluation.add(call)
    assert evaluation.result() == (None, None)
    window = Window(monitor)
    window.take([Call()], on_cuda)
    window.take([], on_cuda)  # another part of the same loss
    assert [each.loss for each in window._held] == [None]


def test_a_loss_that_is_a_view_keeps_nothing_besides_itself() -> None:
    large = torch.empty(1000, device=META)
    assert kept(large[3]).untyped_storage().nbytes() == 4
    alone = there()
    assert kept(alone).untyped_storage()._cdata == alone.untyped_storage()._cdata  # no copy
    assert kept(torch.arange(3.0)[2]) == 2.0
    assert not hasattr(kept(torch.arange(3.0)[2]), "untyped_storage")


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_mean_taken_by_hand_of_as_many_samples_as_passes_is_left_alone(
    monitor: Monitor, tmp_path: Path, reduction: str
) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor.watch(model, optimizer)
    losses = []
    for _ in range(4):
        loss = functional.mse_loss(model(torch.randn(4, 3)), torch.zeros(4, 1), reduction=reduction)
        mean = loss.sum() / 4 if reduction == "none" else loss / 4
        losses.append(float(mean.detach()))
        mean.backward()
    optimizer.step()
    monitor.finish()
    (record,) = only(tmp_path).steps
    assert record.loss == pytest.approx(sum(losses) / 4)
