from __future__ import annotations

from pathlib import Path

import pytest

from exporters.api.app import create_app
from exporters.collector import Runner
from exporters.gpu.node import NvmlGpus
from tests.exporters.api.service import Service, client_of
from tests.exporters.trainers import small_recording
from tests.fake_nvml import Machine


def test_gpus_are_told_with_the_ranks_on_them_and_the_last_window(service: Service) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    answer = service.client.get("/api/v1/gpus").json()

    assert answer["problems"] == []
    first, second = answer["gpus"]

    assert (first["gpu"], first["uuid"], first["up"]) == (0, "SIMULATED-0", True)
    assert first["ranks"] == [{"run": "a-run", "rank": 0}]
    assert 0 < first["tensor_active_ratio"] < 1
    assert second["ranks"] == []


def test_simulated_gpus_have_no_driver_to_let_go_of(service: Service) -> None:
    for answer in (
        service.client.post("/api/v1/gpus/release", json={"seconds": 5}),
        service.client.request("DELETE", "/api/v1/gpus/release"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (
            409,
            "these GPUs are simulated: no driver is held",
        )


class NodeOfGpus:
    """The application over GPUs of the double only, without threads."""

    def __init__(self) -> None:
        self.gpus = NvmlGpus(kernel_log=Path("/nonexistent"))
        self.runners = [Runner(each) for each in self.gpus.collectors]
        self.client = client_of(create_app(self.runners, self.gpus))

    def look(self) -> list[str | None]:
        """One round of each; the errors."""
        for runner in self.runners:
            runner.run_once()
        return [runner.error for runner in self.runners]


def test_nvml_is_released_for_a_reload_of_the_driver_and_taken_up_again(machine: Machine) -> None:
    node = NodeOfGpus()
    assert node.look() == [None] * len(node.runners)
    assert "nvidia_gpu_up" in node.client.get("/metrics").text

    answer = node.client.post("/api/v1/gpus/release", json={"seconds": 600})

    assert answer.json() == {"closed": True, "seconds_left": pytest.approx(600, abs=5)}
    assert node.look() == ["NVML is released; it is taken up again by itself"] * len(node.runners)
    assert "nvidia_gpu_up" not in node.client.get("/metrics").text
    answer = node.client.get("/api/v1/gpus").json()
    released = "NVML is released; it is taken up again by itself"
    assert answer["gpus"] == []
    assert answer["problems"] == [f"{', '.join(each.collector.name for each in node.runners)}: {released}"]
    assert node.client.delete("/api/v1/gpus/release").json() == {"closed": True, "seconds_left": 0.0}
    assert node.look() == [None] * len(node.runners)
    assert len(node.client.get("/api/v1/gpus").json()["gpus"]) == 2
    node.gpus.close()


@pytest.mark.parametrize("body", [{"seconds": 0}, {"seconds": 3601}, {}])
def test_a_release_is_for_an_hour_at_most(machine: Machine, body: dict[str, float]) -> None:
    node = NodeOfGpus()
    node.look()

    assert node.client.post("/api/v1/gpus/release", json=body).status_code == 422
    assert node.look() == [None] * len(node.runners)
    node.gpus.close()


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e400"])
def test_a_release_for_no_time_that_could_be_told_is_refused(machine: Machine, seconds: str) -> None:
    node = NodeOfGpus()

    answer = node.client.post(
        "/api/v1/gpus/release",
        content=f'{{"seconds": {seconds}}}',
        headers={"content-type": "application/json"},
    )

    assert answer.status_code == 422
    node.gpus.close()


def test_without_recordings_there_are_gpus_only(machine: Machine) -> None:
    paths = NodeOfGpus().client.get("/openapi.json").json()["paths"].keys()

    assert {"/metrics", "/api/v1/gpus"} <= paths
    assert not {"/api/v1/runs", "/api/v1/alerts"} & paths
