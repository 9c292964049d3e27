"""How fast the dashboards answer: `python -m tests.benchmarks.dashboards [--quick] [--record]`.

A real Prometheus holds a day of 1,000 GPUs on 125 nodes, with 200 runs of five ranks each, every series that
the service, the rules and Prometheus itself make of them, at the shipped 15 s: about 140,000. It is asked for
every query of every panel as Grafana would ask when a dashboard is opened at 1600 pixels over 24 hours: the
variables' first choices, the step of the panel's width, a panel's queries one behind the other, six panels at
a time as a browser does, the annotations too. Before that each is asked once, so that no figure is of a cold
cache. Not in it: Grafana itself, the network, the drawing.

The fleet is made by tests/benchmarks/fleet.py of the recorded scenarios: the healthy training and its node
many times over, with the same values under other names. Prometheus does not know that; but of the thousand
lines of a panel many coincide. The last two hours lie in a block as all others do, not in memory. Where the
rules would have evaluated, their series are there, and Prometheus itself scrapes and evaluates nothing while
it is asked.

Exit status 1 where a bar is missed. The fleet is kept in the user's cache folder for the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import fcntl
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from alerts.thresholds import Thresholds
from dashboards import build
from dashboards.preview import ask, queries
from dashboards.preview.layout import box, placed
from dashboards.preview.queries import Window
from tests.benchmarks import fleet, report
from tests.benchmarks.fleet import Made, Size
from tests.benchmarks.report import Promise
from tests.prometheus import PrometheusServer, binary

Json = dict[str, Any]

FLEET = "trainvitals-fleet"
RESULTS = report.ROOT / "tests" / "benchmarks" / "results"
WIDTH_PIXELS = 1600
AT_ONCE = 6
TRIES = 3
FAR = 3  # times the bar
TIMEOUT_SECONDS = 150.0  # longer than Prometheus's own
PANEL_BAR_MS = 500.0
DASHBOARD_BAR_MS = 3000.0
# What was written is what is asked for: nothing is joined in between.
FLAGS = ("--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h")


class Request(NamedTuple):
    """One query as Grafana sends it: a path of Prometheus's API and its parameters."""

    path: str
    parameters: Mapping[str, str]


class Panel(NamedTuple):
    """What a panel asks, or all annotations; `at_first` is false while its row is collapsed."""

    title: str
    requests: Sequence[Request]
    at_first: bool = True


class Answered(NamedTuple):
    """What a panel's queries took together, and what came back; `refused` has Prometheus's words, if any.

    `cpu_milliseconds` is of Prometheus's process, on all cores: what else runs on the machine is not in it.
    """

    title: str
    milliseconds: float
    series: int
    bytes: int
    refused: str = ""
    cpu_milliseconds: float = 0


class Opened(NamedTuple):
    """A dashboard: its panels one at a time, and all of them as a browser asks, the variables first."""

    uid: str
    panels: Sequence[Answered]
    variables_ms: float
    at_first_ms: float
    all_rows_ms: float


def panels(dashboard: Json, window: Window, known: Mapping[str, str]) -> Iterator[Panel]:
    """Every panel with what it asks, and last the annotations."""
    at_first = {panel["id"] for panel in placed(dashboard["panels"], open_rows=False)}
    for panel in placed(dashboard["panels"], open_rows=True):
        points = panel.get("maxDataPoints") or box(panel["gridPos"], WIDTH_PIXELS).width
        requests = []
        for target in panel.get("targets", []):
            least = target.get("interval") or panel.get("interval") or ""
            least_seconds = (
                queries.seconds(queries.fill_in(least, known)) if least else queries.SCRAPE_SECONDS
            )
            step = queries.step_seconds(window, points, least_seconds)
            expr = queries.fill_in(target["expr"], {**known, **queries.built_in(window, step)})
            requests.append(_instant(expr, window) if target.get("instant") else _range(expr, window, step))
        if requests:
            yield Panel(panel["title"], requests, panel["id"] in at_first)
    marks = []
    for annotation in dashboard["annotations"]["list"]:
        if annotation.get("enable") and annotation.get("expr"):
            step = queries.seconds(annotation.get("step") or "60s")
            expr = queries.fill_in(annotation["expr"], {**known, **queries.built_in(window, step)})
            marks.append(_range(expr, window, step))
    if marks:
        yield Panel("(annotations)", marks)


def _instant(expr: str, window: Window) -> Request:
    return Request("/api/v1/query", {"query": expr, "time": f"{window.end:.3f}"})


