"""The collector of recordings: finds them, follows them, and turns them into runs and samples."""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from exporters import catalog, host_memory
from exporters.catalog import Metric
from exporters.collector import Histogram, Runner, Sample
from exporters.followed import CLOCK_WAS_SET_SECONDS, Endings, Followed, file_at
from exporters.runs import (
    RUN_STATES,
    Acknowledgement,
    Observation,
    RankProcess,
    RunStatus,
    acknowledged,
    of_newest_attempt,
    peak_flops,
    rank_process,
    run_status,
)
from trainer_hooks import recording
from trainer_hooks.recording import RecordingError, RecordingReader

logger = logging.getLogger(__name__)

SKIP_REASONS = ("corrupt", "truncated", "newer_version", "not_permitted")
FULL_AFTER_END_SECONDS = 15 * 60
LIFECYCLE_AFTER_END_SECONDS = 25 * 3600
MOST_FULL_RUNS = 50
MOST_RUNS = 200
_HOST_MEMORY_EVERY_SECONDS = 5.0
_REMEMBER_EVERY_SECONDS = 10.0
_NEW_RECORDINGS_SECONDS = 3.0  # of a round's deadline


@dataclass
class _Told:
    """What is told of a run, and of which observations; the samples are those of one detail.

    The dead are the same objects at every look: what was told of them is told again.
    """

    observations: Sequence[Observation]
    acknowledgement: Acknowledgement | None
    status: RunStatus
    processes: Sequence[RankProcess]
    detail: str = ""
    samples: Sequence[Sample] = ()


