from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.deaths import Death, Witness, witness
from exporters.recordings import RecordingsCollector
from tests.exporters.looks import Clocks, Look
from tests.exporters.trainers import Trainer
from trainer_hooks.recording import this_process


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that waits to be told to end."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"], stdin=-1
    ) as it:
        yield it
        it.kill()


def is_zombie(pid: int) -> bool:
    return (Path("/proc") / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"


def until_zombie(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not is_zombie(pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_of_the_living_nothing_is_known(process: subprocess.Popen[bytes]) -> None:
    beside = Witness(process.pid)

    assert beside.death() is None
    beside.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_known_before_the_parent_has_asked(
    process: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    beside = Witness(process.pid)

    process.send_signal(number)
    until_zombie(process.pid)

    assert beside.death() == Death(signal=number)
    assert Death(signal=number).signal_name == number.name
    beside.close()


def test_an_exit_status_is_known(process: subprocess.Popen[bytes]) -> None:
    beside = Witness(process.pid)

    process.communicate(b"1234567")

    # Asked of the pidfd, where the kernel tells (since 6.15): the parent has fetched the status.
    assert beside.death() in (Death(exit_status=7), None)
    beside.close()


def test_who_was_killed_when_its_control_group_ran_out_of_memory_is_known(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    proc = tmp_path / "proc" / str(process.pid)
    group = tmp_path / "sys/fs/cgroup/job"
    proc.mkdir(parents=True)
    group.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/job\n")
    (proc / "stat").symlink_to(f"/proc/{process.pid}/stat")
    events = group / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 0\noom 2\noom_kill 2\noom_group_kill 0\n")
    beside = Witness(process.pid, root=tmp_path)
    beside.look()

    events.write_text("low 0\nhigh 0\nmax 0\noom 3\noom_kill 3\noom_group_kill 0\n")
    process.kill()
    until_zombie(process.pid)

    assert beside.death() == Death(signal=signal.SIGKILL, out_of_memory=True)
    beside.close()


@pytest.mark.parametrize(
    ("cgroup", "path", "text"),
    [
        ("0::/job\n", "sys/fs/cgroup/job/memory.events", "oom_kill {}\n"),
        (
            "12:memory:/job\n0::/\n",
            "sys/fs/cgroup/memory/job/memory.oom_control",
            "under_oom 0\noom_kill {}\n",
        ),
        ("0::/gone\n", "proc/vmstat", "pgfault 7\noom_kill {}\n"),
    ],
)
def test_the_kernel_counts_what_it_kills_in_several_places(
    process: subprocess.Popen[bytes], tmp_path: Path, cgroup: str, path: str, text: str
) -> None:
    proc = tmp_path / "proc" / str(process.pid)
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    (proc / "stat").symlink_to(f"/proc/{process.pid}/stat")
    counter = tmp_path / path
    counter.parent.mkdir(parents=True, exist_ok=True)
    counter.write_text(text.format(5))
    beside = Witness(process.pid, root=tmp_path)

    counter.write_text(text.format(6))
    process.kill()
    until_zombie(process.pid)

    death = beside.death()
    assert death is not None
    assert death.out_of_memory
    beside.close()


class OutOfMemory:
    """The count of processes that the kernel has killed, and a clock."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        proc = root / "proc" / str(process.pid)
        proc.mkdir(parents=True)
        (proc / "stat").symlink_to(f"/proc/{process.pid}/stat")
        self._counter = root / "proc" / "vmstat"
        self.count(1)
        self.now = 100.0
        self.beside = Witness(process.pid, root=root, clock=lambda: self.now)

    def count(self, kills: int) -> None:
        self._counter.write_text(f"oom_kill {kills}\n")

    def look(self, seconds: int) -> None:
        """Once a second."""
        for _ in range(seconds):
            self.now += 1
            self.beside.look()


def test_who_was_ended_by_hand_while_others_had_died_of_memory_did_not(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    memory = OutOfMemory(tmp_path, process)
    memory.count(2)
    memory.look(20)

    process.kill()
    until_zombie(process.pid)

    assert memory.beside.death() == Death(signal=signal.SIGKILL)
    memory.beside.close()


def test_a_large_process_that_is_seen_alive_after_the_kernel_has_killed_it_died_of_memory(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    memory = OutOfMemory(tmp_path, process)
    memory.look(100)
    memory.count(2)
    memory.look(5)

    process.kill()
    until_zombie(process.pid)

    assert memory.beside.death() == Death(signal=signal.SIGKILL, out_of_memory=True)
    memory.beside.close()


def test_there_is_no_witness_of_a_process_that_is_another_by_now() -> None:
    static = this_process(run="a", node="here", rank=0, local_rank=0, world_size=1, info={})
    same = witness(static)
    assert same is not None
    same.close()

    assert witness(static._replace(process_start_ticks=static.process_start_ticks + 1)) is None
    assert witness(static._replace(pid_namespace=1)) is None
    assert witness(static._replace(pid=2**22)) is None


def test_descriptors_are_given_back(tmp_path: Path, collector: RecordingsCollector, look: Look) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with Trainer(tmp_path, "a-run") as trainer:
            look()
            trainer.kill()
        look()

    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_run_that_is_killed_says_by_which_signal(
    tmp_path: Path, collector: RecordingsCollector, look: Look, clocks: Clocks
) -> None:
    with Trainer(tmp_path, "a-run") as trainer:
        trainer.do("steps(3)")
        look()
        os.kill(trainer.pid, signal.SIGKILL)
        until_zombie(trainer.pid)
        look()
        look()

        (run,) = collector.runs

    assert (run.state, run.reason) == ("killed", "SIGKILL")


def test_an_exception_is_told_by_type_and_place_and_its_message_only_where_that_was_asked_for(
    tmp_path: Path, collector: RecordingsCollector, look: Look
) -> None:
    with Trainer(tmp_path, "a-run") as trainer:
        trainer.end("with monitor: raise RuntimeError('of a person')")
    look()

    (run,) = collector.runs

    assert run.state == "failed"
    assert run.failure is not None
    assert (run.failure.type, run.failure.message) == ("RuntimeError", None)
    assert "of a person" not in repr(run)
