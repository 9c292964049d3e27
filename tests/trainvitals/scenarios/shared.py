"""Where the recorded scenarios of a test run are, so that it makes them once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def scenarios_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all processes of the test run."""
    folder = tmp_path_factory.getbasetemp()
    # Processes side by side have folders of their own below that of the run.
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "scenarios"
