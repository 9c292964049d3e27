"""Runs joined to the GPUs they train on, in a real Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import pytest

from alerts.thresholds import Thresholds
from exporters import catalog
from tests import fake_nvml
from tests.e2e.queried import queried
from tests.exporters.trainers import Trainer, small_recording
from tests.fake_nvml import Machine
from trainer_hooks.recording import FINISHED
from trainvitals.stack import Stack

INFO = catalog.TRAINING_RUN_GPU_INFO
JOIN = f"{INFO} * on (cluster, uuid) group_left () rate({catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL}[1m])"
ON_FIRST, ON_SECOND = "0", "1"


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, Thresholds(), simulate_gpus="2") as stack:
        yield stack


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stack, Machine]]:
    """The stack over NVML's double with two GPUs."""
    fake_nvml.build(tmp_path)
    machine = Machine(tmp_path / "control")
    machine.set("devices", 2)
    for name, value in fake_nvml.environment(machine.control).items():
        monkeypatch.setenv(name, value)
    with Stack(tmp_path, Thresholds()) as stack:
        yield stack, machine


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask Prometheus until it is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.2)


def joined(stack: Stack) -> dict[tuple[str, str, str], float]:
    """The join's value by run, rank and GPU; a series there twice is an error of Prometheus's own."""
    return {
        (each["metric"]["run"], each["metric"]["rank"], each["metric"]["gpu"]): float(each["value"][1])
        for each in stack.query(JOIN)
    }


def joined_once(stack: Stack, keys: Set[tuple[str, str, str]]) -> dict[tuple[str, str, str], float]:
    """The join once it is that of these; asked again, a scrape that failed could have taken it away."""
    found: dict[tuple[str, str, str], float] = {}

    def is_so() -> bool:
        nonlocal found
        found = joined(stack)
        return found.keys() == keys

    wait_for(is_so)
    return found


def test_the_join_has_one_series_a_rank_also_with_two_runs_on_a_gpu_and_one_that_has_just_ended(
    simulated: Stack,
) -> None:
    ranks = [small_recording(simulated.recordings, "one", rank=rank, world_size=2) for rank in range(2)]
    other = small_recording(simulated.recordings, "two")
    ended = small_recording(simulated.recordings, "three")
    everyone = {
        *(("one", "0", ON_FIRST), ("one", "1", ON_SECOND)),
        *(("two", "0", ON_FIRST), ("three", "0", ON_FIRST)),
    }
    joined_once(simulated, everyone)

    ended.close(FINISHED, time.monotonic_ns())

    values = joined_once(simulated, everyone - {("three", "0", ON_FIRST)})
    assert all(0 < value < 1 for value in values.values())
    assert values["one", "0", ON_FIRST] == values["two", "0", ON_FIRST], (
        "they share the GPU, and its activity"
    )
    for recorder in (*ranks, other):
        recorder.close(FINISHED, time.monotonic_ns())


@pytest.mark.long
def test_a_rank_is_joined_by_its_pid_where_its_recording_names_no_gpu(
    double: tuple[Stack, Machine],
) -> None:
    stack, machine = double
    with Trainer(stack.recordings) as trainer:
        machine.set("gpu1.processes", f"{trainer.pid}:4000000000")
        trainer.do("steps(3)")

        joined_once(stack, {("a-run", "0", ON_SECOND)})

        memory = f'{catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES}{{run="a-run"}}'
        (held,) = queried(stack, memory)
        assert float(held["value"][1]) == 4e9
        trainer.kill()
        wait_for(lambda: not stack.query(str(INFO)))


@pytest.mark.long
def test_a_trainer_says_which_gpus_cuda_leaves_it(
    double: tuple[Stack, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tells the GPU of one whose process NVML does not see."""
    stack, _ = double
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5a11ab1e-0000-4000-8000-000000000001")
    with Trainer(stack.recordings):
        joined_once(stack, {("a-run", "0", ON_SECOND)})
        (info,) = queried(stack, str(catalog.TRAINING_RUN_INFO))
        assert "cuda_visible_device" not in info["metric"]
