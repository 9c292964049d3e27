"""What goes wrong with runs: with their lives, losses, pace and memory, and with their checkpoints.

Each has a run of its own, whose name is that of its alert, so that none is held back for another.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from alerts import checkpoint, lifecycle, loss, memory, throughput
from exporters import catalog
from trainvitals.child import Child
from trainvitals.drill.condition import Condition, Drill
from trainvitals.drill.trainer import CHECKPOINT_FILE, Fault
from trainvitals.node import Node

_NODE = "trainings"
_GPU_NODE = "trainings-on-a-gpu"
# How long a run does well before something goes wrong with it: so long that there is a usual to differ from.
_HEALTHY_SECONDS = 25
_RANKS = 4

_Provoke = Callable[[Drill], Mapping[str, str]]


def run_of(alert: str) -> str:
    """The name of the run with which this alert is drilled: drill-training-run-killed."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", alert)
    return "-".join(["drill", *(word.lower() for word in words)])


def _node(drill: Drill) -> Node:
    return drill.node(_NODE)


def _trains(alert: str, *arguments: str, **labels: str) -> _Provoke:
    """A training of one rank, which brings what goes wrong with it along."""

    def provoke(drill: Drill) -> Mapping[str, str]:
        run = run_of(alert)
        drill.train(_node(drill), run, *arguments)
        return {"run": run, **labels}

    return provoke


def _breaks(alert: str, fault: Fault, after_seconds: float, *arguments: str, **labels: str) -> _Provoke:
    return _trains(alert, "--fault", fault, "--after", f"{after_seconds:g}", *arguments, **labels)


def _is_signalled(alert: str, number: signal.Signals) -> _Provoke:
    """A training that gets a signal once Prometheus has seen steps of it."""

    def provoke(drill: Drill) -> Mapping[str, str]:
        run = run_of(alert)
        training = drill.train(_node(drill), run)
        drill.until(
            lambda: drill.seen(f'{catalog.TRAINING_STEPS_TOTAL}{{run="{run}"}} > 0'),
            lambda: training.process.send_signal(number),
        )
        return {"run": run}

    return provoke


def _lacks_a_rank(drill: Drill) -> Mapping[str, str]:
    run = run_of(lifecycle.TRAINING_RANK_MISSING)
    for rank in range(_RANKS - 1):
        drill.train(_node(drill), run, "--fault", Fault.hang, rank=rank, world_size=_RANKS)
    return {"run": run}


def _fails_again_and_again(drill: Drill) -> Mapping[str, str]:
    """As a launcher does it: once an attempt has ended the next one is started.

    Each lasts so long that no two starts count as one.
    """
    run = run_of(lifecycle.TRAINING_RESTART_LOOP)
    left = drill.thresholds.restart_loop_restarts
    lasts_seconds = lifecycle.START_ROUNDED_SECONDS + 1

    def start() -> Child:
        return drill.train(_node(drill), run, "--fault", Fault.exception, "--after", f"{lasts_seconds}")

    def again(ended: Child) -> None:
        nonlocal left
        if left:
            left -= 1
            attempt = start()
            drill.until(lambda: not attempt.running, lambda: again(attempt))

    first = start()
    drill.until(lambda: not first.running, lambda: again(first))
    return {"run": run}


def _has_a_straggler(drill: Drill) -> Mapping[str, str]:
    run = run_of(throughput.TRAINING_STRAGGLER_RANK)
    slow = _RANKS - 1
    for rank in range(_RANKS):
        fault = ("--fault", Fault.straggle) if rank == slow else ()
        drill.train(_node(drill), run, *fault, rank=rank, world_size=_RANKS)
    return {"run": run, "rank": str(slow)}


