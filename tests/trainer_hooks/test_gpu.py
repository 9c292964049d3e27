"""The hook beside a real CUDA device: it waits for nothing, disturbs no graph, and its counts are exact."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.trainer_hooks.recorded import Recorded, only
from trainer_hooks import device, readback
from trainer_hooks.batches import count_tokens
from trainer_hooks.lightning import TelemetryCallback
from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, OTHER, Monitor
from trainer_hooks.recording import DEVICE_PHASES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VOCABULARY, ROWS, LENGTH = 50, 4, 16


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readback, "_pool", None)
    monkeypatch.setattr(device, "LOOK_EVERY_NS", 0)
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "recordings"))
    torch.cuda.init()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Torch raises where something waits for the device; it calls the mode a prototype, as a warning."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.embed(input_ids))
        loss = nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1), ignore_index=-100
        )
        return {"loss": loss, "logits": logits}


def batch(seed: int) -> dict[str, torch.Tensor]:
    """Rows of which some labels do not count."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=generator)
    ignored = torch.rand(ids.shape, generator=generator) < 0.3
    return {"input_ids": ids, "labels": ids.masked_fill(ignored, -100)}


def trained_tokens(batches: list[dict[str, torch.Tensor]]) -> int:
    return sum(int((each["labels"][:, 1:] != -100).sum()) for each in batches)


def on_device(each: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cuda() for name, value in each.items()}


def check_device(seen: Recorded) -> None:
    """What any training on the device must have told."""
    live = seen.live
    assert (live.hook_errors, live.hook_dropped) == (0, 0)
    assert live.cuda_reserved_peak_bytes is not None
    assert live.cuda_reserved_bytes is not None
    assert live.cuda_allocated_bytes is not None
    assert live.cuda_reserved_peak_bytes >= live.cuda_reserved_bytes >= live.cuda_allocated_bytes > 0
    assert live.cuda_reserved_peak_bytes == torch.cuda.max_memory_reserved()
    told = seen.of("info")[0]
    assert told["device"] == torch.cuda.get_device_name()
    assert str(told["gpu_uuid"]).startswith(("GPU-", "MIG-"))


def test_monitor_waits_for_nothing_and_counts_exactly_what_is_on_the_device(tmp_path: Path) -> None:
    model = Bigram().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [batch(seed) for seed in range(40)]
    there = [on_device(each) for each in batches]
    losses = []
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.model(model)
        with waiting_is_an_error():
            for each in there:
                monitor.enter(DATA)
                monitor.enter(FORWARD)
                loss = model(**each)["loss"]
                losses.append(loss.detach())
                monitor.enter(BACKWARD)
                loss.backward()
                monitor.enter(OPTIMIZER)
                optimizer.step()
                optimizer.zero_grad()
                tokens, trained = count_tokens(each)
                monitor.batch(loss=loss, samples=ROWS, tokens=tokens, trained_tokens=trained)
                monitor.end_step()
                monitor.enter(OTHER)
        torch.cuda.synchronize()
    seen = only(tmp_path)
    check_device(seen)
    assert (seen.live.steps, seen.live.tokens_all) == (40, 40 * ROWS * LENGTH)
    assert seen.live.tokens_trained == trained_tokens(batches)
    assert [record.loss for record in seen.steps] == [float(loss) for loss in losses]
    assert seen.live.model_flops == seen.live.tokens_all * 6 * 8 * VOCABULARY
    device_seconds = dict(zip(DEVICE_PHASES, seen.live.device_seconds, strict=True))
    for phase in ("forward", "backward", "optimizer"):
        assert (device_seconds[phase] or 0) > 0
    assert device_seconds["compute"] == 0


def test_time_on_the_device_is_that_of_its_work_not_of_its_launch(tmp_path: Path) -> None:
    left = torch.randn(4096, 4096, device="cuda")
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    left @ left
    torch.cuda.synchronize()
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        begin.record()
        monitor.enter(FORWARD)
        for _ in range(50):
            left @ left
        monitor.enter(OTHER)
        end.record()
        torch.cuda.synchronize()
    measured = begin.elapsed_time(end) / 1000
    assert only(tmp_path).live.device_seconds[0] == pytest.approx(measured, rel=0.02, abs=1e-4)


