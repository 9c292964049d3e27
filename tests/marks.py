"""Parameters of which the quick run takes a few."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(*few: str, of: Iterable[str]) -> list[Any]:
    """All of them as parameters; those that are not among the few are long."""
    return [pytest.param(each, marks=() if each in few else pytest.mark.long) for each in of]
