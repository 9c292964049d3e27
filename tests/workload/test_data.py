from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workload.conversations import Conversation, Split
from workload.data import IGNORED_LABEL, Collate, ConversationData, EpochSampler, Windows
from workload.presets import Preset
from workload.tokenizer import ConversationTokenizer

Say = Callable[..., Conversation]

PADDING = 0


@settings(deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=10), st.integers(2, 16))
def test_every_token_but_a_conversations_first_is_predicted_exactly_once(
    lengths: list[int], sequence_length: int
) -> None:
    # Each token is its own id, so that a prediction can be told from every other.
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    encoded = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    windows = Windows(encoded, sequence_length)
    predicted = Counter(
        token for window in map(windows.__getitem__, range(len(windows))) for token in window[1:].tolist()
    )
    assert predicted == {token: 1 for ids in encoded for token in ids[1:]}
    assert windows.trained_tokens == predicted.total()
    assert all(2 <= len(windows[index]) <= sequence_length for index in range(len(windows)))


@settings(deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=5))
def test_no_window_joins_two_conversations(lengths: list[int]) -> None:
    windows = Windows([[owner] * length for owner, length in enumerate(lengths)], 8)
    assert all(len(set(windows[index].tolist())) == 1 for index in range(len(windows)))


def test_padding_is_masked_and_counts_in_no_loss() -> None:
    batch = Collate(PADDING)([torch.tensor([5, 6, 7]), torch.tensor([8, 0])])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, PADDING]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 0, IGNORED_LABEL]]


def test_a_batch_says_how_long_its_preprocessing_took() -> None:
    began = time.perf_counter()
    seconds = Collate(PADDING)([torch.tensor([5, 6, 7])])["preprocessing_seconds"]
    assert isinstance(seconds, float)
    assert 0 < seconds < time.perf_counter() - began


def test_each_epoch_has_an_order_of_its_own_and_the_same_in_every_process() -> None:
    sampler, other = EpochSampler(50, seed=3), EpochSampler(50, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(sampler) == list(range(50))
    assert list(sampler) != first == list(other)


def test_a_resumed_epoch_goes_on_where_it_was_left_and_the_next_is_whole() -> None:
    whole = EpochSampler(50, seed=3)
    whole.set_epoch(2)
    resumed = EpochSampler(50, seed=3)
    resumed.resume(epoch=2, samples_done=30)
    assert list(resumed) == list(whole)[30:]
    resumed.set_epoch(3)
    assert len(list(resumed)) == 50


def test_validation_windows_come_from_the_validation_split_in_hash_order(say: Say, smallest: Preset) -> None:
    training = [say(f"question {n}", f"answer {n}") for n in range(30)]
    validation = [say(f"other {n}", f"word {n}") for n in range(30)]
    tokenizer = ConversationTokenizer.trained_on(training, 300)
    data = ConversationData(Split(training, validation), tokenizer, smallest)
    again = ConversationData(Split(training[::-1], validation[::-1]), tokenizer, smallest)
    assert len(data.validation) == smallest.validation_windows
    texts = [tokenizer.decode(data.validation[index].tolist()) for index in range(len(data.validation))]
    assert texts == [tokenizer.decode(again.validation[i].tolist()) for i in range(len(again.validation))]
    assert not any("question" in text for text in texts)
