"""What befalls a trainer, done to real processes."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.trainer_hooks import processes
from tests.trainer_hooks.processes import ended, own_mounts, running, said, wait_until
from tests.trainer_hooks.writer import COUNTER, intact
from trainer_hooks import recording
from trainer_hooks.recording import PHASE_MASK, RING_CAPACITY, EventReader, Live, RecordingReader, StepRecord

KINDS = ["mapped", "unmapped", "monitor"]
LEAST_STEPS_PER_SECOND = 2_000

TRAINER = """
    import json, os, sys, time
    from trainer_hooks.monitor import Monitor

    def say(**words):
        print(json.dumps(words), flush=True)

    monitor = Monitor(run="run", directory=sys.argv[1])
    with monitor.step():
        monitor.batch(loss=1.0, samples=4)
"""


def reader_of(directory: Path, run: str = "run") -> RecordingReader:
    (path,) = (directory / run).glob("*/rank-0.1.steps")
    return RecordingReader(path)


class Kill(NamedTuple):
    steps: int
    lived_seconds: float
    polls: int
    until_dead_seconds: float


class Poll(NamedTuple):
    """What a reader saw at one moment, and the newest record it had seen before.

    `overwritten` is the newest record that the ring may have lost by the end of the look.
    """

    alive: bool
    live: Live
    now_ns: int
    found: list[StepRecord]
    newest: int
    before: int
    overwritten: int


def kill_a_writer_while_reading(folder: Path, kind: str, rate: float, lives_seconds: float) -> Kill:
    """Let a writer live for this time under a reader of 1 kHz, kill it, and check all that was ever read.

    It lives longer where it has not had the core for the steps that it is to make in that time.
    """
    counter = folder / "counter"
    counter.write_bytes(bytes(COUNTER.size))
    arguments = [sys.executable, "-m", "tests.trainer_hooks.writer", folder, counter, kind, rate]
    with processes.started([str(argument) for argument in arguments]) as process:
        wait_until(lambda: completed(counter)[0] > 0)
        reader = reader_of(folder, "written")
        began = completed(counter)[1] / 1e9
        polls: list[Poll] = []
        newest = 0
        to_make = LEAST_STEPS_PER_SECOND * lives_seconds
        while (polled := time.monotonic()) < began + lives_seconds or completed(counter)[0] < to_make:
            assert polled < began + 60, f"{completed(counter)[0]} of {to_make} steps in a minute"
            alive, live, now_ns, before = reader.alive(), reader.live(), time.monotonic_ns(), newest
            found, newest = reader.steps(before)
            overwritten = reader.live().records + 1 - RING_CAPACITY
            polls.append(Poll(alive, live, now_ns, found, newest, before, overwritten))
            time.sleep(max(0.0, polled + 0.001 - time.monotonic()))
        lived = time.monotonic() - began
        until_dead = kill(process, reader)
        process.wait()
    assert not reader.alive()
    check_polls(polls, reader.static.start_monotonic_ns, kind)
    check_end(reader, completed(counter)[0], kind)
    reader.close()
    shutil.rmtree(folder / "written")
    return Kill(completed(counter)[0], lived, len(polls), until_dead)


def completed(counter: Path) -> tuple[int, int]:
    steps, first_ns = COUNTER.unpack(counter.read_bytes())
    return steps, first_ns


def check_polls(polls: list[Poll], start_ns: int, kind: str) -> None:
    assert all(poll.alive for poll in polls), "a living writer passed for dead"
    totals = [poll.live.steps for poll in polls]
    assert totals == sorted(totals), "a total went back"
    for poll in polls:
        assert all(intact(record, kind) for record in poll.found), "a torn record was accepted"
        numbers = [record.step for record in poll.found]
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= set(range(poll.before + 1, poll.newest + 1))
        kept = range(max(poll.before, poll.overwritten) + 1, poll.newest + 1)
        assert set(kept) <= set(numbers), "a step is missing"
        phases = poll.live.phase_seconds(start_ns, poll.now_ns)
        assert sum(phases.values()) == pytest.approx((poll.now_ns - start_ns) / 1e9, abs=1e-6)


def check_end(reader: RecordingReader, steps: int, kind: str) -> None:
    """Check what a writer has left that had completed this many steps."""
    live, (found, newest) = reader.live(), reader.steps()
    assert steps <= live.steps <= steps + 1, "completed steps were lost"
    assert steps <= newest <= steps + 1
    assert live.outcome == recording.RUNNING
    assert all(intact(record, kind) for record in found)
    # The one step that was being written may have cost the oldest in the ring.
    assert len(found) >= min(newest, RING_CAPACITY) - 1
    assert [record.step for record in found] == list(range(newest - len(found) + 1, newest + 1))


def kill_writers(folder: Path, kind: str, times: int) -> None:
    """Kill writers of 4,000 steps a second, under which the reader keeps up, and such that know no rest."""
    moments = random.Random(times)
    for rate in (4_000.0, math.inf):
        kills = [
            kill_a_writer_while_reading(folder, kind, rate, moments.uniform(0.05, 0.25))
            for _ in range(times // 2)
        ]
        lived = sum(kill.lived_seconds for kill in kills)
        reached, reads = sum(kill.steps for kill in kills) / lived, sum(kill.polls for kill in kills) / lived
        until_dead = [kill.until_dead_seconds for kill in kills]
        print(
            f"{kind}: {len(kills)} kills at {reached:.0f} steps/s under {reads:.0f} reads/s; "
            f"dead after {statistics.median(until_dead) * 1e3:.1f} ms, at most {max(until_dead) * 1e3:.1f} ms"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_killed_at_any_moment_loses_no_complete_step_and_shows_no_torn_one(
    tmp_path: Path, kind: str
) -> None:
    kill_writers(tmp_path, kind, 4)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_holds_for_a_hundred_kills(tmp_path: Path, kind: str) -> None:
    kill_writers(tmp_path, kind, 100)


def test_a_killed_trainer_is_dead_at_once_though_its_workers_and_a_subprocess_live_on(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    trainer = (
        TRAINER
        + """
    import multiprocessing, subprocess

    def recording_here(queue):
        queue.put(monitor.recording or Monitor(run="spawned", directory=sys.argv[1]).recording)

    class Numbers:
        def __len__(self):
            return 4
        def __getitem__(self, index):
            if not hasattr(self, "monitor"):
                self.monitor = Monitor(run="worker", directory=sys.argv[1])
            return os.getpid(), monitor.recording or self.monitor.recording

    if __name__ == "__main__":
        from torch.utils.data import DataLoader
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        spawned = context.Process(target=recording_here, args=(queue,))
        spawned.start()
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "close_fds": False}
        sleeper = subprocess.Popen(["sleep", "60"], **quiet)
        loader = DataLoader(
            Numbers(), num_workers=2, persistent_workers=True, multiprocessing_context="fork"
        )
        samples = [(int(pid), bool(records)) for _ in range(2) for pid, records in loader]
        say(
            recording=monitor.recording,
            spawned_records=queue.get(),
            workers=sorted({pid for pid, _ in samples}),
            workers_record=any(records for _, records in samples),
            sleeper=sleeper.pid,
        )
        sys.stdin.readline()
    """
    )
    with running(trainer, tmp_path, tmp_path) as process:
        words = said(process)
        children = [*words["workers"], words["sleeper"]]
        try:
            for worker in words["workers"]:
                os.kill(worker, signal.SIGSTOP)  # or it ends by itself: every 5 s it looks for its parent
            assert words["recording"]
            assert len(words["workers"]) == 2
            assert not words["workers_record"]
            assert not words["spawned_records"]
            assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]
            reader = reader_of(tmp_path)
            assert reader.alive()

            print(f"dead after {kill(process, reader) * 1e3:.1f} ms")

            assert all(recording.process_start_ticks(child) for child in children)
        finally:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    reader.close()


def kill(process: subprocess.Popen[str], reader: RecordingReader) -> float:
    """Kill the process, which the reader knows at once; the seconds until then. It is left as a zombie."""
    process.kill()
    killed = time.monotonic()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - killed
    assert not reader.alive(), "a dead process passes for alive"
    return seconds


FORKS_IN_C = (
    TRAINER
    + """
    import ctypes
    libc = ctypes.PyDLL(None)
    child = libc.fork()
    if child == 0:
        libc.sleep(60)
        libc._exit(0)
    say(child=child)
    sys.stdin.readline()
