"""`trainvitals serve`: the service of one node."""

from __future__ import annotations

import enum
import gc
import logging
import resource
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn

from exporters.access.access import open_access
from exporters.gpu.simulated import parse_simulation
from exporters.history.database import Database
from exporters.registration import Registration
from exporters.service import Service, Trainings
from trainer_hooks import directory
from trainvitals import options
from trainvitals.listen import DEFAULT_LISTEN, Address, in_url, parse_listen
from trainvitals.tls import check_tls

MOST_FILES = 65_536
# So long an answer waits for each of its turns beside a collector that computes. Python's own is 5 ms; with 1
# the 99th percentile of Kubeflow's answers beside 64 ranks was some 2 ms higher, and the load the same.
SWITCH_SECONDS = 0.0002
MOST_MESSAGE_BYTES = 16_384  # of a WebSocket's client, which has but its token to tell
_ACCESS, _ELSEWHERE = "Who may come in", "Discovery"

logger = logging.getLogger(__name__)
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
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = DEFAULT_LISTEN,
    dir: options.Recordings = None,
    state: Annotated[
        Path | None, typer.Option(help="The service's own database; its token and audit log lie beside it.")
    ] = None,
    only: Annotated[Only | None, typer.Option(help="Publish GPUs only: no recordings, no database.")] = None,
    compat: Annotated[
        Compat | None, typer.Option(help="Publish the names of dcgm-exporter beside ours.")
    ] = None,
    simulate_gpus: options.SimulateGpus = "0",
    stall_after: Annotated[
        float, typer.Option(min=1, help="Seconds without progress until a run is stalled.")
    ] = 1800,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="The tokens that open the service, from `trainvitals token create`.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Let everybody read who reaches the address.", rich_help_panel=_ACCESS
        ),
    ] = False,
    scrape_token_file: Annotated[
        Path | None, typer.Option(help="The token that /metrics needs.", rich_help_panel=_ACCESS)
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name of this service; may be repeated.", rich_help_panel=_ACCESS),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="A certificate in PEM form: speak TLS.", rich_help_panel=_ACCESS)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.", rich_help_panel=_ACCESS)] = None,
    register_at: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Another service, whose /api/v1/sd is to name this one.",
            rich_help_panel=_ELSEWHERE,
        ),
    ] = None,
    register_as: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where Prometheus reaches this one.", rich_help_panel=_ELSEWHERE
        ),
    ] = None,
    register_token_file: Annotated[
        Path | None, typer.Option(help="An operator's token of the other.", rich_help_panel=_ELSEWHERE)
    ] = None,
) -> None:
    """Turn what the hooks record, and what the GPUs say, into metrics, an API and a page."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("uvicorn", "httpx", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if only and (dir or state):
        options.stop(
            "serve", "--only gpu follows no recordings and keeps no database: leave out --dir and --state"
        )
    if insecure and token_file:
        options.stop(
            "serve",
            "--insecure lets everybody read, --token-file nobody without a token: leave out one of them",
        )
    path = state or directory.state_directory() / "history.db"
    try:
        simulation = parse_simulation(simulate_gpus)
        with_tls = check_tls(tls_cert, tls_key)
        named = parse_listen(listen, open_to_all=insecure or token_file is not None)
        listener = _bind(named)
        address = Address(*listener.getsockname()[:2])
        registration = _registration(register_at, register_as, register_token_file, with_tls)
        trainings = None
        if only is None:
            directories = [dir] if dir else directory.candidates()
            trainings = Trainings(directories, _open_database(path), stall_after)
        access = open_access(
            path.parent,
            listening=address.host,
            hosts=(named.host, *(host or ())),
            token_file=token_file,
            scrape_token_file=scrape_token_file,
            reads_only=only is Only.gpu,
        )
    except (OSError, ValueError) as error:
        options.stop("serve", str(error))
    if not (address.is_loopback or insecure or with_tls):
        logger.warning("tokens go over the network in clear: speak TLS with --tls-cert and --tls-key")
    service = Service(
        access,
        trainings,
        simulation=simulation,
        names_of_dcgm=compat is Compat.dcgm,
        registration=registration,
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    _open_many_files()
    config = uvicorn.Config(
        service.app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # an address is the connection's, whatever is said of it
        server_header=False,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        timeout_graceful_shutdown=2,
        ws="websockets-sansio",
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # for hundreds of clients it would take most of a core
    )
    config.load()
    _spare_garbage_collection()
    # uvicorn stops in order and then raises the signal again for whoever was there before it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_well)
    try:
        service.start()
        print(f"trainvitals: {'https' if with_tls else 'http'}://{address}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        service.stop()


def _open_database(path: Path) -> Database:
    try:
        return Database(path)
    except (OSError, sqlite3.Error) as error:
        options.stop(
            "serve", f"the database {path} cannot be opened ({error}); choose another with --state PATH"
        )


def _registration(
    at: str | None, address: str | None, token_file: Path | None, with_tls: bool
) -> Registration | None:
    """Raises ValueError with a sentence where the options do not go together."""
    if at is None and address is None and token_file is None:
        return None
    if at is None or address is None:
        raise ValueError("--register-at URL and --register-as HOST:PORT go together")
    return Registration(at, address, token_file, scheme="https" if with_tls else "http")


def _spare_garbage_collection() -> None:
    """What is there by now stays: to look through it again and again would hold every thread for 0.1 s."""
    gc.collect()
    gc.freeze()


def _open_many_files() -> None:
    """A node of many ranks has several files for each, and a page several connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, MOST_FILES) if hard != resource.RLIM_INFINITY else MOST_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
