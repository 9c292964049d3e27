from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer_hooks.recorded import clean
from trainvitals.drill import noisy
from trainvitals.drill.noisy import Asks


class EndError(Exception):
    """The training's time is over."""


class Time:
    """The training's `time`: it passes where the training sleeps, at once, and ends after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._now = 0.0
        self._end = seconds

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        if self._now >= self._end:
            raise EndError

    def monotonic(self) -> float:
        return self._now


def test_it_counts_many_steps_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path))
    monkeypatch.setattr(noisy, "time", Time(3 + 2.5 * noisy.HURRY_EVERY_SECONDS))
    monkeypatch.setattr(noisy, "HURRIED_STEPS", 1000)
    with pytest.raises(EndError):
        noisy.main(["--run", "r", "--asks", Asks.many_steps])
    others = 2.5 * noisy.HURRY_EVERY_SECONDS / noisy.STEP_SECONDS
    assert clean(tmp_path).live.steps == pytest.approx(3000 + others, abs=2)
