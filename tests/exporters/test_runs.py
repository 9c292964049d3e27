from __future__ import annotations

import math
from collections.abc import Mapping
from signal import SIGKILL, SIGSEGV, SIGTERM
from typing import Any

import pytest

from exporters.deaths import Death
from exporters.progress import StepWindow
from exporters.runs import (
    Acknowledgement,
    Failure,
    Observation,
    State,
    acknowledged,
    label_name,
    printable,
    run_status,
)
from trainer_hooks.recording import FAILED, FINISHED, PHASE_CODES, PHASE_MASK, RUNNING, Live, Static

SECOND = 10**9
NOW_NS = 1000 * SECOND


def observed(
    *,
    rank: int = 0,
    node: str = "here",
    attempt: int = 1,
    started_seconds: int = 100,
    progress_seconds: int = 990,
    alive: bool = True,
    reason: str | None = None,
    info: Mapping[str, str] | None = None,
    seen_alive_seconds: int = 1000,
    death: Death | None = None,
    failure: Failure | None = None,
    **live: Any,
) -> Observation:
    """A rank at monotonic second 1000; unix time is 50,000 seconds more."""
    started_ns = started_seconds * SECOND
    static = Static(
        run="a-run",
        node=node,
        rank=rank,
        local_rank=rank,
        world_size=2,
        pid=1,
        process_start_ticks=1,
        pid_namespace=1,
        boot_id="boot",
        start_monotonic_ns=started_ns,
        start_wall_ns=started_ns,
        hook_version="0",
        info=info or {},
    )
    return Observation(
        static=static,
        attempt=attempt,
        live=Live(**{"phase_word": started_ns & ~15, "last_progress_ns": progress_seconds * SECOND, **live}),
        alive=alive,
        now_ns=seen_alive_seconds * SECOND,
        phase_seconds={},
        wall_offset_seconds=50_000.0,
        window=StepWindow(),
        reason=reason,
        scalar_names={},
        info=static.info,
        death=death,
        failure=failure,
    )


RANK_STATES: dict[State, dict[str, Any]] = {
    "running": {},
    "stalled": {"progress_seconds": 900},
    "finished": {"alive": False, "outcome": FINISHED, "end_ns": 995 * SECOND},
    "failed": {"alive": False, "outcome": FAILED, "end_ns": 995 * SECOND},
    "killed": {"alive": False, "outcome": RUNNING},
}


@pytest.mark.parametrize("state", RANK_STATES)
def test_the_state_of_a_run_of_one_rank_is_that_of_the_rank(state: State) -> None:
    status = run_status([observed(**RANK_STATES[state])], stall_after_seconds=60)

    assert status.state == status.ranks[0].state == state
    assert (status.ended_at is None) == (state in ("running", "stalled"))


@pytest.mark.parametrize(
    ("first", "second", "run"),
    [
        ("running", "finished", "running"),
        ("running", "stalled", "stalled"),
        ("finished", "stalled", "stalled"),
        ("stalled", "failed", "failed"),
        ("finished", "failed", "failed"),
        ("failed", "killed", "failed"),  # which was seen alive after the failure
        ("running", "killed", "killed"),
    ],
)
def test_of_two_ranks_the_worse_one_decides(first: State, second: State, run: State) -> None:
    for states in ((first, second), (second, first)):
        ranks = [observed(rank=rank, **RANK_STATES[state]) for rank, state in enumerate(states)]
        assert run_status(ranks, stall_after_seconds=60).state == run


def test_who_died_first_decides_whether_a_run_failed_or_was_killed() -> None:
    failed = {**RANK_STATES["failed"], "failure": Failure("RuntimeError", "train.py:3 in step")}
    killed: dict[str, Any] = {**RANK_STATES["killed"], "seen_alive_seconds": 994}

    by_itself = run_status([observed(**failed), observed(rank=1, death=Death(SIGKILL), **killed)], 60)
    by_a_launcher = run_status([observed(**failed), observed(rank=1, death=Death(SIGTERM), **killed)], 60)

    assert (by_itself.state, by_itself.reason) == ("killed", "SIGKILL")
    assert by_a_launcher.state == "failed"
    assert by_a_launcher.failure == ("RuntimeError", "train.py:3 in step", None)


@pytest.mark.parametrize(
    ("death", "info", "reason"),
    [
        (None, {}, None),
        (Death(signal=SIGKILL), {}, "SIGKILL"),
        (Death(signal=SIGKILL, out_of_memory=True), {}, "out_of_memory"),
        (Death(signal=50), {}, "signal 50"),
        (Death(exit_status=7), {}, "exit code 7"),
        (Death(signal=SIGSEGV), {"deadline": "50900"}, "SIGSEGV"),  # which was but a wish
        (Death(signal=SIGTERM), {"deadline": "51030"}, "time_limit"),
        (Death(signal=SIGTERM), {"deadline": "51090"}, "SIGTERM"),
        (None, {"deadline": "50900"}, "time_limit"),
        (Death(signal=SIGTERM), {"deadline": "soon"}, "SIGTERM"),
        (Death(signal=SIGTERM), {"deadline": "nan"}, "SIGTERM"),
    ],
)
def test_why_a_run_was_killed_is_said_as_far_as_it_is_known(
    death: Death | None, info: dict[str, str], reason: str | None
) -> None:
    """It was last seen alive at unix second 51,000."""
    status = run_status([observed(alive=False, death=death, info=info)], 60)

    assert (status.state, status.reason) == ("killed", reason)


