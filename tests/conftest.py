"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _logs_of_stable_baselines3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Below pytest's folder, which goes; by itself each training makes one in /tmp, which stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield
