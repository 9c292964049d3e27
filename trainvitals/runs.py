"""`trainvitals runs`: the runs a service knows, and how they are doing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from exporters.api.models import Event, Run, RunSummary
from trainvitals import interruption, options, sources
from trainvitals.run_table import STYLES, detail, table
from trainvitals.sources import Parameters, ServiceSource, Source, SourceError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

MOST_RUNS = 30
LAST_EVENTS = 10
POLL_SECONDS = 0.1


@app.command()
def runs(
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Show this one in detail.")] = None,
    url: Annotated[str, typer.Option(help="Where the service is.")] = sources.DEFAULT_URL,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with a token, for a service that wants one.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only runs of this state; may be given several times.")
    ] = None,
    part: Annotated[str, typer.Option("--name", help="Only runs with this in their name.")] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, max=500, help=f"So many runs at most. Default: {MOST_RUNS}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the API answers.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds from one look to the next.")] = 2.0,
) -> None:
    """Show the runs of this machine's service, the newest start first; with a name, one run in detail."""
    unknown = [each for each in state or [] if each not in STYLES]
    if unknown:
        options.stop("runs", f"there is no state {unknown[0]!r}; there are {', '.join(STYLES)}")
    if name is not None and (state or part or limit is not None):
        options.stop("runs", f"--state, --name and --limit choose among runs: leave them out, or {name}")
    if watch and as_json:
        options.stop("runs", "--watch draws anew what --json prints once: leave out one of them")
    interruption.listen()
    console = Console(highlight=False)
    try:
        source = ServiceSource(url, token_file)
    except SourceError as error:
        options.stop("runs", str(error))
    query: Parameters = {"state": state or [], "name": part, "limit": limit or MOST_RUNS}

    def look() -> RenderableType:
        if name is None:
            return _table(source, source.get("/runs", query), console.width, bool(state or part))
        return _detail(source, name, console.width)

    try:
        if as_json:
            answer = (
                source.get("/runs", query) if name is None else source.get(f"/runs/{quote(name, safe='')}")
            )
            print(json.dumps(answer, indent=2))
        elif watch and console.is_terminal:
            _watch(look, console, interval)
        else:
            console.print(look())
    except SourceError as error:
        options.stop("runs", str(error))
    except KeyboardInterrupt:
        pass
    finally:
        source.close()


def _watch(look: Callable[[], RenderableType], console: Console, interval: float) -> None:
    """Until Ctrl-C, on a screen of its own; what it showed last stays in the terminal."""
    shown = look()
    problem: Text | None = None
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(Group(*([problem, Text()] if problem else []), shown), refresh=True)
                _wait(interval)
                try:
                    shown, problem = look(), None
                except SourceError as error:
                    said = f"since {time.strftime('%H:%M:%S')}: {error}"
                    problem = problem or Text(said, "bold red")
    finally:
        console.print(shown)


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        interruption.check()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(POLL_SECONDS, left))


def _table(source: Source, answer: Any, width: int, is_filtered: bool) -> RenderableType:
    with sources.understood(source):
        found = [RunSummary.model_validate(each) for each in answer["runs"]]
    if not found:
        if is_filtered:
            return Text("No run is like that.")
        return Text(
            "No run yet. The README says how a training is recorded, for example by "
            "`trainvitals run python train.py`."
        )
    shown = table(found, time.time(), width)
    more = Text("There are more; --limit, --name and --state choose.", "dim")
    return Group(shown, more) if answer.get("next_cursor") else shown


def _detail(source: Source, name: str, width: int) -> RenderableType:
    path = f"/runs/{quote(name, safe='')}"
    answer = source.get(path)
    happened = source.get(f"{path}/events", {"limit": LAST_EVENTS})
    with sources.understood(source):
        run = Run.model_validate(answer)
        events = [Event.model_validate(each) for each in happened["events"]]
    return detail(run, events, time.time(), width)