@pytest.mark.parametrize("phase", ["evaluation", "checkpoint"])
def test_an_evaluation_or_a_checkpoint_that_begins_is_progress(phase: str) -> None:
    begun = 950 * SECOND & ~PHASE_MASK | PHASE_CODES[phase]

    status = run_status([observed(progress_seconds=800, phase_word=begun)], stall_after_seconds=60)
    later = run_status([observed(progress_seconds=800, phase_word=begun)], stall_after_seconds=49)

    assert (status.state, later.state) == ("running", "stalled")


def test_the_rank_that_was_silent_first_is_named() -> None:
    """The others wait for it: they made progress a little longer."""
    ranks = [observed(rank=rank, progress_seconds=900 - (rank == 2)) for rank in range(4)]

    assert run_status(ranks, 60).first_silent_rank == 2
    assert run_status([observed()], 60).first_silent_rank is None


@pytest.mark.parametrize(
    ("state", "reason", "acknowledged_state"),
    [
        ("killed", None, "aborted"),
        ("failed", None, "aborted"),
        ("finished", "interrupted", "aborted"),
        ("finished", "completed", "finished"),
        ("running", None, "running"),
    ],
)
def test_a_run_that_a_person_ended_is_aborted_unless_it_finished_by_itself(
    state: State, reason: str | None, acknowledged_state: State
) -> None:
    status = run_status([observed(reason=reason, **RANK_STATES[state])], 60)
    by = Acknowledgement("on-call", 51_000.0)

    assert acknowledged(status, by).state == acknowledged_state
    assert acknowledged(status, by).acknowledged == by
    assert acknowledged(status, by._replace(at=50_050.0)) == status, "an earlier run of this name"
    assert acknowledged(status, None) == status


def test_a_run_ends_with_its_last_rank_and_began_with_its_first() -> None:
    status = run_status(
        [
            observed(rank=0, started_seconds=100, **RANK_STATES["finished"]),
            observed(rank=1, started_seconds=103, alive=False, outcome=FINISHED, end_ns=999 * SECOND),
        ],
        stall_after_seconds=60,
    )

    assert (status.started_at, status.ended_at) == (50_100, 50_999)


def test_a_killed_rank_ended_at_its_last_sign_of_life() -> None:
    status = run_status([observed(progress_seconds=950, alive=False)], stall_after_seconds=60)

    assert status.ended_at == 50_950


def test_a_silent_rank_says_for_how_long_and_a_dead_one_does_not() -> None:
    (alive,) = run_status([observed(progress_seconds=900)], 60).ranks
    (dead,) = run_status([observed(progress_seconds=900, alive=False)], 60).ranks

    assert (alive.silent_seconds, dead.silent_seconds) == (100, 0)


def test_an_old_recording_of_a_rank_is_listed_and_has_no_say() -> None:
    """Rank 1 belongs to an attempt that was over when rank 0 began the newest one."""
    status = run_status(
        [
            observed(rank=0, attempt=2, started_seconds=500),
            observed(rank=1, attempt=1, progress_seconds=400, alive=False, reason="OutOfMemoryError"),
        ],
        stall_after_seconds=60,
    )

    assert (status.state, status.reason, status.attempt, status.started_at) == ("running", None, 2, 50_500)
    assert [rank.state for rank in status.ranks] == ["running", "killed"]


def test_ranks_of_a_container_that_is_gone_have_no_say_in_the_next_one() -> None:
    """Each container is a node with attempts of its own: both are the first."""
    gone = [
        observed(rank=rank, node="c1", progress_seconds=400, end_ns=400 * SECOND, alive=False)
        for rank in (2, 3)
    ]
    status = run_status(
        [*(observed(rank=rank, node="c2", started_seconds=500) for rank in (0, 1)), *gone], 600
    )

    assert status.state == "running"
    assert [rank.state for rank in status.ranks] == ["running", "running", "killed", "killed"]


def test_a_rank_that_is_an_attempt_behind_counts_when_it_lived_in_the_newest() -> None:
    status = run_status(
        [
            observed(rank=0, attempt=2, started_seconds=500),
            observed(rank=1, attempt=1, started_seconds=499, progress_seconds=900, alive=False),
        ],
        stall_after_seconds=60,
    )

    assert (status.state, status.attempt) == ("killed", 2)


def test_progress_is_the_share_of_the_steps_and_never_more_than_all() -> None:
    half, over, unknown = (
        run_status([observed(step=step, steps_expected=expected)], 60)
        for step, expected in ((50, 100), (120, 100), (50, 0))
    )

    assert (half.progress_ratio, half.steps_expected) == (0.5, 100)
    assert over.progress_ratio == 1.0
    assert (unknown.progress_ratio, unknown.steps_expected) == (None, None)


