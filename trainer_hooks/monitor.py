"""The Monitor: what a trainer, or an adapter to one, tells the recording.

    with Monitor(name="my-model", loss_kind="cross_entropy") as monitor:
        for batch in loader:
            with monitor.step():
                loss = train_on(batch)
                monitor.batch(loss=loss, samples=len(batch), trained_tokens=count(batch))

It never raises into the trainer, never waits for a device, starts no thread and opens no port: a fault of its
own is counted, logged once and over. It is for the training thread; other threads leave it alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf, isfinite, isnan, nan
from pathlib import Path
from threading import get_ident
from time import monotonic_ns
from types import TracebackType
from typing import Any, TypeVar

from trainer_hooks import device, directory, exceptions, identity, launchers, readback, recording
from trainer_hooks.arrivals import Arrivals
from trainer_hooks.checkpoint_size import CheckpointSize, volume_of
from trainer_hooks.contexts import PhaseContext, StepContext
from trainer_hooks.recording import PHASE_CODES, PHASE_MASK, PHASES, SLOT
from trainer_hooks.totals import Totals, count_of

logger = logging.getLogger("trainvitals")

INIT, DATA, FORWARD, BACKWARD, COMPUTE, OPTIMIZER, EVALUATION, CHECKPOINT, OTHER = range(len(PHASES))
_BOUNDS_NS = [int(bound * 1e9) for bound in recording.STEP_DURATION_BOUNDS_SECONDS]

_PHASE_COMPLEMENTS = tuple(PHASE_MASK - code for code in range(len(PHASES)))
_PHASE_WORD = SLOT["phase_word"]
_PHASE_NS = SLOT["phase_ns"]
_STEP_DURATION_COUNTS = SLOT["step_duration_counts"]
_LEARNING_RATE = SLOT["learning_rates"]
_LEARNING_RATES_END = _LEARNING_RATE + recording.LEARNING_RATE_GROUPS

Number = Any  # a Python or numpy number, or a tensor of one element on any device

_MOST_STAGES = 64  # different ones: each becomes a series
_COUNTED = "_trainvitals_counted"  # marks an exception, which may pass more than once

_F = TypeVar("_F", bound=Callable[..., None])
_T = TypeVar("_T")

_current: Monitor | None = None
_has_recorded = False  # any Monitor of this process


def current() -> Monitor | None:
    """The Monitor that records in this process, the newest where there are several; None where none does."""
    return _current if _current is not None and _current.recording else None


def warn(text: str, *arguments: object) -> None:
    """Log a line, whatever the filters and handlers that a trainer has laid on our logger."""
    try:
        logger.warning(text, *arguments)
    except Exception:  # a stranger's filter
        return


def _never() -> bool:
    """Whether torch traces the caller for compilation: not where torch is not even there."""
    return False


_is_compiling: Callable[[], bool] = _never


def _guarded(method: _F) -> _F:
    """Keep every fault of the hook away from the trainer."""

    @functools.wraps(method)
    def guarded(self: Monitor, *arguments: Any, **keywords: Any) -> None:
        if self.recording and not _is_compiling():
            self.guard(method, self, *arguments, **keywords)

    return guarded  # type: ignore[return-value]


class Monitor(Totals):
    """Records one training in this process. Every call is a no-op where nothing can be recorded.

    Use it as a context manager, or say `finish` or `fail`. A script that does neither is recorded as
    finished, or as failed where an exception or an exit status other than 0 ended it.

    Args:
        run: identity of the run; the same again is its next attempt. Default: TRAINVITALS_RUN, the
            launcher's id, or `name` with a suffix.
        name: display name, where the run has no identity.
        rank, world_size: where the launcher's environment does not tell.
        directory: where to record; default: see `directory.choose_directory`.
        loss_kind: "cross_entropy" when the loss is the plain mean over tokens, in nats: only then is there
            a perplexity.
        info: further facts of the run, short strings: model, dataset, precision, framework …; of a local
            path the last component.
        record_messages: also record the messages of exceptions, which may quote training data.
        start_ns: monotonic time at which the training began, where that was earlier.
        provisional: until something else than its initialisation is recorded, the next Monitor that is opened
            in this process takes the recording over.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_bucket",
        "_data_ns",
        "_last_step_ns",
        "_look_at_ns",
        "_must_publish",
        "_outside_step_ns",
        "_phase_ns",
        "_since_ns",
        "_step_has_batches",
        "_timeline",
        "_waiting",
        "active_phase",
        "gradient_norm",
        "hook_ns",
    )

    def __init__(
        self,
        *,
        run: str | None = None,
        name: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        directory: Path | str | None = None,
        loss_kind: str | None = None,
        info: Mapping[str, str] | None = None,
        record_messages: bool = False,
        start_ns: int | None = None,
        provisional: bool = False,
    ) -> None:
        global _current, _has_recorded
        self.recording = False
        self._recorder: recording.Recorder | None = None
        self.loss_kind = loss_kind or None
        self.provisional = provisional
        self._record_messages = record_messages
        self._when_closing: list[Callable[[], None]] = []
        self.fault_logged = False
        self.hook_ns = 0
        # What is told by whoever sees it happen, and so is not taken from what a script logs: see `tee`.
        self.measured = {"loss", "learning_rate", "gradient_norm", "loss_scale", "step"}
        began = monotonic_ns()
        try:
            if sys.platform != "linux":
                raise recording.NotRecordableError(f"recordings need Linux, this is {sys.platform}")
            if identity.is_worker():
                return
            _heed_compilation()
            who = identity.identify(run=run, name=name, rank=rank, world_size=world_size)
            facts = _printable(
                {"deadline": _moment(launchers.deadline()), **(info or {}), "loss_kind": loss_kind or ""}
            )
            self._open(who, directory, facts, start_ns, began)
            _current, _has_recorded = self, True
        except Exception as error:
            with contextlib.suppress(Exception):
                self._abandon()
            try:
                why = _sentence(error)
            except Exception:
                why = "an unknown error"
            warn("telemetry is off for this run: %s", why)
            return
        self.hook_ns += monotonic_ns() - began

    def _open(
        self,
        who: identity.Identity,
        where: Path | str | None,
        info: Mapping[str, str],
        start_ns: int | None,
        now: int,
    ) -> None:
        before = current()
        taken_over = None
        if before is not None and before.provisional and not before._used():
            start_ns = before._recorder.static.start_monotonic_ns if before._recorder else start_ns
            taken_over = before._give_up(who if where is None else None)
        if taken_over is None:
            folder = directory.choose_directory() if where is None else Path(where)
            recorder = recording.Recorder(folder, recording.this_process(*who, info=info, start_ns=start_ns))
        else:
            recorder = taken_over
        static = recorder.static
        self._recorder = recorder
        self._start(recorder)
        self._publish = recorder.publish
        self._must_publish = not recorder.mapped
        recorder.on_disarm = self._stop
        start = static.start_monotonic_ns
        self.active_phase = INIT
        self._since_ns = self._last_step_ns = start
        self._phase_ns = [0] * len(PHASES)
        self._outside_step_ns = 0  # initialisation, evaluation and checkpoints up to the last step
        self._data_ns = 0
        self._bucket = _bucket(0)
        self._step_has_batches = False
        self._last_checkpoint: tuple[tuple[int, int], int] | None = None  # how far it was, and when
        self.gradient_norm: float | readback.Pending | None = None
        self._scalars: dict[str, int] = before._scalars if taken_over and before else {}
        self._stage: str | None = before._stage if taken_over and before else None  # the newest
        self._stages: set[str] = before._stages if taken_over and before else set()
        self._facts = dict(static.info)
        self._devices = device.Watch(functools.partial(self._count, "hook_dropped"), self.event)
        self._timeline: device.Timeline | None = None  # where there is a CUDA device
        self._look_at_ns = 0
        self._arrivals = Arrivals(functools.partial(self._count, "hook_dropped"), self.fault)
        self._waiting = self._arrivals.waiting
        self._phases = [PhaseContext(self, code) for code in range(len(PHASES))]
        self._step_context = StepContext(self)
        self.thread = get_ident()  # that of the training, which alone may call
        self.recording = True
        atexit.register(self._at_exit)
        if taken_over is None:
            self.event("start", pid=static.pid, attempt=recorder.attempt)
            visible = device.visible_to(static.local_rank)
            if visible:
                self.event("info", cuda_visible_device=visible)
            self.guard(_prune, folder)
        else:
            self.describe(**info)
        self.guard(self._look_at_devices, now)

    def _used(self) -> bool:
        """Whether anything but the initialisation has been recorded."""
        return bool(self.active_phase != INIT or self._totals[_STEPS] or self._totals[_BATCHES])

    def _give_up(self, who: identity.Identity | None) -> recording.Recorder | None:
        """Record no more; the recorder where it is that of `who`, else none is left of the recording."""
        recorder = self._recorder
        assert recorder is not None
        self._recorder = None
        self.recording = False
        recorder.on_disarm = None
        atexit.unregister(self._at_exit)
        static = recorder.static
        if who == (static.run, static.node, static.rank, static.local_rank, static.world_size):
            return recorder
        recorder.discard()
        return None

    def _abandon(self) -> None:
        """A recording that could not be begun must not pass for that of a killed training."""
        self.recording = False
        if self._recorder is not None:
            self._recorder.on_disarm = None
            self._recorder.discard()
            self._recorder = None
        atexit.unregister(self._at_exit)

    @property
    def run(self) -> str | None:
        """The name of the run; None when nothing is recorded."""
        return self._recorder.static.run if self._recorder else None

    def enter(self, phase: int) -> None:
        """From now on wall time belongs to this phase, one of the constants INIT … OTHER."""
        if not self.recording or _is_compiling():
            return
        now = monotonic_ns()
        try:
            # `now & ~PHASE_MASK | phase`; raises for what is no phase, before anything is changed
            word = (now | PHASE_MASK) - _PHASE_COMPLEMENTS[phase]
            old = self.active_phase
            unsigned, phase_ns = self._unsigned, self._phase_ns
            phase_ns[old] = total = phase_ns[old] + now - self._since_ns
            unsigned[_PHASE_NS + old] = total  # before the word: see recording, Phases
            unsigned[_PHASE_WORD] = word
            self.active_phase = phase
            self._since_ns = now
            if self._timeline is not None:
                self._timeline.border(old, phase)
            if self._must_publish and phase in (DATA, EVALUATION, CHECKPOINT):
                self._publish()
        except Exception as error:
            self.fault(error)
        self.hook_ns += monotonic_ns() - now

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Within it wall time belongs to this phase, one of recording.PHASES; after it, to the one before."""
        if not self.recording or _is_compiling():
            return contextlib.nullcontext()
        if name not in PHASES:
            self.fault(ValueError(f"no phase {name!r}; there are {', '.join(PHASES)}"))
            return contextlib.nullcontext()
        return self._phases[PHASE_CODES[name]]

    def batches(self, loader: Iterable[_T]) -> Iterator[_T]:
        """What the loader yields; the wait for each is phase data, and what is done with it phase other.

        Within phase evaluation all of it is that. A bar that wants the loader's length goes inside:
        `batches(tqdm(loader))`.
        """
        evaluating = self.recording and self.active_phase == EVALUATION
        waiting, resting = (EVALUATION, EVALUATION) if evaluating else (DATA, OTHER)
        iterator: Iterator[_T] | None = None
        while True:
            self.enter(waiting)
            try:
                if iterator is None:
                    iterator = iter(loader)
                fetched = [next(iterator)]  # popped: the batch is not to live until the next is there
            except StopIteration:
                return
            finally:
                self.enter(resting)
            yield fetched.pop()

    def step(self) -> contextlib.AbstractContextManager[None]:
        """One optimizer step: phase compute within, phase other after it. An exception ends no step."""
        if not self.recording or _is_compiling():
            return contextlib.nullcontext()
        return self._step_context

    def batch(
        self,
        *,
        loss: Number | None = None,
        samples: int = 0,
        tokens: Number | None = None,
        trained_tokens: Number | None = None,
        normalizer: Number | None = None,
    ) -> None:
        """One micro-batch is done.

        Args:
            loss: mean over the trained tokens, or over the batch where tokens are not counted.
            samples: sequences, images ….
            tokens: all tokens of the batch, without padding.
            trained_tokens: tokens whose label counts in the loss; the weight of `loss`.
            normalizer: what the sum of the loss was divided by, where that is not `trained_tokens`: the
                tokens of all micro-batches of the step, for example.
        """
        if not self.recording or _is_compiling():
            return
        now = monotonic_ns()
        spent_ns = self.hook_ns
        try:
            unsigned, totals = self._unsigned, self._totals
            unsigned[_BATCHES] = totals[_BATCHES] = totals[_BATCHES] + 1
            unsigned[_LAST_PROGRESS_NS] = now
            self._step_has_batches = True
            waits: object = self._waiting
            if loss is not None and loss.__class__ is not float:
                loss = self.read(loss)
                waits = waits or loss.__class__ is _PENDING
            if tokens is not None and tokens.__class__ is not int:
                tokens = self.read(tokens)
                waits = waits or tokens.__class__ is _PENDING
            if trained_tokens is not None and trained_tokens.__class__ is not int:
                trained_tokens = self.read(trained_tokens)
                waits = waits or trained_tokens.__class__ is _PENDING
            if normalizer is not None and normalizer.__class__ is not int:
                normalizer = self.read(normalizer)
                waits = waits or normalizer.__class__ is _PENDING
            if waits:
                self._arrivals.wait(self._apply_batch, loss, tokens, trained_tokens, normalizer)
            else:
                self._apply_batch(loss, tokens, trained_tokens, normalizer)
            if samples.__class__ is not int or samples < 0:
                samples = count_of(samples)
            if samples:
                unsigned[_SAMPLES] = totals[_SAMPLES] = totals[_SAMPLES] + samples
        except Exception as error:
            self.fault(error)
        self.hook_ns = spent_ns + monotonic_ns() - now

    def end_step(self, step: int | None = None) -> None:
        """One optimizer step is done: number `step`, or one more than the last."""
        if not self.recording or _is_compiling():
            return
        now = monotonic_ns()
        spent_ns = self.hook_ns
        try:
            unsigned, totals = self._unsigned, self._totals
            if step is None:
                step = totals[_STEP] + 1
            elif step.__class__ is not int or step < 0:
                step = count_of(step)
            unsigned[_STEP] = totals[_STEP] = step
            if not self._step_has_batches:
                unsigned[_BATCHES] = totals[_BATCHES] = totals[_BATCHES] + 1
            self._step_has_batches = False
            # The active phase may have begun before this step's end: count it up to now, and go on.
            phase_ns = self._phase_ns
            phase_ns[self.active_phase] += now - self._since_ns
            self._since_ns = now
            outside_step_ns = phase_ns[INIT] + phase_ns[EVALUATION] + phase_ns[CHECKPOINT]
            duration_ns = now - self._last_step_ns - (outside_step_ns - self._outside_step_ns)
            data_ns = phase_ns[DATA]
            above, most, slot = self._bucket  # mostly that of the step before
            if not above < duration_ns <= most:
                above, most, slot = self._bucket = _bucket(duration_ns)
            unsigned[slot] = totals[slot] = totals[slot] + 1
            unsigned[_STEP_DURATION_SUM_NS] = totals[_STEP_DURATION_SUM_NS] = (
                totals[_STEP_DURATION_SUM_NS] + duration_ns
            )
            unsigned[_LAST_PROGRESS_NS] = now
            unsigned[_LAST_STEP_NS] = now
            unsigned[_HOOK_NS] = spent_ns
            self._doubles[_DATA_SECONDS] = (data_ns - self._data_ns) / 1e9
            self._last_step_ns = now
            self._outside_step_ns = outside_step_ns
            self._data_ns = data_ns
            norm, self.gradient_norm = self.gradient_norm, None
            batches, samples = totals[_BATCHES], totals[_SAMPLES]
            if self._waiting or norm.__class__ is _PENDING:
                self._arrivals.wait(
                    self._apply_step, norm, step, now, duration_ns, phase_ns.copy(), batches, samples
                )
            else:
                try:
                    self._apply_step(norm, step, now, duration_ns, phase_ns, batches, samples)
                except Exception as error:  # the record is lost; the running totals must not be
                    self.fault(error)
            unsigned[_STEPS] = totals[_STEPS] = totals[_STEPS] + 1
            if self._timeline is not None:
                self._take_device_time()
            if now >= self._look_at_ns:
                self._look_at_devices(now)
            if self._must_publish:
                self._publish()
        except Exception as error:
            self.fault(error)
        self.hook_ns = spent_ns + monotonic_ns() - now

    @_guarded
    def skip_step(self) -> None:
        """An optimizer step was left out, by the loss scaler for example."""
        self._count("steps_skipped")

    @_guarded
    def expect(
        self, *, steps: int | None = None, epochs: float | None = None, deadline: float | None = None
    ) -> None:
        """How many optimizer steps and epochs the run is to make in all, and by when (unix seconds)."""
        if steps is not None and steps > 0 and isfinite(steps):
            self._unsigned[SLOT["steps_expected"]] = int(steps)
        if epochs is not None and epochs > 0 and isfinite(epochs):
            self._doubles[SLOT["epochs_expected"]] = epochs
        if deadline is not None:
            self.describe(deadline=_moment(deadline))

    @_guarded
    def resume(self, step: int) -> None:
        """The run takes up after optimizer step `step` of an earlier attempt."""
        step = count_of(step)
        self._unsigned[_STEP] = self._unsigned[SLOT["resumed_from_step"]] = self._totals[_STEP] = step
        self.event("resume", step=step)

    @_guarded
    def stage(self, name: str) -> None:
        """The training enters a stage: of a curriculum, or supervised fine-tuning after pretraining.

        It lasts until the next is told; that of rank 0 is the run's. Of one attempt the first 64 different
        names are told, cleaned as those of scalars are; to tell the stage again that it is in is nothing new.
        """
        clean = _label_value(name)
        if clean == self._stage:
            return
        if clean not in self._stages and len(self._stages) == _MOST_STAGES:
            self._count("hook_dropped")
            return
        self._stages.add(clean)
        self._stage = clean
        self.event("stage", name=clean)

    @_guarded
    def progress(self, *, samples: int = 0) -> None:
        """Something other than a step moved on: a batch of an evaluation, or `samples` were collected."""
        unsigned, totals = self._unsigned, self._totals
        unsigned[_LAST_PROGRESS_NS] = now = monotonic_ns()
        unsigned[_SAMPLES] = totals[_SAMPLES] = totals[_SAMPLES] + samples
        if now >= self._look_at_ns:
            self._look_at_devices(now)
        self._publish()

    @_guarded
    def told(
        self,
        *,
        step: int | None = None,
        loss: Number | None = None,
        gradient_norm: Number | None = None,
    ) -> None:
        """What the script says of itself, where nothing sees its steps: none is counted of it.

        Args:
            step: the number it is at; one lower than before is passed over.
            loss, gradient_norm: the newest; they stand until the next, whatever steps are made.
        """
        unsigned, totals = self._unsigned, self._totals
        unsigned[_LAST_PROGRESS_NS] = monotonic_ns()
        unsigned[_HOOK_NS] = self.hook_ns
        if loss is not None:
            self._loss_told = True
            self._arrivals.call(self._apply_told, _LOSS, "nonfinite_loss", self.read(loss))
        if gradient_norm is not None:
            number = self.read(gradient_norm)
            self._arrivals.call(self._apply_told, _GRADIENT_NORM, "nonfinite_gradient", number)
        if step is not None and step > totals[_STEP]:
            unsigned[_STEP] = totals[_STEP] = step
            self._publish()

    def when_arrived(self, call: Callable[[float | None], None], number: readback.Pending) -> None:
        """Have this called with a number that `read` gave, once it has come; with None where it is lost."""
        self._arrivals.wait(call, number)

    def hand_over(self, call: Callable[[], None]) -> None:
        """Have the training's thread make this call with the next batch, step or number it tells of.

        The one method for other threads.
        """
        if self.recording:
            self._waiting.append((call, ()))

    def learning_rates(self, rates: Iterable[Number]) -> None:
        """Learning rates of the optimizer's parameter groups, up to 8; those on a device are left out."""
        if not self.recording or _is_compiling():
            return
        began = monotonic_ns()
        spent_ns = self.hook_ns
        try:
            doubles, waiting = self._doubles, self._waiting
            slot = _LEARNING_RATE
            for rate in rates:
                if slot == _LEARNING_RATES_END:
                    break
                if rate.__class__ is float and -inf < rate < inf and not waiting:
                    doubles[slot] = rate
                    if slot == _LEARNING_RATE:
                        self._learning_rate = rate
                else:
                    self._arrivals.call(self._store, slot, readback.read_now(rate))
                slot += 1
        except Exception as error:
            self.fault(error)
        self.hook_ns = spent_ns + monotonic_ns() - began

    @_guarded
    def model(self, module: Any, *, sequence_length: int | None = None) -> None:
        """From now on count the FLOPs of this torch model for all tokens of the batches: see `flops`.

        It is looked at as it is now: say it again when weights have been frozen or thawed. One of a kind that
        is not known leaves things as they were. `sequence_length` is that of every row, where they are all
        alike: then the attention scores count, too.
        """
        from trainer_hooks import flops

        known = flops.of_model(module, sequence_length=sequence_length)
        if known is not None:
            self._flops_per_token = known.total
            self._doubles[_MODEL_FLOPS] = float(self._model_flops)

    def _look_at_devices(self, now: int) -> None:
        self._look_at_ns = device.NEVER  # a look that fails is the last
        try:
            self._look_at_ns = self._devices.look(self._doubles, now, self._facts.get("precision"))
        finally:
            self._timeline = self._devices.timeline

    def _take_device_time(self) -> None:
        self._timeline = None  # a device that fails is not asked again
        self._devices.take_time(self._doubles)
        self._timeline = self._devices.timeline

    def watch(self, *watched: Any) -> None:
        """Follow a plain torch training by these models, criteria and optimizers: nothing else need be said.

        Steps, micro-batches, losses, tokens, learning rates, gradient norms, phases and evaluations are as
        torch_loop tells. Of a model it is the outermost wrapper that counts.
        """
        if not self.recording:
            return
        try:
            from trainer_hooks import torch_process

            torch_process.watch(self, *watched)
        except Exception as error:
            self.fault(error)

    def log(self, /, **values: Number) -> None:
        """Newest values by name.

        `loss` (of the step, where `batch` is not used), `learning_rate`, `gradient_norm`, `loss_scale`,
        `accuracy`, `validation_accuracy`, `preprocessing_seconds` and `epoch` are known; of any other name
        the first 64 are kept. Values that are not finite are not published.
        """
        if not self.recording or _is_compiling():
            return
        began = monotonic_ns()
        spent_ns = self.hook_ns
        for name, value in values.items():
            if value is not None:
                try:
                    self._log_one(name, value)
                except Exception as error:
                    self.fault(error)
        self.hook_ns = spent_ns + monotonic_ns() - began

    def _log_one(self, name: str, value: Number) -> None:
        if name == "learning_rate":
            self.learning_rates([value])
            return
        number = value if value.__class__ is float else self.read(value)
        if name == "gradient_norm":
            if isinstance(self.gradient_norm, readback.Pending):
                self.gradient_norm.abandon()
            self.gradient_norm = number
        elif name == "loss":
            self._arrivals.call(self._apply_batch, number, None, None, None)
        elif name in _LOGGED:
            self._arrivals.call(self._store, _LOGGED[name], number)
        elif number is not None:
            slot = self._scalar_slot(name)
            if slot is not None:
                self._arrivals.call(self._store, slot, number)
            elif isinstance(number, readback.Pending):
                number.abandon()

    def _scalar_slot(self, name: str) -> int | None:
        """The slot of a user's scalar; None when it is one too many. Names that read alike share one."""
        slot = self._scalars.get(name)
        if slot is not None:
            return slot
        clean = _label_value(name)
        slot = self._scalars.get(clean)
        if slot is not None:
            return slot
        used = len(self._scalars)
        if used == recording.SCALARS:
            self._count("hook_dropped")
            return None
        self._scalars[clean] = SLOT["scalars"] + used
        self.event("scalar", name=clean, slot=used)
        return SLOT["scalars"] + used

    @_guarded
    def evaluated(
        self,
        *,
        loss: Number | None = None,
        tokens: Number | None = None,
        accuracy: Number | None = None,
    ) -> None:
        """An evaluation is done.

        Args:
            loss: its mean loss, token-weighted where `tokens` is given.
            tokens: the tokens behind the loss; without them there is no validation perplexity.
            accuracy: 0 to 1.
        """
        self._unsigned[_LAST_PROGRESS_NS] = monotonic_ns()
        self._arrivals.call(self._apply_evaluation, self.read(loss), self.read(tokens), self.read(accuracy))

    @contextlib.contextmanager
    def checkpoint(self, path: Path | str | None = None) -> Iterator[None]:
        """Within it a checkpoint is written; `path` is its file, or the folder it goes to."""
        before = self.active_phase if self.recording else OTHER
        began = time.monotonic()
        self.enter(CHECKPOINT)
        size = self._size_before(path)
        try:
            yield
        except BaseException as error:
            self._checkpoint_done(path, size, time.monotonic() - began, failure=type(error).__name__)
            raise
        else:
            self._checkpoint_done(path, size, time.monotonic() - began, failure=None)
        finally:
            self.enter(before)

    def _size_before(self, path: Path | str | None) -> CheckpointSize | None:
        try:
            return CheckpointSize(path) if self.recording and path is not None else None
        except Exception as error:
            self.fault(error)
            return None

    @_guarded
    def _checkpoint_done(
        self, path: object, written: CheckpointSize | None, seconds: float, failure: str | None
    ) -> None:
        self._unsigned[_LAST_PROGRESS_NS] = now = monotonic_ns()
        if failure is not None:
            self._count("checkpoints_failed")
            self.event("checkpoint_failed", seconds=round(seconds, 6), type=failure)
            return
        size = 0 if written is None else written.read()
        self._unsigned[SLOT["checkpoint_last_ns"]] = now
        self._unsigned[SLOT["checkpoint_bytes"]] = size
        self._doubles[SLOT["checkpoint_seconds"]] = seconds
        self._take_checkpoint_interval(now)
        self._count("checkpoints_ok")
        self.event("checkpoint", seconds=round(seconds, 6), bytes=size)
        self._look_at_volume(path)

    def _look_at_volume(self, path: object) -> None:
        """On rank 0, whose numbers stand for the run: not all ranks at once ask a file system they share."""
        if self._recorder is not None and self._recorder.static.rank == 0:
            volume = volume_of(path)
            self._doubles[_VOLUME_SIZE] = nan if volume is None else float(volume.size_bytes)
            self._doubles[_VOLUME_FREE] = nan if volume is None else float(volume.free_bytes)

    def _take_checkpoint_interval(self, now: int) -> None:
        """Those of one step are one checkpoint: the best and the last, or the model and the optimizer.

        Where nobody tells the steps, those with no batch between them are.
        """
        step = self._totals[_STEP]
        reached = step, 0 if step else self._totals[_BATCHES]
        before = self._last_checkpoint
        if before is None or reached != before[0]:
            if before is not None:
                self._doubles[SLOT["checkpoint_interval_seconds"]] = (now - before[1]) / 1e9
            self._last_checkpoint = reached, now

    @_guarded
    def event(self, kind: str, /, **fields: object) -> None:
        """One line among the run's events. Numbers and short names only: never text of the training data."""
        assert self._recorder is not None
        line = {"event": kind, "time_ns": monotonic_ns(), "step": self._totals[_STEP], **fields}
        try:
            written = self._recorder.event(line)
        except OSError as error:
            self.fault(error)
            written = False
        if not written:
            self._count("hook_dropped")

    @_guarded
    def describe(self, **info: str) -> None:
        """Facts of the run that became known after it was opened: see `info` of the constructor."""
        facts = {name: fact for name, fact in _printable(info).items() if self._facts.get(name) != fact}
        if facts:
            self._facts.update(facts)
            self._devices.forget()  # the peak goes by the precision
            self.event("info", **facts)

    @_guarded
    def passes(self, error: BaseException | None) -> None:
        """An exception passes. Lack of memory is counted, once, though the trainer may catch it and go on."""
        if exceptions.is_out_of_memory(error) and not hasattr(error, _COUNTED):
            setattr(error, _COUNTED, True)
            self._count("ooms")
            self.event("oom", type=type(error).__name__)

    @_guarded
    def exception(self, error: BaseException) -> None:
        """Record the type and place of an exception, never its message unless the run asked for it."""
        kind = type(error).__name__
        self.passes(error)
        message = {"message": str(error)[:512]} if self._record_messages else {}
        self.event("exception", type=kind, place=exceptions.place(error.__traceback__), **message)

    def when_closing(self, callback: Callable[[], None]) -> None:
        """Have this called once, before the recording closes: it may still record what it has in hand."""
        self._when_closing.append(callback)

    def finish(self, reason: str = "completed") -> None:
        """The training ended as it should: close the recording. Later calls are no-ops."""
        self._close(recording.FINISHED, "finish", reason=reason)

    def fail(self, error: BaseException) -> None:
        """The training ended with an exception: record it and close the recording."""
        self.exception(error)
        self._close(recording.FAILED, "fail", error)

    @_guarded
    def _close(
        self,
        outcome: int,
        kind: str,
        error: BaseException | None = None,
        at_exit: bool = False,
        **fields: object,
    ) -> None:
        assert self._recorder is not None
        self._recorder.disarm_elsewhere()
        if not self.recording:
            return
        callbacks, self._when_closing = self._when_closing, []
        for callback in callbacks:
            self.guard(callback)
        ended_ns = 0
        try:
            self.enter(self.active_phase)  # bring the totals up to the end
            ended_ns = self._since_ns
            self._arrivals.drain(everything=True)
            if self._timeline is not None:
                self.guard(self._last_look, self._timeline)
            self._unsigned[_HOOK_NS] = self.hook_ns
            if error is not None:
                fields["type"] = exceptions.kind(error)
            self.event(kind, **fields)
        except Exception as fault:  # whatever is lost: a training that ended was not killed
            self.fault(fault)
        finally:
            self.recording = False
            try:
                self._recorder.close(outcome, ended_ns or monotonic_ns(), at_exit=at_exit)
            finally:
                self._stop()

    def _last_look(self, timeline: device.Timeline) -> None:
        try:
            self._take_device_time()
            self._look_at_devices(monotonic_ns())
        finally:
            timeline.abandon()

    def _stop(self) -> None:
        global _current
        self.recording = False
        if _current is self:
            _current = None
        if self._recorder is not None:
            self._unsigned, self._doubles = self._recorder.unsigned, self._recorder.doubles
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        # A script that ends without saying so: the interpreter remembers what it died of. At a prompt it
        # remembers every mistake, also those that ended nothing.
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        if error is None:
            self._close(recording.FINISHED, "finish", at_exit=True, reason="exit")
        else:
            self.end(error, "exit")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self.end(error, "completed")

    def end(self, error: BaseException | None, reason: str) -> None:
        """The training ended by this exception, or for this reason where there is none."""
        if error is None:
            self.finish(reason)
        elif isinstance(error, KeyboardInterrupt):
            self.finish("interrupted")
        elif isinstance(error, SystemExit) and not error.code:
            self.finish("exit")
        else:
            self.fail(error)

    def read(self, value: Number | None) -> float | readback.Pending | None:
        """The number, or on its way from a device; None, and counted, where reading it would do harm."""
        if value is None:
            return None
        try:
            number = readback.read(value)
        except Exception as error:
            self.fault(error)
            return None
        if number is None:
            self._count("hook_dropped")
        return number

    def _apply_evaluation(self, loss: float | None, tokens: float | None, accuracy: float | None) -> None:
        doubles, best = self._doubles, self._doubles[_VALIDATION_LOSS_BEST]
        numbers: dict[str, float] = {}
        if loss is not None and isfinite(loss):
            doubles[_VALIDATION_LOSS] = numbers["loss"] = loss
            doubles[_VALIDATION_LOSS_BEST] = loss if isnan(best) else min(best, loss)
            self._unsigned[_VALIDATION_LOSS_TOKENS] = int(tokens or 0)
        elif loss is not None:
            doubles[_VALIDATION_LOSS] = nan
            self._count("nonfinite_loss")
        if accuracy is not None and isfinite(accuracy):
            doubles[_VALIDATION_ACCURACY] = numbers["accuracy"] = accuracy
        self.event("evaluation", tokens=int(tokens or 0), **numbers)

    def guard(self, function: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
        """Call a part of the hook or of an adapter: its faults are the hook's, and so is its time."""
        began = monotonic_ns()
        spent_ns = self.hook_ns
        try:
            function(*arguments, **keywords)
        except Exception as error:
            self.fault(error)
        finally:
            self.hook_ns = spent_ns + monotonic_ns() - began  # what was counted within is part of it

    def fault(self, error: Exception) -> None:
        """Count a fault of the hook or of an adapter; the type and place of the first are logged.

        Never its message: that of a conversion, for example, quotes the value.
        """
        try:
            self._count("hook_errors")
            if not self.fault_logged:
                self.fault_logged = True
                place = exceptions.place(error.__traceback__) or "an unknown place"
                warn("a fault in the telemetry, counted from now on: %s at %s", type(error).__name__, place)
        except Exception:  # nothing is left to tell it to
            return


def _prune(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the other ranks prune at the same moment
        directory.prune(folder)


def _heed_compilation() -> None:
    """From now on calls within a region that torch traces for compilation are left out of the graph."""
    global _is_compiling
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    _is_compiling = getattr(compiler, "is_dynamo_compiling", _is_compiling)


def _sentence(error: Exception) -> str:
    """What may be told of it: a sentence of ours or of the system; of anybody else's exception the type."""
    if isinstance(error, recording.NotRecordableError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"{type(error).__name__}: {os.strerror(error.errno)}; TRAINVITALS_DIR chooses another directory"
        )
    return type(error).__name__


def _moment(unix_seconds: float | None) -> str:
    return f"{unix_seconds:.0f}" if unix_seconds is not None and isfinite(unix_seconds) else ""


def _printable(info: Mapping[str, str]) -> dict[str, str]:
    return {key: identity.without_folders(str(value))[:128] for key, value in info.items() if value}


def _bucket(duration_ns: int) -> tuple[int, int, int]:
    """Of the histogram's bucket for a step: the bound below, the bound that belongs to it, its slot."""
    at = bisect_left(_BOUNDS_NS, duration_ns)
    bounds = (-1, *_BOUNDS_NS, 1 << 64)
    return bounds[at], bounds[at + 1], _STEP_DURATION_COUNTS + at


def _label_value(name: str) -> str:
    """The name as a label bears it: at most 64 of letters, digits, `_.-/`, a letter or digit first."""
    clean = re.sub(r"[^A-Za-z0-9_.\-/]", "_", name)
    return (clean if clean[:1].isalnum() else f"x{clean}")[:64]


_PENDING = readback.Pending
_BATCHES, _SAMPLES, _STEPS, _STEP = SLOT["batches"], SLOT["samples"], SLOT["steps"], SLOT["step"]
_TOKENS_ALL, _TOKENS_TRAINED = SLOT["tokens_all"], SLOT["tokens_trained"]
_LOSS_TOKENS, _LOSS_TOKEN_SUM = SLOT["loss_tokens"], SLOT["loss_token_sum"]
_LAST_STEP_NS, _LAST_PROGRESS_NS = SLOT["last_step_ns"], SLOT["last_progress_ns"]
_STEP_DURATION_SUM_NS, _HOOK_NS = SLOT["step_duration_sum_ns"], SLOT["hook_ns"]
_LOSS, _GRADIENT_NORM, _DATA_SECONDS = SLOT["loss"], SLOT["gradient_norm"], SLOT["data_seconds"]
_VALIDATION_LOSS, _VALIDATION_LOSS_BEST = SLOT["validation_loss"], SLOT["validation_loss_best"]
_VALIDATION_LOSS_TOKENS, _VALIDATION_ACCURACY = SLOT["validation_loss_tokens"], SLOT["validation_accuracy"]
_MODEL_FLOPS = SLOT["model_flops"]
_VOLUME_SIZE, _VOLUME_FREE = SLOT["checkpoint_volume_size_bytes"], SLOT["checkpoint_volume_free_bytes"]
_LOGGED = {
    name: SLOT[name]
    for name in ("accuracy", "validation_accuracy", "loss_scale", "preprocessing_seconds", "epoch")
}
