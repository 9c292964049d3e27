from __future__ import annotations

from pathlib import Path

import pytest

from tests.exporters.access.guarded import Guarded


@pytest.fixture
def local(tmp_path: Path) -> Guarded:
    """On loopback, without a file of tokens."""
    return Guarded(tmp_path)


@pytest.fixture
def public(tmp_path: Path) -> Guarded:
    """With a file of tokens."""
    return Guarded(tmp_path, token_file=True)
