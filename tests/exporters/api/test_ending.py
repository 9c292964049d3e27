from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporters import abort
from exporters.abort import NotOursError
from exporters.runs import RankProcess
from tests.exporters.api.service import Service
from tests.exporters.trainers import Trainer, small_recording
from trainer_hooks.recording import FINISHED, pid_namespace, process_start_ticks


def until(service: Service, state: str) -> dict[str, object]:
    deadline = time.monotonic() + 20
    while True:
        service.look()
        run: dict[str, object] = service.client.get("/api/v1/runs/a-run").json()
        if run["state"] == state:
            return run
        assert time.monotonic() < deadline, f"it is {run['state']}"


def test_a_run_that_lives_is_asked_to_end_and_is_aborted(service: Service) -> None:
    with Trainer(service.directory, "a-run") as trainer:
        trainer.do("steps(2)")
        service.look()

        answer = service.client.delete("/api/v1/runs/a-run")

        assert (answer.status_code, answer.json()) == (
            200,
            {"run": "a-run", "action": "signalled", "pids": [trainer.pid]},
        )
        run = until(service, "aborted")

    assert run["acknowledged"]["by"] == "a-person"  # type: ignore[index]
    assert 'training_run_state{run="a-run",state="aborted"} 1' in service.client.get("/metrics").text
    states = service.client.get("/api/v1/runs/a-run/events", params={"kind": "state"}).json()["events"]
    assert states[0]["fields"]["state"] == "aborted"


def test_every_rank_on_this_node_is_asked(service: Service) -> None:
    with (
        Trainer(service.directory, "a-run", world_size=2) as first,
        Trainer(service.directory, "a-run", rank=1, world_size=2) as second,
        Trainer(service.directory, "another") as another,
    ):
        service.look()

        answer = service.client.delete("/api/v1/runs/a-run")
        until(service, "aborted")

        assert answer.json()["pids"] == [first.pid, second.pid]
        another.do("steps(1)")


def test_a_dead_run_is_acknowledged_for_good(service: Service, tmp_path: Path) -> None:
    with Trainer(service.directory, "a-run") as trainer:
        service.look()
        trainer.kill()
    until(service, "killed")

    answer = service.client.delete("/api/v1/runs/a-run")

    assert answer.json() == {"run": "a-run", "action": "acknowledged", "pids": []}
    run = until(service, "aborted")
    assert run["reason"] == "SIGKILL"
    service.close()
    again = Service(tmp_path)
    assert until(again, "aborted")["acknowledged"] == run["acknowledged"]
    again.close()


def test_a_new_attempt_of_an_acknowledged_run_is_running(service: Service) -> None:
    with Trainer(service.directory, "a-run") as trainer:
        service.look()
        trainer.kill()
    until(service, "killed")
    service.client.delete("/api/v1/runs/a-run")
    until(service, "aborted")

    with Trainer(service.directory, "a-run"):
        run = until(service, "running")

    assert (run["attempt"], run["acknowledged"]) == (2, None)


def test_a_run_whose_recording_is_gone_can_be_acknowledged(service: Service) -> None:
    small_recording(service.directory, "a-run").disarm()
    service.look()
    for path in service.directory.rglob("rank-*"):
        path.unlink()
    service.look()

    assert service.client.delete("/api/v1/runs/a-run").json()["action"] == "acknowledged"
    assert service.client.get("/api/v1/runs/a-run").json()["state"] == "aborted"
    assert len(service.client.get("/api/v1/runs", params={"state": "aborted"}).json()["runs"]) == 1


def test_a_run_that_finished_cannot_be_ended(service: Service) -> None:
    small_recording(service.directory, "a-run").close(FINISHED, time.monotonic_ns())
    service.look()

    answer = service.client.delete("/api/v1/runs/a-run")

    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        "run 'a-run' has finished; there is nothing to end",
    )


def test_there_is_no_run_to_end_of_a_name_that_none_has(service: Service) -> None:
    assert service.client.delete("/api/v1/runs/a-run").status_code == 404


def test_no_rank_is_ended_where_one_of_them_is_not_ours(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Trainer(service.directory, "a-run") as trainer:
        service.look()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)

        answer = service.client.delete("/api/v1/runs/a-run")

        assert answer.status_code == 409
        assert "the service to user 12345; end it as that user" in answer.json()["detail"]
        trainer.do("steps(1)")
        service.look()
    assert service.client.get("/api/v1/runs/a-run").json()["acknowledged"] is None


@pytest.mark.parametrize(
    ("another", "why"),
    [
        (lambda ours: ours._replace(start_ticks=1), "is no longer the process that recorded"),
        (lambda ours: ours._replace(pid_namespace=1), "runs in another container; end it there"),
        (lambda ours: ours._replace(pid=2**22), "cannot be reached: No such process"),
    ],
)
def test_another_process_of_the_same_pid_is_never_ended(
    another: Callable[[RankProcess], RankProcess], why: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = process_start_ticks(process.pid)
        assert started is not None
        ours = RankProcess("a-run", 0, 0, process.pid, pid_namespace(), start_ticks=started)

        with pytest.raises(NotOursError, match=why), abort.descriptors([ours, another(ours)]):
            pass

        assert process.poll() is None
        with abort.descriptors([ours]) as opened:
            abort.end(opened)
        assert process.wait(20) == -signal.SIGTERM
        with abort.descriptors([]) as opened:
            abort.end(opened)
