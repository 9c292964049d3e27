"""From conversations to batches: windows, padding, labels, loaders.

Every token of a conversation but its first is predicted exactly once in an epoch, the user's turns as well
as the assistant's: a small model learns the language from both. A conversation is cut into windows of at
most `sequence_length` tokens, each beginning with the last token of the one before; windows of different
conversations are never joined, so nothing attends across them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from workload.conversations import Conversation, Split
from workload.presets import Preset
from workload.tokenizer import ConversationTokenizer

IGNORED_LABEL = -100


class Batch(TypedDict):
    """One micro-batch; the tensors are int64 of shape (windows, longest window).

    Labels are the input ids themselves, -100 at padding; the model predicts each from the tokens before it.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    preprocessing_seconds: float


class Windows(Dataset[Tensor]):
    """Windows over encoded conversations, kept as one tensor of tokens and the borders of each window."""

    def __init__(self, conversations: Iterable[Sequence[int]], sequence_length: int) -> None:
        tokens: list[int] = []
        borders: list[tuple[int, int]] = []
        for ids in conversations:
            end = len(tokens) + len(ids)
            starts = range(len(tokens), end - 1, sequence_length - 1)
            borders += ((start, min(start + sequence_length, end)) for start in starts)
            tokens += ids
        self._tokens = torch.tensor(tokens, dtype=torch.int32)
        self._borders = torch.tensor(borders, dtype=torch.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._borders)

    def __getitem__(self, index: int) -> Tensor:
        start, end = self._borders[index].tolist()
        return self._tokens[start:end]

    @property
    def trained_tokens(self) -> int:
        """Tokens that are predicted once in an epoch."""
        return int((self._borders[:, 1] - self._borders[:, 0] - 1).sum())

    def first(self, count: int) -> Windows:
        """The first windows alone."""
        windows = Windows((), 2)
        windows._tokens = self._tokens
        windows._borders = self._borders[:count]
        return windows


class Collate:
    """Pads windows to a batch, on the right, and measures how long that took."""

    def __init__(self, padding_id: int) -> None:
        self._padding_id = padding_id

    def __call__(self, windows: Sequence[Tensor]) -> Batch:
        started = time.perf_counter()
        shape = len(windows), max(len(window) for window in windows)
        input_ids = torch.full(shape, self._padding_id, dtype=torch.int64)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        for row, window in enumerate(windows):
            input_ids[row, : len(window)] = window
            attention_mask[row, : len(window)] = 1
        labels = input_ids.masked_fill(attention_mask == 0, IGNORED_LABEL)
        return Batch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            preprocessing_seconds=time.perf_counter() - started,
        )


class EpochSampler(Sampler[int]):
    """A new order each epoch, the same in each process; a resumed epoch goes on where it was left."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = 0
        self._resumed_epoch = 0
        self._skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def resume(self, epoch: int, samples_done: int) -> None:
        self._epoch = self._resumed_epoch = epoch
        self._skipped = samples_done

    def __len__(self) -> int:
        # The whole epoch: Lightning counts the batches made before the resume itself.
        return self._count

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self._count, generator=torch.Generator().manual_seed(self._seed + self._epoch))
        skipped = self._skipped if self._epoch == self._resumed_epoch else 0
        return iter(order[skipped:].tolist())


class ConversationData(lightning.LightningDataModule):
    """Training and validation batches; its state in a checkpoint is the number of batches made."""

    def __init__(
        self, split: Split, tokenizer: ConversationTokenizer, preset: Preset, *, cuda: bool = False
    ) -> None:
        super().__init__()
        length = preset.shape.sequence_length
        held_out = sorted(split.validation, key=Conversation.content_hash)
        self.training = Windows((tokenizer.encode(c) for c in split.training), length)
        self.validation = Windows((tokenizer.encode(c) for c in held_out), length).first(
            preset.validation_windows
        )
        self._micro_batch_size = preset.micro_batch_size
        self._sampler = EpochSampler(len(self.training), preset.seed)
        self._collate = Collate(tokenizer.padding_id)
        self._cuda = cuda

    def train_dataloader(self) -> DataLoader[Tensor]:
        return self._loader(self.training, self._sampler)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return self._loader(self.validation, None)

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"batches_done": self.trainer.fit_loop.total_batch_idx + 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        batches_a_epoch = -(-len(self.training) // self._micro_batch_size)
        epoch, batches = divmod(state_dict["batches_done"], batches_a_epoch)
        self._sampler.resume(epoch, batches * self._micro_batch_size)

    def _loader(self, windows: Windows, sampler: EpochSampler | None) -> DataLoader[Tensor]:
        # On a CPU padding costs less than handing a batch from one process to another, and the cores are the
        # model's; on a GPU two workers keep the next batches ready.
        workers = min(2, (os.cpu_count() or 1) - 1) if self._cuda else 0
        return DataLoader(
            windows,
            batch_size=self._micro_batch_size,
            sampler=sampler,
            collate_fn=self._collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self._cuda,
        )
