"""One rank's recording, written at moments that are given: what the Monitor does by the clock of now."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trainer_hooks import __version__, recording
from trainer_hooks.recording import BODY, PHASE_CODES, PHASES, SLOT, Recorder, Static

# Less than the hook's: what is older has been read long before.
_RING_CAPACITY = 4096
# One that cannot be this process's: what /proc says of this one is not of the rank.
_ANOTHER_PID_NAMESPACE = 1
_BOUNDS_NS = [bound * 1e9 for bound in recording.STEP_DURATION_BOUNDS_SECONDS]


class Part(NamedTuple):
    """A phase and how long it lasts."""

    phase: str
    seconds: float


class Step(NamedTuple):
    """What one optimizer step of a rank brought."""

    number: int
    batches: int
    samples: int
    tokens: int
    trained_tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float


class RankRecording:
    """Writes the recording of one attempt of a rank. Moments are monotonic nanoseconds."""

    def __init__(
        self,
        directory: Path,
        *,
        run: str,
        node: str,
        rank: int,
        gpu: int,
        world_size: int,
        start_ns: int,
        start_wall_ns: int,
        info: Mapping[str, str],
    ) -> None:
        self.rank, self.gpu = rank, gpu
        start_ns &= ~recording.PHASE_MASK
        static = Static(
            run=run,
            node=node,
            rank=rank,
            local_rank=gpu,
            world_size=world_size,
            pid=os.getpid(),  # else the recorder takes itself for one in a forked child
            process_start_ticks=start_ns // 10_000_000,
            pid_namespace=_ANOTHER_PID_NAMESPACE,
            boot_id=recording.boot_id(),
            start_monotonic_ns=start_ns,
            start_wall_ns=start_wall_ns,
            hook_version=__version__,
            info=dict(info),
        )
        self._recorder = Recorder(directory, static, ring_capacity=_RING_CAPACITY)
        self._phase = "init"
        self._since_ns = start_ns
        self._phase_ns = dict.fromkeys(PHASES, 0)
        self._totals = dict.fromkeys(("batches", "samples", "tokens_all", "tokens_trained", "steps"), 0)
        self._loss_tokens, self._loss_token_sum, self._last_step_ns = 0, 0.0, start_ns
        self._scalars: dict[str, int] = {}
        self.event("start", start_ns, attempt=self._recorder.attempt)

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return self._recorder.attempt

    def count(self, slot: str, value: int, at: int = 0) -> None:
        """Put a whole number into a live slot, the `at`-th of several."""
        self._recorder.unsigned[SLOT[slot] + at] = value

    def tell(self, slot: str, value: float, at: int = 0) -> None:
        """Put a number into a live slot, the `at`-th of several."""
        self._recorder.doubles[SLOT[slot] + at] = value

    def scalar(self, name: str, value: float, at_ns: int) -> None:
        """A number that the user logs."""
        if name not in self._scalars:
            self._scalars[name] = len(self._scalars)
            self.event("scalar", at_ns, name=name, slot=self._scalars[name])
        self.tell("scalars", value, self._scalars[name])

    def event(self, kind: str, at_ns: int, **fields: object) -> None:
        step = self._recorder.unsigned[SLOT["step"]]
        self._recorder.event({"event": kind, "time_ns": at_ns, "step": step, **fields})

    def enter(self, phase: str, at_ns: int) -> None:
        """From this moment on wall time belongs to the phase."""
        self._phase_ns[self._phase] += at_ns - self._since_ns
        code = PHASE_CODES[self._phase]
        self.count("phase_ns", self._phase_ns[self._phase], code)
        self.count("phase_word", at_ns & ~recording.PHASE_MASK | PHASE_CODES[phase])
        self._phase, self._since_ns = phase, at_ns

    def within(self, parts: tuple[Part, ...], start_ns: int, now_ns: int) -> None:
        """Enter the phases of a step that began at `start_ns`, as far as it has come."""
        begins = start_ns
        for phase, seconds in parts:
            if begins > now_ns:
                break
            if begins >= self._since_ns and (phase != self._phase or begins == start_ns):
                self.enter(phase, begins)
            begins += round(seconds * 1e9)

    def progressed(self, at_ns: int) -> None:
        self.count("last_progress_ns", at_ns)

    def stepped(self, step: Step, parts: tuple[Part, ...], start_ns: int, end_ns: int) -> None:
        """An optimizer step is over."""
        self.within(parts, start_ns, end_ns)
        self.enter(self._phase, end_ns)
        totals = self._totals
        for name, amount in (
            ("batches", step.batches),
            ("samples", step.samples),
            ("tokens_all", step.tokens),
            ("tokens_trained", step.trained_tokens),
            ("steps", 1),
        ):
            totals[name] += amount
            self.count(name, totals[name])
        if math.isfinite(step.loss):
            self._loss_tokens += step.trained_tokens
            self._loss_token_sum += step.loss * step.trained_tokens
        self.count("loss_tokens", self._loss_tokens)
        self.tell("loss_token_sum", self._loss_token_sum)
        self.count("step", step.number)
        duration_ns = end_ns - self._last_step_ns if totals["steps"] > 1 else end_ns - start_ns
        bucket = sum(duration_ns > bound for bound in _BOUNDS_NS)
        unsigned = self._recorder.unsigned
        unsigned[SLOT["step_duration_counts"] + bucket] += 1
        unsigned[SLOT["step_duration_sum_ns"]] += duration_ns
        self.count("last_step_ns", end_ns)
        self.count("last_progress_ns", end_ns)
        self._last_step_ns = end_ns
        self.tell("loss", step.loss)
        self.tell("gradient_norm", step.gradient_norm)
        self._recorder.append(
            BODY.pack(
                *(step.number, end_ns, duration_ns, *self._phase_ns.values()),
                *(totals["batches"], totals["samples"], totals["tokens_all"], totals["tokens_trained"]),
                *(self._loss_tokens, self._loss_token_sum),
                *(step.loss, step.learning_rate, step.gradient_norm),
            )
        )

    def resumes(self, at_ns: int) -> None:
        """The next step's duration counts from here: an evaluation or a checkpoint is over."""
        self._last_step_ns = at_ns

    def close(self, outcome: int, at_ns: int) -> None:
        """It ends of its own accord, finished or failed."""
        self.enter(self._phase, at_ns)
        self._recorder.close(outcome, at_ns)

    def dies(self) -> None:
        """It ends without a word, as by SIGKILL."""
        self._recorder.disarm()