"""
)


def test_a_killed_trainer_is_dead_though_a_child_that_c_code_forked_holds_its_lock(tmp_path: Path) -> None:
    with running(FORKS_IN_C, tmp_path, tmp_path) as process:
        child = said(process)["child"]
        reader = reader_of(tmp_path)
        assert reader.alive()
        try:
            kill(process, reader)
            process.wait()
            assert not reader.alive()
            assert holds_lock(reader.path)
        finally:
            os.kill(child, signal.SIGKILL)
    wait_until(lambda: not holds_lock(reader.path))
    assert not reader.alive()
    reader.close()


def holds_lock(path: Path) -> bool:
    """Whether the kernel lists a lock of an open file description on the file."""
    inode = path.stat().st_ino
    locks = Path("/proc/locks").read_text().splitlines()
    return any("OFDLCK" in line and line.split()[5].endswith(f":{inode}") for line in locks)


def test_where_proc_hides_other_users_a_living_trainer_is_alive_and_a_killed_one_dead(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to read as another user from a /proc that hides this one's processes")
    watcher = """
    import json, os, signal, subprocess, sys
    from pathlib import Path
    from trainer_hooks.recording import RecordingReader

    directory, trainer = sys.argv[1:]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory], check=True)
    os.chdir(directory)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, trainer, directory], **pipes)
    holder = json.loads(process.stdout.readline())["child"]
    (path,) = Path().glob("run/*/rank-0.1.steps")
    for each in (path, path.parent, path.parent.parent):
        os.chown(each, -1, 65534)

    def as_another_user():
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            hidden = not Path(f"/proc/{process.pid}").exists()
            os._exit(10 + 2 * hidden + RecordingReader(path).alive())
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    seen = [as_another_user()]
    subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
    seen.append(as_another_user())
    process.kill()
    process.wait()
    seen.append(as_another_user())
    os.kill(holder, signal.SIGKILL)
    print(json.dumps(seen))
    """
    trainer_folder, directory = tmp_path / "trainer", tmp_path / "recordings"
    trainer_folder.mkdir()
    directory.mkdir()
    trainer = processes.command(FORKS_IN_C, trainer_folder)[-1]

    found, _ = ended(watcher, tmp_path, directory, trainer, prefix=own_mounts())

    visible_alive, hidden_alive, hidden_dead = 11, 13, 12
    assert found == [visible_alive, hidden_alive, hidden_dead]


def test_life_and_death_are_seen_from_outside_the_trainers_pid_namespace(tmp_path: Path) -> None:
    namespace = [*own_mounts(), "--pid", "--fork", "--kill-child"]
    trainer = TRAINER + "    say(pid=os.getpid())\n    sys.stdin.readline()\n"
    with running(trainer, tmp_path, tmp_path, prefix=namespace) as process:
        assert said(process) == {"pid": 1}
        reader = reader_of(tmp_path)
        assert reader.static.pid == 1
        assert reader.alive()

        process.kill()  # unshare, at whose death the kernel kills the trainer
        wait_until(lambda: not reader.alive())
    reader.close()


def test_a_stopped_trainer_is_alive_and_tells_its_phase_and_since_when(tmp_path: Path) -> None:
    trainer = TRAINER + "    monitor.enter(1)\n    say(ready=True)\n    sys.stdin.readline()\n"
    before = time.monotonic_ns()
    with running(trainer, tmp_path, tmp_path) as process:
        said(process)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: b"\nState:\tT" in Path(f"/proc/{process.pid}/status").read_bytes())
        reader = reader_of(tmp_path)
        after = time.monotonic_ns()

        assert reader.alive()
        live = reader.live()
        assert live.phase == "data"
        assert before < live.phase_word & ~PHASE_MASK < after
        assert (live.steps, live.samples) == (1, 4)
        assert [record.loss for record in reader.steps()[0]] == [1.0]
        kill(process, reader)
    reader.close()


def test_a_trainer_whose_interpreter_is_blocked_by_c_code_is_alive_and_readable(tmp_path: Path) -> None:
    trainer = (
        TRAINER
        + """
    import ctypes, threading
    ticks = open(sys.argv[2], "wb", buffering=0)

    def tick():
        while True:
            ticks.write(b".")
            time.sleep(0.001)

    threading.Thread(target=tick, daemon=True).start()
    with monitor.phase("checkpoint"):
        ctypes.PyDLL(None).system(b"echo true; read line")
    """
    )
    ticks = tmp_path / "ticks"
    with running(trainer, tmp_path, tmp_path, ticks) as process:
        assert said(process) is True  # by the shell that the C code waits for
        reader = reader_of(tmp_path)
        assert stands_still(ticks)
        for _ in range(50):
            assert reader.alive()
            assert reader.live().phase == "checkpoint"
            assert len(reader.steps()[0]) == 1
        assert stands_still(ticks)
        kill(process, reader)
    reader.close()


def stands_still(path: Path) -> bool:
    size = path.stat().st_size
    time.sleep(0.1)
    return path.stat().st_size <= size + 1  # one byte may have been on its way


TRAINS_ON = """
    import errno, json, os, subprocess, sys
    from pathlib import Path
    from trainer_hooks.monitor import Monitor
    from trainer_hooks.recording import EventReader, RecordingReader, find

    directory = Path(sys.argv[1])

    def train(monitor, steps):
        for step in range(steps):
            with monitor.step():
                monitor.batch(loss=1.0, samples=4)

    def lay_a_file_system(*options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", directory], check=True)
"""


def test_a_full_file_system_costs_one_warning_and_the_trainer_goes_on(tmp_path: Path) -> None:
    trainer = (
        TRAINS_ON
        + """
    lay_a_file_system("size=2m")
    monitor = Monitor(run="run", directory=directory)
    train(monitor, 100)
    monitor.finish()
    left = [str(path) for path in directory.rglob("*") if path.is_file()]
    print(json.dumps({"recording": monitor.recording, "left": left}))
    """
    )

    words, warnings = ended(trainer, tmp_path, tmp_path, prefix=own_mounts())

    assert words == {"recording": False, "left": []}
    assert one_warning(warnings, "No space left on device")


def one_warning(text: str, of: str) -> bool:
    lines = text.splitlines()
    return len(lines) == 1 and lines[0].startswith("telemetry is off for this run") and of in lines[0]


def test_a_file_system_that_fills_up_costs_events_which_are_counted_and_no_steps(tmp_path: Path) -> None:
    trainer = (
        TRAINS_ON
        + """
    lay_a_file_system("size=8m")
    monitor = Monitor(run="run", directory=directory)
    train(monitor, 100)
    filling = os.open(directory / "filling", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filling, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    for number in range(200):
        train(monitor, 10)
        monitor.event("full", number=number)
    (directory / "filling").unlink()
    os.close(filling)
    monitor.event("room", number=0)
    monitor.finish()

    (path,) = find(directory)
    reader = RecordingReader(path)
    live, (records, newest) = reader.live(), reader.steps()
    events = EventReader(path).new()
    lines = path.with_suffix(".events.jsonl").read_text().splitlines()
    print(json.dumps({
        "steps": live.steps, "records": len(records), "outcome": live.outcome, "dropped": live.hook_dropped,
        "lines": len(lines), "kinds": [event["event"] for event in events],
        "numbers": [event["number"] for event in events if event["event"] == "full"],
    }))
    """
    )

    words, warnings = ended(trainer, tmp_path, tmp_path, prefix=own_mounts())

    assert (words["steps"], words["records"], words["outcome"]) == (2100, 2100, recording.FINISHED)
    assert 0 < words["dropped"] < 200
    assert words["kinds"][0] == "start"
    assert words["kinds"][-2:] == ["room", "finish"]
    assert words["numbers"] == list(range(200 - words["dropped"]))
    assert words["lines"] == len(words["kinds"]) == len(words["numbers"]) + 3
    assert len(warnings.splitlines()) <= 1


def test_a_directory_that_is_removed_under_a_trainer_costs_nothing_but_the_recording(tmp_path: Path) -> None:
    trainer = (
        TRAINS_ON
        + """
    monitor = Monitor(run="run", directory=directory / "recordings")
    train(monitor, 10)
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    train(monitor, 10)
    monitor.event("late")
    print(json.dumps(monitor.recording), flush=True)
    sys.stdin.readline()
    monitor.finish()
    again = Monitor(run="run", directory=directory / "recordings")
    train(again, 5)
    again.finish()
    print(json.dumps("done"), flush=True)
    """
    )
    directory = tmp_path / "recordings"
    with running(trainer, tmp_path, tmp_path) as process:
        assert process.stdin is not None
        assert said(process) == "ready"
        reader = reader_of(directory)
        shutil.rmtree(directory)
        print(file=process.stdin, flush=True)
        assert said(process) is True
        assert reader.unlinked
        assert reader.alive()
        assert reader.live().steps == len(reader.steps()[0]) == 20
        print(file=process.stdin, flush=True)
        assert said(process) == "done"
        assert process.wait() == 0
    assert (reader.live().outcome, reader.alive()) == (recording.FINISHED, False)
    reader.close()
    with contextlib.closing(reader_of(directory)) as again:
        assert again.live().steps == 5


def test_a_directory_that_may_not_be_written_costs_one_warning(tmp_path: Path) -> None:
    trainer = (
        TRAINS_ON
        + """
    if os.getuid() == 0:  # whom permission bits do not bind
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    monitor = Monitor(run="run", directory=directory)
    train(monitor, 100)
    monitor.finish()
    print(json.dumps(monitor.recording))
    """
    )
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        found, warnings = ended(trainer, tmp_path, directory)
        assert list(Path(directory).iterdir()) == []

    assert found is False
    assert one_warning(warnings, "Permission denied")


def test_a_read_only_file_system_costs_one_warning(tmp_path: Path) -> None:
    trainer = (
        TRAINS_ON
        + """
    lay_a_file_system("ro")
    monitor = Monitor(run="run", directory=directory)
    train(monitor, 100)
    print(json.dumps(monitor.recording))
    """
    )

    found, warnings = ended(trainer, tmp_path, tmp_path, prefix=own_mounts())

    assert found is False
    assert one_warning(warnings, "Read-only file system")


def test_ranks_and_attempts_that_start_at_once_each_have_a_file_of_their_own(tmp_path: Path) -> None:
    opener = """
    import json, os, sys, time
    from pathlib import Path
    from trainer_hooks import recording

    def static(rank):
        return recording.this_process(
            run="run", node="node", rank=rank, local_rank=0, world_size=2, info={"opener": sys.argv[2]}
        )

    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    opened = [
        recording.Recorder(Path(sys.argv[1]), static(rank), ring_capacity=4)
        for _ in range(15) for rank in (0, 1)
    ]
    print(json.dumps([recorder.path.name for recorder in opened]), flush=True)
    sys.stdin.readline()
    """
    directory = tmp_path / "recordings"
    with contextlib.ExitStack() as stack:
        openers = [stack.enter_context(running(opener, tmp_path, directory, number)) for number in range(4)]
        for process in openers:
            said(process)
        for process in openers:
            print(file=process.stdin, flush=True)
        opened = [said(process) for process in openers]

        paths = list(recording.find(directory))
        names = {path.name: path for path in paths}
        assert len(paths) == 4 * 15 * 2
        assert set(names) == {f"rank-{rank}.{attempt}.steps" for rank in (0, 1) for attempt in range(1, 61)}
        for number, (process, mine) in enumerate(zip(openers, opened, strict=True)):
            assert len(set(mine)) == 30
            for name in mine:
                with contextlib.closing(RecordingReader(names[name])) as reader:
                    assert reader.static.pid == process.pid
                    assert reader.static.info == {"opener": str(number)}
                    assert reader.alive()
    assert not list(directory.rglob(".*"))


def test_a_killed_run_resumes_as_its_next_attempt_and_the_first_stays_as_it_was(tmp_path: Path) -> None:
    trainer = TRAINER + "    monitor.resume(7)\n    say(ready=True)\n    sys.stdin.readline()\n"
    contents = []
    for attempt in (1, 2):
        with running(trainer, tmp_path, tmp_path) as process:
            said(process)
            (path,) = tmp_path.glob(f"run/*/rank-0.{attempt}.steps")
            with contextlib.closing(RecordingReader(path)) as reader:
                assert reader.attempt == attempt
                kill(process, reader)
                assert reader.live().resumed_from_step == 7
            contents.append(path.read_bytes())
    (first,) = tmp_path.glob("run/*/rank-0.1.steps")
    assert first.read_bytes() == contents[0]
    assert [event["event"] for event in EventReader(first).new()] == ["start", "resume"]
