"""What the recordings of a run come to: its state, progress and newest numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from signal import SIGKILL, SIGTERM
from typing import Literal, NamedTuple

from exporters.deaths import Death
from exporters.progress import StepWindow, perplexity
from trainer_hooks.identity import without_folders
from trainer_hooks.recording import FAILED, FINISHED, PHASE_MASK, RUNNING, Live, Static

State = Literal["running", "stalled", "finished", "failed", "killed", "aborted"]
RUN_STATES: tuple[State, ...] = ("running", "stalled", "finished", "failed", "killed", "aborted")
OVER: frozenset[State] = frozenset({"finished", "failed", "killed", "aborted"})
_OUTCOME_STATES: dict[int, State] = {FINISHED: "finished", FAILED: "failed"}
_FAR_FUTURE = 1e12
_LATE_SECONDS = 60.0  # before its deadline: schedulers signal before they kill
_WORST_FIRST: tuple[State, ...] = ("killed", "aborted", "failed", "stalled", "running", "finished")


class Acknowledgement(NamedTuple):
    """Who ended a run, or took note that it is dead, and when (unix seconds)."""

    by: str
    at: float


class Failure(NamedTuple):
    """The last exception a rank told of. The message is there only where the run asked for it."""

    type: str
    place: str
    message: str | None = None


class Stage(NamedTuple):
    """The stage of its training that a rank told of last, and its monotonic time then."""

    name: str
    since_ns: int


@dataclass(frozen=True)
class RankStatus:
    """The newest attempt of one rank. Times are unix seconds; `silent_seconds` is without progress."""

    rank: int
    node: str
    pid: int
    state: State
    attempt: int
    phase: str
    phase_since: float
    started_at: float
    ended_at: float | None
    last_step_at: float
    last_progress_at: float
    silent_seconds: float
    reason: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class RunStatus:
    """One run as the API tells it. Times are unix seconds; None is unknown."""

    run: str
    state: State
    reason: str | None
    attempt: int
    started_at: float
    ended_at: float | None
    step: int
    steps_expected: int | None
    resumed_from_step: int | None
    epoch: float | None
    epochs_expected: float | None
    progress_ratio: float | None
    eta_seconds: float | None
    tokens_per_second: float | None
    loss: float | None
    perplexity: float | None
    validation_loss: float | None
    validation_loss_best: float | None
    validation_perplexity: float | None
    world_size: int
    info: dict[str, str]
    ranks: tuple[RankStatus, ...]
    first_silent_rank: int | None = None
    failure: Failure | None = None
    deadline_at: float | None = None
    eta_least_seconds: float | None = None
    eta_most_seconds: float | None = None
    acknowledged: Acknowledgement | None = None


@dataclass(frozen=True)
class Observation:
    """One recording at one moment: what it says, and what was seen of its process.

    `info` are the facts it opened with and those told since.
    `now_ns` is the monotonic time at which it was last seen alive; `wall_offset_seconds` turns its monotonic
    seconds into unix time. `phase_seconds` are the phases' up to then. `reason` is how it says it ended, or
    the type of the exception it ended with; `death` is what the kernel says of its process.
    """

    static: Static
    attempt: int
    live: Live
    alive: bool
    now_ns: int
    phase_seconds: Mapping[str, float]
    wall_offset_seconds: float
    window: StepWindow
    reason: str | None
    scalar_names: dict[int, str]
    info: Mapping[str, str]
    failure: Failure | None = None
    death: Death | None = None
    stage: Stage | None = None

    def wall(self, monotonic_ns: int) -> float:
        return round(self.wall_offset_seconds + monotonic_ns / 1e9, 3)

    @property
    def started_at(self) -> float:
        return self.wall(self.static.start_monotonic_ns)

    @property
    def end_ns(self) -> int:
        """For a dead recording: when it ended, or its last sign of life."""
        return self.live.end_ns or self.live.last_sign_ns

    @property
    def outcome(self) -> int:
        """How it ended by its own account; a script without a word may still have left with an error."""
        return FAILED if self.live.exit_code else self.live.outcome

    @property
    def silent_ns(self) -> int:
        """Time of a living one without progress. To begin an evaluation or a checkpoint is progress."""
        live = self.live
        begun = live.phase_word & ~PHASE_MASK if live.phase in ("evaluation", "checkpoint") else 0
        return self.now_ns - max(live.last_progress_ns, begun)

    @property
    def deadline_at(self) -> float | None:
        """The end of the time it was given, in unix seconds."""
        try:
            deadline = float(self.info.get("deadline", ""))
        except ValueError:
            return None
        return deadline if 0 < deadline < _FAR_FUTURE else None

    @property
    def cross_entropy(self) -> bool:
        return self.info.get("loss_kind") == "cross_entropy"


class RankProcess(NamedTuple):
    """The process of a living rank, and which GPUs it says it uses.

    `gpu_uuids` are those torch told, `visible_device` the uuid or index that CUDA_VISIBLE_DEVICES leaves it;
    `start_ticks` is when it started, which tells it from another process of the same pid.
    """

    run: str
    rank: int
    local_rank: int
    pid: int
    pid_namespace: int
    gpu_uuids: tuple[str, ...] = ()
    visible_device: str | None = None
    start_ticks: int = 0

    @property
    def labels(self) -> dict[str, str]:
        return {"run": self.run, "rank": str(self.rank)}


def rank_process(observation: Observation) -> RankProcess:
    static, info = observation.static, observation.info
    return RankProcess(
        static.run,
        static.rank,
        static.local_rank,
        static.pid,
        static.pid_namespace,
        tuple(each for each in info.get("gpu_uuid", "").split(",") if each),
        info.get("cuda_visible_device"),
        static.process_start_ticks,
    )


def rank_state(observation: Observation, stall_after_seconds: float) -> State:
    """The state of one rank's newest attempt."""
    if observation.alive:
        return "stalled" if observation.silent_ns > stall_after_seconds * 1e9 else "running"
    return _OUTCOME_STATES.get(observation.outcome, "killed")


