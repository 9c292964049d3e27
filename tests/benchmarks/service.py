"""What the service takes, and holds: `python -m tests.benchmarks.service [--quick] [--record]`.

A real `trainvitals serve` beside a training of 64 ranks that make 20 steps a second, with 200 clients of its
stream, half of them at the list of runs and half at the run, and a scrape every 5 s, for two minutes: what
its process takes, how long a scrape waits, and whether the history has every step the recordings have. Then
a training of 12 hours and 8 ranks is asked for as the page does. Exit status 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import websockets

from exporters.history.database import Database
from exporters.history.retention import keep
from exporters.history.writer import HistoryCollector
from tests.benchmarks import kubeflow, report
from tests.benchmarks.report import Place, Promise, Whole
from tests.exporters.history.written import packed, recorder, steps
from trainer_hooks.recording import SLOT, Recorder
from trainvitals.child import Child, loopback, start_server

PLACE = Place(
    "<!-- written by `python -m tests.benchmarks.service --record` -->\n",
    "<!-- up to here: service -->\n",
    "service",
)
PACKAGES = ("fastapi", "uvicorn", "websockets", "pydantic", "apscheduler")
RUN, OF_HOURS = "of-64-ranks", "of-12-hours"
RANKS = 64
STEPS_A_SECOND = 20
CLIENTS = 200
SCRAPE_EVERY_SECONDS = 5.0
SETTLING_SECONDS = 5.0  # the first look at all ranks is over, and their readers are open
CORE_BAR = 0.15  # of a core, without clients
SCRAPE_BAR_MS = 100.0
GROWTH_BAR_MIB = 64.0  # after the first quarter of the time
OPEN_BAR_MS = 200.0
HOURS, STEPS_OF_HOURS, RANKS_OF_HOURS = 12, 86_400, 8
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# What the page asks for when a run is opened.
CURVES = (
    *("loss", "perplexity", "tokens_per_second", "learning_rate", "gradient_norm", "validation_loss"),
    *(f"phase_{phase}_ratio" for phase in ("data", "forward", "backward", "compute", "optimizer")),
    *(f"phase_{phase}_ratio" for phase in ("evaluation", "checkpoint", "other", "init")),
)


class Length(NamedTuple):
    """Seconds of training alone, seconds with clients, and the share of the 12 hours."""

    alone_seconds: float
    crowded_seconds: float
    share: float


WHOLE = Length(alone_seconds=60, crowded_seconds=120, share=1.0)
QUICK = Length(alone_seconds=10, crowded_seconds=20, share=0.1)


class Load(NamedTuple):
    """What the process of the service took in some seconds."""

    core: float
    resident_mib: Sequence[float]

    @property
    def growth_mib(self) -> float:
        """From the first quarter of the time to its end."""
        quarter = len(self.resident_mib) // 4
        return max(self.resident_mib[quarter:]) - max(self.resident_mib[: quarter + 1])


class Opened(NamedTuple):
    """Milliseconds until a page has all of a run: of each request the median of some tries."""

    by_request: dict[str, float]

    @property
    def slowest_ms(self) -> float:
        return max(self.by_request.values())


@dataclass
class Figures:
    """All that was measured."""

    alone: Load
    crowded: Load
    scrapes_ms: list[float]
    messages: int
    parted: int
    recorded: int
    kept: int
    lost: int
    answers: kubeflow.Answers
    opened: Opened
    most_a_second: float = field(default=0.0)


class Training:
    """Ranks in this process, as their recordings have them, a step each every 50 ms."""

    def __init__(self, directory: Path, ranks: int) -> None:
        self.recorded = 0
        self._recorders = [recorder(directory, RUN, rank=rank) for rank in range(ranks)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)

    def __enter__(self) -> Training:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _train(self) -> None:
        due = time.monotonic()
        step = 0
        while not self._stop.is_set():
            step += 1
            for each in self._recorders:
                self._step(each, step)
            self.recorded += len(self._recorders)
            due += 1 / STEPS_A_SECOND
            self._stop.wait(max(0.0, due - time.monotonic()))

    @staticmethod
    def _step(made: Recorder, step: int) -> None:
        (record,) = steps(made, [1 / step], seconds=1 / STEPS_A_SECOND, first=step)
        now = time.monotonic_ns()
        record = record._replace(
            time_ns=now,
            batches=step,
            samples=2 * step,
            tokens_all=100 * step,
            tokens_trained=100 * step,
            loss_tokens=100 * step,
            loss_token_sum=100.0 * step,
        )
        made.append(packed(record))
        for name in ("last_step_ns", "last_progress_ns"):
            made.unsigned[SLOT[name]] = now
        made.unsigned[SLOT["step"]] = step


class Clients:
    """Those of the stream, in a process of their own."""

    def __init__(self, url: str, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.service", "--clients", str(count), url],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # all of them are there

    def end(self) -> tuple[int, int]:
        """How many messages they were sent, and how many of them were parted from."""
        told, _ = self._process.communicate("end\n", timeout=60)
        messages, parted = json.loads(told)
        return messages, parted


async def listen(url: str, count: int) -> tuple[int, int]:
    """Be so many clients, half of all runs and half of the one, until there is a line on the input."""
    messages = parted = 0
    there = asyncio.Semaphore(0)

    async def client(query: str) -> None:
        nonlocal messages, parted
        try:
            async with websockets.connect(url + query, max_size=None, proxy=None, open_timeout=60) as stream:
                async for _ in stream:
                    messages += 1
                    there.release()
        except (OSError, websockets.WebSocketException):
            parted += 1
            there.release()

    tasks = [asyncio.create_task(client("" if number % 2 else f"?run={RUN}")) for number in range(count)]
    for _ in range(count):
        await there.acquire()
    print("there", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    told = messages, parted
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return told


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[Child, str]]:
    child, url = start_server(
        "service",
        lambda address: [
            *(sys.executable, "-m", "trainvitals", "serve", "--listen", address),
            *("--dir", str(folder / "recordings"), "--state", str(folder / "state" / "history.db")),
        ],
        folder / "service.log",
        ready_path="/ready",
    )
    try:
        yield child, url
    finally:
        child.stop()


def load(child: Child, seconds: float, also: list[float] | None = None, url: str = "") -> Load:
    """What a child takes in some seconds; with `also`, a scrape every 5 s, whose milliseconds it gets."""
    began, before = time.monotonic(), _cpu_seconds(child)
    resident = []
    next_scrape = began
    while (now := time.monotonic()) < began + seconds:
        resident.append(_resident_mib(child))
        if also is not None and now >= next_scrape:
            next_scrape += SCRAPE_EVERY_SECONDS
            also.append(_milliseconds(f"{url}/metrics"))
        time.sleep(0.2)
    return Load((_cpu_seconds(child) - before) / (time.monotonic() - began), resident)


def _cpu_seconds(child: Child) -> float:
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def _resident_mib(child: Child) -> float:
    pages = int(Path(f"/proc/{child.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _milliseconds(url: str, params: Sequence[tuple[str, str]] = ()) -> float:
    began = time.perf_counter()
    answer = loopback.get(url, params=httpx.QueryParams(list(params)))
    took = (time.perf_counter() - began) * 1000
    answer.raise_for_status()
    return took


def steps_kept(database: Path) -> tuple[int, int]:
    """How many steps of the run the history has, and how many it knows to have missed."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        (kept,) = connection.execute(
            "SELECT count(*) FROM steps JOIN recordings ON id = recording WHERE run = ?", (RUN,)
        ).fetchone()
        (lost,) = connection.execute("SELECT ifnull(sum(lost_records), 0) FROM recordings").fetchone()
    return kept, lost


