"""What happens in the fleet: scenes of three hours, each with nodes and trainings of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf

from trainvitals.scenarios.fleet import Fleet
from trainvitals.scenarios.gpus import Fault
from trainvitals.scenarios.training import Plan

HOURS = 3.0
_MINUTE = 60.0

_OF_ALL = {
    "framework": "lightning",
    "precision": "bf16-mixed",
    "loss_kind": "cross_entropy",
    "git_sha": "4f1c2ab",
}

PRETRAINING = Plan(
    run="atlas-pretrain-7b",
    info={**_OF_ALL, "model": "atlas-7b", "dataset": "webtext-v3", "config_hash": "c02f"},
    steps=40_000,
    step_seconds=9.0,
    init_seconds=180,
    tokens_a_step=81_920,
    loss=(7.5, 2.6),
    loss_steps=380,
    learning_rates=(3e-4, 3e-4),
    evaluate_every=250,
    evaluation_seconds=75,
    checkpoint_every=130,
    checkpoint_seconds=150,
    checkpoint_gib=84,
    epochs=1,
    slow_rank=6,
    slow_from=4000,
    scalars=("train/router_entropy",),
    stages=((1, "warmup-2k"), (420, "context-8k")),
)
FINE_TUNING = Plan(
    run="wayfarer-lora",
    info={**_OF_ALL, "model": "wayfarer-13b", "dataset": "instructions-en", "adapter": "lora"},
    steps=4_800,
    step_seconds=3.2,
    loss=(2.6, 1.15),
    loss_steps=700,
    learning_rates=(2e-5, 1e-4),
    parameters=6e9,
    scalars=("reward/margin", "train/z_loss", "grad/lora_a"),
    stages=((1, "sft"), (1800, "long-context")),
)
COMPARED = Plan(
    run="tiny-chat-lr1e-4",
    info={**_OF_ALL, "model": "tiny-chat-1b", "dataset": "chitchat"},
    steps=3_200,
    step_seconds=2.5,
    init_seconds=30,
    tokens_a_step=131_072,
    loss=(4.2, 2.05),
    loss_steps=500,
    learning_rates=(1e-4,),
    evaluate_every=250,
    evaluation_seconds=15,
    checkpoint_every=400,
    checkpoint_seconds=5,
    checkpoint_gib=2.4,
    parameters=1.1e9,
    reserved_gib=31,
)
RESTARTED = Plan(
    run="harvest-sft",
    info={**_OF_ALL, "model": "harvest-8b", "dataset": "harvest-dialogues"},
    steps=7_000,
    step_seconds=3.6,
    loss=(2.9, 1.3),
    loss_steps=1100,
    parameters=7e9,
    overfits=0.09,
    scalars=("train/z_loss", "reward/margin"),
)
KILLED = Plan(
    run="lantern-dpo",
    info={**_OF_ALL, "model": "lantern-8b", "dataset": "preferences-v2", "loss_kind": "dpo"},
    steps=6_200,
    step_seconds=4.0,
    loss=(0.69, 0.31),
    loss_noise=0.04,
    loss_steps=700,
    parameters=6.5e9,
    leak_gib=5.5,
)
STALLED = Plan(
    run="quarry-embeddings",
    info={**_OF_ALL, "model": "quarry-encoder", "dataset": "pairs-2025"},
    steps=9_000,
    step_seconds=3.0,
    loss=(3.4, 1.0),
    loss_steps=1000,
    parameters=5e9,
    data_share=0.26,
)
FAILED = Plan(
    run="kestrel-classifier",
    info={**_OF_ALL, "model": "kestrel-600m", "dataset": "tickets", "precision": "fp16-mixed"},
    steps=7_000,
    step_seconds=2.0,
    loss=(1.9, 0.6),
    loss_steps=1400,
    tokens_a_step=131_072,
    parameters=0.6e9,
    reserved_gib=69,
    loss_scale=65_536.0,
)
LONG = Plan(
    run="meridian-reranker",
    info={**_OF_ALL, "model": "meridian-110m", "dataset": "queries", "precision": "32-true"},
    steps=9_000,
    step_seconds=16.0,
    tokens_a_step=8_192,
    loss=(2.4, 0.9),
    loss_steps=1800,
    learning_rates=(5e-5,),
    evaluate_every=200,
    evaluation_seconds=120,
    checkpoint_every=110,
    checkpoint_seconds=20,
    checkpoint_gib=36,
    epochs=4,
    parameters=0.11e9,
    on_gpus=False,
)


def eight_ranks(fleet: Fleet) -> None:
    """Eight ranks over two nodes, of which rank 6 is slow from the second hour on."""
    slow = fleet.start + 75 * _MINUTE
    others, slowest = Fault(slow, "2:straggler"), Fault(slow, "straggler")
    one = fleet.node("node-a", gpus=4, faults=dict.fromkeys(range(4), (others,)))
    two = fleet.node("node-b", gpus=4, faults=dict.fromkeys(range(4), (others,)) | {2: (slowest,)})
    places = [(node, gpu) for node in (one, two) for gpu in range(4)]
    fleet.at(fleet.start + 4 * _MINUTE, lambda: fleet.begins(PRETRAINING, *places))


def healthy(fleet: Fleet) -> None:
    """Two ranks that train from the first minutes to the end, with a deadline that they meet."""
    node = fleet.node("node-c", gpus=2)
    plan = replace(FINE_TUNING, deadline=fleet.start + 5.2 * 3600)
    fleet.at(fleet.start + 6 * _MINUTE, lambda: fleet.begins(plan, (node, 0), (node, 1)))


def compared(fleet: Fleet) -> None:
    """Two runs of one model that differ by their learning rate; the first is over before the end."""
    node = fleet.node(
        "node-d", gpus=2, faults={1: (Fault(fleet.start + 100 * _MINUTE, "row-remap-pending"),)}
    )
    other = replace(
        COMPARED, run="tiny-chat-lr3e-4", learning_rates=(3e-4,), loss=(4.2, 1.9), loss_steps=340, steps=5_400
    )
    fleet.at(fleet.start + 9 * _MINUTE, lambda: fleet.begins(COMPARED, (node, 0)))
    fleet.at(fleet.start + 10 * _MINUTE, lambda: fleet.begins(other, (node, 1)))


def restarted(fleet: Fleet) -> None:
    """Killed, and taken up again from its checkpoint; later one of its GPUs becomes too hot."""
    narrow, hot = (
        Fault(fleet.start + 20 * _MINUTE, "pcie-degraded"),
        Fault(fleet.start + 125 * _MINUTE, "overheat"),
    )
    node = fleet.node("node-e", gpus=2, faults={0: (narrow,), 1: (hot,)})
    places = [(node, gpu) for gpu in range(2)]
    killed = fleet.start + 82 * _MINUTE
    plan = replace(RESTARTED, deadline=fleet.start + 6 * 3600)  # which it will not meet

    def begin() -> None:
        first = fleet.begins(plan, *places)
        fleet.at(fleet.start + 55 * _MINUTE, partial(first.counts, "checkpoints_failed", 1))
        fleet.at(killed, first.is_killed)
        fleet.at(
            killed + 3 * _MINUTE,
            lambda: fleet.begins(plan, *places, from_step=first.checkpoint_step),
        )

    fleet.at(fleet.start + 5 * _MINUTE, begin)


def killed(fleet: Fleet) -> None:
    """Its GPU falls off the bus, and nobody starts it again."""
    lost = fleet.start + 147 * _MINUTE
    node = fleet.node("node-f", gpus=2, faults={1: (Fault(lost, "xid79"),)})

    def begin() -> None:
        attempt = fleet.begins(KILLED, (node, 0), (node, 1))
        fleet.at(lost + 90, attempt.is_killed)

    fleet.at(fleet.start + 12 * _MINUTE, begin)


def stalled(fleet: Fleet) -> None:
    """It waits long for its data, and then for ever in a collective; one driver does not tell everything."""
    node = fleet.node("node-g", gpus=2, faults={1: (Fault(fleet.start, "withheld"),)})

    def begin() -> None:
        attempt = fleet.begins(STALLED, (node, 0), (node, 1))
        fleet.at(fleet.start + 140 * _MINUTE, attempt.stalls)

    fleet.at(fleet.start + 7 * _MINUTE, begin)


def failed(fleet: Fleet) -> None:
    """It fails, out of memory, beside a GPU that counts an error of its memory."""
    begin = fleet.start
    node = fleet.node(
        "node-h",
        gpus=2,
        faults={0: (Fault(begin + 139 * _MINUTE, "xid31"),), 1: (Fault(begin + 90 * _MINUTE, "ecc"),)},
    )

    def begins() -> None:
        attempt = fleet.begins(FAILED, (node, 0))
        for minute, slot, value in (
            (60, "steps_skipped", 2),
            (88, "steps_skipped", 4),
            (118, "nonfinite_gradient", 1),
            (140, "ooms", 1),
        ):
            fleet.at(begin + minute * _MINUTE, partial(attempt.counts, slot, value))
        fails = partial(attempt.fails, "OutOfMemoryError", "kestrel/train.py:212")
        fleet.at(begin + 141 * _MINUTE, fails)

    fleet.at(begin + 8 * _MINUTE, begins)


def other_cluster(fleet: Fleet) -> None:
    """A GPU in instances with a driver that tells little, a service that dies, a run named like another's."""
    node = fleet.node(
        "node-i", gpus=1, mig=frozenset({0}), faults={0: (Fault(fleet.start, "withheld"),)}, cluster="west"
    )

    def service_dies() -> None:
        node.service_is_up = False

    fleet.at(fleet.start + 160 * _MINUTE, service_dies)
    twin = replace(FAILED, step_seconds=15.0, loss_steps=200, evaluate_every=40, checkpoint_every=60)
    beside = fleet.node("node-k", gpus=1, cluster="west")
    fleet.at(fleet.start + 95 * _MINUTE, lambda: fleet.begins(twin, (beside, 0)))