def _freezes_in_a_step(drill: Drill) -> Mapping[str, str]:
    """Once it is known how long its steps take; and again, for a step is overdue only until the run stalls.

    Not after a fixed time: where a busy machine held up one of the first steps, none would be overdue before
    the run stalls.
    """
    alert, limits = throughput.TRAINING_STEP_OVERDUE, drill.thresholds
    run = run_of(alert)
    training = drill.train(_node(drill), run)
    age = f'{throughput.PROGRESS_AGE}{{run="{run}"}}'
    overdue_after = f"{limits.overdue_steps_ratio:g} * {throughput.STEP_P99}"
    leaves_seconds = limits.stall_seconds - limits.overdue_for_seconds - 2
    goes_well = f"{age} < 2 and on (cluster, run) {overdue_after} < {leaves_seconds:g}"

    def freeze() -> None:
        training.process.send_signal(signal.SIGSTOP)
        drill.until(lambda: drill.seen(f"{age} > {limits.stall_seconds:g}"), then=go_on)

    def go_on() -> None:
        training.process.send_signal(signal.SIGCONT)
        drill.until(lambda: drill.seen(goes_well), then=freeze)

    go_on()
    return {"run": run}


def _leaks(drill: Drill) -> Mapping[str, str]:
    run = run_of(memory.TRAINING_OOM_PREDICTED)
    node = drill.node(_GPU_NODE, "1", cluster=_GPU_NODE)  # other nodes simulate GPUs of the same uuid
    drill.train(node, run, module="trainvitals.drill.leaking")
    return {"run": run}


def _checkpoints(alert: str, *arguments: str) -> _Provoke:
    """A training that writes checkpoints, one a second where the arguments do not tell otherwise."""

    def provoke(drill: Drill) -> Mapping[str, str]:
        run = run_of(alert)
        drill.train(_node(drill), run, "--checkpoints", str(_folder(drill, run)), *arguments)
        return {"run": run}

    return provoke


def _has_no_room(drill: Drill) -> Mapping[str, str]:
    run = run_of(checkpoint.TRAINING_CHECKPOINT_FAILED)
    folder = _folder(drill, run)
    (folder / CHECKPOINT_FILE).symlink_to("/dev/full")
    drill.train(_node(drill), run, "--checkpoints", str(folder))
    return {"run": run}


def _folder(drill: Drill, run: str) -> Path:
    folder = drill.folder / run
    folder.mkdir()
    return folder