def _range(expr: str, window: Window, step: float) -> Request:
    start, end = window.aligned(step)
    over = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
    return Request("/api/v1/query_range", {"query": expr, **over})


def asked(client: httpx.Client, panel: Panel) -> Answered:
    """Ask a panel's queries."""
    began = time.perf_counter()
    answers = [client.post(request.path, data=request.parameters) for request in panel.requests]
    took = (time.perf_counter() - began) * 1000
    series, refused = 0, ""
    for answer in answers:
        body = answer.json()
        if body["status"] == "success":
            found = body["data"]
            series += 1 if found["resultType"] == "scalar" else len(found["result"])
        else:
            refused = body["error"]
    return Answered(panel.title, took, series, sum(len(answer.content) for answer in answers), refused)


def opened(url: str, dashboard: Json, window: Window) -> Opened:
    """Ask all that a dashboard asks, some times, and say the medians; a first time is not counted.

    What takes far longer than its bar is asked once.
    """
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
        known = _variables(url, dashboard, window)
        every = list(panels(dashboard, window, known))
        alone = [_alone(client, panel) for panel in every]
        variables_ms = _median(lambda: _milliseconds(lambda: _variables(url, dashboard, window)))
        first = [panel for panel in every if panel.at_first]
        at_first_ms = _median(lambda: _milliseconds(lambda: _together(client, first)), DASHBOARD_BAR_MS)
        all_rows_ms = at_first_ms
        if len(first) < len(every):
            all_rows_ms = _median(lambda: _milliseconds(lambda: _together(client, every)), DASHBOARD_BAR_MS)
    return Opened(
        dashboard["uid"], alone, variables_ms, variables_ms + at_first_ms, variables_ms + all_rows_ms
    )


def _alone(client: httpx.Client, panel: Panel) -> Answered:
    began = _cpu_seconds(client)
    first = asked(client, panel)
    tries = [first]
    if first.milliseconds < FAR * PANEL_BAR_MS:
        began = _cpu_seconds(client)
        tries = [asked(client, panel) for _ in range(TRIES)]
    cpu = (_cpu_seconds(client) - began) * 1000 / len(tries)
    median = statistics.median(each.milliseconds for each in tries)
    return first._replace(milliseconds=median, cpu_milliseconds=cpu)


def _cpu_seconds(client: httpx.Client) -> float:
    """What Prometheus's process has taken so far, as it says itself."""
    [line] = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("process_cpu_seconds_total ")
    ]
    return float(line.split()[1])


def _median(measure: Callable[[], float], bar: float = math.inf) -> float:
    """Of some tries; of one where that is far above the bar."""
    figures = [measure()]
    while len(figures) < TRIES and figures[0] < FAR * bar:
        figures.append(measure())
    return statistics.median(figures)


def _milliseconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return (time.perf_counter() - began) * 1000


def _variables(url: str, dashboard: Json, window: Window) -> dict[str, str]:
    """Ask for the variables' values; what each stands for at first."""

    async def ask_them() -> dict[str, str]:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            choices = await ask.variables(ask.Prometheus(client), dashboard, window, {})
            return {choice.name: choice.promql for choice in choices}

    return asyncio.run(ask_them())


def _together(client: httpx.Client, every: Sequence[Panel]) -> None:
    """Ask all of these panels, six at a time."""

    def ask_one(panel: Panel) -> None:
        for request in panel.requests:
            client.post(request.path, data=request.parameters)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask_one, every))


def promises(every: Sequence[Opened]) -> list[Promise]:
    kept = []
    for one in every:
        if one.uid == FLEET:
            slowest = max(one.panels, key=lambda panel: panel.milliseconds)
            kept.append(
                _at_most(f"{FLEET}, slowest panel: {slowest.title}", slowest.milliseconds, PANEL_BAR_MS)
            )
    for one in every:
        kept.append(_at_most(f"{one.uid}, as it opens", one.at_first_ms, DASHBOARD_BAR_MS))
    refused = [panel.title for one in every for panel in one.panels if panel.refused]
    kept.append(Promise("panels refused", ", ".join(refused) or "0", "0", not refused))
    return kept


def _at_most(what: str, figure: float, bar: float) -> Promise:
    return Promise(what, f"{figure:.0f} ms", f"{bar:.0f} ms", figure <= bar)


