"""Processes that a training starts leave its one recording alone, however they were started."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.trainer_hooks.processes import ended
from tests.trainer_hooks.recorded import only
from trainer_hooks.recording import FINISHED

OPENS = """
import json, os, sys, time
from trainer_hooks.monitor import Monitor

monitor = Monitor(run="run", directory=sys.argv[1])

def trains(steps, samples):
    for _ in range(steps):
        with monitor.step():
            monitor.batch(loss=float(samples), samples=samples)

def says_all(samples):
    trains(5, samples)
    monitor.log(other=9.0)
    monitor.event("child")
    monitor.evaluated(loss=9.0)
    monitor.resume(99)
    with monitor.checkpoint():
        pass
    monitor.fail(ValueError())
"""


def the_parents_own(script: str, folder: Path) -> tuple[Any, str]:
    """Run a script that trains 6 steps around its children; what it said and what went to stderr."""
    directory = folder / "recordings"
    words, errors = ended(textwrap.dedent(OPENS) + textwrap.dedent(script), folder, directory)
    seen = only(directory)
    assert (seen.live.steps, seen.live.samples, seen.live.step) == (6, 12, 6)
    assert [record.loss for record in seen.steps] == [2.0] * 6
    assert (seen.live.validation_loss, seen.live.checkpoints_ok, seen.live.hook_errors) == (None, 0, 0)
    assert [event["event"] for event in seen.events] == ["start", "finish"]
    assert (seen.live.outcome, seen.alive) == (FINISHED, False)
    return words, errors


def test_children_and_grandchildren_forked_in_the_middle_of_a_step_are_silent(tmp_path: Path) -> None:
    script = """
    trains(2, 2)
    with monitor.step():
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            says_all(9)
            if grandchild == 0:
                sys.exit(7)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        monitor.batch(loss=2.0, samples=2)
    trains(3, 2)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    """
    assert the_parents_own(script, tmp_path)[0] == 7


def test_a_child_that_c_code_forked_ends_neither_the_recording_nor_its_events(tmp_path: Path) -> None:
    script = """
    import ctypes
    trains(3, 2)
    libc = ctypes.PyDLL(None)
    silent = libc.fork()
    if silent == 0:
        libc._exit(5)
    talkative = libc.fork()
    if talkative == 0:
        monitor.event("child")
        says_all(9)
        sys.exit(7)
    leaving = libc.fork()
    if leaving == 0:
        sys.exit(8)  # runs what is registered for the exit
    ends = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in (silent, talkative, leaving)]
    trains(3, 2)
    print(json.dumps(ends))
    """
    assert the_parents_own(script, tmp_path)[0] == [5, 7, 8]


def test_programs_that_a_training_runs_are_not_its_recording(tmp_path: Path) -> None:
    script = """
    import signal, subprocess
    trains(3, 2)
    spawned = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], os.environ)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(spawned, 0)[1])]
    statuses.append(subprocess.run(["sh", "-c", "exit 4"], close_fds=False).returncode)
    statuses.append(subprocess.run(["sh", "-c", "exit 5"], preexec_fn=lambda: says_all(9)).returncode)
    statuses.append(os.waitstatus_to_exitcode(os.system("exit 6")))
    trains(3, 2)
    print(json.dumps(statuses))
    """
    assert the_parents_own(script, tmp_path)[0] == [3, 4, 5, 6]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_that_a_child_runs_once_more_records_once(tmp_path: Path, method: str) -> None:
    script = f"""
    import multiprocessing
    trains(3, 2)

    def work(queue):
        queue.put([monitor.recording, Monitor(run="another", directory=sys.argv[1]).recording])
        says_all(9)

    if __name__ == "__main__":
        context = multiprocessing.get_context("{method}")
        queue = context.SimpleQueue()
        children = [context.Process(target=work, args=(queue,)) for _ in range(2)]
        for child in children:
            child.start()
        records = [queue.get() for _ in children]
        for child in children:
            child.join()
        trains(3, 2)
        print(json.dumps([records, [child.exitcode for child in children]]))
    """
    assert the_parents_own(script, tmp_path)[0] == [[[False, False]] * 2, [0, 0]]


def test_an_unguarded_spawn_fails_in_the_child_as_ever_and_the_training_goes_on(tmp_path: Path) -> None:
    script = """
    import multiprocessing
    trains(3, 2)
    child = multiprocessing.get_context("spawn").Process(target=print, args=("child",))
    child.start()
    child.join()
    trains(3, 2)
    print(json.dumps(child.exitcode))
    """
    words, errors = the_parents_own(script, tmp_path)
    assert words == 1
    assert "before the" in errors  # Python's own advice to guard the script
    assert "telemetry" not in errors


@pytest.mark.parametrize(
    "kinds",
    [("fork",), pytest.param(("forkserver", "spawn", "fork"), marks=pytest.mark.long)],
)
def test_workers_of_a_loader_are_silent_and_their_ends_end_nothing(
    tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    pytest.importorskip("torch")
    script = f"""
    kinds = {kinds}
    import torch
    from torch.utils.data import DataLoader

    class Numbers:
        def __len__(self):
            return 4
        def __getitem__(self, index):
            says_all(9)
            return int(monitor.recording), int(Monitor(run="w", directory=sys.argv[1]).recording)

    if __name__ == "__main__":
        records = []
        trains(3 - len(kinds), 2)
        for kind in kinds:
            loader = DataLoader(Numbers(), batch_size=2, num_workers=2, multiprocessing_context=kind)
            batches = iter(loader)
            records += [int(number) for each in next(batches) for number in each]
            del batches, loader  # the workers end
            with monitor.step():
                monitor.batch(loss=2.0, samples=2)
        trains(3, 2)
        print(json.dumps(records))
    """
    assert the_parents_own(script, tmp_path)[0] == [0] * 4 * len(kinds)
