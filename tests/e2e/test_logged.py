"""A script that logs to TensorBoard only: what of it arrives on /metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

from exporters import catalog
from tests.trainer_hooks.processes import ROOT, environment, wait_until
from tests.trainvitals.test_serve import Service

SCRIPT = ROOT / "tests" / "trainer_hooks" / "scripts" / "ppo_summary_writer.py"
EPOCHS = 5
TEED = """
import runpy, sys
from trainer_hooks import tee
tee.install(name="ppo")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Trained(NamedTuple):
    result: dict[str, Any]
    output: str
    errors: str
    events: dict[str, list[tuple[int, float]]]


def trained(folder: Path, *before: str, **variables: str) -> Trained:
    """The script, whose command these words precede, run to its end."""
    folder.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            *before,
            str(SCRIPT),
            str(folder / "events"),
            str(EPOCHS),
            str(folder / "result.json"),
        ],
        env=environment(OMP_NUM_THREADS="1", **variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    events = event_accumulator.EventAccumulator(str(folder / "events"))
    events.Reload()
    names = events.Tags()["scalars"]
    logged = {name: [(each.step, each.value) for each in events.Scalars(name)] for name in names}
    return Trained(json.loads((folder / "result.json").read_text()), done.stdout, done.stderr, logged)


@pytest.fixture(scope="module")
def teed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trained, Service, Path]]:
    """The script with one line of ours, and the service that reads its recording."""
    folder = tmp_path_factory.mktemp("teed")
    recordings = str(folder / "recordings")
    with_it = trained(folder / "with", "-c", TEED, TRAINVITALS_DIR=recordings)
    service = Service(folder / "service", TRAINVITALS_DIR=recordings)
    try:
        yield with_it, service.wait_until_ready(), folder
    finally:
        service.close()


def test_success_rate_and_return_are_on_the_page(teed: tuple[Trained, Service, Path]) -> None:
    with_it, service, _ = teed
    logged = with_it.result["logged"]

    def published() -> dict[str, float]:
        return {
            dict(labels)["name"]: value
            for (name, labels), value in service.page().items()
            if name == str(catalog.TRAINING_SCALAR) and dict(labels)["run"].startswith("ppo-")
        }

    wait_until(lambda: bool(published()))
    assert published() == {
        "complete_rate": logged["complete_rate"],
        "success_rate": logged["success_rate"],
        "success_rate_strict": logged["success_rate_strict"],
        "average_return": logged["avg_return"],
        "average_turns": logged["turns"],
    }
    assert 0 < logged["success_rate"] < 1
    page = {(name, dict(labels).get("state")): value for (name, labels), value in service.page().items()}
    assert page[str(catalog.TRAINING_STEP_CURRENT), None] == with_it.result["step"]
    assert page[str(catalog.TRAINING_STEPS_TOTAL), None] == 0
    assert page[str(catalog.TRAINING_RUN_STATE), "finished"] == 1


def test_the_script_itself_is_unchanged(teed: tuple[Trained, Service, Path]) -> None:
    with_it, _, folder = teed
    assert trained(folder / "without") == with_it
    assert with_it.errors == ""
    assert len(with_it.events["success_rate"]) == 1 + EPOCHS