def tables(every: Sequence[Opened]) -> str:
    """Each dashboard as a whole, then each panel, the slowest first."""
    whole = [["dashboard", "panels", "variables", "as it opens", "all rows open"]]
    for one in every:
        figures = (one.variables_ms, one.at_first_ms, one.all_rows_ms)
        whole.append([one.uid, str(len(one.panels)), *(f"{figure:.0f} ms" for figure in figures)])
    single = [["dashboard", "panel", "ms", "CPU ms", "series", "bytes"]]
    for one in every:
        for panel in sorted(one.panels, key=lambda panel: -panel.milliseconds):
            took = (f"{panel.milliseconds:.0f}", f"{panel.cpu_milliseconds:.0f}")
            came = (panel.refused or f"{panel.series:,}", f"{panel.bytes:,}")
            single.append([one.uid, panel.title, *took, *came])
    return f"{report.table(whole)}\n\n{report.table(single)}"


def database(cache: Path, size: Size) -> tuple[Path, Made]:
    """A folder with the fleet's database, made unless one of this code is there; and what it came to."""
    digest = hashlib.sha256(f"{size.nodes} {size.gpus_a_node} {size.runs} {size.hours}".encode())
    made_of = ("alerts/**/*.py", "exporters/**/*.py", "trainvitals/scenarios/*.py")
    for pattern in (*made_of, "tests/benchmarks/blocks.py", "tests/benchmarks/fleet.py"):
        for path in sorted(report.ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    folder = cache / f"fleet-{size.gpus}-{digest.hexdigest()[:12]}"
    told = folder / "made.json"
    if not told.exists():
        for other in cache.glob(f"fleet-{size.gpus}-*"):
            shutil.rmtree(other)
        folder.mkdir(parents=True)
        told.write_text(json.dumps(fleet.make(folder, size)))
    return folder, Made(*json.loads(told.read_text()))


@contextlib.contextmanager
def one_at_a_time(cache: Path) -> Iterator[None]:
    """Wait until no other of these benchmarks runs: it would slow this one, or renew the fleet under it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another benchmark of the dashboards to end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure(folder: Path, end: float, hours: float, documents: Sequence[Json]) -> list[Opened]:
    """These dashboards over the last hours of the database in the folder."""
    window = Window(end - hours * 3600, end)
    every = []
    with PrometheusServer(folder, flags=FLAGS) as prometheus:
        for dashboard in documents:
            every.append(opened(prometheus.url, dashboard, window))
            print(f"{dashboard['uid']}: {every[-1].at_first_ms:.0f} ms as it opens", file=sys.stderr)
            for panel in every[-1].panels:
                if panel.milliseconds > PANEL_BAR_MS:
                    print(f"  {panel.milliseconds:.0f} ms: {panel.title}", file=sys.stderr)
    return every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 GPUs over an hour: to see that it works")
    parser.add_argument("--record", action="store_true", help="write the figures to tests/benchmarks/results")
    parser.add_argument("--dashboard", action="append", metavar="UID", help="only this one; several times")
    arguments = parser.parse_args()
    if arguments.record and (arguments.quick or arguments.dashboard):
        parser.error("--record is for the whole of it")
    documents = build.documents(Thresholds())
    if arguments.dashboard:
        documents = [document for document in documents if document["uid"] in arguments.dashboard]
    size = fleet.QUICK if arguments.quick else fleet.WHOLE
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "trainvitals" / "benchmark-of-dashboards"
    with one_at_a_time(cache):
        folder, made = database(cache, size)
        conditions = report.conditions_with(("httpx",), "wall time", _prometheus())
        every = measure(folder, made.end, size.hours, documents)
    conditions += (
        f"\n{size.gpus:,} GPUs, {size.nodes} nodes, {size.runs} runs, and the recorded scenarios once: "
        f"{made.series:,} series, {made.samples:,} samples of {size.hours:g} h, {made.megabytes:,.0f} MiB"
    )
    kept = promises(every)
    measured = f"{report.promises_table(kept)}\n\n{tables(every)}"
    print(f"{conditions}\n\n{measured}")
    if arguments.record:
        file = RESULTS / f"{datetime.date.today()}-dashboards.md"
        heading = f"# How fast the dashboards answer, {datetime.date.today()}"
        file.write_text(f"{heading}\n\n{conditions}\n\n{_how()}\n\n{measured}\n")
        print(f"written: {file}")
    return 0 if all(each.kept for each in kept) else 1


def _how() -> str:
    """What was measured, without how to start it."""
    return (__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0]


def _prometheus() -> str:
    said = subprocess.run([binary("prometheus"), "--version"], capture_output=True, text=True, check=True)
    return said.stdout.partition(" (")[0].replace(", version", "")


if __name__ == "__main__":
    sys.exit(main())
