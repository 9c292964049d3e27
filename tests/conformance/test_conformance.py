"""Every adapter tells the same of the same training, and it is true."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.reference import Totals, by_hand
from tests.marks import quick
from tests.trainer_hooks.processes import ROOT, environment
from tests.trainer_hooks.recorded import Recorded, recorded
from trainer_hooks.recording import FINISHED

TRAINERS = ("lightning", "transformers", "trl", "accelerate", "fabric", "plain", "watch", "unchanged")
reference = functools.cache(by_hand)

SHIFT_FORGOTTEN = """
from trainer_hooks import batches
batches.count_tokens = batches.count_tokens_unshifted
from tests.conformance.trainers import TRAINERS
TRAINERS["{}"]()
"""


def train(trainer: str, world_size: int, directory: Path, *, broken: str = "") -> list[Recorded]:
    """The recordings of its ranks, after the trainer has ended well; `broken` is run in its place."""
    python = [sys.executable]
    if trainer == "unchanged":
        python = [sys.executable, "-m", "trainer_hooks", "run", *python]
    if world_size > 1:
        python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    done = subprocess.run(
        [*python, *(["-c", broken] if broken else ["-m", "tests.conformance.trainers", trainer])],
        cwd=ROOT,
        env=environment(TRAINVITALS_DIR=str(directory), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return recorded(directory)


def check(ranks: list[Recorded], expected: Totals) -> None:
    """Counts of each rank, tokens and losses of all together. Raises AssertionError where they differ."""
    for rank in ranks:
        live = rank.live
        assert (live.steps, live.batches, live.samples) == expected[:3]
        assert live.step == expected.steps
        assert (live.outcome, live.hook_errors, live.hook_dropped) == (FINISHED, 0, 0)
    assert sum(rank.live.tokens_all for rank in ranks) == expected.tokens
    assert sum(rank.live.tokens_trained for rank in ranks) == expected.trained_tokens
    assert sum(rank.live.loss_tokens for rank in ranks) == expected.trained_tokens
    assert sum(rank.live.loss_token_sum for rank in ranks) == pytest.approx(expected.loss_token_sum, rel=1e-5)


@pytest.mark.parametrize("trainer", quick("plain", "lightning", "transformers", of=TRAINERS))
def test_a_single_process_tells_what_was_computed_by_hand(trainer: str, tmp_path: Path) -> None:
    (rank,) = train(trainer, 1, tmp_path)
    check([rank], reference(1))
    kinds = {rank.static.info.get("loss_kind"), *(each.get("loss_kind") for each in rank.of("info"))}
    assert "cross_entropy" in kinds


@pytest.mark.long
@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_ranks_together_tell_what_was_computed_by_hand(trainer: str, tmp_path: Path) -> None:
    ranks = train(trainer, 2, tmp_path)
    assert [(each.static.rank, each.static.world_size) for each in ranks] == [(0, 2), (1, 2)]
    assert len({each.static.run for each in ranks}) == 1
    check(ranks, reference(2))


@pytest.mark.long
@pytest.mark.parametrize("trainer", ["lightning", "transformers", "trl"])
def test_an_adapter_that_forgets_the_shift_of_the_labels_is_found_out(trainer: str, tmp_path: Path) -> None:
    (rank,) = train(trainer, 1, tmp_path, broken=SHIFT_FORGOTTEN.format(trainer))
    with pytest.raises(AssertionError):
        check([rank], reference(1))
    assert rank.live.tokens_trained > reference(1).trained_tokens
