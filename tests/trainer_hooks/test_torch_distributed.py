"""Two ranks of a plain loop, sharded and replicated: each records its own share, without a collective."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import environment
from tests.trainer_hooks.recorded import recorded

TWO_RANKS = """
import json, os, sys
from pathlib import Path
import torch
from torch import distributed, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from trainer_hooks.monitor import Monitor

folder = Path(sys.argv[1])
distributed.init_process_group("gloo")
rank = distributed.get_rank()

def train(model, optimizer, steps, clip):
    losses = []
    for step in range(steps):
        loss = model(torch.full((2 + rank, 4), float(rank + step))).square().mean()
        loss.backward()
        if clip:
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert hasattr(norm, "full_tensor")
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses

def sharded(monitor):
    model = fully_shard(nn.Linear(4, 2), mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    if monitor is not None:
        monitor.watch(model, optimizer)
    return train(model, optimizer, 3, clip=True)

def replicated(monitor):
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if monitor is not None:
        monitor.watch(model, optimizer)
    with Join([model]):
        return train(model, optimizer, 3 + rank, clip=False)

said = {}
for how in (sharded, replicated):
    os.environ["TRAINVITALS_DIR"] = str(folder / how.__name__)
    torch.manual_seed(0)
    with Monitor() as monitor:
        said[how.__name__] = how(monitor)
    torch.manual_seed(0)
    assert how(None) == said[how.__name__]
(folder / f"{rank}.json").write_text(json.dumps(said))
distributed.destroy_process_group()
# The mesh keeps gloo's threads: one that lets go of a tensor while Python ends aborts it, hook or not.
os._exit(0)
"""


@pytest.mark.long
def test_sharded_and_replicated_models_are_recorded_by_each_rank(tmp_path: Path) -> None:
    """One rank has a step more than the other. The norm of sharded gradients would take a collective."""
    script = tmp_path / "two_ranks.py"
    script.write_text(textwrap.dedent(TWO_RANKS))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path)],
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for how in ("sharded", "replicated"):
        ranks = recorded(tmp_path / how)
        assert [seen.static.rank for seen in ranks] == [0, 1]
        for seen in ranks:
            rank = seen.static.rank
            losses = json.loads((tmp_path / f"{rank}.json").read_text())[how]
            assert seen.live.hook_errors == 0
            assert (seen.live.steps, seen.live.batches) == (len(losses), len(losses))
            assert seen.live.samples == len(losses) * (2 + rank)
            assert [record.loss for record in seen.steps] == losses
            assert seen.live.gradient_norm is None
            assert seen.live.hook_dropped == (3 if how == "sharded" else 0)
