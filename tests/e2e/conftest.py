from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

WORDS = (
    "tea",
    "rain",
    "garden",
    "walk",
    "morning",
    "song",
    "letter",
    "window",
    "bread",
    "book",
    "sea",
    "hill",
)


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 4,000 conversations that a small model can learn something from."""
    chance = random.Random(1)
    path = tmp_path_factory.mktemp("data") / "conversations.jsonl"
    with path.open("w") as file:
        for _ in range(4000):
            turns = [
                {"role": role, "content": f"i like the {chance.choice(WORDS)} and the {chance.choice(WORDS)}"}
                for role in ("user", "assistant") * 3
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path
