from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from exporters.access.audit import AuditLog
from exporters.access.entry import AuditEntry, Event
from exporters.access.journal import (
    FORGOTTEN_SECONDS,
    MOST_OF_ALL,
    MOST_OF_AN_ADDRESS,
    WINDOW_SECONDS,
    Journal,
)


class Told:
    """A journal under a clock of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.seconds = 1000.0
        self.log = AuditLog(folder / "audit.jsonl")
        self.journal = Journal(self.log, clock=lambda: self.seconds, wall=lambda: self.seconds)

    @property
    def lines(self) -> list[tuple[str, str, int]]:
        return [(each.resource, each.address, each.count) for each in self.log.newest(10_000)[0][::-1]]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def event(resource: str = "/", address: str = "192.0.2.1") -> Event:
    return Event("unknown", "none", "GET", resource, "401 no token", address)


def run(function: Callable[[], Awaitable[None]]) -> None:
    anyio.run(function)


def test_refusals_of_one_address_fill_no_disk_and_are_counted(told: Told) -> None:
    async def refuse() -> None:
        for _ in range(MOST_OF_AN_ADDRESS + 70):
            await told.journal.tell_of_refusal(event())
        await told.journal.tell_of_refusal(event(address="192.0.2.2"))

    run(refuse)
    assert len(told.lines) == MOST_OF_AN_ADDRESS + 1

    told.journal.close()

    assert told.lines[-1] == ("various", "192.0.2.1", 70)


def test_refusals_of_many_addresses_fill_no_disk_either(told: Told) -> None:
    async def refuse() -> None:
        for number in range(5000):
            await told.journal.tell_of_refusal(event(address=f"10.0.{number // 256}.{number % 256}"))

    run(refuse)
    told.journal.close()

    assert len(told.lines) < MOST_OF_ALL + 300
    assert sum(count for *_, count in told.lines) == 5000
    assert told.lines[-1][:2] == ("various", "various")


def test_what_was_counted_is_told_when_its_minute_is_over(told: Told) -> None:
    async def ask() -> None:
        for _ in range(MOST_OF_AN_ADDRESS + 5):
            await told.journal.tell_of_refusal(event())
        told.journal.keep_up()
        await anyio.sleep(0.01)
        assert told.lines[-1][2] == 1
        told.seconds += WINDOW_SECONDS
        told.journal.keep_up()
        while told.lines[-1][2] == 1:
            await anyio.sleep(0.001)

    run(ask)

    assert told.lines[-1] == ("various", "192.0.2.1", 5)


def test_refusals_of_one_with_a_token_are_summed_up_under_its_name(told: Told) -> None:
    async def refuse() -> None:
        for _ in range(MOST_OF_AN_ADDRESS):
            await told.journal.tell_of_refusal(event())
        for _ in range(5):
            await told.journal.tell_of_refusal(Event("ci", "viewer", "abort", "/", "403 role", "192.0.2.1"))

    run(refuse)
    told.journal.close()

    last = told.log.newest(1)[0][0]
    assert (last.actor, last.role, last.address, last.count) == ("ci", "viewer", "192.0.2.1", 5)


def test_routine_is_a_line_a_minute_whatever_it_is_about(told: Told) -> None:
    async def work() -> None:
        for _ in range(3):
            for number in range(60):
                told.journal.tell_of_routine(event(f"/api/v1/kubeflow/run-{number}", f"192.0.2.{number}"))
            told.seconds += WINDOW_SECONDS
            told.journal.keep_up()
            await told.journal.tell(event("between"))

    run(work)

    assert [line for line in told.lines if line[0] != "between"] == [
        ("/api/v1/kubeflow/run-0", "192.0.2.0", 1),
        ("various", "various", 59),
        ("various", "various", 60),
        ("various", "various", 60),
    ]


def test_nodes_that_register_every_forty_seconds_are_a_line_a_minute(told: Told) -> None:
    """Not each of them anew after a minute in which nothing beyond the first was counted."""

    async def register() -> None:
        for _ in range(90):
            for node in range(1 if told.seconds < 2000 else 300):
                told.journal.tell_of_routine(event("/api/v1/sd", f"10.0.0.{node}"))
            told.seconds += 40
            told.journal.keep_up()
            await told.journal.tell(event("between"))

    run(register)

    lines = [line for line in told.lines if line[0] != "between"]
    assert [line for line in lines if line[0] == "/api/v1/sd"] == [("/api/v1/sd", "10.0.0.0", 1)]
    assert len(lines) <= 61


def test_routine_of_many_callers_is_a_line_each(told: Told) -> None:
    async def work() -> None:
        for _ in range(10):
            for number in range(500):
                told.journal.tell_of_routine(Event(f"n-{number}", "operator", "register", "/", "200", ""))
        await told.journal.tell(event("last"))

    run(work)
    told.journal.close()

    assert len(told.lines) == 1001
    assert "lose entries" not in {entry.action for entry in told.log.newest(10_000)[0]}


def test_routine_that_comes_again_after_long_is_told_at_once(told: Told) -> None:
    async def work() -> None:
        told.journal.tell_of_routine(event("first"))
        told.seconds += FORGOTTEN_SECONDS
        told.journal.keep_up()
        told.journal.tell_of_routine(event("second"))
        await told.journal.tell(event("last"))

    run(work)

    assert [resource for resource, *_ in told.lines] == ["first", "second", "last"]


def test_what_cannot_be_written_waits_with_its_time_and_order(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    told.log.path.mkdir()

    async def tell() -> None:
        for number in range(3):
            await told.journal.tell(event(str(number)))
            told.seconds += 1
        assert await told.journal.problem() == "Is a directory"
        told.log.path.rmdir()
        assert await told.journal.problem() is None

    run(tell)

    assert [resource for resource, *_ in told.lines] == ["0", "1", "2"]
    assert [entry.at[-7:] for entry in told.log.newest(3)[0]] == ["42.000Z", "41.000Z", "40.000Z"]
    assert [record.getMessage().partition(str(told.log.path))[2] for record in caplog.records] == [
        " cannot be written: [Errno 21] Is a directory: " + repr(str(told.log.path)),
        " can be written again",
    ]


def test_what_waits_is_bounded_and_what_was_lost_is_counted(told: Told) -> None:
    told.log.path.mkdir()
    for number in range(1500):
        told.journal.later(event(str(number)))
    told.log.path.rmdir()

    told.journal.close()

    last = told.log.newest(1)[0][0]
    assert (last.action, last.outcome) == ("lose entries", "more than 1000 waited")
    assert told.lines[-1] == ("various", "", 500)


def test_what_is_being_written_when_the_service_ends_is_told_once(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on that belonged to a task which was cancelled."""
    append, is_writing, may_end = told.log.append, threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> AuditEntry:
        is_writing.set()
        assert may_end.wait(20)
        return append(*arguments)

    monkeypatch.setattr(told.log, "append", slowly)

    async def tell() -> None:
        told.journal.tell_of_routine(event("routine"))
        while not is_writing.is_set():
            await anyio.sleep(0.001)

    run(tell)
    closing = threading.Thread(target=told.journal.close)
    closing.start()
    closing.join(0.1)
    may_end.set()
    closing.join(20)

    assert [resource for resource, *_ in told.lines] == ["routine"]


def test_a_disk_with_hardly_any_room_is_a_problem_beforehand(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.access.journal._LEAST_FREE_BYTES", 1 << 80)

    async def ask() -> None:
        assert str(await told.journal.problem()).endswith("bytes are free on its disk")

    run(ask)
