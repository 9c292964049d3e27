"""With intervals and waits as they are shipped: how soon somebody is called for a run that was killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from alerts.alertmanager import Routing
from alerts.lifecycle import TRAINING_RUN_KILLED
from alerts.thresholds import Thresholds
from exporters import catalog
from trainvitals.drill.sink import NOTIFICATIONS_PATH, Sink
from trainvitals.stack import Stack, Surroundings

PROMISED_SECONDS = 60.0
# Three places within the 15 s between two scrapes and two evaluations.
KILLED_AFTER_SECONDS = {"at-once": 0.0, "after-5": 5.0, "after-10": 10.0}


@pytest.mark.long
def test_a_killed_run_pages_within_a_minute(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("none")
    with Sink() as sink:
        routing = Routing(webhook_url=f"{sink.url}{NOTIFICATIONS_PATH}", token_file=str(token))
        shipped = Thresholds()
        with Stack(
            tmp_path / "stack",
            shipped,
            surroundings=Surroundings(routing),
            interval_seconds=shipped.evaluation_interval_seconds,
        ) as stack:
            node = stack.node("node")
            trainings = {
                run: stack.start(
                    run,
                    *(sys.executable, "-m", "trainvitals.drill.trainer", "--run", run),
                    environment={"TRAINVITALS_DIR": str(node.recordings)},
                )
                for run in KILLED_AFTER_SECONDS
            }
            await_all_seen(stack, len(trainings))
            began = time.monotonic()
            killed_at = {}
            for run, seconds in KILLED_AFTER_SECONDS.items():
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                trainings[run].process.kill()
                killed_at[run] = time.monotonic()
            while time.monotonic() < killed_at["after-10"] + PROMISED_SECONDS and len(sink.arrivals) < 3:
                time.sleep(0.5)
            arrived = [
                (each.labels["run"], each.receiver, each.at - killed_at[each.labels["run"]])
                for each in sink.arrivals
                if each.name == TRAINING_RUN_KILLED
            ]
    assert sorted(run for run, _, _ in arrived) == sorted(KILLED_AFTER_SECONDS)
    assert {receiver for _, receiver, _ in arrived} == {"page"}
    assert max(seconds for _, _, seconds in arrived) < PROMISED_SECONDS, arrived


def await_all_seen(stack: Stack, runs: int) -> None:
    deadline = time.monotonic() + 120
    while not stack.sees(f"count({catalog.TRAINING_STEPS_TOTAL} > 0) == {runs}"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