class RecordingsCollector:
    """Follows every recording below some directories.

    Of the newest look: `runs`, newest start first; `processes`, the ranks that live; and `is_complete`,
    whether every recording that is there has been looked at.
    """

    name = "recordings"
    interval_seconds = 1.0
    deadline_seconds = 10.0

    def __init__(
        self,
        directories: Sequence[Path],
        *,
        stall_after_seconds: float = 1800.0,
        last_seen: Endings | None = None,
        acknowledgement: Callable[[str, int], Acknowledgement | None] = lambda run, attempt: None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.runs: tuple[RunStatus, ...] = ()
        self.processes: tuple[RankProcess, ...] = ()
        self.is_complete = False
        self._directories = directories
        self._stall_after_seconds = stall_after_seconds
        self._endings = last_seen or Endings()
        self._acknowledgement = acknowledgement
        self._monotonic_ns = monotonic_ns
        self._wall = wall
        self._wall_offset_seconds = wall() - monotonic_ns() / 1e9
        self._followed: dict[Path, Followed] = {}
        self._nameless: list[Followed] = []  # their files were removed while they lived
        self._in_use: Sequence[Path] = ()  # the directories that hold recordings
        self._skipped: dict[Path, str] = {}
        self._waiting_dead: dict[Path, tuple[int, int] | None] = {}  # not looked at yet
        self._told: dict[str, _Told] = {}
        self._failing: dict[str, str] = {}  # runs of which nothing can be told, and why
        self._host_memory: dict[int, int] = {}
        self._host_memory_at = -math.inf
        self._remembered_at = -math.inf

    def collect(self) -> Iterator[Sample]:
        """Look at every recording once.

        One that cannot be read is skipped, and a run that makes no sense left out: logged once and counted.
        """
        self._follow_clock()
        observations = self._observe()
        self._remember()
        self._read_host_memory(observations)
        by_run = _newest_by_run(observations)
        failing: dict[str, str] = {}
        told_or_not = {run: self._tell(run, ranks, failing) for run, ranks in by_run.items()}
        self._told = {run: told for run, told in told_or_not.items() if told is not None}
        newest_first = sorted(self._told.values(), key=lambda told: told.status.started_at, reverse=True)
        self.runs = tuple(told.status for told in newest_first)
        self.processes = tuple(process for told in self._told.values() for process in told.processes)
        details: Counter[str] = Counter(full=0, lifecycle=0, hidden=0)
        # A long training is not hidden by the many short ones that came and went beside it.
        for told in sorted(newest_first, key=lambda told: told.status.ended_at is not None):
            detail = self._detail(told.status, details)
            details[detail] += 1
            yield from self._samples_told(told, detail, failing)
        self._failing = failing
        for detail, count in details.items():
            yield Sample(catalog.RUNS_PUBLISHED, {"detail": detail}, count)
        reasons = Counter(self._skipped.values())
        reasons["corrupt"] += sum(len(by_run[run]) for run in failing)
        for reason in SKIP_REASONS:
            yield Sample(catalog.RECORDINGS_SKIPPED, {"reason": reason}, reasons[reason])
        yield from _volume_samples(self._in_use)

    def close(self) -> None:
        self._remember(all_living=True)
        for followed in [*self._followed.values(), *self._nameless]:
            followed.close()

    def _follow_clock(self) -> None:
        # Published times come out the same at each look, unless somebody set the clock.
        offset = self._wall() - self._monotonic_ns() / 1e9
        if abs(offset - self._wall_offset_seconds) > CLOCK_WAS_SET_SECONDS:
            self._wall_offset_seconds = offset

    def _observe(self) -> list[Observation]:
        found = {directory: set(recording.find(directory)) for directory in self._directories}
        present = set().union(*found.values())
        self._in_use = [directory for directory, paths in found.items() if paths]
        for path in self._skipped.keys() - present:
            del self._skipped[path]
        self._part_from_removed(present)
        known = [*self._followed.values(), *self._nameless]
        observations = [seen for each in known if (seen := self._observed(each)) is not None]
        # Long rings take time: what is new and finds none left waits for the next round, the oldest longest.
        until_ns = self._monotonic_ns() + _NEW_RECORDINGS_SECONDS * 1e9
        new = self._living_first(present - self._followed.keys())
        for path in new:
            try:
                self._followed[path] = followed = Followed(RecordingReader(path))
            except Exception as error:
                self._skip(path, error)
                continue
            self._skipped.pop(path, None)
            seen = self._observed(followed)
            if seen is not None:
                observations.append(seen)
            if self._monotonic_ns() > until_ns:
                break
        self.is_complete = all(path in self._followed or path in self._skipped for path in new)
        return observations

    def _living_first(self, new: Set[Path]) -> list[Path]:
        """In the order of the last change; but stores into a mapping on a tmpfs do not move that time."""
        files = {path: file_at(path) for path in new}
        self._waiting_dead = {
            path: file
            for path, file in files.items()
            if (path in self._waiting_dead and self._waiting_dead[path] == file)
            or not recording.is_locked(path)
        }

        def place(path: Path) -> tuple[bool, int]:
            file = files[path]
            return path not in self._waiting_dead, file[1] if file else 0

        return sorted(new, key=place, reverse=True)

    def _observed(self, followed: Followed) -> Observation | None:
        try:
            return followed.observe(self._monotonic_ns, self._wall_offset_seconds, self._endings)
        except Exception as error:
            self._skip(followed.path, error)
            followed.close()
            if followed in self._nameless:
                self._nameless.remove(followed)
            else:
                del self._followed[followed.path]
            return None

    def _remember(self, *, all_living: bool = False) -> None:
        """Keep when each was last seen alive: of the killed at once, of the living now and then."""
        now = self._monotonic_ns() / 1e9
        if all_living or now - self._remembered_at >= _REMEMBER_EVERY_SECONDS:
            all_living, self._remembered_at = True, now
        followed = list(self._followed.values())  # at once: `close` is another thread's
        due = [each for each in followed if each.was_killed or (each.alive and all_living)]
        seen = [news for each in due if (news := each.not_yet_remembered()) is not None]
        if seen:
            self._endings.remember(seen)

    def _part_from_removed(self, present: Set[Path]) -> None:
        """Forget the dead whose files are gone; follow the living among them to their end, and tell of it."""
        long_ago = self._wall() - LIFECYCLE_AFTER_END_SECONDS
        self._nameless = [each for each in self._nameless if each.alive or each.ended_at > long_ago]
        for path, followed in list(self._followed.items()):
            if path not in present or followed.was_replaced():
                del self._followed[path]
                if followed.alive:
                    followed.has_name = False
                    self._nameless.append(followed)
                else:
                    followed.close()

    def _skip(self, path: Path, error: Exception) -> None:
        if not isinstance(error, RecordingError):
            error = RecordingError(path, "corrupt", f"{type(error).__name__}: {error}")
        if self._skipped.get(path) != error.reason:
            logger.warning("recording skipped: %s", error)
        self._skipped[path] = error.reason

    def _read_host_memory(self, observations: Iterable[Observation]) -> None:
        now = self._monotonic_ns() / 1e9
        if now - self._host_memory_at < _HOST_MEMORY_EVERY_SECONDS:
            return
        self._host_memory_at = now
        here = recording.pid_namespace()
        alive = [each.static for each in observations if each.alive]
        pids = [static.pid for static in alive if static.pid_namespace == here]
        self._host_memory = host_memory.resident_bytes(pids) if pids else {}

    def _tell(self, run: str, observations: Sequence[Observation], failing: dict[str, str]) -> _Told | None:
        """What is to be told of a run; None where that fails, whose reason is put into `failing`."""
        before = self._told.get(run)
        if (
            before is not None
            and len(before.observations) == len(observations)
            and all(map(operator.is_, before.observations, observations))
            and self._acknowledgement(run, before.status.attempt) == before.acknowledgement
        ):
            return before
        try:
            status = run_status(observations, self._stall_after_seconds)
            acknowledgement = self._acknowledgement(run, status.attempt)
            processes = [rank_process(each) for each in of_newest_attempt(observations) if each.alive]
            return _Told(observations, acknowledgement, acknowledged(status, acknowledgement), processes)
        except Exception as error:
            self._leave_out(run, error, failing)
            return None

    def _samples_told(self, told: _Told, detail: str, failing: dict[str, str]) -> Sequence[Sample]:
        if told.detail == detail:
            return told.samples
        told.detail, told.samples = detail, ()
        if detail != "hidden":
            try:
                samples = self._samples(told.status, of_newest_attempt(told.observations))
                told.samples = [each for each in samples if detail == "full" or each.metric.lifecycle]
            except Exception as error:
                told.detail = ""
                self._leave_out(told.status.run, error, failing)
        return told.samples

    def _leave_out(self, run: str, error: Exception, failing: dict[str, str]) -> None:
        failing[run] = f"{type(error).__name__}: {error}"
        if self._failing.get(run) != failing[run]:
            logger.warning("run %s left out: %s", run, failing[run], exc_info=error)

    def _detail(self, status: RunStatus, details: Counter[str]) -> str:
        age = 0.0 if status.ended_at is None else self._wall() - status.ended_at
        if age > LIFECYCLE_AFTER_END_SECONDS or details.total() >= MOST_RUNS:
            return "hidden"
        if age > FULL_AFTER_END_SECONDS or details["full"] >= MOST_FULL_RUNS:
            return "lifecycle"
        return "full"

    def _samples(self, status: RunStatus, observations: Sequence[Observation]) -> Iterator[Sample]:
        if observations[0].static.rank == 0:
            yield from filter(_is_publishable, _run_samples(status, observations))
        for observation in observations:
            yield from filter(_is_publishable, self._rank_samples(observation))

    def _rank_samples(self, observation: Observation) -> Iterator[Sample]:
        live, static = observation.live, observation.static
        labels = {"run": static.run, "rank": str(static.rank)}

        def sample(metric: Metric, value: float, **more: str) -> Sample:
            return Sample(metric, {**labels, **more}, value)

        yield sample(catalog.TRAINING_BATCHES_PROCESSED_TOTAL, live.batches)
        yield sample(catalog.TRAINING_STEPS_TOTAL, live.steps)
        yield sample(catalog.TRAINING_SAMPLES_PROCESSED_TOTAL, live.samples)
        yield sample(catalog.TRAINING_TOKENS_PROCESSED_TOTAL, live.tokens_all, kind="all")
        yield sample(catalog.TRAINING_TOKENS_PROCESSED_TOTAL, live.tokens_trained, kind="trained")
        if observation.cross_entropy:  # another loss may be negative, and its sum no counter
            if live.loss_token_sum is not None:  # NaN in the file
                yield sample(catalog.TRAINING_LOSS_TOKEN_SUM_TOTAL, live.loss_token_sum)
            yield sample(catalog.TRAINING_LOSS_TOKENS_TOTAL, live.loss_tokens)
        yield sample(catalog.TRAINING_NONFINITE_TOTAL, live.nonfinite_loss, what="loss")
        yield sample(catalog.TRAINING_NONFINITE_TOTAL, live.nonfinite_gradient, what="gradient")
        yield sample(catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL, live.steps_skipped)
        yield sample(catalog.TRAINING_OOM_TOTAL, live.ooms)
        yield sample(catalog.HOOK_SECONDS_TOTAL, live.hook_ns / 1e9)
        yield sample(catalog.HOOK_ERRORS_TOTAL, live.hook_errors)
        yield sample(catalog.HOOK_DROPPED_TOTAL, live.hook_dropped)
        for phase, seconds in observation.phase_seconds.items():
            yield sample(catalog.TRAINING_PHASE_SECONDS_TOTAL, seconds, phase=phase)
        for phase, on_device in zip(recording.DEVICE_PHASES, live.device_seconds, strict=True):
            if on_device is not None:
                yield sample(catalog.TRAINING_DEVICE_SECONDS_TOTAL, on_device, phase=phase)
        for metric, known in (
            (catalog.TRAINING_MODEL_FLOPS_TOTAL, live.model_flops),
            (catalog.TRAINING_CUDA_ALLOC_RETRIES_TOTAL, live.cuda_alloc_retries),
        ):
            if known is not None:
                yield sample(metric, known)
        if observation.alive:
            for metric, known in (
                (catalog.TRAINING_CUDA_MEMORY_ALLOCATED_BYTES, live.cuda_allocated_bytes),
                (catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES, live.cuda_reserved_bytes),
                (catalog.TRAINING_CUDA_MEMORY_RESERVED_PEAK_BYTES, live.cuda_reserved_peak_bytes),
            ):
                if known is not None:
                    yield sample(metric, known)
            yield sample(catalog.TRAINING_PHASE_ACTIVE, 1, phase=live.phase)
            if static.pid in self._host_memory:
                yield sample(catalog.TRAINING_HOST_MEMORY_BYTES, self._host_memory[static.pid])
        yield sample(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS, observation.wall(live.last_step_ns))
        yield sample(
            catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS, observation.wall(live.last_progress_ns)
        )


def living_ranks(recordings: RecordingsCollector, runner: Runner) -> Sequence[RankProcess] | None:
    """The ranks that live; None while that is not known."""
    return None if runner.error else recordings.processes


def _run_samples(status: RunStatus, observations: Sequence[Observation]) -> Iterator[Sample]:
    observation = observations[0]
    live = observation.live
    run = {"run": status.run}
    known: list[tuple[Metric, float | None]] = [
        (catalog.TRAINING_EPOCH_CURRENT, live.epoch),
        (catalog.TRAINING_EPOCHS_EXPECTED, live.epochs_expected),
        (catalog.TRAINING_STEP_CURRENT, live.step),
        (catalog.TRAINING_STEPS_EXPECTED, status.steps_expected),
        (catalog.TRAINING_PROGRESS_RATIO, status.progress_ratio),
        (catalog.TRAINING_ETA_SECONDS, status.eta_seconds),
        (catalog.TRAINING_DEADLINE_TIMESTAMP_SECONDS, status.deadline_at),
        (catalog.TRAINING_LOSS, live.loss),
        (catalog.VALIDATION_LOSS, status.validation_loss),
        (catalog.VALIDATION_LOSS_BEST, status.validation_loss_best),
        (catalog.TRAINING_PERPLEXITY, status.perplexity),
        (catalog.VALIDATION_PERPLEXITY, status.validation_perplexity),
        (catalog.TRAINING_ACCURACY, live.accuracy),
        (catalog.VALIDATION_ACCURACY, live.validation_accuracy),
        (catalog.TRAINING_DATA_LOADING_TIME_SECONDS, live.data_seconds),
        (catalog.TRAINING_PREPROCESSING_TIME_SECONDS, live.preprocessing_seconds),
        (catalog.TRAINING_GRADIENT_NORM, live.gradient_norm),
        (catalog.TRAINING_LOSS_SCALE, live.loss_scale),
        (catalog.TRAINING_CHECKPOINT_DURATION_SECONDS, live.checkpoint_seconds),
        (catalog.TRAINING_CHECKPOINT_SIZE_BYTES, live.checkpoint_bytes or None),
        (catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS, live.checkpoint_interval_seconds),
        (catalog.TRAINING_CHECKPOINT_VOLUME_SIZE_BYTES, live.checkpoint_volume_size_bytes),
        (catalog.TRAINING_CHECKPOINT_VOLUME_FREE_BYTES, live.checkpoint_volume_free_bytes),
        (
            catalog.TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS,
            observation.wall(live.checkpoint_last_ns) if live.checkpoint_last_ns else None,
        ),
        (catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS, status.started_at),
        (catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS, status.ended_at),
        (catalog.TRAINING_RESTARTS_TOTAL, status.attempt - 1),
        (catalog.TRAINING_RESUMED_FROM_STEP, status.resumed_from_step),
        (catalog.TRAINING_WORLD_SIZE, status.world_size),
        (catalog.TRAINING_PEAK_FLOPS, peak_flops(observations)),
    ]
    for metric, value in known:
        if value is not None:
            yield Sample(metric, run, value)
    for state in RUN_STATES:
        yield Sample(catalog.TRAINING_RUN_STATE, {**run, "state": state}, float(state == status.state))
    for group, rate in enumerate(live.learning_rates):
        if rate is not None:
            yield Sample(catalog.TRAINING_LEARNING_RATE, {**run, "group": str(group)}, rate)
    yield Sample(catalog.TRAINING_CHECKPOINTS_TOTAL, {**run, "result": "ok"}, live.checkpoints_ok)
    yield Sample(catalog.TRAINING_CHECKPOINTS_TOTAL, {**run, "result": "failed"}, live.checkpoints_failed)
    yield Sample(
        catalog.TRAINING_STEP_DURATION_SECONDS,
        run,
        Histogram(_cumulative(live.step_duration_counts), live.step_duration_sum_ns / 1e9),
    )
    # A rank's devices are no fact of the run; `run`, `attempt` and the deadline are said otherwise.
    left_out = {*run, "gpu_uuid", "cuda_visible_device", "deadline"}
    info = {key: value for key, value in sorted(status.info.items()) if key not in left_out}
    yield Sample(catalog.TRAINING_RUN_INFO, {**run, **info, "attempt": str(status.attempt)}, 1)
    stage = observation.stage
    if stage is not None:
        began_at = observation.wall(stage.since_ns)
        yield Sample(catalog.TRAINING_STAGE_START_TIMESTAMP_SECONDS, {**run, "stage": stage.name}, began_at)
    for slot, value in enumerate(live.scalars):
        name = observation.scalar_names.get(slot)
        if name is not None and value is not None:
            yield Sample(catalog.TRAINING_SCALAR, {**run, "name": name}, value)


def _volume_samples(directories: Iterable[Path]) -> Iterator[Sample]:
    volumes = []
    for directory in directories:
        with contextlib.suppress(OSError):  # removed since it was looked into
            volumes.append(os.statvfs(directory))
    if volumes:
        least = min(volumes, key=lambda volume: volume.f_bavail * volume.f_frsize)
        yield Sample(catalog.RECORDINGS_VOLUME_SIZE_BYTES, {}, least.f_blocks * least.f_frsize)
        yield Sample(catalog.RECORDINGS_VOLUME_FREE_BYTES, {}, least.f_bavail * least.f_frsize)


def _is_publishable(sample: Sample) -> bool:
    """Whether the value is a number, and of a counter none below 0. The hook writes no other.

    A perplexity overflows, and a sum of losses may fall.
    """
    if isinstance(sample.value, Histogram):
        return True
    if math.isfinite(sample.value):
        falls = sample.metric is catalog.TRAINING_LOSS_TOKEN_SUM_TOTAL
        return sample.value >= 0 or falls or sample.metric.kind != "counter"
    return sample.metric in (catalog.TRAINING_PERPLEXITY, catalog.VALIDATION_PERPLEXITY)


def _newest_by_run(observations: Iterable[Observation]) -> dict[str, list[Observation]]:
    """The newest attempt of each rank, by run, sorted by rank."""
    newest: dict[str, dict[int, Observation]] = defaultdict(dict)
    for each in observations:
        ranks = newest[each.static.run]
        known = ranks.get(each.static.rank)
        if known is None or (each.started_at, each.attempt) > (known.started_at, known.attempt):
            ranks[each.static.rank] = each
    return {run: [ranks[rank] for rank in sorted(ranks)] for run, ranks in newest.items()}


def _cumulative(counts: Iterable[int]) -> list[int]:
    total, cumulative = 0, []
    for count in counts:
        total += count
        cumulative.append(total)
    return cumulative
