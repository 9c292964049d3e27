"""The service is killed again and again beside a training: nothing is lost, nothing counts backwards."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exporters.catalog import CATALOG
from tests.prometheus import PrometheusServer
from tests.trainer_hooks.processes import environment, wait_until
from tests.trainvitals.test_serve import Service
from trainer_hooks import recording
from trainer_hooks.recording import RecordingReader

KILLS = 20
COUNTERS = [metric.name for metric in CATALOG.values() if metric.kind == "counter"]
COUNTERS += [f"{metric.name}_count" for metric in CATALOG.values() if metric.kind == "histogram"]
TRAINING = """
import select, sys, time
from trainer_hooks.monitor import Monitor
monitor = Monitor(run=sys.argv[1], rank=0, world_size=1, directory=sys.argv[2], loss_kind="cross_entropy")
step = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    step += 1
    with monitor.step():
        time.sleep(0.02)
        monitor.batch(loss=1 / step, samples=2, tokens=100, trained_tokens=90)
    if step % 100 == 0:
        monitor.evaluated(loss=1 / step, tokens=100)
monitor.finish()
"""


@pytest.mark.long
def test_a_service_that_is_killed_loses_no_step_and_no_counter_falls(tmp_path: Path, address: str) -> None:
    chance = random.Random(1)
    recordings = tmp_path / "recordings"
    service = Service(tmp_path, "--dir", str(recordings), listen=address).wait_until_ready()
    config = (
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: training-service, static_configs: [{{targets: ['{address}']}}]}}]\n"
    )
    (tmp_path / "prometheus").mkdir()
    with (
        training(recordings, "alive") as alive,
        training(recordings, "killed") as killed,
        PrometheusServer(tmp_path / "prometheus", config) as prometheus,
    ):
        wait_until(lambda: service.run("killed")["state"] == "running")
        wait_until(lambda: service.run("alive")["state"] == "running")
        killed.kill()
        wait_until(lambda: service.run("killed")["state"] == "killed")
        end = service.run("killed")["ended_at"]
        began = time.time()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 1.5))
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
            service.close()
            service = Service(tmp_path, "--dir", str(recordings), listen=address).wait_until_ready()
            states = {run["run"]: run["state"] for run in service.client.get("/api/v1/runs").json()["runs"]}
            assert states == {"alive": "running", "killed": "killed"}
        assert service.run("killed")["ended_at"] == end
        alive.communicate(b"end\n", timeout=20)
        wait_until(lambda: service.run("alive")["state"] == "finished")
        wait_until(lambda: kept(tmp_path / "history.db") == recorded(recordings))
        wait_until(lambda: ("state", "finished") in map(event_of, events(service, "alive")))
        steps = recorded(recordings)["alive"]
        wait_until(lambda: bool(prometheus.query(f'training_steps_total{{run="alive"}} == {steps}')))
        since = f"[{time.time() - began + 5:.0f}s]"
        # The last of each: one scrape that takes too long leaves none until the next.
        counted_names = [
            name for name in COUNTERS if prometheus.query(f'last_over_time({name}{{run!=""}}[10s])')
        ]
        fell = [each for each in counted_names if prometheus.query(f'resets({each}{{run!=""}}{since}) > 0')]
        counted = prometheus.query('last_over_time(training_steps_total{run="alive"}[10s])')
        lines = {run: [event_of(each) for each in events(service, run)] for run in ("alive", "killed")}
    service.terminate()
    service.close()

    print(f"{KILLS} kills beside {recorded(recordings)['alive']} steps")
    assert fell == []
    assert len(counted_names) > 10
    assert counted[0].points[0][1] == recorded(recordings)["alive"]
    assert lines["alive"].count(("state", "finished")) == lines["killed"].count(("state", "killed")) == 1
    evaluations = [kind for kind, _ in lines["alive"] if kind == "evaluation"]
    assert len(evaluations) == recorded(recordings)["alive"] // 100
    with closing(sqlite3.connect(tmp_path / "history.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert "Traceback" not in service.log


def training(recordings: Path, run: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, run, str(recordings)], stdin=subprocess.PIPE, env=environment()
    )


def recorded(recordings: Path) -> dict[str, int]:
    """How many steps each run has recorded."""
    found = {}
    for path in recording.find(recordings):
        reader = RecordingReader(path)
        found[reader.static.run] = reader.live().records
        reader.close()
    return found


def kept(database: Path) -> dict[str, int]:
    """How many steps of each run are in the history, each once."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT run, count(DISTINCT step) FROM steps JOIN recordings ON id = recording GROUP BY run"
        )
        return dict(rows.fetchall())


def events(service: Service, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        params = {"limit": 500} | ({"cursor": cursor} if cursor else {})
        page = service.client.get(f"/api/v1/runs/{run}/events", params=params).json()
        found += page["events"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def event_of(event: dict[str, Any]) -> tuple[str, str | None]:
    return event["kind"], event["fields"].get("state")
