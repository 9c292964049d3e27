"""A small corpus and a preset small enough to train in a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workload.conversations import Conversation, Turn
from workload.presets import TINY, ModelShape, Preset

WORDS = ("dog", "cat", "tree", "house", "runs", "sees", "old", "red", "small", "why", "maybe", "yes", "today")


@pytest.fixture(autouse=True)
def _recordings_of_the_test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "recordings"))
    monkeypatch.delenv("TRAINVITALS_RUN", raising=False)


@pytest.fixture(autouse=True)
def _one_thread_for_what_is_small(request: pytest.FixtureRequest) -> Iterator[None]:
    # Threads of several test processes that wait for each other cost minutes on a busy machine.
    threads = torch.get_num_threads()
    if request.node.get_closest_marker("long") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def say() -> Callable[..., Conversation]:
    """Builds a conversation in which user and assistant take turns."""

    def build(*texts: str) -> Conversation:
        return Conversation(
            tuple(Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts))
        )

    return build


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A JSONL file of 60 conversations."""
    chance = random.Random(1)
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as file:
        for _ in range(60):
            messages = [
                {"role": role, "content": " ".join(chance.choices(WORDS, k=chance.randint(2, 9)))}
                for role in ("user", "assistant") * chance.randint(1, 3)
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture
def smallest() -> Preset:
    """Tiny, made tinier."""
    return replace(
        TINY,
        shape=ModelShape(
            vocabulary_size=300,
            hidden_size=16,
            intermediate_size=32,
            layers=1,
            attention_heads=2,
            key_value_heads=1,
            sequence_length=16,
        ),
        micro_batch_size=4,
        max_steps=8,
        warmup_steps=2,
        validation_windows=8,
        validate_every_steps=4,
        checkpoint_every_steps=4,
    )
