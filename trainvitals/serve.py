"""`trainvitals serve`: the service of one node."""

from __future__ import annotations

import enum
import functools
import logging
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn

from exporters.api import LOCAL_HOSTS, create_app
from exporters.collector import Runner, Sample, stop_all
from exporters.gpu.dcgm import VideoCollector, dcgm_samples
from exporters.gpu.node import Gpus, NvmlGpus, Ranks, published
from exporters.gpu.simulated import SimulatedGpus, parse_simulation
from exporters.history import History
from exporters.recordings import RecordingsCollector, living_ranks
from trainer_hooks import directory
from trainvitals import options
from trainvitals.listen import DEFAULT_LISTEN, Address, in_url, parse_listen

app = typer.Typer(add_completion=False)


class Only(enum.StrEnum):
    """A part of the service that can run alone."""

    gpu = "gpu"


class Compat(enum.StrEnum):
    """Whose metric names are published beside ours."""

    dcgm = "dcgm"


@app.command()
def serve(
    listen: Annotated[
        str, typer.Option(help="Loopback address and port; port 0 takes a free one.")
    ] = DEFAULT_LISTEN,
    dir: options.Recordings = None,
    state: Annotated[Path | None, typer.Option(help="The service's own database.")] = None,
    only: Annotated[Only | None, typer.Option(help="Publish GPUs only: no recordings, no database.")] = None,
    compat: Annotated[
        Compat | None, typer.Option(help="Publish the names of dcgm-exporter beside ours.")
    ] = None,
    simulate_gpus: options.SimulateGpus = "0",
    stall_after: Annotated[
        float, typer.Option(min=1, help="Seconds without progress until a run is stalled.")
    ] = 1800,
) -> None:
    """Turn what the hooks record, and what the GPUs say, into metrics and an API."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if only and (dir or state):
        options.stop(
            "serve", "--only gpu follows no recordings and keeps no database: leave out --dir and --state"
        )
    try:
        simulation = parse_simulation(simulate_gpus)
        listener = _bind(parse_listen(listen))
    except ValueError as error:
        options.stop("serve", str(error))
    said: set[str] = set()
    history: History | None = None
    recordings: RecordingsCollector | None = None
    runners: list[Runner] = []
    ranks: Ranks = tuple
    if only is None:
        history = _open_history(state or directory.state_directory() / "history.db")
        recordings = RecordingsCollector(
            [dir] if dir else directory.candidates(), stall_after_seconds=stall_after, last_seen=history
        )
        runners.append(Runner(recordings, said=said))
        ranks = functools.partial(living_ranks, recordings, runners[0])
    more = [VideoCollector] if compat is Compat.dcgm else []
    gpus: Gpus = SimulatedGpus(simulation, ranks) if simulation.count else NvmlGpus(ranks, more=more)
    runners += [Runner(each, said=said) for each in gpus.collectors]
    for runner in runners:
        runner.start()
    address = Address(*listener.getsockname()[:2])
    print(f"trainvitals: http://{address}", flush=True)
    application = create_app(
        *(recordings, runners, history, gpus, [*LOCAL_HOSTS, in_url(address.host)]),
        page=_with_names_of_dcgm if compat is Compat.dcgm else published,
    )
    config = uvicorn.Config(application, log_config=None, access_log=False, timeout_graceful_shutdown=2)
    # uvicorn stops in order and then raises the signal again for whoever was there before it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_well)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        stop_all(runners)
        gpus.close()
        if history is not None:
            history.close()


def _open_history(database: Path) -> History:
    try:
        return History(database)
    except (OSError, sqlite3.Error) as error:
        options.stop(
            "serve", f"the database {database} cannot be opened ({error}); choose another with --state PATH"
        )


def _with_names_of_dcgm(samples: Iterable[Sample]) -> Iterable[Sample]:
    samples = list(samples)
    return [*published(samples), *dcgm_samples(samples, socket.gethostname())]


def _end_well(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _bind(address: Address) -> socket.socket:
    """A bound socket; ends the command with a sentence when the port is taken."""
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Of an answer the body is its own packet: it must not wait for the acknowledgement of the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        options.stop(
            "serve",
            f"port {address.port} of {address.host} cannot be used ({error.strerror}); "
            f"choose another with --listen {in_url(address.host)}:PORT (0 takes a free one)",
        )
    return listener
