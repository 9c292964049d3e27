"""A real training for the pictures: characters of Python's own sources, data-parallel on CPU.

torchrun --nproc-per-node 2 -m tests.page.training RUN --hidden 128 --steps 600
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from trainer_hooks.monitor import Monitor

SEQUENCE, SEQUENCES = 64, 32
EVALUATE_EVERY, CHECKPOINT_EVERY = 50, 200


class Characters(nn.Module):
    """A recurrent language model over bytes."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 32)
        self.recurrent = nn.GRU(32, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(self.embedding(tokens))
        logits: torch.Tensor = self.head(states)
        return logits


def text() -> torch.Tensor:
    sources = sorted(Path(json.__file__).parent.parent.glob("*.py"))[:60]
    return torch.tensor(list(b"".join(path.read_bytes() for path in sources)))


def batch(tokens: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(tokens) - SEQUENCE - 1, (SEQUENCES,), generator=generator)
    windows = tokens[starts[:, None] + torch.arange(SEQUENCE + 1)]
    return windows[:, :-1], windows[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--fail-at", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    torch.manual_seed(0)
    info = {
        "model": f"GRU {options.hidden}",
        "dataset": "Python's sources",
        "framework": f"torch {torch.__version__}",
    }
    with (
        Monitor(run=options.run, loss_kind="cross_entropy", info=info) as monitor,
        tempfile.TemporaryDirectory() as folder,
    ):
        monitor.expect(steps=options.steps)
        model = DistributedDataParallel(Characters(options.hidden))
        optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1, step / 40) * (1 + math.cos(math.pi * step / options.steps)) / 2
        )
        tokens, generator = text(), torch.Generator().manual_seed(rank)
        split = len(tokens) * 9 // 10
        for step in range(1, options.steps + 1):
            with monitor.step():
                with monitor.phase("data"):
                    inputs, labels = batch(tokens[:split], generator)
                with monitor.phase("forward"):
                    loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
                with monitor.phase("backward"):
                    loss.backward()  # type: ignore[no-untyped-call]
                with monitor.phase("optimizer"):
                    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                monitor.log(learning_rate=schedule.get_last_lr()[0], gradient_norm=norm)
                monitor.batch(
                    loss=loss.detach(),
                    samples=SEQUENCES,
                    tokens=labels.numel(),
                    trained_tokens=labels.numel(),
                )
            if step % EVALUATE_EVERY == 0:
                with monitor.phase("evaluation"), torch.no_grad():
                    inputs, labels = batch(tokens[split:], torch.Generator().manual_seed(1))
                    validation = nn.functional.cross_entropy(
                        model.module(inputs).flatten(0, 1), labels.flatten()
                    )
                    monitor.evaluated(loss=validation, tokens=labels.numel())
            if step % CHECKPOINT_EVERY == 0 and rank == 0:
                with monitor.checkpoint(path := Path(folder) / "model.pt"):
                    torch.save(model.module.state_dict(), path)
            if step == options.fail_at:
                raise FloatingPointError("the gradient norm is not finite")
    del model  # first: else it ends the group under the GIL, for which a thread of the group may wait
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