def rank_reason(observation: Observation) -> str | None:
    """Why a rank ended: what it said itself; of a killed one what is known of its death."""
    if observation.alive or observation.outcome != RUNNING:
        return observation.reason
    death, deadline = observation.death, observation.deadline_at
    if death is not None and death.out_of_memory:
        return "out_of_memory"
    was_ended = death is None or death.signal in (SIGTERM, SIGKILL)
    at_deadline = deadline is not None and observation.wall(observation.now_ns) >= deadline - _LATE_SECONDS
    if was_ended and at_deadline:
        return "time_limit"
    if death is None:
        return None
    return death.signal_name or f"exit code {death.exit_status}"


def rank_status(observation: Observation, stall_after_seconds: float) -> RankStatus:
    live, static = observation.live, observation.static
    return RankStatus(
        rank=static.rank,
        node=static.node,
        pid=static.pid,
        state=rank_state(observation, stall_after_seconds),
        attempt=observation.attempt,
        phase=live.phase,
        phase_since=observation.wall(live.phase_word & ~PHASE_MASK),
        started_at=observation.started_at,
        ended_at=None if observation.alive else observation.wall(observation.end_ns),
        last_step_at=observation.wall(live.last_step_ns),
        last_progress_at=observation.wall(live.last_progress_ns),
        silent_seconds=max(0.0, observation.silent_ns / 1e9) if observation.alive else 0.0,
        reason=rank_reason(observation),
        failure=observation.failure,
    )


def run_status(observations: Sequence[Observation], stall_after_seconds: float) -> RunStatus:
    """The run that these newest recordings, one a rank and sorted by rank, belong to.

    It is as bad as its worst rank of the newest attempt, and over when that one is.
    """
    current = of_newest_attempt(observations)
    current_ranks = [rank_status(each, stall_after_seconds) for each in current]
    state = _run_state(current, current_ranks)
    first = current[0]
    live = first.live
    validation = _validation(current)
    eta, eta_range = None, None
    if state not in OVER:
        eta = first.window.seconds_left(live.steps_expected, first.now_ns)
        eta_range = first.window.seconds_left_range(live.steps_expected, first.now_ns)
    return RunStatus(
        run=first.static.run,
        state=state,
        reason=_reason(state, current_ranks),
        attempt=max(each.attempt for each in current),
        started_at=min(each.started_at for each in current),
        ended_at=max(rank.ended_at or 0.0 for rank in current_ranks) if state in OVER else None,
        step=live.step,
        steps_expected=live.steps_expected or None,
        resumed_from_step=live.resumed_from_step or None,
        epoch=live.epoch,
        epochs_expected=live.epochs_expected,
        progress_ratio=min(1.0, live.step / live.steps_expected) if live.steps_expected else None,
        eta_seconds=eta,
        tokens_per_second=_sum_known(each.window.tokens_per_second() for each in current)
        if state == "running"
        else None,
        loss=live.loss,
        perplexity=_training_perplexity(current),
        validation_loss=validation.loss,
        validation_loss_best=validation.best,
        validation_perplexity=perplexity(validation.loss * validation.tokens, validation.tokens)
        if validation.loss is not None and first.cross_entropy
        else None,
        world_size=first.static.world_size,
        info={label_name(key): without_folders(printable(value)) for key, value in first.info.items()},
        ranks=tuple(rank_status(each, stall_after_seconds) for each in observations),
        first_silent_rank=_first_silent(current_ranks) if state == "stalled" else None,
        failure=next((rank.failure for rank in current_ranks if rank.failure), None),
        deadline_at=first.deadline_at,
        eta_least_seconds=eta_range[0] if eta_range else None,
        eta_most_seconds=eta_range[1] if eta_range else None,
    )


def _run_state(observations: Sequence[Observation], ranks: Sequence[RankStatus]) -> State:
    """That of the worst rank. Where one failed and a launcher then ended the others, the run failed."""
    worst = min((rank.state for rank in ranks), key=_WORST_FIRST.index)
    failures = [rank.ended_at for rank in ranks if rank.state == "failed" and rank.ended_at is not None]
    if worst != "killed" or not failures:
        return worst
    killed_before = any(
        each.wall(each.now_ns) < min(failures) and not _was_asked_to_end(each)
        for each, rank in zip(observations, ranks, strict=True)
        if rank.state == "killed"
    )
    return "killed" if killed_before else "failed"


