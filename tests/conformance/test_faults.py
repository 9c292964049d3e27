"""The hook never harms a training: a fault in each of its internal calls in turn, under every adapter.

`faults` compiles the hook with a point in front of every call it makes, and lets each raise, at its first
call or at all of them. The training then computes, says and leaves behind exactly what it does without the
hook; the fault is counted in the recording or told in one line of the log; and a training that ended never
passes for a killed one. So it is with a second fault in whatever deals with the first.

Where each thing that can befall a training is put to the test:

    an exception in any call of the hook        here; `faults.EXEMPT` names what is left out, and why
    MemoryError, OSError, RecursionError in it  here (long)
    a value or batch the hook cannot read       test_monitor, test_lightning, test_torch_loop, test_readback
    a full, read-only or missing directory
        before the training                     test_recording_faults, test_monitor
        in the middle of it, mapped or not      test_training_surroundings, test_recording_faults
    the end: exit statuses, exceptions,
        signals, lack of memory, a lost rank    test_training_ends; kill -9: test_recording_faults
    forks, spawns, workers, C-level forks       test_training_processes; their locks: test_recording_faults
    hostile files beside a recording            test_training_surroundings
        read as one                             test_recording_refusals, exporters/test_recordings,
                                                exporters/test_hostile_recordings
    what stays behind in the process            test_training_traces
    random state, results with the hook         here, for each of tiny_trainers, before any fault
        `the_hook_changes_nothing_…` in         test_lightning, test_transformers, test_accelerate,
                                                test_fabric, test_torch_loop
        under other names in                    test_stable_baselines3, test_tee (what is logged),
                                                test_torch_process and test_run (an unchanged script)
        TRL's, whose Trainer is Hugging Face's  here (long)
    waiting for a device, CUDA graphs           test_readback
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.conformance.exempt import EXEMPT, EXEMPT_IN, PASSED_THROUGH, UNTOLD_IN
from tests.marks import quick
from tests.trainer_hooks.processes import ROOT, environment

HOOK = ROOT / "trainer_hooks"

# In the quick run, each trainer is put to the calls of the files it is the first to pass through; those of
# one line share a process. In the long run each is put to the calls of all files.
CORE = (
    "arrivals.py",
    "contexts.py",
    "device.py",
    "directory.py",
    "exceptions.py",
    "identity.py",
    "launchers.py",
    "monitor.py",
    "readback.py",
    "recording.py",
    "totals.py",
)
WATCH = (
    "batches.py",
    "flops.py",
    "torch_calls.py",
    "torch_hooks.py",
    "torch_loop.py",
    "torch_steps.py",
    "torch_window.py",
)
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "plain torch": {
        "plain": CORE,
        "plain_failing": ("exceptions.py", "monitor.py"),
        "watch": WATCH,
        "unchanged": ("automatic.py", "imports.py", "torch_process.py", "wrapping.py"),
    },
    "Lightning": {
        "lightning": ("lightning.py", "lightning_fit.py", "lightning_metrics.py", "options.py"),
        "lightning_unchanged": ("automatic.py", "entry_points.py"),
        "fabric": ("fabric.py", "fabric_training.py"),
    },
    "Hugging Face": {
        "accelerate": ("accelerate.py",),
        "transformers": (
            "transformers.py",
            "transformers_loss.py",
            "transformers_training.py",
        ),
    },
    "others": {
        "stable_baselines3": ("stable_baselines3.py",),
        "tee": ("names.py", "tee.py"),
    },
}
LONG = (
    ("plain", "plain_failing", "plain_without_an_end", "watch", "watch_failing", "unchanged"),
    ("lightning", "lightning_failing", "lightning_unchanged", "fabric"),
    ("accelerate", "transformers", "transformers_failing", "trl"),
    ("stable_baselines3", "stable_baselines3_failing", "tee"),
)
# A few of those that must be among what was made to fail: else nothing was.
KNOWN = {
    "plain": ("Totals._apply_step", "Recorder.event", "posix.posix_fallocate", "Recorder._create"),
    "plain_failing": ("Monitor._checkpoint_done", "Monitor.exception"),
    "watch": ("torch_window.Window.record", "torch_calls.Root.read", "torch_hooks.Hooks.watch_model"),
    "unchanged": (
        *("torch_process._RootHook._tell", "torch_process.Functions.put", "automatic._open_monitor"),
    ),
    "accelerate": ("TelemetryTracker._follow", "TelemetryTracker._log"),
    "lightning": ("FitTelemetry._open", "FitTelemetry._log", "lightning_fit._expected"),
    "lightning_unchanged": ("entry_points.wanted",),
    "fabric": ("FabricTelemetry.set_up", "FabricTelemetry._begin"),
    "transformers": (
        *("TrainerLoss", "TrainerLoss.read", "TelemetryCallback._open", "Training.begin"),
        *("Training.end_step", "transformers._reason", "Training._evaluated"),
    ),
    "stable_baselines3": ("TelemetryCallback.tell", "TelemetryCallback._count_step"),
    "tee": ("Tee._opened", "Tee._tell", "Tee._take_over", "Names._decide"),
}


def faults_in(mode: str, errors: str, trainers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """For each trainer the `Findings` of these faults in its files; fails where there is one."""
    asked = [f"{trainer}:{','.join(files)}" for trainer, files in trainers.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance.faults", mode, errors, *asked],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for trainer, findings in found.items():
        print(f"{trainer}: {findings['trainings']} trainings, {len(findings['points'])} calls")
        for kind in ("harmed", "lasting", "silent", "noisy", "unfinished"):
            assert not findings[kind], f"{trainer} {kind}:\n" + "\n".join(findings[kind])
    return found


@pytest.mark.parametrize("trainers", quick("plain torch", of=FILES))
def test_no_fault_of_the_hook_reaches_a_training(trainers: str) -> None:
    for trainer, findings in faults_in("every", "RuntimeError", FILES[trainers]).items():
        called = {callee for _, callee in findings["points"] + findings["second"]}
        for known in KNOWN[trainer]:
            assert any(callee.endswith(known) for callee in called), f"{trainer}: {known} was not called"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trainers", LONG, ids=lambda trainers: trainers[0])
def test_no_fault_of_any_kind_in_any_file_reaches_a_training(trainers: tuple[str, ...]) -> None:
    faults_in("every", "MemoryError", dict.fromkeys(trainers, ()))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("error", ["OSError", "RecursionError"])
def test_no_fault_that_comes_once_reaches_a_training(error: str) -> None:
    faults_in("first", error, FILES["plain torch"])


def test_what_is_left_out_of_the_search_exists() -> None:
    for callee in set[str]().union(*EXEMPT.values()):
        if callee.startswith("trainer_hooks."):
            assert callee.split(".<locals>")[0].split(".")[-1] in _defined(_file_of(callee)), callee
    for file, name in UNTOLD_IN.union(*EXEMPT_IN.values()):
        assert name.split(".")[-1] in _defined(file), (file, name)
    for file, name in PASSED_THROUGH:
        assert name in _called(file), (file, name)


def _file_of(callee: str) -> str:
    return f"{callee.split('.')[1]}.py"


def _defined(file: str) -> set[str]:
    return {
        each.name
        for each in ast.walk(ast.parse((HOOK / file).read_text()))
        if isinstance(each, (ast.FunctionDef, ast.ClassDef))
    }


def _called(file: str) -> set[str]:
    calls = [
        each.func for each in ast.walk(ast.parse((HOOK / file).read_text())) if isinstance(each, ast.Call)
    ]
    return {getattr(each, "id", getattr(each, "attr", "")) for each in calls}


def test_a_hook_that_would_let_a_fault_through_is_found_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNGUARDED],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    harmed = json.loads(done.stdout.splitlines()[-1])["harmed"]
    assert harmed
    assert all("Monitor.unguarded" in each for each in harmed)


UNGUARDED = """
import json
from dataclasses import asdict
from tests.conformance import faults
machine = faults.Faults()
machine.install()
from tests.conformance.tiny_trainers import clear, left, training_of
from trainer_hooks.monitor import Monitor

Monitor.unguarded = lambda self: None

def careless(training, hooked):
    if hooked:
        with Monitor(run="careless") as monitor:
            machine._point(POINT, monitor.unguarded)()

machine.places.append("monitor.py:1 careless")
POINT = len(machine.places) - 1
search = faults.Search(machine, training_of(careless), left, clear)
Monitor.unguarded.__qualname__ = "Monitor.unguarded"
print(json.dumps(asdict(search.run([RuntimeError], True, ["monitor.py"]))))
"""
