from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from exporters.api import stream
from exporters.collector import Sample
from exporters.history import newest
from tests.exporters.api.service import Service, called
from tests.exporters.history.written import recorder, steps, write
from tests.exporters.trainers import small_recording
from trainer_hooks.recording import FINISHED


class Served:
    """A service on a free port, and clients of its stream."""

    def __init__(self, service: Service, port: int) -> None:
        self._service = service
        self._url = f"ws://127.0.0.1:{port}/api/v1/stream"

    def listen(self, query: str = "") -> ClientConnection:
        return connect(self._url + query, max_size=None, proxy=None)


@pytest.fixture
def served(service: Service) -> Iterator[Served]:
    config = uvicorn.Config(
        called(service.app), port=0, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Served(service, server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join()


class Told:
    """What a client was told so far, message by message."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._messages: list[dict[str, Any]] = []

    def next(self, timeout_seconds: float = 20) -> dict[str, Any]:
        self._messages.append(json.loads(self._client.recv(timeout_seconds)))
        return self.newest

    @property
    def newest(self) -> dict[str, Any]:
        return self._messages[-1]

    def of(self, part: str, is_it: Callable[[Any], bool] = bool) -> Any:
        """The first of this part of any message for which it holds; waits for it."""
        deadline = time.monotonic() + 30
        while True:
            for message in self._messages:
                for each in message.get(part, []):
                    if is_it(each):
                        return each
            assert time.monotonic() < deadline
            self.next()


def test_a_client_is_first_told_how_things_are(service: Service, served: Served) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    with served.listen() as client:
        told = Told(client)
        snapshot = told.next()

    assert snapshot["type"] == "snapshot"
    assert [run["run"] for run in snapshot["runs"]] == ["a-run"]
    assert "ranks" not in snapshot["runs"][0]
    assert [gpu["uuid"] for gpu in snapshot["gpus"]] == ["SIMULATED-0", "SIMULATED-1"]
    assert snapshot["alerts"] == []
    assert snapshot["at"] == pytest.approx(time.time(), abs=20)


def test_a_change_of_state_is_told(service: Service, served: Served) -> None:
    made = small_recording(service.directory, "a-run")
    service.look()

    with served.listen() as client:
        told = Told(client)
        told.next()
        made.close(FINISHED, time.monotonic_ns())
        service.look()

        run = told.of("runs", lambda run: run["state"] == "finished")
        event = told.of("events", lambda event: event["kind"] == "state")

    assert run["ended_at"] is not None
    assert (event["run"], event["fields"]["before"]) == ("a-run", "running")


def test_new_steps_are_told_once_to_who_asked_for_the_run(service: Service, served: Served) -> None:
    made = recorder(service.directory, age_seconds=10)
    small_recording(service.directory, "another")
    records = steps(made, [float(number) for number in range(8)])
    write(made, records[:5])
    service.look()

    with served.listen("?run=a-run") as client:
        told = Told(client)
        snapshot = told.next()
        losses: list[float] = []
        seen = threading.Event()
        while len(losses) < 3:
            message = told.next()
            for curves in message.get("series", []):
                assert curves["run"] == "a-run"
                by_name = {curve["name"]: curve["points"]["mean"] for curve in curves["series"]}
                losses += by_name["loss"]
            if not seen.is_set():
                seen.set()
                write(made, records[5:])
                service.look()

    assert [run["run"] for run in snapshot["runs"]] == ["a-run"]
    assert len(snapshot["runs"][0]["ranks"]) == 1
    assert losses == [5.0, 6.0, 7.0]


def test_an_alert_is_told(service: Service, served: Served) -> None:
    with served.listen() as client:
        told = Told(client)
        told.next()
        alert = {
            "status": "firing",
            "labels": {"alertname": "TrainingStalled"},
            "startsAt": "2026-11-22T21:03:07Z",
            "fingerprint": "1",
        }
        notification = {"version": "4", "status": "firing", "receiver": "r", "alerts": [alert]}
        assert service.client.post("/api/v1/alerts", json=notification).status_code == 200

        assert told.of("alerts")["labels"] == {"alertname": "TrainingStalled"}


def test_a_collector_that_fails_is_told_until_it_works_again(service: Service, served: Served) -> None:
    service.look()
    with served.listen() as client:
        told = Told(client)
        assert told.next()["problems"] == []
        collector = service.gpu_runner.collector
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collector, "collect", failing)
            service.gpu_runner.run_once()
            assert told.of("problems") == "gpu: no GPU answers"
        service.gpu_runner.run_once()
        deadline = time.monotonic() + 20
        while told.next().get("problems") != []:
            assert time.monotonic() < deadline


def failing() -> list[Sample]:
    raise OSError("no GPU answers")


def test_a_client_is_told_at_most_twice_a_second(service: Service, served: Served) -> None:
    made = small_recording(service.directory, "a-run")
    service.look()

    began = time.monotonic()  # before the snapshot: a client that is held up gets what waits for it at once
    with served.listen() as client:
        told = Told(client)
        told.next()
        for step in range(5):
            made.unsigned[0] = step
            service.look()
            told.next()
        took_seconds = time.monotonic() - began

    assert took_seconds >= 5 * stream.INTERVAL_SECONDS


def test_without_a_change_there_is_a_sign_of_life(
    service: Service, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SIGN_OF_LIFE_SECONDS", 0.1)
    service.look()

    with served.listen() as client:
        told = Told(client)
        told.next()
        told.next()  # of the GPUs

        assert told.next().keys() == {"type", "at"}


def test_who_sends_anything_is_parted_from(served: Served) -> None:
    with served.listen() as client:
        told = Told(client)
        told.next()
        client.send("hello")

        with pytest.raises(ConnectionClosed) as closed:
            told.of("runs", lambda run: run["run"] == "none")

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_more_runs_than_a_client_may_ask_for_are_refused(served: Served) -> None:
    query = "?" + "&".join(f"run=run-{number}" for number in range(9))
    with served.listen(query) as client, pytest.raises(ConnectionClosed) as closed:
        client.recv(20)

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "at most 8 runs")


def test_more_clients_than_there_is_room_for_are_sent_away(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_CLIENTS", 1)

    with served.listen() as first, served.listen() as second:
        with pytest.raises(ConnectionClosed) as closed:
            Told(second).next()
        assert Told(first).next()["type"] == "snapshot"

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


def test_a_run_that_begins_later_is_told_with_its_first_steps(service: Service, served: Served) -> None:
    service.look()
    with served.listen("?run=a-run") as client:
        told = Told(client)
        assert told.next()["runs"] == []
        made = recorder(service.directory, age_seconds=10)
        write(made, steps(made, [float(number) for number in range(5)]))
        service.look()

        curves = told.of("series")

    losses = {each["name"]: each["points"]["mean"] for each in curves["series"]}["loss"]
    assert losses == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_every_alert_of_a_large_notification_is_told(service: Service, served: Served) -> None:
    with served.listen() as client:
        told = Told(client)
        told.next()
        alerts = [
            {
                "status": "firing",
                "labels": {"alertname": f"Alert{number}"},
                "startsAt": "2026-11-22T21:03:07Z",
                "fingerprint": str(number),
            }
            for number in range(200)
        ]
        notification = {"version": "4", "status": "firing", "receiver": "r", "alerts": alerts}
        assert service.client.post("/api/v1/alerts", json=notification).status_code == 200
        first = told.of("alerts")
        names = {first["labels"]["alertname"]}
        names |= {each["labels"]["alertname"] for each in told.newest.get("alerts", [])}

    assert len(names) == 200


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ValueError("a fault")])
def test_a_look_that_fails_loses_nothing(
    service: Service, served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    made = small_recording(service.directory, "a-run")
    service.look()
    with served.listen("?run=a-run") as client:
        told = Told(client)
        told.next()
        failed = threading.Event()

        def fails(*_: object) -> None:
            failed.set()
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(newest, "of_every_rank", fails)  # the last to be looked up
            made.close(FINISHED, time.monotonic_ns())
            service.look()
            failed.clear()
            assert failed.wait(20)

        told.of("runs", lambda run: run["state"] == "finished")
        told.of("events", lambda event: event["kind"] == "state")


class Gate:
    """Holds the looks of the stream until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        updates = stream._Look.updates

        def held(look: Any, wanted: Any) -> Any:
            self.reached.set()
            self.opened.wait(20)
            return updates(look, wanted)

        monkeypatch.setattr(stream._Look, "updates", held)


def test_who_comes_during_a_look_misses_nothing(
    service: Service, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_recording(service.directory, "a-run")
    service.look()
    gate = Gate(monkeypatch)
    with served.listen() as first, served.listen("?run=another"):
        Told(first).next()
        assert gate.reached.wait(20)
        with served.listen("?run=a-run") as client:
            told = Told(client)
            with contextlib.suppress(TimeoutError):
                told.next(1)
            made.close(FINISHED, time.monotonic_ns())
            service.look()
            gate.opened.set()

            told.of("runs", lambda run: run["state"] == "finished")


def test_nobody_is_told_how_things_were_for_clients_that_are_gone(
    service: Service, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_recording(service.directory, "a-run")
    service.look()
    gate = Gate(monkeypatch)
    with served.listen() as first:
        Told(first).next()
        assert gate.reached.wait(20)
        with served.listen("?run=a-run") as second, contextlib.suppress(TimeoutError):
            Told(second).next(1)
    gate.opened.set()
    time.sleep(3 * stream.INTERVAL_SECONDS)
    made.close(FINISHED, time.monotonic_ns())
    service.look()

    with served.listen("?run=a-run") as client:
        assert [run["state"] for run in Told(client).next()["runs"]] == ["finished"]


def test_what_nobody_listens_to_is_not_kept_in_mind(service: Service) -> None:
    made = recorder(service.directory, age_seconds=10)
    records = steps(made, [float(number) for number in range(8)])
    write(made, records[:5])
    service.look()
    look = stream._Look(service.known, service.runners)
    look.snapshot(("a-run",))
    look.updates([()])
    write(made, records[5:7])
    service.look()

    look.snapshot(("a-run",))
    write(made, records[7:])
    service.look()
    update = json.loads(look.updates([("a-run",)])["a-run",])

    by_name = {each["name"]: each["points"]["mean"] for each in update["series"][0]["series"]}
    assert by_name["loss"] == [7.0]


@pytest.mark.parametrize(("late_seconds", "least_points"), [(-0.1, 10), (0.1, 20)])
def test_the_tokens_of_all_ranks_are_told_when_those_of_all_are_there(
    service: Service, late_seconds: float, least_points: int
) -> None:
    """The second rank's steps end a little earlier or later, and are in the database a look later."""
    ranks = [recorder(service.directory, rank=rank, age_seconds=100) for rank in (0, 1)]
    records = [steps(each, [1.0] * 90) for each in ranks]
    late_ns = int(late_seconds * 1e9)
    records[1] = [each._replace(time_ns=each.time_ns + late_ns) for each in records[1]]
    for made, written in zip(ranks, records, strict=True):
        write(made, written[:40])
    service.look()
    look = stream._Look(service.known, service.runners)
    look.snapshot(("a-run",))
    rates: list[float] = []
    for number in range(40, 60):
        for rank in (0, 1):
            write(ranks[rank], records[rank][number : number + 1])
            service.look()
            update = json.loads(look.updates([("a-run",)]).get(("a-run",), "{}"))
            for curves in update.get("series", []):
                by_name = {each["name"]: each["points"]["mean"] for each in curves["series"]}
                rates += by_name.get("tokens_per_second", [])

    assert len(rates) >= least_points
    assert rates == pytest.approx([200.0] * len(rates), rel=0.05)