def test_a_graph_is_captured_and_replayed_with_the_hook_inside(tmp_path: Path) -> None:
    weight = torch.ones(8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.batch(loss=weight.sum(), tokens=1)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            weight.mul_(1)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            monitor.enter(FORWARD)
            weight.add_(1)
            monitor.enter(BACKWARD)
            monitor.batch(loss=weight.sum(), tokens=1)
            monitor.end_step()
            monitor.enter(OTHER)
        for _ in range(3):
            with monitor.step():
                graph.replay()
        torch.cuda.synchronize()
        assert weight.tolist() == [4.0] * 8
    live = only(tmp_path).live
    assert (live.hook_errors, live.steps, live.tokens_all) == (0, 4, 2)
    assert live.hook_dropped > 0  # the loss and the times within the capture


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_training_is_the_same_with_the_hook_inside(mode: str, tmp_path: Path) -> None:
    def trained(monitor: Monitor | None) -> list[float]:
        torch.manual_seed(0)
        torch.compiler.reset()
        model = Bigram().cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def forward(each: dict[str, torch.Tensor]) -> torch.Tensor:
            if monitor is not None:
                monitor.enter(FORWARD)
            loss: torch.Tensor = model(**each)["loss"]
            return loss

        compiled = torch.compile(forward, mode=mode)
        losses = []
        for seed in range(8):
            loss = compiled(on_device(batch(seed)))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
            if monitor is not None:
                monitor.batch(loss=loss, trained_tokens=1)
                monitor.end_step()
        return losses

    without = trained(None)
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        assert trained(monitor) == without
    assert only(tmp_path).live.hook_errors == 0


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Bigram()

    def training_step(self, each: Any, batch_idx: int) -> Any:
        return self.model(**each)["loss"]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightnings_callback_waits_for_nothing_and_counts_exactly(tmp_path: Path) -> None:
    batches = [batch(seed) for seed in range(20)]

    class Strict(TelemetryCallback):
        """Only what our callback does is watched: Lightning itself may wait."""

        def on_train_batch_start(self, *arguments: Any) -> None:
            with waiting_is_an_error():
                super().on_train_batch_start(*arguments)

        def on_before_backward(self, *arguments: Any) -> None:
            with waiting_is_an_error():
                super().on_before_backward(*arguments)

        def on_before_optimizer_step(self, *arguments: Any) -> None:
            with waiting_is_an_error():
                super().on_before_optimizer_step(*arguments)

        def on_train_batch_end(self, *arguments: Any) -> None:
            with waiting_is_an_error():
                super().on_train_batch_end(*arguments)

    trainer = pl.Trainer(
        accelerator="cuda",
        devices=1,
        max_epochs=1,
        callbacks=[Strict(run="a-run", loss_kind="cross_entropy")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    seen = only(tmp_path / "recordings")
    check_device(seen)
    assert (seen.live.steps, seen.live.tokens_all) == (20, 20 * ROWS * LENGTH)
    assert seen.live.tokens_trained == trained_tokens(batches)
    assert seen.live.model_flops == seen.live.tokens_all * 6 * 8 * VOCABULARY


def test_a_watched_loop_waits_for_nothing_and_counts_exactly(tmp_path: Path) -> None:
    model = Bigram().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [batch(seed) for seed in range(20)]
    there = [on_device(each) for each in batches]
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.watch(model, optimizer)
        with waiting_is_an_error():
            for each in there:
                model(**each)["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()
        torch.cuda.synchronize()
    seen = only(tmp_path)
    check_device(seen)
    assert seen.live.steps == 20
    assert seen.live.tokens_trained == trained_tokens(batches)


def test_a_watched_evaluation_waits_for_nothing_and_is_exact(tmp_path: Path) -> None:
    model = Bigram().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = [batch(seed) for seed in range(5)]
    there = [on_device(each) for each in batches]
    losses = []
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        monitor.watch(model, optimizer)
        with waiting_is_an_error():
            model(**there[0])["loss"].backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                losses = [model(**each)["loss"] for each in there]
            model.train()
            model(**there[0])["loss"].backward()
            optimizer.step()
        torch.cuda.synchronize()
    counts = [trained_tokens([each]) for each in batches]
    mean = sum(float(loss) * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    seen = only(tmp_path)
    check_device(seen)
    assert seen.live.validation_loss == pytest.approx(mean, rel=1e-5)
    assert seen.live.validation_loss_tokens == sum(counts)


def test_the_trainings_random_state_and_peaks_are_left_alone(tmp_path: Path) -> None:
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    torch.empty(1 << 26, device="cuda")
    peak = torch.cuda.max_memory_allocated()
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        for _ in range(10):
            with monitor.step():
                monitor.batch(loss=torch.zeros((), device="cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.cuda.max_memory_allocated() == peak