def long_run(fleet: Fleet) -> None:
    """On no GPU; it has trained since the day before, and fills its volume."""
    node = fleet.node("node-j", gpus=0, since=-inf)
    fleet.at(fleet.clock.now + 60, lambda: fleet.begins(LONG, (node, 0)))


def ten_minutes(fleet: Fleet) -> None:
    """For tests: one run goes well, and one is killed at the third minute."""
    node = fleet.node("node-a", gpus=1)
    well = replace(FINE_TUNING, init_seconds=20, evaluate_every=40, checkpoint_every=60)
    doomed = replace(KILLED, init_seconds=20)

    def begin() -> None:
        fleet.begins(well, (node, 0))
        attempt = fleet.begins(doomed, (node, 0))
        fleet.at(fleet.start + 180, attempt.is_killed)

    fleet.at(fleet.start + 15, begin)


LONG_RUN_SECONDS = 26 * 3600.0
SCENES: Mapping[str, Callable[[Fleet], None]] = {
    scene.__name__: scene
    for scene in (
        # Every second one goes to the same process: eight ranks take as long as five other scenes.
        *(healthy, eight_ranks, compared, failed, restarted, long_run, killed, other_cluster, stalled),
        ten_minutes,
    )
}
WHOLE_STORY = tuple(name for name in SCENES if name != ten_minutes.__name__)