def hours_of_training(folder: Path, share: float) -> str:
    """Write the history of a training of 12 hours and 8 ranks; its name."""
    database = Database(folder / "state" / "history.db")
    count = round(STEPS_OF_HOURS * share)
    seconds = HOURS * 3600 / STEPS_OF_HOURS
    collector = HistoryCollector([folder / "recordings"], database)
    ranks = [
        recorder(folder / "recordings", OF_HOURS, rank=rank, age_seconds=int(count * seconds) + 1)
        for rank in range(RANKS_OF_HOURS)
    ]
    made = [steps(each, [1.0] * count, seconds=seconds) for each in ranks]
    for first in range(0, count, 2000):
        for each, records in zip(ranks, made, strict=True):
            for record in records[first : first + 2000]:
                each.append(packed(record))
        list(collector.collect())
    list(collector.collect())
    collector.close()
    keep(database)
    database.close()
    return OF_HOURS


def opened(url: str, run: str, tries: int = 5) -> Opened:
    """How long each request takes with which a page opens a run."""
    base = f"{url}/api/v1/runs/{run}"
    names = [("name", name) for name in CURVES]
    requests = {
        "run": (base, []),
        "13 curves": (f"{base}/series", [*names, ("max_points", "1000")]),
        "events": (f"{base}/events", []),
        "steps of a rank": (f"{base}/series", [("name", "step_seconds"), ("rank", "1")]),
        "memory": (f"{base}/series", [("name", "training_host_memory_bytes")]),
        "gpus": (f"{base}/gpus", []),
    }
    return Opened(
        {
            name: statistics.median(_milliseconds(where, params) for _ in range(tries))
            for name, (where, params) in requests.items()
        }
    )