def evaluated(
    *ranks: Mapping[str, Any], kind: str = "cross_entropy"
) -> tuple[float | None, float | None, float | None]:
    info = {"loss_kind": kind}
    status = run_status(
        [observed(rank=rank, info=info, **live) for rank, live in enumerate(ranks)],
        stall_after_seconds=60,
    )
    return status.validation_loss, status.validation_perplexity, status.validation_loss_best


def validation(loss: float | None, tokens: int = 0, best: float | None = None, **more: Any) -> dict[str, Any]:
    lowest = loss if best is None else best
    return {
        "validation_loss": loss,
        "validation_loss_tokens": tokens,
        "validation_loss_best": lowest,
        **more,
    }


def test_the_validation_loss_of_several_ranks_is_weighted_by_their_tokens() -> None:
    mean = (1.0 * 30 + 3.0 * 10) / 40

    loss, perplexity, best = evaluated(validation(1.0, 30), validation(3.0, 10))
    assert (loss, best) == (mean, None)
    assert perplexity == pytest.approx(math.exp(mean))


@pytest.mark.parametrize(
    ("ranks", "told"),
    [
        pytest.param([validation(1.5), validation(1.5)], (1.5, None, 1.5), id="gathered"),
        pytest.param([validation(1.5), validation(1.6)], (None, None, None), id="not weighted"),
        pytest.param([validation(1.5, 3), validation(1.5)], (None, None, 1.5), id="some weighted"),
        pytest.param([validation(0.0, 3), {}], (0.0, 1.0, 0.0), id="rank 0 alone"),
        pytest.param([{}, validation(0.0, 3)], (0.0, 1.0, 0.0), id="rank 1 alone"),
        pytest.param([validation(1.0, 3), {"nonfinite_loss": 1}], (None, None, None), id="not finite"),
        pytest.param([validation(1.0, 3), validation(None, 3, 1.0)], (None, None, 1.0), id="no more finite"),
        pytest.param([validation(math.inf, 3), validation(-math.inf, 3)], (None, None, None), id="no hook's"),
        pytest.param([{}, {}], (None, None, None), id="none"),
    ],
)
def test_a_validation_loss_is_that_of_all_ranks_that_evaluate_or_there_is_none(
    ranks: list[dict[str, Any]], told: tuple[float | None, ...]
) -> None:
    assert evaluated(*ranks) == told


def test_while_only_some_ranks_evaluate_there_is_no_validation_loss() -> None:
    working, evaluating = (
        {"phase_word": (100 * SECOND & ~PHASE_MASK) | PHASE_CODES[name]} for name in ("data", "evaluation")
    )
    first, second = validation(1.0, 5), validation(2.0, 5)

    assert evaluated(first | working, second | evaluating)[0] is None
    assert evaluated(first | working, evaluating)[0] is None
    assert evaluated(first | evaluating, second | evaluating)[0] == 1.5
    assert evaluated(first | evaluating, working)[0] == 1.0


def test_validation_perplexity_needs_the_tokens_behind_the_loss() -> None:
    entropy = {"loss_kind": "cross_entropy"}
    counted = run_status([observed(info=entropy, validation_loss=0.0, validation_loss_tokens=5)], 60)
    uncounted = run_status([observed(info=entropy, validation_loss=0.0)], 60)

    assert (counted.validation_perplexity, uncounted.validation_perplexity) == (1.0, None)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model", "model"),
        ("learning rate", "learning_rate"),
        ("7b", "x7b"),
        ("__name__", "x__name__"),
        ("", "x"),
    ],
)
def test_a_key_becomes_the_name_of_a_label(key: str, name: str) -> None:
    assert label_name(key) == name


def test_text_that_utf8_cannot_hold_is_replaced() -> None:
    assert printable("naïve") == "naïve"
    assert printable("model-\udcff") == "model-?"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("/home/alice/models/tiny", "tiny"),
        ("/home/alice/models/tiny/", "tiny"),
        ("~/models/tiny", "tiny"),
        ("~alice/models/tiny", "tiny"),
        ("./models/tiny", "tiny"),
        ("../models/tiny", "tiny"),
        ("C:\\Users\\alice\\tiny", "tiny"),
        ("c:/Users/alice/tiny", "tiny"),
        ("meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B"),
        ("hf://alice/tiny", "tiny"),
        ("bf16", "bf16"),
        ("", ""),
    ],
)
def test_a_path_or_a_url_in_info_becomes_its_last_component(text: str, label: str) -> None:
    assert run_status([observed(info={"model": text})], 60).info == {"model": label}


def test_where_the_newest_attempt_has_no_rank_0_here_the_run_is_told_by_its_first_rank() -> None:
    status = run_status(
        [
            observed(rank=0, attempt=1, progress_seconds=400, alive=False, step=7),
            observed(rank=1, attempt=2, started_seconds=500, step=3),
        ],
        stall_after_seconds=60,
    )

    assert status.step == 3
