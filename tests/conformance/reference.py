"""The training that every adapter is put to, and what it comes to, computed by hand.

Eleven micro-batches an epoch, two of them a step, the last of the epoch alone in its step; sequences of
unequal length, the first part of most without a label. The learning rate is 0: trainers weigh the
micro-batches of a step differently and take the samples in an order of their own, and both must change
nothing here.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

IGNORED = -100
PADDING = 0
VOCABULARY = 32
BATCH = 2
ACCUMULATION = 2
EPOCHS = 2
ROWS = {1: 22, 2: 24}  # by world size; of two ranks each takes as many
LEARNING_RATE = 0.0


class Row(NamedTuple):
    """Token ids; those of the completion have a label, those of the prompt, which may be empty, none."""

    prompt: list[int]
    completion: list[int]


class Totals(NamedTuple):
    """What a recording must say at the end; counts of one rank are those of every rank."""

    steps: int
    batches: int
    samples: int
    tokens: int
    trained_tokens: int
    loss_token_sum: float


def rows(world_size: int) -> list[Row]:
    return [
        Row(
            [1 + (7 * at + 3 * place) % (VOCABULARY - 1) for place in range(at % 4)],
            [1 + (5 * at + 11 * place) % (VOCABULARY - 1) for place in range(2 + at * 5 % 9)],
        )
        for at in range(ROWS[world_size])
    ]


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=PADDING,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def collate(batch: list[Row]) -> dict[str, torch.Tensor]:
    """Padded to the longest of the batch, as `input_ids`, `attention_mask` and `labels`."""
    longest = max(len(row.prompt) + len(row.completion) for row in batch)

    def padded(lists: list[list[int]], filling: int) -> torch.Tensor:
        return torch.tensor([each + [filling] * (longest - len(each)) for each in lists])

    return {
        "input_ids": padded([row.prompt + row.completion for row in batch], PADDING),
        "attention_mask": padded([[1] * (len(row.prompt) + len(row.completion)) for row in batch], 0),
        "labels": padded([[IGNORED] * len(row.prompt) + row.completion for row in batch], IGNORED),
    }


def by_hand(world_size: int) -> Totals:
    """Row by row without padding, batches, masks or the model's own loss.

    The counts of a rank, but tokens and losses of all ranks together: who gets which row is the trainer's.
    """
    network: Any = model()
    network.eval()
    tokens = trained_tokens = 0
    loss_token_sum = 0.0
    for row in rows(world_size):
        ids = row.prompt + row.completion
        with torch.no_grad():
            probabilities = network(torch.tensor([ids])).logits[0].double().softmax(-1)
        tokens += len(ids)
        for place in range(max(1, len(row.prompt)), len(ids)):  # nothing comes before the first
            loss_token_sum -= float(probabilities[place - 1, ids[place]].log())
            trained_tokens += 1
    per_rank = ROWS[world_size] // world_size
    batches = ceil(per_rank / BATCH)
    return Totals(
        EPOCHS * ceil(batches / ACCUMULATION),
        EPOCHS * batches,
        EPOCHS * per_rank,
        EPOCHS * tokens,
        EPOCHS * trained_tokens,
        EPOCHS * loss_token_sum,
    )