def measure(folder: Path, length: Length) -> Figures:
    folder.mkdir(exist_ok=True)
    run = hours_of_training(folder, length.share)
    with service(folder) as (child, url):
        at_rest = opened(url, run)
        with Training(folder / "recordings", RANKS) as training:
            time.sleep(SETTLING_SECONDS)
            alone = load(child, length.alone_seconds)
            clients = Clients(url.replace("http", "ws") + "/api/v1/stream", CLIENTS)
            scrapes: list[float] = []
            crowded = load(child, length.crowded_seconds, scrapes, url)
            messages, parted = clients.end()
        answers = kubeflow.answers(url, token=(folder / "state" / "local-token").read_text().strip())
        deadline = time.monotonic() + 30
        while True:
            kept, lost = steps_kept(folder / "state" / "history.db")
            if kept >= training.recorded or time.monotonic() > deadline:
                break
            time.sleep(0.5)
    a_second = messages / CLIENTS / length.crowded_seconds
    return Figures(
        *(alone, crowded, scrapes, messages, parted, training.recorded, kept, lost, answers),
        *(at_rest, a_second),
    )


def promises(figures: Figures) -> list[Promise]:
    p99 = max(figures.scrapes_ms)  # of so few the longest

    def at_most(what: str, figure: float, bar: float, unit: str) -> Promise:
        return Promise(what, f"{figure:.3g} {unit}", f"{bar:g} {unit}", figure <= bar)

    missing = figures.recorded - figures.kept
    return [
        at_most("core, 64 ranks at 20 steps/s", figures.alone.core * 100, CORE_BAR * 100, "%"),
        at_most("scrape beside 200 clients, longest", p99, SCRAPE_BAR_MS, "ms"),
        Promise("steps missing in the history", str(missing), "0", missing == figures.lost == 0),
        Promise("clients parted from", str(figures.parted), "0", figures.parted == 0),
        at_most("memory gained", figures.crowded.growth_mib, GROWTH_BAR_MIB, "MiB"),
        at_most("12 hours of 8 ranks, slowest request", figures.opened.slowest_ms, OPEN_BAR_MS, "ms"),
        at_most(
            "Kubeflow status answered, p99", figures.answers.p99 * 1000, kubeflow.MOST_SECONDS * 1000, "ms"
        ),
    ]


def rows(figures: Figures) -> str:
    crowded = figures.crowded
    table = [
        ["of the service", "measured"],
        ["core, 64 ranks at 20 steps/s each", f"{figures.alone.core * 100:.1f} %"],
        [f"core, with {CLIENTS} clients of the stream and scrapes", f"{crowded.core * 100:.1f} %"],
        ["scrape beside them, median", f"{statistics.median(figures.scrapes_ms):.0f} ms"],
        ["scrape beside them, longest", f"{max(figures.scrapes_ms):.0f} ms"],
        ["messages a client got a second", f"{figures.most_a_second:.2f}"],
        ["steps recorded, in the history", f"{figures.recorded:,}, {figures.kept:,}"],
        ["resident memory at the end", f"{crowded.resident_mib[-1]:.0f} MiB"],
        ["gained after the first quarter", f"{crowded.growth_mib:.1f} MiB"],
        *([f"12 h of 8 ranks: {name}", f"{took:.0f} ms"] for name, took in figures.opened.by_request.items()),
        ["Kubeflow status answered, median", f"{figures.answers.median * 1000:.1f} ms"],
        ["Kubeflow status answered, p99", f"{figures.answers.p99 * 1000:.1f} ms"],
    ]
    return report.table(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute of it: to see that it works")
    parser.add_argument("--record", action="store_true", help="write the figures into the README")
    parser.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    parser.add_argument("url", nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clients:
        print(json.dumps(asyncio.run(listen(arguments.url, arguments.clients))))
        return 0
    conditions = report.conditions_with(PACKAGES, "wall time")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), QUICK if arguments.quick else WHOLE)
    kept = promises(figures)
    measured = f"{rows(figures)}\n\n{report.promises_table(kept)}"
    print(f"{conditions}\n\n{measured}")
    if arguments.record:
        whole = Whole("What the service takes and holds", conditions, measured)
        print(f"written: {report.write(PLACE, whole, rows(figures), kept)}")
    return 0 if all(each.kept for each in kept) else 1


if __name__ == "__main__":
    sys.exit(main())
