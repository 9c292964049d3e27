from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console, RenderableType

from exporters.api.models import Event, Run, RunSummary
from trainvitals.run_table import detail, table
from trainvitals.wording import UNKNOWN

NOW = 1_700_000_000.0


def a_run(**changes: Any) -> dict[str, Any]:
    """As the API tells of one."""
    usual: dict[str, Any] = {
        **dict.fromkeys(RunSummary.model_fields),
        "run": "tiny-gpt2",
        "state": "running",
        "attempt": 1,
        "started_at": NOW - 3600,
        "step": 500,
        "steps_expected": 2000,
        "progress_ratio": 0.25,
        "eta_seconds": 10_800.0,
        "tokens_per_second": 12_345.0,
        "loss": 2.34567,
        "world_size": 1,
        "ranks_known": 1,
        "silent_seconds": 0.5,
        "info": {},
        "sparkline": [],
    }
    return {**usual, **changes}


def drawn(shown: RenderableType, width: int, *, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def rows(width: int, *runs: dict[str, Any]) -> list[str]:
    found = [RunSummary.model_validate(each) for each in runs]
    return drawn(table(found, NOW, width), width).splitlines()


def test_a_row_tells_how_a_run_is_doing() -> None:
    header, row = rows(160, a_run())

    assert header.split() == [
        "State",
        "Run",
        "Progress",
        "Step",
        "Left",
        "Loss",
        "Tokens/s",
        "Started",
        "Took",
    ]
    assert row.split()[:2] == ["running", "tiny-gpt2"]
    assert "███           25 %  500/2,000         3 h   2.346     12.3k" in row
    assert row.rstrip().endswith("1 h")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "finished", "reason": "early_stopping", "ended_at": NOW}, "early_stopping"),
        ({"state": "killed", "reason": "out_of_memory", "ended_at": NOW}, "out_of_memory"),
        (
            {"state": "stalled", "silent_seconds": 2400.0, "first_silent_rank": 3},
            "no progress for 40 min, rank 3 first",
        ),
        (
            {
                "state": "failed",
                "reason": "ValueError",
                "failure": {"type": "ValueError", "place": "train.py:7 in step", "message": None},
            },
            "ValueError at train.py:7 in step",
        ),
    ],
)
def test_a_run_in_trouble_says_why(changes: dict[str, Any], said: str) -> None:
    _, row = rows(200, a_run(**changes))

    assert row.rstrip().endswith(said)


def test_every_state_is_a_word_and_a_colour() -> None:
    states = ["running", "stalled", "finished", "failed", "killed", "aborted"]
    found = [RunSummary.model_validate(a_run(state=state)) for state in states]
    lines = drawn(table(found, NOW, 120), 120, colour=True).splitlines()[1:]

    for state, line in zip(states, lines, strict=True):
        assert state in line
        assert line.startswith("\x1b[")
    assert len({line.partition("m")[0] for line in lines}) >= 4


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 24])
def test_no_line_is_longer_than_the_terminal_is_wide_and_the_state_is_always_there(width: int) -> None:
    lines = rows(
        width,
        a_run(run="a-name-that-is-rather-long-and-has-a-number-17", reason="completed"),
        a_run(state="killed", reason="SIGKILL", steps_expected=10**12, loss=1e-9),
    )

    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:]] == ["running", "killed"]
    assert any("tiny" in line for line in lines)


def test_what_is_unknown_is_a_dash() -> None:
    unknown = dict.fromkeys(("steps_expected", "progress_ratio", "eta_seconds", "tokens_per_second", "loss"))
    header, row = rows(120, a_run(**unknown))

    assert "Tokens/s" not in header
    assert row.split()[2:6] == [UNKNOWN, "500", UNKNOWN, UNKNOWN]


def an_event(kind: str, step: int | None, **fields: str | float | None) -> Event:
    return Event.model_validate(
        {"id": 1, "run": "tiny-gpt2", "at": NOW, "kind": kind, "rank": 0, "attempt": 1, "step": step}
        | {"fields": fields}
    )


def shown(run: dict[str, Any], events: Sequence[Event] = ()) -> str:
    return drawn(detail(Run.model_validate({**run, "ranks": run.get("ranks", [])}), events, NOW, 100), 100)


def test_one_run_is_told_with_its_ranks_and_what_happened_last() -> None:
    since = dict.fromkeys(("phase_since", "started_at", "last_step_at", "last_progress_at"), NOW - 2400)
    rank = {"rank": 3, "node": "node-7", "pid": 4711, "state": "stalled", "attempt": 2, "phase": "backward"}
    rank |= {**since, "ended_at": None, "silent_seconds": 2400.0, "reason": None, "failure": None}
    events = [
        an_event("state", None, before="running", state="stalled", reason=None),
        an_event("checkpoint", 400, seconds=1.5, bytes=2.0**30),
    ]
    text = shown(
        a_run(state="stalled", attempt=2, ranks=[rank], first_silent_rank=3, silent_seconds=2400.0), events
    )

    assert "no progress for 40 min, rank 3 first" in text
    assert "500 of 2,000" in text
    assert "   3  node-7  4711  stalled  backward  40 min ago" in text
    assert "running → stalled" in text
    assert "step 400  2 s, 1 GiB" in text


def test_what_a_run_says_cannot_command_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202e[red]"
    text = "\n".join(rows(160, a_run(run=evil, state="killed", reason=evil)))
    text += shown(a_run(run=evil, reason=evil, acknowledged={"by": evil, "at": NOW}))

    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "[red]" in text
