"""The pictures of the README, of a real service with real trainings: `python -m tests.page.screenshots`.

It takes some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser

from tests.page.browser import PHONE, Tab, chromium
from tests.trainer_hooks.processes import environment
from tests.trainvitals.test_serve import Service

REPOSITORY = Path(__file__).parents[2]
DEFAULT_FOLDER = REPOSITORY / "docs" / "images"


@contextlib.contextmanager
def training(recordings: Path, run: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """On two ranks; it is ended with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*command, "-m", "tests.page.training", run, *options],
        cwd=REPOSITORY,
        env=environment(TRAINVITALS_DIR=str(recordings), OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()  # it ends its ranks, as a kill would not
        process.wait(60)


def until(service: Service, run: str, state: str, step: int = 0) -> None:
    """Raises TimeoutError after ten minutes."""
    deadline = time.monotonic() + 600
    told = service.run(run)
    while told["state"] != state or told["step"] < step:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run} is not {state} at step {step}, but {told}")
        time.sleep(0.5)
        told = service.run(run)
    print(f"{run} is {state}", flush=True)


def shoot(
    browser: Browser, url: str, path: str, picture: Path, *, size: tuple[int, int], scheme: str
) -> None:
    tab = Tab(browser, url, size=size, scheme=scheme)
    page = tab.open_run(path.removeprefix("#/runs/")) if path else tab.open()
    time.sleep(4)  # what comes live
    page.screenshot(path=picture)
    tab.close()
    print(picture, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_FOLDER)
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, chromium() as browser, contextlib.ExitStack() as stack:
        recordings = Path(name) / "recordings"
        service = Service(Path(name), "--dir", str(recordings), "--simulate-gpus", "2")
        stack.callback(service.close)
        with training(recordings, "chars-gru-96", "--hidden", "96", "--steps", "600"):
            until(service, "chars-gru-96", "finished")
        with training(recordings, "chars-gru-96-hot", "--hidden", "96", "--rate", "3", "--fail-at", "60"):
            until(service, "chars-gru-96-hot", "failed")
        with training(recordings, "chars-gru-160", "--hidden", "160", "--steps", "900"):
            until(service, "chars-gru-160", "running", 300)
            os.kill(service.run("chars-gru-160")["ranks"][1]["pid"], signal.SIGKILL)
            until(service, "chars-gru-160", "killed")
        with training(recordings, "chars-gru-128", "--hidden", "128", "--steps", "900"):
            until(service, "chars-gru-128", "running", 500)
            for file, path, size, scheme in (
                ("runs.png", "", (1280, 620), "light"),
                (
                    "run.png",
                    "#/runs/chars-gru-128?axis=step&smoothing=0.8&with=chars-gru-96",
                    (1280, 1180),
                    "light",
                ),
                ("killed.png", "#/runs/chars-gru-160", (1280, 860), "dark"),
                ("phone.png", "", PHONE, "light"),
                ("phone-run.png", "#/runs/chars-gru-128", PHONE, "dark"),
            ):
                shoot(browser, service.url, path, folder / file, size=size, scheme=scheme)


if __name__ == "__main__":
    main()
