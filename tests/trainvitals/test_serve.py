"""`trainvitals serve` as a process."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporters.catalog import CATALOG
from tests import fake_nvml
from tests.exporters.trainers import Trainer, small_recording
from tests.trainer_hooks.processes import environment, wait_until
from trainer_hooks.recording import FINISHED

REPOSITORY = Path(__file__).parents[2]

Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Service:
    """A running `trainvitals serve`."""

    def __init__(self, folder: Path, *options: str, listen: str = "127.0.0.1:0", **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "service.log"
        self._log = self.log_path.open("a")
        state = () if "--state" in options or "--only" in options else ("--state", str(folder / "history.db"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainvitals", "serve", "--listen", listen, *state, *options],
            cwd=REPOSITORY,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.url = self.first_line.removeprefix("trainvitals: ").strip()
        certificate = dict(pairwise(options)).get("--tls-cert")
        assert self.url.startswith("https://" if certificate else "http://"), self.log
        trusted = ssl.create_default_context(cafile=certificate) if certificate else True
        self.client = httpx.Client(base_url=self.url, timeout=20, verify=trusted)

    @property
    def local_token(self) -> dict[str, str]:
        """The header with which this machine may write."""
        token = (self.log_path.parent / "local-token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until_ready(self) -> Service:
        wait_until(lambda: self.client.get("/ready").status_code == 200)
        return self

    def page(self) -> Page:
        """Every line of /metrics."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.page().get((name, tuple(sorted(labels.items()))))

    def run(self, run: str) -> dict[str, Any]:
        answer = self.client.get(f"/api/v1/runs/{run}")
        return dict(answer.json()) if answer.status_code == 200 else {"state": None}

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    """The command to its own end."""
    return subprocess.run(
        [sys.executable, "-m", "trainvitals", "serve", *options],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_it_stops_in_order_from_its_first_line_on(services: list[Service], tmp_path: Path) -> None:
    services.append(service := Service(tmp_path, "--dir", str(tmp_path / "recordings")))

    assert service.terminate() == 0
    assert "Traceback" not in service.log


def test_a_port_in_use_is_named_with_the_option_that_chooses_another(taken_port: int, tmp_path: Path) -> None:
    done = serve("--listen", f"127.0.0.1:{taken_port}", "--state", str(tmp_path / "history.db"))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"trainvitals serve: port {taken_port} of 127.0.0.1 cannot be used (Address already in use); "
        "choose another with --listen 127.0.0.1:PORT (0 takes a free one)\n"
    )
    assert not (tmp_path / "history.db").exists()


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("0.0.0.0:8003", "--listen 0.0.0.0:8003 is not a loopback address"),
        ("example.org:8003", "--listen example.org:8003 is not a loopback address"),
        ("8003", "--listen 8003 is not HOST:PORT; for example --listen 127.0.0.1:8003"),
        ("127.0.0.1:http", "--listen 127.0.0.1:http is not HOST:PORT"),
        ("127.0.0.1:65536", "--listen 127.0.0.1:65536 is not HOST:PORT"),
    ],
)
def test_an_address_that_will_not_do_is_refused(
    listen: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainvitals.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["serve", "--listen", listen])

    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_a_database_that_cannot_be_opened_is_named_with_the_option_that_chooses_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "a-file").touch()

    done = serve("--listen", "127.0.0.1:0", "--state", str(tmp_path / "a-file" / "history.db"))

    assert done.returncode == 1
    assert f"the database {tmp_path}/a-file/history.db cannot be opened" in done.stderr
    assert "choose another with --state PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_driver_everything_but_the_gpus_works_and_it_says_so(
    services: list[Service], tmp_path: Path
) -> None:
    """The directory of the recordings comes into being while the service runs."""
    services.append(service := Service(tmp_path, "--dir", str(tmp_path / "later" / "recordings")))

    assert service.first_line.startswith("trainvitals: http://127.0.0.1:")
    service.wait_until_ready()
    assert service.client.get("/health").json()["status"] == "ok"
    if service.value("trainvitals_collector_success", collector="gpu") == 1:
        pytest.skip("this machine has a GPU")
    small_recording(tmp_path / "later" / "recordings", "a-run")
    wait_until(lambda: service.run("a-run")["state"] == "running")

    page = service.page()
    assert page["trainvitals_collector_success", (("collector", "gpu"),)] == 0
    assert page["trainvitals_collector_success", (("collector", "recordings"),)] == 1
    assert not [name for name, _ in page if name.startswith("nvidia_")]
    lines = [line for line in service.log.splitlines() if "collector gpu" in line]
    assert len(lines) == 1
    assert "NVIDIA" in lines[0] or "NVML" in lines[0]
    assert "Traceback" not in service.log


