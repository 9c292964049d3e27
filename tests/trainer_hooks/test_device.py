"""What is told of CUDA devices. `Gpus` stands in for them: its clock goes on when a test says so."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer_hooks.recorded import only
from trainer_hooks import device, peak_flops
from trainer_hooks.device import Timeline
from trainer_hooks.monitor import BACKWARD, COMPUTE, DATA, EVALUATION, FORWARD, OPTIMIZER, OTHER, Monitor
from trainer_hooks.recording import DEVICE_PHASES, Live

UUID = "2b9b5a1e-0000-4000-8000-00000000000"


class Gpus:
    """As much of torch as `device` needs. Work takes time on a stream; events are reached when it is done."""

    def __init__(self, name: str = "NVIDIA H100 80GB HBM3", count: int = 1) -> None:
        self.initialised = True
        self.capturing = False
        self.current = 0
        self.names = [name] * count
        self.reserved = [0] * count
        self.events = 0
        self.enqueued_ms = 0.0  # device time of all work given to it
        self.done_ms = 0.0
        self.version = types.SimpleNamespace(hip=None)
        matmul = types.SimpleNamespace(fp32_precision="none")
        self.backends = types.SimpleNamespace(cuda=types.SimpleNamespace(matmul=matmul))
        self.cuda = types.SimpleNamespace(
            is_initialized=lambda: self.initialised,
            is_current_stream_capturing=lambda: self.capturing,
            current_device=lambda: self.current,
            current_stream=lambda index: ("stream", index),
            device_count=lambda: count,
            memory_stats_as_nested_dict=self._memory,
            get_device_properties=lambda index: types.SimpleNamespace(
                name=self.names[index], uuid=f"{UUID}{index}"
            ),
            Event=self._event,
        )

    def work(self, seconds: float) -> None:
        self.enqueued_ms += seconds * 1000

    def catch_up(self) -> None:
        """The device does all it was given."""
        self.done_ms = self.enqueued_ms

    def _memory(self, index: int) -> dict[str, Any]:
        assert self.initialised
        reserved = self.reserved[index]
        return {
            "allocated_bytes": {"all": {"current": reserved // 2, "peak": reserved}},
            "reserved_bytes": {"all": {"current": reserved, "peak": reserved * 3}},
            "num_alloc_retries": index + 1,
        }

    def _event(self, *, enable_timing: bool) -> Event:
        assert enable_timing
        self.events += 1
        return Event(self)


class Event:
    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus
        self._device: int | None = None
        self.at_ms = -1.0

    def record(self, stream: tuple[str, int]) -> None:
        assert not self._gpus.capturing, "the event would be part of the graph"
        assert stream == ("stream", self._gpus.current)
        assert self._device in (None, self._gpus.current), "an event stays with its device"
        self._device = self._gpus.current
        self.at_ms = self._gpus.enqueued_ms

    def query(self) -> bool:
        assert not self._gpus.capturing, "a query spoils the graph"
        return self.at_ms <= self._gpus.done_ms

    def elapsed_time(self, end: Event) -> float:
        assert self.query(), "torch raises before the event is reached"
        assert end.query(), "torch raises before the event is reached"
        assert self._device == end._device, "torch raises for events of two devices"
        return end.at_ms - self.at_ms


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    gpus = Gpus()
    monkeypatch.setitem(sys.modules, "torch", gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return gpus


@pytest.fixture
def monitor(gpus: Gpus, tmp_path: Path) -> Iterator[Monitor]:
    opened = Monitor(run="a-run", directory=tmp_path)
    yield opened
    opened.finish()


def train(monitor: Monitor, gpus: Gpus, steps: int = 1) -> None:
    """Steps of 1 s forward, 2 s backward and half a second of the optimizer on the device."""
    for _ in range(steps):
        for phase, seconds in ((DATA, 0.0), (FORWARD, 1.0), (BACKWARD, 2.0), (OPTIMIZER, 0.5)):
            monitor.enter(phase)
            gpus.work(seconds)
        monitor.end_step()
        monitor.enter(OTHER)
        gpus.work(8.0)  # nobody's


def seconds(live: Live) -> dict[str, float | None]:
    return dict(zip(DEVICE_PHASES, live.device_seconds, strict=True))


def test_time_on_the_device_is_that_between_borders_when_the_device_has_come_to_them(
    gpus: Gpus, monitor: Monitor, tmp_path: Path
) -> None:
    train(monitor, gpus)
    assert seconds(only(tmp_path).live) == dict.fromkeys(DEVICE_PHASES, 0.0)
    gpus.catch_up()
    train(monitor, gpus)
    assert seconds(only(tmp_path).live) == {
        "forward": 1.0, "backward": 2.0, "compute": 0.0, "optimizer": 0.5
    }  # fmt: skip
    gpus.catch_up()
    monitor.finish()
    live = only(tmp_path).live
    assert seconds(live) == {"forward": 2.0, "backward": 4.0, "compute": 0.0, "optimizer": 1.0}
    assert (live.hook_dropped, live.hook_errors) == (0, 0)


def test_a_step_without_borders_is_compute(gpus: Gpus, monitor: Monitor, tmp_path: Path) -> None:
    for _ in range(3):
        with monitor.step():
            gpus.work(4.0)
        gpus.work(1.0)
    gpus.catch_up()
    monitor.finish()
    assert seconds(only(tmp_path).live)["compute"] == 12.0


def test_an_evaluation_takes_no_events_and_phases_within_phases_are_their_own(
    gpus: Gpus, monitor: Monitor, tmp_path: Path
) -> None:
    for phase in (DATA, EVALUATION, OTHER, DATA, EVALUATION, DATA):
        monitor.enter(phase)
    assert gpus.events == 0
    monitor.enter(FORWARD)
    gpus.work(1.0)
    with monitor.phase("data"):
        gpus.work(16.0)
    gpus.work(2.0)
    monitor.enter(OTHER)
    gpus.catch_up()
    monitor.finish()
    assert seconds(only(tmp_path).live)["forward"] == 3.0


def test_events_are_a_few_however_long_the_training_and_its_accumulation(
    gpus: Gpus, monitor: Monitor, tmp_path: Path
) -> None:
    for _ in range(100):
        for _ in range(200):  # no step resolves anything between these
            monitor.enter(FORWARD)
            gpus.work(1.0)
            monitor.enter(BACKWARD)
            gpus.work(1.0)
            gpus.catch_up()
        monitor.enter(OTHER)
        monitor.end_step()
    monitor.finish()
    live = only(tmp_path).live
    assert gpus.events <= 256
    assert (live.device_seconds[0], live.device_seconds[1]) == (20_000, 20_000)
    assert live.hook_dropped == 0


def test_what_a_device_far_behind_leaves_no_event_for_is_dropped_and_counted(
    gpus: Gpus, monitor: Monitor, tmp_path: Path
) -> None:
    train(monitor, gpus, steps=100)  # five borders each, and 256 events
    gpus.catch_up()
    train(monitor, gpus)
    monitor.finish()
    live = only(tmp_path).live
    counted = sum(part or 0 for part in live.device_seconds)
    assert gpus.events == 256
    assert live.hook_dropped > 100
    assert live.hook_errors == 0
    assert 150 < counted < 350  # of 353.5: none is counted twice, or with another's time


def test_while_a_graph_is_captured_there_is_no_event_and_no_query(
    gpus: Gpus, monitor: Monitor, tmp_path: Path
) -> None:
    train(monitor, gpus)
    gpus.catch_up()
    gpus.capturing = True
    train(monitor, gpus, steps=2)
    gpus.capturing = False
    train(monitor, gpus)
    gpus.catch_up()
    monitor.finish()
    live = only(tmp_path).live
    assert seconds(live)["forward"] == 2.0
    assert live.hook_errors == 0
    assert live.hook_dropped == 3 * 2


def test_a_capture_without_an_end_takes_no_memory(gpus: Gpus, monitor: Monitor, tmp_path: Path) -> None:
    gpus.capturing = True
    train(monitor, gpus, steps=2000)
    timeline = monitor._timeline
    assert timeline is None or len(timeline._borders) <= 513
    assert only(tmp_path).live.hook_errors == 0


def test_each_device_has_events_of_its_own_and_a_phase_that_changes_it_is_left_out(tmp_path: Path) -> None:
    gpus = Gpus(count=2)
    drops: list[int] = []
    timeline = Timeline(gpus, lambda: drops.append(1))
    for current in (0, 1, 0, 1):
        gpus.current = current
        timeline.border(OTHER, FORWARD)
        gpus.work(1.0)
        timeline.border(FORWARD, OTHER)
    timeline.border(OTHER, COMPUTE)
    gpus.current = 0
    timeline.border(COMPUTE, OTHER)
    gpus.catch_up()
    timeline.resolve()
    assert timeline.seconds == [4.0, 0.0, 0.0, 0.0]
    assert len(drops) == 1


def test_a_device_that_fails_is_asked_no_more(
    gpus: Gpus, monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(event: Event) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    train(monitor, gpus)
    monkeypatch.setattr(Event, "query", fails)
    train(monitor, gpus, steps=20)
    live = only(tmp_path).live
    assert live.hook_errors == 1
    assert live.steps == 21


def test_memory_is_that_of_torchs_allocator_about_once_a_second(
    gpus: Gpus, monitor: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.reserved[0] = 2 << 30
    train(monitor, gpus, steps=3)
    assert only(tmp_path).live.cuda_reserved_bytes == 0  # as it was when the recording opened
    monkeypatch.setattr(device, "LOOK_EVERY_NS", 0)
    monitor._look_at_ns = 0
    monitor.progress()
    live = only(tmp_path).live
    assert (live.cuda_allocated_bytes, live.cuda_reserved_bytes) == (1 << 30, 2 << 30)
    assert (live.cuda_reserved_peak_bytes, live.cuda_alloc_retries) == (6 << 30, 1)
    gpus.reserved[0] = 4 << 30
    train(monitor, gpus)
    assert only(tmp_path).live.cuda_reserved_bytes == 4 << 30


def test_an_allocator_that_tells_nothing_is_asked_once(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tells_nothing(index: int) -> Any:
        raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats")

    monkeypatch.setattr(gpus.cuda, "memory_stats_as_nested_dict", tells_nothing)
    monkeypatch.setattr(device, "LOOK_EVERY_NS", 0)
    monitor = Monitor(run="a-run", directory=tmp_path)
    train(monitor, gpus, steps=10)
    live = only(tmp_path).live
    assert (live.hook_errors, live.cuda_reserved_bytes, live.steps) == (1, None, 10)
    monitor.finish()


def test_the_devices_in_use_are_told_once_with_uuids_as_nvml_writes_them(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "LOOK_EVERY_NS", 0)
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        gpus.reserved[0] = 1 << 20
        train(monitor, gpus, steps=5)
    (told,) = only(tmp_path).of("info")
    assert (told["gpu_uuid"], told["device"]) == (f"GPU-{UUID}0", "NVIDIA H100 80GB HBM3")
    assert only(tmp_path).live.peak_flops == 989e12


def test_of_several_devices_those_count_on_which_there_is_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus = Gpus(name="NVIDIA H100 PCIe", count=4)
    gpus.reserved[1] = gpus.reserved[3] = 1 << 20
    monkeypatch.setitem(sys.modules, "torch", gpus)
    Monitor(run="a-run", directory=tmp_path).finish()
    seen = only(tmp_path)
    assert seen.of("info")[0]["gpu_uuid"] == f"GPU-{UUID}1,GPU-{UUID}3"
    assert seen.live.peak_flops == 2 * 756e12
    assert (seen.live.cuda_reserved_bytes, seen.live.cuda_alloc_retries) == (2 << 20, 2 + 4)


def test_where_nobody_has_initialised_cuda_nothing_is_touched_until_somebody_does(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "LOOK_EVERY_NS", 0)
    gpus.initialised = False
    with Monitor(run="a-run", directory=tmp_path) as monitor:
        train(monitor, gpus, steps=3)
        live = only(tmp_path).live
        assert (live.device_seconds, live.cuda_reserved_bytes, live.peak_flops) == ((None,) * 4, None, None)
        assert gpus.events == 0
        gpus.initialised = True
        train(monitor, gpus, steps=2)
        gpus.catch_up()
    assert only(tmp_path).live.device_seconds[0] == 1.0


MIG = f"MIG-{UUID}7"


@pytest.mark.parametrize(
    ("visible", "name", "uuid"),
    [
        ("", "NVIDIA A100-SXM4-40GB", f"GPU-{UUID}0"),
        ("3", "NVIDIA A100-SXM4-40GB", f"GPU-{UUID}0"),
        (MIG, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", MIG),
        (f"MIG-GPU-{UUID}7/1/0", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", f"MIG-GPU-{UUID}7/1/0"),
        ("MIG-2b9b", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_a_slice_of_a_gpu_goes_by_the_uuid_it_was_asked_for_by(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, visible: str, name: str, uuid: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus.names = [name]
    assert device.Devices(gpus).gpu(0) == (name, uuid)


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", None, False, 989e12),
        ("NVIDIA H100 PCIe", "bf16-mixed", False, 756e12),
        ("NVIDIA H100 NVL", "16-mixed", False, 835e12),
        ("NVIDIA H200", "transformer-engine", False, 1979e12),
        ("NVIDIA A100-SXM4-80GB", "32-true", False, 19.5e12),
        ("NVIDIA A100-SXM4-80GB", "32-true", True, 156e12),
        ("A100-SXM4-40GB", "bf16", False, 312e12),
        ("NVIDIA H100 PCIe", "bfloat16", False, 756e12),
        ("NVIDIA H100 PCIe", "float32", True, 378e12),
        ("NVIDIA A100-SXM4-80GB", "fp8", False, None),
        ("Tesla V100-SXM2-32GB", None, True, 125e12),
        ("Tesla V100-SXM2-32GB", "bf16", True, None),
        ("Tesla V100-SXM2-32GB", "no", True, 15.7e12),
        ("NVIDIA L4", None, False, 121e12),
        ("NVIDIA A10G", None, False, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, False, None),
        ("NVIDIA H100 80GB HBM3", "64-true", False, None),
        ("AMD Instinct MI300X", None, False, None),
    ],
)
def test_a_card_has_its_peak_at_the_precision_of_the_training_or_none(
    name: str, precision: str | None, tf32: bool, peak: float | None
) -> None:
    assert peak_flops.of_device(name, precision, tf32=tf32) == peak


@pytest.mark.parametrize(
    ("visible", "local_rank", "left"),
    [
        (None, 0, None),
        ("", 0, None),
        ("3", 0, "3"),
        ("3", 5, "3"),  # a launcher that gives each rank its own
        ("2,3", 1, "3"),
        (" 2 , 3 ", 1, "3"),
        ("2,3", 5, None),
        ("-1", 0, None),
        ("0,-1,2", 2, "0"),  # CUDA stops at what is not valid
        ("0,-1,2", 5, "0"),
        (f"GPU-{UUID}0,GPU-{UUID}1", 1, f"GPU-{UUID}1"),
        (MIG, 0, MIG),
        ("x" * 500, 0, "x" * 128),
    ],
)
def test_a_rank_is_told_its_own_of_the_devices_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, local_rank: int, left: str | None
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert device.visible_to(local_rank) == left
