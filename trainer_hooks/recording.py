"""The recording: what a hook writes, and how the service reads it. Layout, writer and reader.

A rank of a run writes two files into `<directory>/<run>/<node>/`, where N counts the attempts from 1:

    rank-R.N.steps          numbers only, of the layout below
    rank-R.N.events.jsonl   one JSON object a line for each rare thing; one write(2) a line, at most 8 MB

**`.steps`**, native byte order, every part 8-byte aligned:

    header    the struct HEADER, then JSON: `static` (see Static), and the names of slots and record fields
    live      8-byte slots (unsigned or double): running totals, newest values, the active phase
    ring      the newest step records, each led and trailed by its number

The header's crc32 covers the struct, the crc taken as 0, and the JSON. Slots and fields are found by the
names in the JSON, so a reader takes from an older or newer minor version what it knows and leaves out the
rest, also of a field that is longer; another major version is another layout. A double that is NaN is
unknown.

*Phases.* The active phase and its start are one word, `ns & ~15 | code`. `phase_ns` holds what each phase
took up to its last end. The active one took `now - start of the recording - all others' phase_ns`: whatever
moment a reader catches, the phases add up to the age. Times are CLOCK_MONOTONIC of the boot `boot_id`.

*Live slots* are written by single 8-byte moves, each a value of its own. Only the phases, which partition,
need a second look at the phase word: when it has changed, the reader reads again.

*Step records* carry running totals, so the difference of any two is exact however many lie between. A
record is written front to back in one go. A reader takes the trailing numbers, then the bodies, then the
leading numbers; a record counts only when both are the one expected and the crc32 of the body holds.

*Life* is an open-file-description lock on the whole file, on a descriptor that does nothing else but store
the exit status of a process that ends without a word. It is taken before the file has a name anybody looks
for, and the kernel drops it at any death. Readers test with F_OFD_GETLK, which takes nothing. A process that
C code forked without exec can hold it longer: then the process table decides, where the reader shares the
writer's PID namespace. `outcome` is set before the lock is given up: a recording without lock and outcome is
that of a killed process, and its last sign of life is its end.

*Publishing.* Temporary name, lock, allocation, header, then link(2) to the next attempt: never over a file.
Files are 0640 and folders 0750 whatever the umask, so that a service in the group can read them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import math
import mmap
import os
import re
import stat
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

MAGIC = b"TRNVITAL"
VERSION = (1, 2)
BYTE_ORDER_MARK = 0x01020304
# magic, byte order mark, major, minor, live offset, live slots, ring offset, record size, ring capacity,
# JSON length, crc32
HEADER = struct.Struct("@8sIHHIIIIIII")
LIVE_OFFSET = 16384
RING_CAPACITY = 20_000  # with 192 bytes a record: under 4 MB a rank
MAX_FILE_BYTES = 64 << 20
MAX_EVENTS_BYTES = 8 << 20
# Here an allocated block stays allocated, so that a store into a mapping cannot fail.
MAPPABLE = ("tmpfs", "ext4", "xfs", "overlay")

PHASES = (
    "init",
    "data",
    "forward",
    "backward",
    "compute",  # forward and backward where no border can be seen
    "optimizer",
    "evaluation",
    "checkpoint",
    "other",
)
PHASE_CODES = {name: code for code, name in enumerate(PHASES)}
PHASE_MASK = 15
DEVICE_PHASES = ("forward", "backward", "compute", "optimizer")  # whose time on a device is taken
# From a tiny model on a CPU to a large one over many nodes; +Inf is implied.
STEP_DURATION_BOUNDS_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
LEARNING_RATE_GROUPS = 8
SCALARS = 64
RUNNING, FINISHED, FAILED = 0, 1, 2

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_RANK = 10**7 - 1
STEPS_NAME = re.compile(r"rank-(\d{1,7})\.(\d{1,7})\.steps")
_ATTEMPT_NAME = re.compile(r"rank-(\d{1,7})\.(\d{1,7})\.(?:steps|events\.jsonl)")


class RecordingError(Exception):
    """A recording that cannot be read; `reason` is corrupt, truncated, newer_version or not_permitted."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {reason}: {detail}")
        self.path = path
        self.reason = reason


class NotRecordableError(OSError, ValueError):
    """Why nothing can be recorded, in a sentence of ours that tells the user what to do."""