def test_simulated_gpus_say_in_their_names_that_they_are_not_real(
    services: list[Service], tmp_path: Path
) -> None:
    """It answers under an IPv6 address, and ends with status 0 when it is told to."""
    services.append(
        service := Service(
            tmp_path, "--dir", str(tmp_path / "recordings"), "--simulate-gpus", "2", listen="[::1]:0"
        ).wait_until_ready()
    )
    assert service.url.startswith("http://[::1]:")

    page = service.page()
    names = [dict(labels)["name"] for name, labels in page if name == "nvidia_gpu_info"]
    assert len(names) == 2
    assert all("Simulated" in name for name in names)
    assert page["nvidia_gpu_devices", ()] == 2
    answer = service.client.post("/api/v1/alerts", json={}, headers=service.local_token)
    assert answer.status_code == 422, "the Host header [::1] is ours"

    began = time.monotonic()
    assert service.terminate() == 0
    print(f"SIGTERM to the end: {time.monotonic() - began:.2f} s")
    assert "Traceback" not in service.log


@pytest.fixture
def double(tmp_path: Path) -> dict[str, str]:
    """The environment in which the driver is the double, with two GPUs, and its calls are counted."""
    fake_nvml.build(tmp_path)
    machine = fake_nvml.Machine(tmp_path / "control")
    machine.set("devices", 2)
    return fake_nvml.environment(machine.control, tmp_path / "calls")


