"""How a training goes: its steps, evaluations and checkpoints, and the courses of its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from exporters.gpu.simulated import MEMORY_TOTAL_BYTES
from trainer_hooks.recording import DEVICE_PHASES, FAILED, FINISHED
from trainvitals.scenarios.clock import Clock
from trainvitals.scenarios.rank import Part, RankRecording, Step

GIB = 1024**3
PEAK_FLOPS = 989.4e12  # an H100 SXM's, dense, in bf16
_VOLUME_BYTES = 8e12
_HOOK_SECONDS_A_STEP = 40e-6
_EVALUATION_BATCHES = 8
# Of a step's time where the data come in time; the ranks wait for each other in the backward pass.
_SHARES = {"data": 0.03, "forward": 0.29, "backward": 0.55, "optimizer": 0.1, "other": 0.03}


class Place(NamedTuple):
    """A GPU of a node, and where that node's trainings record."""

    node: str
    gpu: int
    directory: Path


@dataclass(frozen=True)
class Plan:
    """What a training is to be. Evaluations and checkpoints come every so many steps.

    `loss` is where the loss begins and where it would end up, `loss_steps` how many steps take it two thirds
    of the way. `overfits` is by how much the validation loss grows in a thousand steps. `slow_rank` takes
    half as long again for its forward pass, from `slow_from` seconds of the attempt on. `reserved_gib` is the
    memory that torch holds, `leak_gib` by how much it grows in an hour.
    """

    run: str
    info: Mapping[str, str]
    steps: int
    step_seconds: float = 2.0
    init_seconds: float = 75.0
    tokens_a_step: int = 32_768  # of a rank
    micro_batches: int = 4
    loss: tuple[float, float] = (3.0, 1.4)
    loss_steps: float = 1200.0
    loss_noise: float = 0.025
    overfits: float = 0.0
    learning_rates: tuple[float, ...] = (2e-5,)
    warmup_steps: int = 100
    evaluate_every: int = 300
    evaluation_seconds: float = 40.0
    checkpoint_every: int = 450
    checkpoint_seconds: float = 14.0
    checkpoint_gib: float = 14.0
    epochs: float | None = 3.0
    parameters: float = 7e9
    data_share: float = _SHARES["data"]
    slow_rank: int | None = None
    slow_from: float = 0.0
    reserved_gib: float = 58.0
    leak_gib: float = 0.0
    loss_scale: float | None = None
    on_gpus: bool = True
    scalars: Sequence[str] = ()
    stages: Sequence[tuple[int, str]] = ()  # from which step on, and its name
    deadline: float | None = None  # in unix seconds

    @property
    def cross_entropy(self) -> bool:
        return self.info.get("loss_kind") == "cross_entropy"

    def stage_at(self, step: int) -> str | None:
        """The name of the newest stage that has begun."""
        begun = [name for since, name in self.stages if since <= step]
        return begun[-1] if begun else None

    def loss_at(self, step: int) -> float:
        first, last = self.loss
        slow = 0.15 * (first - last) * math.exp(-step / (6 * self.loss_steps))
        return last + slow + 0.85 * (first - last) * math.exp(-step / self.loss_steps)

    def learning_rate_at(self, step: int, group: int) -> float:
        """Up in a straight line, then down along a cosine to a tenth."""
        warmed = min(1.0, step / max(1, self.warmup_steps))
        done = min(1.0, max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        return self.learning_rates[group] * warmed * (0.55 + 0.45 * math.cos(math.pi * done))


@dataclass(eq=False)
class Attempt:
    """One attempt of a training on some GPUs, from a step on; it goes on as far as the clock is."""

    plan: Plan
    places: Sequence[Place]
    clock: Clock
    from_step: int = 0

    def __post_init__(self) -> None:
        self.state = "running"
        self.phase = "init"
        # What is made twice is alike.
        self.random = Random(f"{self.plan.run}/{self.from_step}")
        self.step = self.from_step
        self._started = self.now = self.clock.now
        self._checkpoint_step, self._checkpointed_at = self.from_step, 0.0
        self._best = math.inf
        self._flops = 0.0
        self._is_to_stall = False
        self._hook_seconds = 0.0
        self._checkpoints = 0
        self._device_seconds = [dict.fromkeys(_SHARES, 0.0) for _ in self.places]
        self._volume_free = 0.31 * _VOLUME_BYTES
        self._show_step: Callable[[float], None] = lambda now: None
        info = dict(self.plan.info)
        if self.plan.deadline is not None:
            info["deadline"] = f"{self.plan.deadline:.0f}"
        start_ns = self.clock.nanoseconds(self._started)
        self.ranks = [
            RankRecording(
                place.directory,
                run=self.plan.run,
                node=place.node,
                rank=rank,
                gpu=place.gpu,
                world_size=len(self.places),
                start_ns=start_ns,
                start_wall_ns=round(self._started * 1e9),
                info=info,
            )
            for rank, place in enumerate(self.places)
        ]
        for each in self.ranks:
            each.count("steps_expected", self.plan.steps)
            each.count("resumed_from_step", self.from_step)
            each.count("step", self.from_step)
            if self.from_step:
                each.event("resume", start_ns, step=self.from_step)
            if self.plan.on_gpus:
                each.tell("peak_flops", PEAK_FLOPS)
                each.tell("cuda_alloc_retries", 0.0)
            if self.plan.epochs is not None:
                each.tell("epochs_expected", self.plan.epochs)
        self._life = self._train()
        self._until = next(self._life)

    @property
    def checkpoint_step(self) -> int:
        """The step of its newest checkpoint: where the next attempt takes up."""
        return self._checkpoint_step

    def advance(self, now: float) -> None:
        """Go on to this moment, in unix seconds."""
        while self.state == "running" and self._until <= now:
            self.now = self._until
            until = next(self._life, None)
            if until is None:
                break
            self._until = until
        if self.state == "running":
            self._show_step(now)

    def is_killed(self) -> None:
        self._ends("killed")
        for each in self.ranks:
            each.dies()

    def close(self) -> None:
        """Let go of the recordings: those that are not over look as if they were killed."""
        for each in self.ranks:
            each.dies()

    def stalls(self) -> None:
        """At its next step it waits in a collective for ever, and nobody says a word."""
        self._is_to_stall = True

    def fails(self, error: str, place: str) -> None:
        """An exception ends it."""
        self._ends("failed")
        now = self._ns(self.clock.now)
        for each in self.ranks:
            each.event("exception", now, type=error, place=place)
            each.event("fail", now, type=error)
            each.close(FAILED, now)

    def counts(self, slot: str, value: int) -> None:
        """Whatever else rank 0 meets: `ooms`, `nonfinite_loss`, `steps_skipped`."""
        self.ranks[0].count(slot, value)

    def _ends(self, state: str) -> None:
        self.advance(self.clock.now)
        self.state = state
        self._show_step = lambda now: None

    def _ns(self, moment: float) -> int:
        return self.clock.nanoseconds(moment)

    def _train(self) -> Iterator[float]:
        """Yields the moments up to which nothing happens."""
        plan = self.plan
        yield self.now + plan.init_seconds
        stage = None
        for number in range(self.from_step + 1, plan.steps + 1):
            if self._is_to_stall:
                self.state = "stalled"
                self._enter("backward")
                return
            if plan.stage_at(number) != stage:
                stage = plan.stage_at(number)
                for each in self.ranks:
                    each.event("stage", self._ns(self.now), name=stage)
            yield from self._one_step(number)
            if number % plan.evaluate_every == 0 or number == plan.steps:
                yield from self._evaluate()
            if number % plan.checkpoint_every == 0 or number == plan.steps:
                yield from self._write_checkpoint()
        self._ends_well()

    def _ends_well(self) -> None:
        self.state = "finished"
        for each in self.ranks:
            each.event("finish", self._ns(self.now), reason="completed")
            each.close(FINISHED, self._ns(self.now))

    def _one_step(self, number: int) -> Iterator[float]:
        plan, began = self.plan, self.now
        parts = [self._parts(rank) for rank in range(len(self.ranks))]
        # Who is first waits for the last, in the collective of the backward pass.
        longest = max(sum(part.seconds for part in each) for each in parts)
        parts = [self._waits_for(each, longest) for each in parts]
        self.phase = "step"
        start_ns = self._ns(began)

        def show(now: float) -> None:
            for each, of_rank in zip(self.ranks, parts, strict=True):
                each.within(of_rank, start_ns, self._ns(now))

        self._show_step = show
        yield began + longest
        self._show_step = lambda now: None
        end_ns = self._ns(self.now)
        self.step = number
        noise = self.random.gauss(0, plan.loss_noise)
        loss = plan.loss_at(number) + noise * (1 + 3 * math.exp(-number / plan.loss_steps))
        norm = (0.7 + 2.5 * math.exp(-number / 150)) * math.exp(self.random.gauss(0, 0.18))
        rate = plan.learning_rate_at(number, 0)
        trained = round(plan.tokens_a_step * self.random.uniform(0.72, 0.78))
        self._flops += 6 * plan.parameters * plan.tokens_a_step
        self._hook_seconds += _HOOK_SECONDS_A_STEP * self.random.uniform(0.8, 1.4)
        for each, of_rank in zip(self.ranks, parts, strict=True):
            own = loss + self.random.gauss(0, plan.loss_noise / 2) if len(self.ranks) > 1 else loss
            step = Step(
                number=number,
                batches=plan.micro_batches,
                samples=4 * plan.micro_batches,
                tokens=plan.tokens_a_step,
                trained_tokens=trained,
                loss=own,
                learning_rate=rate,
                gradient_norm=norm,
            )
            each.stepped(step, of_rank, start_ns, end_ns)
            each.tell("data_seconds", of_rank[0].seconds)
            each.tell("preprocessing_seconds", 0.02 + 0.006 * self.random.random())
            each.tell("model_flops", self._flops)
            each.count("hook_ns", round(self._hook_seconds * 1e9))
            for group in range(len(plan.learning_rates)):
                each.tell("learning_rates", plan.learning_rate_at(number, group), group)
            if plan.epochs is not None:
                each.tell("epoch", plan.epochs * number / plan.steps)
            if plan.loss_scale is not None:
                each.tell("loss_scale", plan.loss_scale)
            each.tell("accuracy", max(0.02, 0.94 - 0.17 * own) if plan.cross_entropy else 1 - own / 2)
            if plan.on_gpus:
                self._tell_device(each, of_rank)
            for name in plan.scalars:
                each.scalar(name, self._scalar(name, number), end_ns)

    def _parts(self, rank: int) -> tuple[Part, ...]:
        plan = self.plan
        others = (1 - plan.data_share) / (1 - _SHARES["data"])
        parts = []
        for phase, share in _SHARES.items():
            share = plan.data_share if phase == "data" else share * others
            seconds = (
                plan.step_seconds * share * math.exp(self.random.gauss(0, 0.25 if phase == "data" else 0.03))
            )
            if phase == "forward" and rank == plan.slow_rank and self.now - self._started >= plan.slow_from:
                seconds *= 1.5
            parts.append(Part(phase, seconds))
        return tuple(parts)

    def _waits_for(self, parts: tuple[Part, ...], longest: float) -> tuple[Part, ...]:
        missing = longest - sum(part.seconds for part in parts)
        return tuple(
            part._replace(seconds=part.seconds + missing) if part.phase == "backward" else part
            for part in parts
        )

    def _tell_device(self, rank: RankRecording, parts: Sequence[Part]) -> None:
        taken = self._device_seconds[rank.rank]
        for phase, seconds in parts:
            taken[phase] += 0.97 * seconds
        for at, phase in enumerate(DEVICE_PHASES):
            if phase in taken:
                rank.tell("device_seconds", taken[phase], at)
        hours = (self.now - self._started) / 3600
        longest_met = 2 * math.floor(min(3, self.step / 200))  # sequences: each takes a further block
        reserved = self.plan.reserved_gib + longest_met + self.plan.leak_gib * hours
        reserved = min(reserved * GIB, 0.97 * MEMORY_TOTAL_BYTES)
        rank.tell("cuda_allocated_bytes", reserved * (0.86 + 0.05 * self.random.random()))
        rank.tell("cuda_reserved_bytes", reserved)
        rank.tell("cuda_reserved_peak_bytes", reserved)

    def _scalar(self, name: str, step: int) -> float:
        falling = self.plan.loss_at(step) / self.plan.loss[0]
        return (falling if "loss" in name else 1 - falling / 2) * math.exp(self.random.gauss(0, 0.05))

    def _enter(self, phase: str) -> None:
        self.phase = phase
        for each in self.ranks:
            each.enter(phase, self._ns(self.now))

    def _evaluate(self) -> Iterator[float]:
        plan = self.plan
        self._enter("evaluation")
        for _ in range(_EVALUATION_BATCHES):
            yield self.now + plan.evaluation_seconds / _EVALUATION_BATCHES
            for each in self.ranks:
                each.progressed(self._ns(self.now))
        loss = plan.loss_at(self.step) + 0.08 + plan.overfits * self.step / 1000 + self.random.gauss(0, 0.01)
        self._best = min(self._best, loss)
        accuracy = max(0.02, 0.93 - 0.17 * loss)
        for each in self.ranks:
            each.tell("validation_loss", loss)
            each.tell("validation_loss_best", self._best)
            each.count("validation_loss_tokens", 200_000)
            each.tell("validation_accuracy", accuracy)
            each.event("evaluation", self._ns(self.now), tokens=200_000, loss=loss, accuracy=accuracy)
        self._goes_on()

    def _write_checkpoint(self) -> Iterator[float]:
        plan = self.plan
        self._enter("checkpoint")
        seconds = plan.checkpoint_seconds * self.random.uniform(0.85, 1.3)
        yield self.now + seconds
        now_ns, size = self._ns(self.now), round(plan.checkpoint_gib * GIB)
        # The oldest is removed when three are there.
        written = self.step // plan.checkpoint_every
        self._volume_free -= 0.05 * size if written > 3 else size
        first, interval = self._checkpointed_at == 0, self.now - self._checkpointed_at
        self._checkpoint_step, self._checkpointed_at = self.step, self.now
        self._checkpoints += 1
        for each in self.ranks:
            each.progressed(now_ns)
            each.count("checkpoint_last_ns", now_ns)
            each.count("checkpoint_bytes", size)
            each.count("checkpoints_ok", self._checkpoints)
            each.tell("checkpoint_seconds", seconds)
            each.tell("checkpoint_volume_size_bytes", _VOLUME_BYTES)
            each.tell("checkpoint_volume_free_bytes", self._volume_free)
            if not first:
                each.tell("checkpoint_interval_seconds", interval)
            each.event("checkpoint", now_ns, seconds=round(seconds, 3), bytes=size)
        self._goes_on()

    def _goes_on(self) -> None:
        for each in self.ranks:
            each.resumes(self._ns(self.now))
            each.enter("other", self._ns(self.now))
