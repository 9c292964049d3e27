from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from exporters.history import events, runs
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.cursors import decoded
from exporters.history.database import Database
from exporters.history.known import KnownRuns
from exporters.history.runs import VANISHED, VANISHED_AFTER_SECONDS, RunsCollector, Wanted
from exporters.runs import RankStatus, RunStatus, State
from tests.exporters.history.written import full_disk


def status(run: str = "a-run", state: State = "running", *, started_at: float = 100.0) -> RunStatus:
    over = state in ("finished", "failed", "killed", "aborted")
    return RunStatus(
        run=run,
        state=state,
        attempt=1,
        started_at=started_at,
        ended_at=started_at + 50 if over else None,
        step=0,
        world_size=1,
        info={},
        ranks=(),
        reason=None,
        steps_expected=None,
        resumed_from_step=None,
        epoch=None,
        epochs_expected=None,
        progress_ratio=None,
        eta_seconds=None,
        tokens_per_second=None,
        loss=None,
        perplexity=None,
        validation_loss=None,
        validation_loss_best=None,
        validation_perplexity=None,
    )


def rank_of(state: State) -> RankStatus:
    return RankStatus(
        rank=0,
        node="here",
        pid=1,
        state=state,
        attempt=1,
        phase="forward",
        phase_since=100.0,
        started_at=100.0,
        ended_at=None,
        last_step_at=100.0,
        last_progress_at=100.0,
        silent_seconds=3.0,
    )


class Node:
    """What the recordings say at present, and the clock."""

    def __init__(self, database: Database) -> None:
        self.now = 200.0
        self.current: list[RunStatus] | None = []
        self.database = database
        self.collector = RunsCollector(lambda: self.current, database, wall=lambda: self.now)

    def look(self, *current: RunStatus) -> None:
        self.current = list(current)
        list(self.collector.collect())

    def look_away(self) -> None:
        """As long as the recordings cannot be looked at."""
        self.current = None
        list(self.collector.collect())

    def states(self, run: str = "a-run") -> list[tuple[object, object, float]]:
        """Each change of state: before, after, when; the oldest first."""
        told, _ = events.listed(self.database, run, kinds=["state"])
        return [(each.fields["before"], each.fields["state"], each.at) for each in reversed(told)]


@pytest.fixture
def node(database: Database) -> Node:
    return Node(database)


def test_each_change_of_state_is_an_event_at_its_time(node: Node) -> None:
    node.look(status())
    node.now = 300.0
    node.look(status(state="stalled"))
    node.look(status(state="stalled"))
    node.look(replace(status(state="killed"), ended_at=350.0))

    assert node.states() == [
        (None, "running", 100.0),
        ("running", "stalled", 300.0),
        ("stalled", "killed", 350.0),
    ]


def test_a_service_that_starts_anew_tells_no_change_twice(node: Node, database: Database) -> None:
    node.look(status())

    Node(database).look(status())

    assert len(node.states()) == 1


def test_a_round_that_finds_the_disk_full_is_made_up_for(node: Node, database: Database) -> None:
    node.look(status())
    with (
        full_disk(database.path.with_name(database.path.name + "-wal")),
        pytest.raises(sqlite3.Error),
    ):
        node.look(status(state="killed"))

    node.look(status(state="killed"))

    assert [after for _, after, _ in node.states()] == ["running", "killed"]


def test_what_was_seen_alive_last_before_a_reboot_is_not_alive_for_ever(
    node: Node, database: Database
) -> None:
    rank = rank_of("running")
    node.look(replace(status(), ranks=(rank,), tokens_per_second=5.0, eta_least_seconds=1.0))
    node.now += VANISHED_AFTER_SECONDS + 1
    node.look()

    found = runs.one(database, "a-run")

    assert found is not None
    assert (found.state, found.reason, found.ended_at) == ("killed", VANISHED, 200.0)
    assert (found.ranks[0].state, found.tokens_per_second, found.eta_least_seconds) == ("killed", None, None)
    assert node.states()[-1] == ("running", "killed", 200.0)


def test_nothing_has_vanished_while_nobody_looks(node: Node, database: Database) -> None:
    node.look(status())
    node.now += VANISHED_AFTER_SECONDS + 1
    node.look_away()

    assert [after for _, after, _ in node.states()] == ["running"]
    node.look(status())
    assert [after for _, after, _ in node.states()] == ["running"]


def test_what_is_known_at_present_goes_before_what_was_kept(node: Node, database: Database) -> None:
    node.look(status("old", "finished", started_at=10.0), status())
    now = [status(state="stalled"), status("new", started_at=150.0)]

    page = runs.listed(database, now)
    stalled = runs.listed(database, now, wanted=Wanted(states=["stalled"]))
    running = runs.listed(database, now, wanted=Wanted(states=["running"]))

    assert [(each.run, each.state) for each in page.runs] == [
        ("new", "running"),
        ("a-run", "stalled"),
        ("old", "finished"),
    ]
    assert [each.run for each in stalled.runs] == ["a-run"]
    assert [each.run for each in running.runs] == ["new"]


def test_pages_of_equal_starts_follow_by_name(node: Node, database: Database) -> None:
    kept = [status(name, started_at=5.0) for name in "abcde"]
    node.look(*kept)

    for current in ([], kept, kept[:2]):
        found, behind = [], runs.START
        while True:
            page = runs.listed(database, current, limit=2, behind=behind)
            found += [each.run for each in page.runs]
            if page.next_cursor is None:
                break
            behind = decoded(page.next_cursor, str)
        assert found == ["e", "d", "c", "b", "a"]


def test_of_two_sources_the_first_is_believed(database: Database) -> None:
    sources = [lambda: [status(state="running")], lambda: [status(state="stalled"), status("other")]]
    known = KnownRuns(database, Acknowledgements(database), sources)

    assert [(each.run, each.state) for each in known.current] == [("a-run", "running"), ("other", "running")]


def test_an_acknowledgement_is_of_one_attempt_and_the_first_stays_while_it_holds(database: Database) -> None:
    acknowledgements = Acknowledgements(database)
    known = KnownRuns(database, acknowledgements, [])

    known.acknowledge(status(), "one")
    first = acknowledgements.of("a-run", 1)
    known.acknowledge(replace(status(), acknowledged=first), "two")

    assert first is not None
    assert first.by == "one"
    assert first == acknowledgements.of("a-run", 1) == Acknowledgements(database).of("a-run", 1)
    assert acknowledgements.of("a-run", 2) is None


def test_a_run_that_reported_since_it_was_acknowledged_can_be_acknowledged_anew(database: Database) -> None:
    known = KnownRuns(database, acknowledgements := Acknowledgements(database), [])

    known.acknowledge(status(), "one")
    known.acknowledge(status(), "two")

    newest = acknowledgements.of("a-run", 1)
    assert newest is not None
    assert newest.by == "two"
    assert Acknowledgements(database).of("a-run", 1) == newest


def test_a_status_comes_back_as_it_was_kept(node: Node, database: Database) -> None:
    kept = replace(status(), loss=1.5, info={"model": "tiny"}, first_silent_rank=3)
    node.look(kept)

    assert runs.one(database, "a-run") == kept
    assert runs.one(database, "none") is None