class Static(NamedTuple):
    """What is known when a recording opens and does not change. Times in ns."""

    run: str
    node: str
    rank: int
    local_rank: int
    world_size: int
    pid: int
    process_start_ticks: int
    pid_namespace: int
    boot_id: str
    start_monotonic_ns: int
    start_wall_ns: int
    hook_version: str
    info: Mapping[str, str] = MappingProxyType({})


class Live(NamedTuple):
    """The live block. Counts are running totals of the attempt; None is unknown."""

    phase_word: int = 0
    phase_ns: tuple[int, ...] = (0,) * len(PHASES)
    steps: int = 0
    batches: int = 0
    samples: int = 0
    tokens_all: int = 0
    tokens_trained: int = 0
    loss_tokens: int = 0
    nonfinite_loss: int = 0
    nonfinite_gradient: int = 0
    steps_skipped: int = 0
    ooms: int = 0
    checkpoints_ok: int = 0
    checkpoints_failed: int = 0
    hook_ns: int = 0
    hook_errors: int = 0
    hook_dropped: int = 0
    step_duration_counts: tuple[int, ...] = (0,) * (len(STEP_DURATION_BOUNDS_SECONDS) + 1)
    step_duration_sum_ns: int = 0
    last_step_ns: int = 0
    last_progress_ns: int = 0
    step: int = 0
    steps_expected: int = 0
    resumed_from_step: int = 0
    records: int = 0
    outcome: int = RUNNING
    end_ns: int = 0
    exit_status: int = 0  # of a process that ended without a word, known when the lock falls
    checkpoint_last_ns: int = 0
    checkpoint_bytes: int = 0
    validation_loss_tokens: int = 0
    loss_token_sum: float = 0.0
    epoch: float | None = None
    epochs_expected: float | None = None
    loss: float | None = None
    learning_rates: tuple[float | None, ...] = (None,) * LEARNING_RATE_GROUPS
    gradient_norm: float | None = None
    loss_scale: float | None = None
    accuracy: float | None = None
    data_seconds: float | None = None
    preprocessing_seconds: float | None = None
    checkpoint_seconds: float | None = None
    validation_loss: float | None = None
    validation_loss_best: float | None = None
    validation_accuracy: float | None = None
    scalars: tuple[float | None, ...] = (None,) * SCALARS
    device_seconds: tuple[float | None, ...] = (None,) * len(DEVICE_PHASES)
    cuda_allocated_bytes: float | None = None
    cuda_reserved_bytes: float | None = None
    cuda_reserved_peak_bytes: float | None = None
    cuda_alloc_retries: float | None = None
    model_flops: float | None = None
    peak_flops: float | None = None
    checkpoint_interval_seconds: float | None = None
    checkpoint_volume_size_bytes: float | None = None
    checkpoint_volume_free_bytes: float | None = None

    @property
    def exit_code(self) -> int:
        """What the parent of the process saw: the low 8 bits of the status it left with."""
        return self.exit_status & 0xFF

    @property
    def phase(self) -> str:
        return _phase_name(self.phase_word & PHASE_MASK)

    @property
    def last_sign_ns(self) -> int:
        """The latest moment at which the process is known to have lived."""
        return max(self.phase_word & ~PHASE_MASK, self.last_step_ns, self.last_progress_ns, self.end_ns)

    def phase_seconds(self, start_ns: int, now_ns: int) -> dict[str, float]:
        """Seconds of each phase at `now_ns` of a recording begun at `start_ns`; they add up to its age."""
        active = self.phase_word & PHASE_MASK
        ended_ns = dict.fromkeys(PHASES, 0)
        for code, ns in enumerate(self.phase_ns):
            if code != active:
                ended_ns[_phase_name(code)] += ns
        ended_ns[self.phase] += max(0, now_ns - start_ns - sum(ended_ns.values()))
        return {name: ns / 1e9 for name, ns in ended_ns.items()}


def _phase_name(code: int) -> str:
    """Name of a phase; one that only a newer minor version knows counts as other."""
    return PHASES[code] if code < len(PHASES) else "other"


