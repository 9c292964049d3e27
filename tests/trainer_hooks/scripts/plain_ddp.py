"""A training script as people write them, for one process or for torchrun; it knows nothing of trainvitals.

torchrun --nproc-per-node 2 plain_ddp.py [--epochs N] [--folder PATH]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

VOCABULARY = 16


class Output:
    def __init__(self, loss: torch.Tensor, logits: torch.Tensor) -> None:
        self.loss = loss
        self.logits = logits


class CausalModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.mixing = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Output:
        hidden, _ = self.mixing(self.embedding(input_ids))
        logits = self.head(hidden)
        shifted = logits[:, :-1].reshape(-1, VOCABULARY)
        return Output(nn.functional.cross_entropy(shifted, labels[:, 1:].reshape(-1)), logits)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--name", default="mine")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        dist.init_process_group("gloo")
    training: Any = torch.randint(1, VOCABULARY, (24, 6))
    validation: Any = torch.randint(1, VOCABULARY, (6, 6))
    model: Any = CausalModel()
    if distributed:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    sampler: Any = DistributedSampler(training, seed=1) if distributed else None
    loader = DataLoader(training, batch_size=4, shuffle=sampler is None, sampler=sampler)
    print(f"{options.name}: training", flush=True)
    for _ in range(options.epochs):
        model.train()
        for batch in loader:
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            for batch in DataLoader(validation, batch_size=3):
                model(input_ids=batch, labels=batch)
    if not distributed or dist.get_rank() == 0:
        torch.save(model.state_dict(), options.folder / "model.pt")
    if distributed:
        del model  # first: else it ends the group under the GIL, for which a thread of the group may wait
        dist.destroy_process_group()
    print(f"{options.name}: loss {loss.item():.6f}")


if __name__ == "__main__":
    main()
