from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.trainer_hooks.processes import LAUNCHERS


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process, which no launcher started, records."""
    directory = tmp_path / "recordings"
    for key in list(os.environ):
        if key.startswith(LAUNCHERS):
            monkeypatch.delenv(key)
    monkeypatch.setenv("TRAINVITALS_DIR", str(directory))
    return directory