class StepRecord(NamedTuple):
    """One optimizer step. Totals run from the start of the attempt; times are monotonic; NaN is unknown."""

    step: int
    time_ns: int
    duration_ns: int
    phase_ns: tuple[int, ...]
    batches: int
    samples: int
    tokens_all: int
    tokens_trained: int
    loss_tokens: int
    loss_token_sum: float
    loss: float
    learning_rate: float
    gradient_norm: float


class _Slot(NamedTuple):
    name: str
    code: str  # of the struct module: Q or d
    length: int


def _slots_of_live() -> tuple[_Slot, ...]:
    slots = []
    for name, default in Live._field_defaults.items():
        many = isinstance(default, tuple)
        code = "Q" if isinstance(default[0] if many else default, int) else "d"
        slots.append(_Slot(name, code, len(default) if many else 1))
    return tuple(slots)


LIVE_SLOTS = _slots_of_live()
RECORD_FIELDS = tuple(
    _Slot(
        name,
        "d" if name in ("loss_token_sum", "loss", "learning_rate", "gradient_norm") else "Q",
        len(PHASES) if name == "phase_ns" else 1,
    )
    for name in StepRecord._fields
)


def _layout(slots: Sequence[_Slot]) -> str:
    return "@" + "".join(f"{slot.length}{slot.code}" for slot in slots)


def _positions(slots: Sequence[_Slot]) -> dict[str, int]:
    positions, position = {}, 0
    for slot in slots:
        positions[slot.name] = position
        position += slot.length
    return positions


SLOT = _positions(LIVE_SLOTS)
_RECORDS = SLOT["records"]
LIVE = struct.Struct(_layout(LIVE_SLOTS))
BODY = struct.Struct(_layout(RECORD_FIELDS))
NUMBER = struct.Struct("@Q")
# number, body, crc32 of the body, nothing, number
RECORD = struct.Struct(f"@Q{BODY.size}sIIQ")
# Bound once: after a step of the training has used up the caches, each look-up on the way counts.
_RECORD_SIZE, _pack_record_into, _crc32 = RECORD.size, RECORD.pack_into, zlib.crc32
RING_OFFSET = LIVE_OFFSET + (LIVE.size + 63) // 64 * 64

_UNBUFFERED = 2  # _IONBF of glibc's stdio.h
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


def process_start_ticks(pid: int) -> int | None:
    """Start of a live process in clock ticks since boot (proc(5), field 22); None if it is gone or dead."""
    try:
        return _start_ticks(pid)
    except OSError:
        return None