CONDITIONS = (
    Condition(
        lifecycle.TRAINING_STALLED,
        "a training is frozen by SIGSTOP",
        _is_signalled(lifecycle.TRAINING_STALLED, signal.SIGSTOP),
    ),
    Condition(
        lifecycle.TRAINING_RUN_KILLED,
        "a training is killed by SIGKILL",
        _is_signalled(lifecycle.TRAINING_RUN_KILLED, signal.SIGKILL),
    ),
    Condition(
        lifecycle.TRAINING_RUN_FAILED,
        "a training ends with an exception",
        _breaks(lifecycle.TRAINING_RUN_FAILED, Fault.exception, 5),
    ),
    Condition(
        lifecycle.TRAINING_RANK_MISSING,
        f"of a training of {_RANKS} ranks one never starts, and the others wait for it in their first step",
        _lacks_a_rank,
    ),
    Condition(
        lifecycle.TRAINING_RESTART_LOOP,
        "a training fails after some steps, and again whenever it is started anew",
        _fails_again_and_again,
    ),
    Condition(
        loss.TRAINING_LOSS_NON_FINITE,
        "a label is NaN, and with it the loss",
        _breaks(loss.TRAINING_LOSS_NON_FINITE, Fault.nan_label, 5, what="loss"),
    ),
    Condition(
        loss.TRAINING_LOSS_SPIKE,
        "now and then the data become others than the weights have learned, and the loss jumps",
        _breaks(loss.TRAINING_LOSS_SPIKE, Fault.other_labels, _HEALTHY_SECONDS),
    ),
    Condition(
        loss.TRAINING_LOSS_DIVERGING,
        "the learning rate becomes too high, and the loss rises",
        _breaks(loss.TRAINING_LOSS_DIVERGING, Fault.too_high_learning_rate, _HEALTHY_SECONDS),
    ),
    Condition(
        loss.TRAINING_LOSS_PLATEAU,
        "a training learns next to nothing, so low is its learning rate",
        _breaks(loss.TRAINING_LOSS_PLATEAU, Fault.too_low_learning_rate, 0),
    ),
    Condition(
        loss.TRAINING_GRAD_NORM_EXPLOSION,
        "now and then the data become a thousand times as large, and the gradients with them",
        _breaks(loss.TRAINING_GRAD_NORM_EXPLOSION, Fault.other_labels, _HEALTHY_SECONDS),
    ),
    Condition(
        loss.TRAINING_LEARNING_RATE_ZERO,
        "the learning rate becomes 0",
        _breaks(loss.TRAINING_LEARNING_RATE_ZERO, Fault.no_learning_rate, 5),
    ),
    Condition(
        loss.TRAINING_EVAL_REGRESSED,
        "a training learns what its validation data contradict",
        _trains(loss.TRAINING_EVAL_REGRESSED, "--evaluate-every", "1"),
    ),
    Condition(
        loss.TRAINING_OPTIMIZER_STEPS_SKIPPED,
        "every other optimizer step is left out",
        _breaks(loss.TRAINING_OPTIMIZER_STEPS_SKIPPED, Fault.overflow, 0),
    ),
    Condition(
        throughput.TRAINING_THROUGHPUT_REGRESSED,
        "now and then the steps of a training take three times as long for a while",
        _breaks(throughput.TRAINING_THROUGHPUT_REGRESSED, Fault.slow, _HEALTHY_SECONDS),
    ),
    Condition(
        throughput.TRAINING_DATA_LOADER_BOUND,
        "a training waits for its batches longer than it computes",
        _breaks(throughput.TRAINING_DATA_LOADER_BOUND, Fault.slow_data, 0),
    ),
    Condition(
        throughput.TRAINING_STRAGGLER_RANK,
        f"one of {_RANKS} ranks takes twice as long for its forward passes",
        _has_a_straggler,
    ),
    Condition(
        throughput.TRAINING_STEP_OVERDUE,
        "a training is frozen by SIGSTOP in one of its steps, again and again",
        _freezes_in_a_step,
    ),
    Condition(
        throughput.TRAINING_DEADLINE_AT_RISK,
        "a training has a minute for the steps of a day",
        _trains(throughput.TRAINING_DEADLINE_AT_RISK, "--expected-steps", "1000000", "--deadline", "60"),
    ),
    Condition(
        memory.TRAINING_OUT_OF_MEMORY,
        "a training allocates more memory than it may have, and goes on with less",
        _breaks(memory.TRAINING_OUT_OF_MEMORY, Fault.out_of_memory, 5),
    ),
    Condition(
        memory.TRAINING_OOM_PREDICTED,
        "the allocator of a training on a simulated GPU holds more and more of its memory",
        _leaks,
    ),
    Condition(
        checkpoint.TRAINING_CHECKPOINT_STALE,
        "a training stops writing checkpoints",
        _checkpoints(
            checkpoint.TRAINING_CHECKPOINT_STALE, "--fault", Fault.no_more_checkpoints, "--after", "8"
        ),
    ),
    Condition(
        checkpoint.TRAINING_CHECKPOINT_FAILED,
        "a checkpoint goes to a device that is full",
        _has_no_room,
    ),
    Condition(
        checkpoint.TRAINING_CHECKPOINT_SLOW,
        "a checkpoint takes longer than the training between two",
        _checkpoints(checkpoint.TRAINING_CHECKPOINT_SLOW, "--checkpoint-seconds", "2"),
    ),
    # A sparse file, for nobody's volume is to be filled. One checkpoint, with seconds to spare until no more
    # are written: by a second one it would be known how much of the room they really take.
    Condition(
        checkpoint.TRAINING_CHECKPOINT_VOLUME_FILLING,
        "the first checkpoint is larger than what is left of its volume, though a sparse file",
        _checkpoints(
            checkpoint.TRAINING_CHECKPOINT_VOLUME_FILLING,
            *("--too-large-checkpoints", "--checkpoint-every", "10"),
            *("--fault", Fault.no_more_checkpoints, "--after", "19"),
        ),
    ),
)