def test_gpus_alone_are_a_whole_exporter_that_lets_go_of_the_driver_at_the_end(
    tmp_path: Path, double: dict[str, str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trainvitals", "serve", "--listen", "127.0.0.1:0", "--only", "gpu"],
        cwd=REPOSITORY,
        env=environment(**double, XDG_STATE_HOME=str(tmp_path / "state")),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("trainvitals: ").strip()
        with httpx.Client(base_url=url, timeout=20) as client:
            wait_until(lambda: client.get("/ready").status_code == 200)
            page = client.get("/metrics").text
            assert client.get("/api/v1/runs").status_code == 404
        process.terminate()
        assert process.wait(20) == 0

    assert "nvidia_gpu_power_watts{" in page
    assert "training_" not in page
    assert "DCGM_" not in page, "the names of others are for who asks"
    assert not list((tmp_path / "state").rglob("history.db")), "it keeps no database"
    counts = fake_nvml.Calls(tmp_path / "calls").counts()
    assert counts["nvmlShutdown"] == counts["nvmlInitWithFlags"] == 1


def test_gpus_alone_are_told_where_nothing_can_be_written(services: list[Service], tmp_path: Path) -> None:
    (tmp_path / "no-folder").touch()
    services.append(
        service := Service(
            tmp_path,
            *("--only", "gpu", "--simulate-gpus", "1"),
            XDG_STATE_HOME=str(tmp_path / "no-folder"),
        ).wait_until_ready()
    )

    assert service.value("nvidia_gpu_devices") == 1
    assert service.client.post("/api/v1/gpus/release", json={"seconds": 1}).status_code in (401, 503)
    assert "nobody may write to this service" in service.log


def test_the_names_of_dcgm_exporter_stand_beside_ours_for_who_asks(
    services: list[Service], tmp_path: Path, double: dict[str, str]
) -> None:
    services.append(service := Service(tmp_path, "--dir", str(tmp_path / "r"), "--compat", "dcgm", **double))
    wait_until(lambda: any(name == "DCGM_FI_DEV_ENC_UTIL" for name, _ in service.wait_until_ready().page()))

    page = {name: value for (name, labels), value in service.page().items() if ("gpu", "1") in labels}

    assert page["DCGM_FI_DEV_POWER_USAGE"] == page["nvidia_gpu_power_watts"]
    assert page["DCGM_FI_DEV_ENC_UTIL"] == 0
    assert not [name for name in page if name.endswith(("_ratio", "_percent")) and "nvidia" not in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "gpu", "--dir", "r"], "--only gpu follows no recordings"),
        (["--only", "gpu", "--state", "s"], "--only gpu follows no recordings"),
        (["--simulate-gpus", "8:fire"], "there is no scenario 'fire'; there are healthy, memory-fill"),
        (["--simulate-gpus", "0:xid79"], "no GPU to simulate xid79 on; give their number before it, 1:xid79"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainvitals.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["serve", "--listen", "127.0.0.1:0", *options])

    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_ctrl_c_ends_it_without_a_word_of_complaint(services: list[Service], tmp_path: Path) -> None:
    services.append(service := Service(tmp_path, "--dir", str(tmp_path)).wait_until_ready())

    assert service.terminate(signal.SIGINT) == 0
    assert "Traceback" not in service.log
    assert "Abort" not in service.log


def test_a_driver_that_hangs_holds_up_neither_a_scrape_nor_the_end(
    services: list[Service], tmp_path: Path
) -> None:
    fake_nvml.build(tmp_path)
    os.mkfifo(tmp_path / "control")  # opening it waits for ever
    services.append(
        service := Service(
            tmp_path,
            *("--dir", str(tmp_path / "recordings")),
            **fake_nvml.environment(tmp_path / "control"),
        )
    )
    small_recording(tmp_path / "recordings", "a-run")
    wait_until(lambda: service.run("a-run")["state"] == "running")
    waiting = service.client.get("/ready").json()
    assert not waiting["ready"]
    assert waiting["waiting_for"][0] == "gpu"
    assert "recordings" not in waiting["waiting_for"]

    def scraped() -> float:
        began = time.monotonic()
        service.client.get("/metrics")
        return time.monotonic() - began

    scrape_seconds = min(scraped() for _ in range(3))  # the machine may hold one up, the driver each
    began = time.monotonic()
    status = service.terminate()
    end_seconds = time.monotonic() - began

    print(f"beside a driver that hangs: scrape {scrape_seconds * 1000:.0f} ms, end {end_seconds:.1f} s")
    assert scrape_seconds < 1
    assert status == 0
    assert end_seconds < 10
    assert "Traceback" not in service.log


def test_a_kill_is_known_within_5_seconds_by_every_service_of_the_node(
    services: list[Service], tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    for name in ("one", "two"):
        services.append(Service(tmp_path / name, "--dir", str(recordings)))

    def all_say(state: str) -> bool:
        return all(service.run("a-run")["state"] == state for service in services)

    def known_after_seconds() -> float:
        with Trainer(recordings) as trainer:
            trainer.do("steps(3)")
            wait_until(lambda: all_say("running"))
            killed_at = time.monotonic()
            trainer.kill()
            wait_until(lambda: all_say("killed"))
            return time.monotonic() - killed_at

    seconds = median(known_after_seconds() for _ in range(3))  # the machine may hold one up
    print(f"killed is known after {seconds:.2f} s")
    assert seconds < 5
    first, second = (service.page() for service in services)
    lifecycle = {name for name, metric in CATALOG.items() if metric.lifecycle}
    assert {key: number for key, number in first.items() if key[0] in lifecycle} == {
        key: number for key, number in second.items() if key[0] in lifecycle
    }


def is_counter(name: str) -> bool:
    return name.endswith("_total") or name.startswith("training_step_duration_seconds_")


def test_a_restart_loses_no_run_and_no_counter_falls(services: list[Service], tmp_path: Path) -> None:
    """The service is killed, not asked; one run lives on, one was finished, one was killed."""
    recordings = tmp_path / "recordings"
    services.append(before_kill := Service(tmp_path, "--dir", str(recordings)))
    with Trainer(recordings, "alive") as alive, Trainer(recordings, "killed") as killed:
        small_recording(recordings, "finished").close(FINISHED, time.monotonic_ns())
        for trainer in (alive, killed):
            trainer.do("steps(3)")
        wait_until(lambda: before_kill.run("killed").get("step") == 3)
        time.sleep(1.2)  # silent, yet seen alive in one more look
        killed.kill()
        wait_until(lambda: before_kill.run("killed")["state"] == "killed")
        before, killed_before = before_kill.page(), before_kill.run("killed")
        before_kill.terminate(signal.SIGKILL)
        alive.do("steps(4)")

        services.append(after_kill := Service(tmp_path, "--dir", str(recordings)).wait_until_ready())
        after = after_kill.page()
        known = {run["run"]: run["state"] for run in after_kill.client.get("/api/v1/runs").json()["runs"]}
        killed_after = after_kill.run("killed")

    assert known == {"alive": "running", "finished": "finished", "killed": "killed"}
    # Those of the service itself begin anew with it.
    of_runs = [key for key in before if is_counter(key[0]) and "run" in dict(key[1])]
    fell = {key: (before[key], after[key]) for key in of_runs if after[key] < before[key]}
    assert fell == {}
    assert after["training_steps_total", (("rank", "0"), ("run", "alive"))] == 7
    assert killed_after == killed_before
    end = "training_run_end_timestamp_seconds", (("run", "killed"),)
    assert after[end] == before[end]
    assert "Traceback" not in after_kill.log


def test_a_node_registers_at_another_service_for_prometheus_to_find_it(
    services: list[Service], tmp_path: Path
) -> None:
    services.append(central := Service(tmp_path / "central", "--dir", str(tmp_path / "r")).wait_until_ready())
    token = str(tmp_path / "central" / "local-token")
    options = ("--register-at", central.url, "--register-as", "node-7:8003", "--register-token-file", token)

    services.append(Service(tmp_path / "node", "--dir", str(tmp_path / "r2"), *options))

    wait_until(lambda: bool(central.client.get("/api/v1/sd").json()))
    (group,) = central.client.get("/api/v1/sd").json()
    assert group == {"targets": ["node-7:8003"], "labels": {"__meta_trainvitals_node": "node-7"}}
