"""Unmodified scripts of transformers that report to a service on a port."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exporters import kubeflow
from tests.exporters.kubeflow import Clock, Service, served
from tests.trainer_hooks.processes import environment, wait_until


def huggingface(folder: Path, url: str, run: str, steps: int) -> subprocess.Popen[bytes]:
    """A training by transformers' Trainer as it is, told by its environment alone to report."""
    token = folder / "token"
    token.write_text("secret\n")
    return subprocess.Popen(
        [sys.executable, "-c", kubeflow.SCRIPT, str(folder), str(steps)],
        env=environment(
            KUBEFLOW_TRAINER_SERVER_URL=f"{url}/api/v1/kubeflow/{run}",
            KUBEFLOW_TRAINER_SERVER_TOKEN=str(token),
            OMP_NUM_THREADS="1",
        ),
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Service, str]]:
    """A service on a port, whose collectors look every tenth of a second."""
    service = Service(tmp_path, Clock(time.time()))
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.1):
            service.clock.now = time.time()
            service.look()

    thread = threading.Thread(target=go_on)
    with served(service.app) as url:
        thread.start()
        yield service, url
        stop.set()
        thread.join()
    service.close()


@pytest.mark.long
def test_an_unmodified_transformers_script_is_a_run_to_its_end(
    live: tuple[Service, str], tmp_path: Path
) -> None:
    service, url = live
    with huggingface(tmp_path, url, "my-run", 20) as training:
        assert training.wait(240) == 0
    # The look that tells of the end is not the one that keeps its curves, nor the first that keeps any.
    wait_until(lambda: any(run.state == "finished" for run in service.reports.runs))
    wait_until(lambda: [step for step, _ in service.curve("loss", "my-run")][-1:] == [20])

    run = service.run("my-run")
    assert (run.state, run.reason, run.step, run.steps_expected) == ("finished", "completed", 20, 20)
    assert run.loss is not None
    assert service.curve("loss", "my-run")[-1] == (20, run.loss)
    assert len(service.curve("learning_rate", "my-run")) == len(service.curve("loss", "my-run"))
    assert service.curve("gradient_norm", "my-run")
    assert run.validation_loss is not None


@pytest.mark.long
def test_an_unmodified_transformers_script_is_followed_and_its_death_is_a_silence(
    tmp_path: Path, services: list[Service], live: tuple[Service, str]
) -> None:
    service, url = live
    with huggingface(tmp_path, url, "my-run", 100_000) as training:
        try:
            wait_until(lambda: len(service.curve("loss", "my-run")) >= 3, 240)
            run = service.run("my-run")
        finally:
            training.kill()

    assert run.state == "running"
    assert 0 < run.step < 100_000
    assert run.progress_ratio == run.step / 100_000
    assert run.eta_seconds is not None
    assert run.eta_seconds > 10
    wait_until(lambda: service.run("my-run").ranks[0].silent_seconds > 5)
    assert service.run("my-run").state == "running"