def _was_asked_to_end(observation: Observation) -> bool:
    return observation.death is not None and observation.death.signal == SIGTERM


def acknowledged(status: RunStatus, acknowledgement: Acknowledgement | None) -> RunStatus:
    """The run as it is once a person has ended it or taken note of its death; one that finished stays so.

    What was acknowledged before it began is an earlier run of its name.
    """
    if acknowledgement is None or acknowledgement.at < status.started_at:
        return status
    by_itself = status.state == "finished" and status.reason != "interrupted"
    if status.state not in OVER or by_itself:
        return replace(status, acknowledged=acknowledgement)
    return replace(status, state="aborted", acknowledged=acknowledgement)


def _reason(state: State, ranks: Sequence[RankStatus]) -> str | None:
    """That of the rank that makes the run what it is; where several do, of the one that ended first."""
    worst = [rank for rank in ranks if rank.state == state] or list(ranks)
    told = [rank for rank in sorted(worst, key=lambda rank: rank.ended_at or 0.0) if rank.reason]
    return told[0].reason if told else None


def _first_silent(ranks: Sequence[RankStatus]) -> int:
    """The rank that the others may be waiting for: the first to make no progress."""
    return max((rank for rank in ranks if rank.state == "stalled"), key=lambda rank: rank.silent_seconds).rank


def of_newest_attempt(observations: Sequence[Observation]) -> list[Observation]:
    """Those that were not over before the newest attempt began.

    Ranks count their attempts each for itself, and on each node anew: one that died before it could record
    is an attempt behind, and one of another container may have the same number.
    """
    latest = max(observations, key=lambda each: each.started_at)

    def belongs(each: Observation) -> bool:
        same = each.attempt == latest.attempt and each.static.node == latest.static.node
        return same or each.alive or each.wall(each.end_ns) > latest.started_at

    return [each for each in observations if belongs(each)]


def label_name(key: str) -> str:
    """The key with every character a label's name could not bear replaced by an underscore."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", key)
    return clean if clean[:1].isalpha() else f"x{clean}"


def printable(text: str) -> str:
    """The text with what UTF-8 cannot hold replaced: a name of a file may be any bytes."""
    return text.encode(errors="replace").decode()


def _training_perplexity(observations: Sequence[Observation]) -> float | None:
    """Token-weighted over the ranks; None when the loss is not plain cross-entropy."""
    if not observations[0].cross_entropy:
        return None
    sums = [each.window.loss_sums() for each in observations]
    return perplexity(sum(loss for loss, _ in sums), sum(tokens for _, tokens in sums))


class _Validation(NamedTuple):
    """An evaluation's loss, the tokens behind it, 0 where they are not known, and the lowest loss so far."""

    loss: float | None
    tokens: int
    best: float | None


def _validation(observations: Sequence[Observation]) -> _Validation:
    """The last evaluation of all ranks that evaluate: often of rank 0 alone, else each its share of the data.

    While only some still evaluate, or where the loss of one was not finite, the run has none. What was lowest
    of each share need not have been of one evaluation: there is one only where all agree.
    """
    lives = [
        each.live
        for each in observations
        if each.live.validation_loss is not None
        or each.live.validation_loss_best is not None
        or each.live.nonfinite_loss
        or each.live.phase == "evaluation"
    ]
    losses = [live.validation_loss for live in lives if live.validation_loss is not None]
    tokens = [live.validation_loss_tokens for live in lives]
    best = _agreed([live.validation_loss_best for live in lives])
    evaluating = {live.phase == "evaluation" for live in lives}
    if not losses or len(losses) < len(lives) or len(evaluating) > 1:
        return _Validation(None, 0, best)
    if len(lives) == 1 or not all(tokens):
        return _Validation(None if len(lives) > 1 and any(tokens) else _agreed(losses), tokens[0], best)
    total = sum(tokens)
    mean = sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / total
    return _Validation(None if math.isnan(mean) else mean, total, best)


def _agreed(values: Sequence[float | None]) -> float | None:
    """The value that all are, but for the rounding; None where they are not."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    same = all(math.isclose(value, known[0], rel_tol=1e-6) for value in known)
    return known[0] if same else None


def peak_flops(observations: Sequence[Observation]) -> float | None:
    """FLOP/s of all devices of the run at most; None where one is not known, or a rank records elsewhere.

    Ranks that share their devices count them once.
    """
    if len(observations) != observations[0].static.world_size:
        return None
    peaks: dict[str, float] = {}
    for each in observations:
        if each.live.peak_flops is None:
            return None
        peaks[each.info.get("gpu_uuid") or f"rank {each.static.rank}"] = each.live.peak_flops
    uuids = [uuid for devices in peaks for uuid in devices.split(",")]
    return sum(peaks.values()) if len(set(uuids)) == len(uuids) else None


def _sum_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