def _start_ticks(pid: int) -> int | None:
    """As `process_start_ticks`; raises OSError where /proc does not show the process."""
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return None if after_name[0] in (b"Z", b"X", b"x") else int(after_name[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def this_process(
    run: str,
    node: str,
    rank: int,
    local_rank: int,
    world_size: int,
    *,
    info: Mapping[str, str],
    start_ns: int | None = None,
) -> Static:
    """The static part of a recording that the calling process opens now, or has begun at `start_ns`.

    Raises ValueError for a run or node name that could not be a folder and a label, or a rank that could
    not be part of a file's name.
    """
    from trainer_hooks import __version__

    for what, name in (("run", run), ("node", node)):
        if not NAME_PATTERN.fullmatch(name):
            raise NotRecordableError(f"{what} name {name!r} does not match {NAME_PATTERN.pattern}")
    if not 0 <= rank <= MAX_RANK:
        raise NotRecordableError(f"rank {rank} is not between 0 and {MAX_RANK}")
    now, wall = time.monotonic_ns(), time.time_ns()  # together: what lies between makes the times differ
    start = now if start_ns is None else min(start_ns, now)
    return Static(
        run=run,
        node=node,
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        pid=os.getpid(),
        process_start_ticks=process_start_ticks(os.getpid()) or 0,
        pid_namespace=pid_namespace(),
        boot_id=boot_id(),
        start_monotonic_ns=start & ~PHASE_MASK,
        start_wall_ns=wall - (now - start),
        hook_version=__version__,
        info=dict(info),
    )


_open_recorders: weakref.WeakSet[Recorder] | None = None


def _disarm_in_forked_children(recorder: Recorder) -> None:
    global _open_recorders
    if _open_recorders is None:
        _open_recorders = weakref.WeakSet()
        os.register_at_fork(after_in_child=_disarm_all)
    _open_recorders.add(recorder)


def _disarm_all() -> None:
    for recorder in list(_open_recorders or ()):
        recorder.disarm()


class Recorder:
    """Writes one attempt of one rank.

    `unsigned` and `doubles` are views of the live block, indexed by SLOT. Opening raises OSError when
    the directory cannot be written or is full. After that only `event` does, and where the recording is not
    `mapped` what writes it. In a forked child the recorder is disarmed: `armed` is False and the views are
    private memory.
    """

    def __init__(
        self,
        directory: Path,
        static: Static,
        *,
        ring_capacity: int = RING_CAPACITY,
        mapped: bool | None = None,
    ) -> None:
        self.static = static
        self.ring_capacity = ring_capacity
        self.records = 0
        self._next_offset = RING_OFFSET
        self._ring_end = RING_OFFSET + ring_capacity * RECORD.size
        self.armed = False
        self.on_disarm: Callable[[], None] | None = None
        self._lock_fd = self._events_fd = self._write_fd = -1
        self._events_bytes = 0
        self._map: mmap.mmap | None = None
        self.path: Path | None = None
        directory.mkdir(parents=True, exist_ok=True)
        folder = directory / static.run / static.node
        for each in (folder.parent, folder):
            _make_folder(each)
        self.mapped = file_system(folder) in MAPPABLE if mapped is None else mapped
        temporary = folder / f".rank-{static.rank}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        try:
            self._create(temporary)
            self.path, self.attempt = _link_to_next_attempt(temporary, folder, static.rank)
            self._events_fd = os.open(
                self.path.with_suffix(".events.jsonl"),
                os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o640,
            )
            os.fchmod(self._events_fd, 0o640)
            self.armed = True
            _disarm_in_forked_children(self)
        except BaseException:
            if self.path is not None:  # without its lock it would pass for a killed run
                self.path.unlink(missing_ok=True)
            self._release()
            raise
        finally:
            with contextlib.suppress(Exception):
                temporary.unlink()

    def _create(self, temporary: Path) -> None:
        size = self._ring_end
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.fchmod(fd, 0o640)
            self._lock_fd = os.open(temporary, flags)
            fcntl.fcntl(self._lock_fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            # A store into a hole of a full file system is SIGBUS: take every block before mapping.
            os.posix_fallocate(fd, 0, size)
            _write_zeros(fd, size)
            live = bytearray(LIVE.size)
            os.pwrite(fd, _header(self.static, self.ring_capacity), 0)
            if self.mapped:
                # Populated at once: no step waits for the page its record goes to.
                self._map = mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
                view = memoryview(self._map)[LIVE_OFFSET : LIVE_OFFSET + LIVE.size]
            else:
                self._write_fd = os.dup(fd)
                view = memoryview(live)
        finally:
            os.close(fd)
        self.unsigned = view.cast("B").cast("Q")
        self.doubles = view.cast("B").cast("d")
        for slot in LIVE_SLOTS:
            if slot.code == "d" and slot.name != "loss_token_sum":
                for offset in range(slot.length):
                    self.doubles[SLOT[slot.name] + offset] = math.nan
        start = self.static.start_monotonic_ns
        for name in ("phase_word", "last_step_ns", "last_progress_ns"):
            self.unsigned[SLOT[name]] = start  # the code of phase init is 0
        self.publish()

    def publish(self) -> None:
        """Where the file system does not bear a mapping, write the live block; else nothing is to be done."""
        if self._write_fd >= 0:
            os.pwrite(self._write_fd, self.unsigned, LIVE_OFFSET)

    def append(self, body: bytes) -> None:
        """Write one step record, packed by BODY, over the oldest."""
        number = self.records + 1
        offset = self._next_offset
        if self._map is not None:
            _pack_record_into(self._map, offset, number, body, _crc32(body), 0, number)
        elif self._write_fd >= 0:
            os.pwrite(self._write_fd, RECORD.pack(number, body, _crc32(body), 0, number), offset)
        self.records = number
        offset += _RECORD_SIZE
        self._next_offset = RING_OFFSET if offset == self._ring_end else offset
        self.unsigned[_RECORDS] = number

    def event(self, line: Mapping[str, object]) -> bool:
        """Write one line; False when it was not written because there is no room or the recorder is closed.

        Raises OSError when the file system refuses, ValueError or TypeError for what JSON cannot hold.
        """
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self.disarm_elsewhere()
        if self._events_fd < 0 or self._events_bytes + len(data) > MAX_EVENTS_BYTES:
            return False
        if os.write(self._events_fd, data) < len(data):
            os.ftruncate(self._events_fd, self._events_bytes)  # half a line would spoil the next one
            return False
        self._events_bytes += len(data)
        return True

    def close(self, outcome: int, end_ns: int, *, at_exit: bool = False) -> None:
        """Set the outcome, then let go of the lock.

        Where the interpreter ends `at_exit`, Python no longer sees its exit status: the lock is then held up
        to the very end, by when the status is noted.
        """
        self.disarm_elsewhere()
        if not self.armed:
            return
        self.unsigned[SLOT["end_ns"]] = end_ns
        self.unsigned[SLOT["outcome"]] = outcome
        try:
            self.publish()
            if at_exit and _note_exit_status(self._lock_fd):
                self._lock_fd = -1  # the C library's now; the lock falls with the process
        finally:
            self._release()

    def discard(self) -> None:
        """Remove the recording: nothing of it was worth keeping."""
        for path in (self.path, self.path.with_suffix(".events.jsonl")) if self.path else ():
            with contextlib.suppress(OSError):
                path.unlink()
        self._release()

    def disarm(self) -> None:
        """Let go of everything without a word in the file: in a forked child it belongs to the parent."""
        was_armed = self.armed
        self._release()
        if was_armed and self.on_disarm is not None:
            self.on_disarm()

    def disarm_elsewhere(self) -> None:
        """Disarm in a process that C code forked: no handler of Python's ran there."""
        if self.armed and os.getpid() != self.static.pid:
            self.disarm()

    def _release(self) -> None:
        self.armed = False
        if self._map is not None:
            # What still stores into the views must find memory, not a closed mapping.
            private = memoryview(bytearray(LIVE.size))
            self.unsigned, self.doubles = private.cast("Q"), private.cast("d")
            self._map = None  # unmapped when the last view is gone
        for name in ("_events_fd", "_write_fd", "_lock_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)


def _note_exit_status(fd: int) -> bool:
    """Have the C library store this process's exit status in the recording; False where it cannot.

    glibc's on_exit(3) calls a function with the status and an argument, at a time when no Python can be
    called any more; putw(3), which takes a number and a stream, is of just that form.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "on_exit"):  # musl
        return False
    low_half = 0 if _BYTE_ORDER == "little" else 4
    os.lseek(fd, LIVE_OFFSET + 8 * SLOT["exit_status"] + low_half, os.SEEK_SET)
    libc.fdopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fdopen(fd, b"r+"))
    if not stream:
        return False
    libc.setvbuf(stream, None, _UNBUFFERED, ctypes.c_size_t(0))  # what ends the process later may skip stdio
    return bool(libc.on_exit(libc.putw, stream) == 0)


def _header(static: Static, ring_capacity: int) -> bytes:
    description = json.dumps(
        {
            "static": {**static._asdict(), "info": dict(static.info)},
            "live": LIVE_SLOTS,
            "record": RECORD_FIELDS,
        },
        separators=(",", ":"),
    ).encode()
    if HEADER.size + len(description) > LIVE_OFFSET:
        raise NotRecordableError(
            f"the description of the run takes {len(description)} bytes; {LIVE_OFFSET} are too few"
        )

    def header(crc: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            BYTE_ORDER_MARK,
            *VERSION,
            LIVE_OFFSET,
            LIVE.size // 8,
            RING_OFFSET,
            RECORD.size,
            ring_capacity,
            len(description),
            crc,
        )

    return header(zlib.crc32(header(0) + description)) + description


def _write_zeros(fd: int, size: int) -> None:
    zeros = bytes(1 << 20)
    for offset in range(0, size, len(zeros)):
        chunk = zeros[: min(len(zeros), size - offset)]
        if os.pwrite(fd, chunk, offset) != len(chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _make_folder(folder: Path) -> None:
    """Make the folder unless it is there; where its parent hands on its group (setgid), so will it."""
    try:
        folder.mkdir(mode=0o750)
    except FileExistsError:
        return
    folder.chmod(0o750 | folder.stat().st_mode & stat.S_ISGID)


def _attempts(folder: Path, rank: int) -> Iterator[int]:
    for path in folder.iterdir():
        match = _ATTEMPT_NAME.fullmatch(path.name)
        if match and int(match[1]) == rank:
            yield int(match[2])


def _link_to_next_attempt(temporary: Path, folder: Path, rank: int) -> tuple[Path, int]:
    attempt = max(_attempts(folder, rank), default=0) + 1
    while True:
        path = folder / f"rank-{rank}.{attempt}.steps"
        try:
            os.link(temporary, path)
        except FileExistsError:
            attempt += 1
        else:
            return path, attempt


def file_system(folder: Path) -> str:
    """Type of the file system a folder is on, such as tmpfs; empty when the kernel does not say."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return ""


class RecordingReader:
    """Reads one recording, of a live or a dead process, without a trace in it.

    Opening raises RecordingError; so may the other methods, when the file shrinks afterwards.
    """

    def __init__(self, path: Path) -> None:
        match = STEPS_NAME.fullmatch(path.name)
        if match is None:
            raise RecordingError(path, "corrupt", "no name of a recording")
        self.path = path
        self.rank, self.attempt = int(match[1]), int(match[2])
        self._fd = _open_for_reading(path)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        raw = os.pread(self._fd, LIVE_OFFSET, 0)
        if len(raw) < HEADER.size:
            raise self._error("truncated", f"{len(raw)} bytes are too few for a header")
        magic, mark, major, minor, live_at, live_slots, ring_at, record_size, capacity, length, crc = (
            HEADER.unpack_from(raw)
        )
        if magic != MAGIC or mark != BYTE_ORDER_MARK:
            raise self._error("corrupt", "not a recording of this machine")
        if major != VERSION[0]:
            reason = "newer_version" if major > VERSION[0] else "corrupt"
            raise self._error(reason, f"version {major}.{minor}; this reader knows {VERSION[0]}.x")
        description = raw[HEADER.size : HEADER.size + length]
        if len(description) < length:
            raise self._error("truncated", "the header is incomplete")
        if zlib.crc32(raw[: HEADER.size - 4] + bytes(4) + description) != crc:
            raise self._error("corrupt", "the header's checksum is wrong")
        try:
            content = json.loads(description)
            self.static = _static(content["static"])
            self._live_slots = _described(content["live"], LIVE_SLOTS, needed=("phase_word", "records"))
            record_fields = _described(content["record"], RECORD_FIELDS, needed=())
            self._live_struct = struct.Struct(_layout(self._live_slots))
            self._body_struct = struct.Struct(_layout(record_fields))
            self._places = _places_in_record(record_fields)
            self._of_this_boot = self.static.boot_id == boot_id()
            self._of_this_namespace = self.static.pid_namespace == pid_namespace()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as error:
            raise self._error("corrupt", f"the header's description makes no sense ({error})") from None
        self._live_offset, self._ring_offset = live_at, ring_at
        self._record_size, self.ring_capacity = record_size, capacity
        size = ring_at + record_size * capacity
        if (
            self._live_struct.size != live_slots * 8
            or record_size != self._body_struct.size + 24
            or capacity == 0
            or ring_at < live_at + live_slots * 8
            or size > MAX_FILE_BYTES
        ):
            raise self._error("corrupt", "the header contradicts itself")
        if os.fstat(self._fd).st_size < size:
            raise self._error("truncated", f"{os.fstat(self._fd).st_size} of {size} bytes are there")

    def live(self) -> Live:
        """The live block, its phases taken at one moment."""
        phase_at = 8 * _positions(self._live_slots)["phase_word"]
        for _ in range(20):
            raw = self._read(self._live_struct.size, self._live_offset)
            if self._read(8, self._live_offset + phase_at) == raw[phase_at : phase_at + 8]:
                break
        values = self._live_struct.unpack(raw)
        return Live(**_by_name(self._live_slots, values, Live._fields, unknown=None))

    def steps(self, after: int = 0, up_to: int | None = None) -> tuple[list[StepRecord], int]:
        """The step records numbered above `after` that are still there, oldest first, and the newest number.

        `up_to` is the last number wanted, where it is not the newest. A record that is being overwritten is
        left out; so are those the ring has lost.
        """
        records_at = self._live_offset + 8 * _positions(self._live_slots)["records"]
        newest = NUMBER.unpack(self._read(8, records_at))[0]
        first = max(after, newest - self.ring_capacity) + 1
        last = newest if up_to is None else min(newest, up_to)
        # Read all before any is decoded, which takes longer: the writer goes on overwriting.
        read = []
        while first <= last:
            index = (first - 1) % self.ring_capacity
            count = min(last - first + 1, self.ring_capacity - index)
            offset, length = self._ring_offset + index * self._record_size, count * self._record_size
            read.append((first, *(self._read(length, offset) for _ in range(3))))
            first += count
        return [record for part in read for record in self._decoded(*part)], newest

    def _decoded(self, first: int, trailing: bytes, body: bytes, leading: bytes) -> Iterator[StepRecord]:
        """The records of one stretch of the ring, read three times, its first with this number."""
        size = self._record_size
        for start in range(0, len(body), size):
            end = start + size
            number = NUMBER.pack(first + start // size)
            if trailing[end - 8 : end] != number or leading[start : start + 8] != number:
                continue
            content = body[start + 8 : end - 16]
            if zlib.crc32(content) != int.from_bytes(body[end - 16 : end - 12], _BYTE_ORDER):
                continue
            values: tuple[Any, ...] = (*self._body_struct.unpack(content), *_EMPTY_RECORD)
            record = StepRecord._make([values[place] for place in self._places])
            if len(record.phase_ns) != len(PHASES):
                record = record._replace(phase_ns=_fitted(record.phase_ns, len(PHASES), 0))
            yield record

    def alive(self) -> bool:
        """Whether the writing process lives: it holds the lock, in this boot, and is not known to be gone."""
        if not self._of_this_boot:
            return False
        if not _lock_is_held(self._fd):
            return False
        if not self._of_this_namespace:
            return True
        try:
            return _start_ticks(self.static.pid) == self.static.process_start_ticks
        except OSError:  # gone, or hidden from us as another user's: see hidepid in proc(5)
            return _exists(self.static.pid)

    @property
    def unlinked(self) -> bool:
        """Whether the file has lost its name while it was open."""
        return os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, length: int, offset: int) -> bytes:
        raw = os.pread(self._fd, length, offset)
        if len(raw) != length:
            raise self._error("truncated", f"{len(raw)} of {length} bytes at {offset}")
        return raw

    def _error(self, reason: str, detail: str) -> RecordingError:
        return RecordingError(self.path, reason, detail)


_BYTE_ORDER: Literal["little", "big"] = "little" if NUMBER.pack(1)[0] else "big"
_EMPTY_RECORD: tuple[Any, ...] = tuple(
    ((0,) * slot.length if slot.length > 1 else 0) if slot.code == "Q" else math.nan for slot in RECORD_FIELDS
)


_LENGTHS = {slot.name: slot.length for slot in LIVE_SLOTS}
_TYPES: dict[str, type] = {"str": str, "int": int, "Mapping[str, str]": Mapping}


def _static(described: Mapping[str, Any]) -> Static:
    """The static part out of a header. Raises ValueError or TypeError where it is not of the right kind."""
    known = {name: _TYPES[kind.__forward_arg__] for name, kind in Static.__annotations__.items()}
    static = Static(**{name: value for name, value in described.items() if name in known})
    for name, kind in known.items():
        value = getattr(static, name)
        if not isinstance(value, kind) or (isinstance(value, int) and abs(value) >= 2**63):
            raise ValueError(f"{name} is no {kind.__name__}")
    if not (NAME_PATTERN.fullmatch(static.run) and NAME_PATTERN.fullmatch(static.node)):
        raise ValueError("the run or the node has no proper name")
    if not all(isinstance(value, str) for value in static.info.values()):
        raise ValueError("info holds more than strings")
    return static


def _described(described: Any, known: Sequence[_Slot], needed: Sequence[str]) -> tuple[_Slot, ...]:
    """The slots out of a header. Raises ValueError where one that is known has changed its kind."""
    slots = tuple(_Slot(*slot) for slot in described)
    if slots == known:
        return tuple(known)  # the same for every recording
    kinds = {slot.name: (slot.code, slot.length > 1) for slot in known}
    for name, code, length in slots:
        if not isinstance(name, str) or code not in ("Q", "d") or type(length) is not int or length < 1:
            raise ValueError(f"{name} is no slot")
        if (code, length > 1) != kinds.get(name, (code, length > 1)):
            raise ValueError(f"{name} is of another kind")
    names = {slot.name for slot in slots}
    if len(names) < len(slots) or not names.issuperset(needed):
        raise ValueError("slots are missing or double")
    return slots


def _places_in_record(described: Sequence[_Slot]) -> tuple[int | slice, ...]:
    """Where each field of a StepRecord is among the values of a record followed by those of an empty one."""
    positions = _positions(described)
    lengths = {slot.name: slot.length for slot in described}
    behind = sum(lengths.values())
    places: list[int | slice] = []
    for index, slot in enumerate(RECORD_FIELDS):
        at = positions.get(slot.name)
        if at is None:
            places.append(behind + index)
        else:
            places.append(slice(at, at + lengths[slot.name]) if slot.length > 1 else at)
    return tuple(places)


def _by_name(
    slots: Sequence[_Slot], values: Sequence[float], names: Sequence[str], unknown: float | None
) -> dict[str, Any]:
    """The values by slot name, tuples of the known length where a slot is many; a NaN becomes `unknown`."""
    cleaned = [unknown if value != value else value for value in values]
    named: dict[str, Any] = {}
    position = 0
    for slot in slots:
        part = cleaned[position : position + slot.length]
        position += slot.length
        if slot.name in names:
            named[slot.name] = tuple(part) if slot.length > 1 else part[0]
            if slot.length != _LENGTHS[slot.name]:
                named[slot.name] = _fitted(part, _LENGTHS[slot.name], 0 if slot.code == "Q" else unknown)
    return named


def _fitted(values: Sequence[Any], length: int, unknown: float | None) -> tuple[Any, ...]:
    """As many values as this version knows; counts beyond go to the last, phase `other` or bucket +Inf."""
    kept = [*values[:length], *(unknown,) * (length - len(values))]
    if unknown == 0:
        kept[-1] += sum(values[length:])
    return tuple(kept)


def _open_for_reading(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise RecordingError(path, "not_permitted", str(error.strerror)) from None
    except OSError as error:
        raise RecordingError(path, "corrupt", str(error.strerror)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RecordingError(path, "corrupt", "not a regular file")
    return fd


def is_locked(path: Path) -> bool:
    """Whether anybody holds the lock of a recording, without which it is over; False if it is unreadable."""
    try:
        fd = _open_for_reading(path)
    except RecordingError:
        return False
    try:
        return _lock_is_held(fd)
    finally:
        os.close(fd)


def _lock_is_held(fd: int) -> bool:
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0] != fcntl.F_UNLCK)


def find(directory: Path) -> Iterator[Path]:
    """The `.steps` files below a recordings directory; none when it is absent or closed to us."""
    for folder in _folders(directory):
        for node_folder in _folders(folder):
            with contextlib.suppress(OSError):
                with os.scandir(node_folder) as entries:
                    found = sorted(entry.path for entry in entries if STEPS_NAME.fullmatch(entry.name))
                yield from map(_path, found)


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            found = sorted(
                entry.path
                for entry in entries
                if NAME_PATTERN.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []
    return list(map(_path, found))


@functools.lru_cache(maxsize=1 << 15)
def _path(text: str) -> Path:
    """One object for a file: that of every look is taken apart and hashed once."""
    return Path(text)


class EventReader:
    """Reads the lines of an events file as they come. A line that is no JSON object is passed over.

    `offset` is how many bytes of it were read, and may be where somebody else had come to.
    """

    def __init__(self, steps_path: Path, offset: int = 0) -> None:
        self._path = steps_path.with_suffix(".events.jsonl")
        self.offset = offset

    def new(self) -> list[dict[str, object]]:
        """The whole lines that were added since the last call; none when the file is absent."""
        try:
            fd = _open_for_reading(self._path)
        except RecordingError:
            return []
        try:
            raw = os.pread(fd, MAX_EVENTS_BYTES, self.offset)
        finally:
            os.close(fd)
        whole = raw[: raw.rfind(b"\n") + 1]
        self.offset += len(whole)
        events = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event, dict):
                    events.append(event)
        return events
