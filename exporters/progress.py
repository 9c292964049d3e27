"""Pace, time to the end and perplexity over the newest steps of one rank."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from trainer_hooks.recording import StepRecord

PERPLEXITY_SECONDS = 5 * 60
PERPLEXITY_STEPS = 20
PACE_SECONDS = 15 * 60
THROUGHPUT_SECONDS = 60
_KEPT_EVERY_NS = 1_000_000_000
_PARTS = 5


class Totals(NamedTuple):
    """Running totals of an attempt at one moment (monotonic ns)."""

    time_ns: int
    step: int
    tokens_all: int
    loss_tokens: int
    loss_token_sum: float


class StepWindow:
    """The steps of the last 15 minutes thinned to one a second, and the last 20 as they are."""

    def __init__(self) -> None:
        self._kept: deque[Totals] = deque()
        self._last: deque[Totals] = deque(maxlen=PERPLEXITY_STEPS + 1)

    def add(self, records: Iterable[StepRecord], *, complete: bool = True) -> None:
        """Take newer records; `complete` says that none is missing between those before and these."""
        for record in records:
            if complete and not self._last:
                # Measured from the start of the first step, not of the process; where the totals up to then
                # are lost, from the end of the oldest that is left.
                self.add_totals(Totals(record.time_ns - record.duration_ns, record.step - 1, 0, 0, 0.0))
            tokens = (record.tokens_all, record.loss_tokens)
            self.add_totals(Totals(record.time_ns, record.step, *tokens, record.loss_token_sum))

    def add_totals(self, totals: Totals) -> None:
        """Take newer totals; the first ever are what later ones are measured from."""
        self._last.append(totals)
        if not self._kept or totals.time_ns - self._kept[-1].time_ns >= _KEPT_EVERY_NS:
            self._kept.append(totals)
        # One entry older than the window stays: it is the base the window is measured from.
        while len(self._kept) > 1 and self.newest.time_ns - self._kept[1].time_ns >= PACE_SECONDS * 1e9:
            self._kept.popleft()

    @staticmethod
    def reached(records: Sequence[StepRecord]) -> bool:
        """Whether the window needs none older than these, which are sorted."""
        span_ns = records[-1].time_ns - records[0].time_ns if records else 0
        return len(records) > PERPLEXITY_STEPS and span_ns >= PACE_SECONDS * 1e9

    @property
    def newest(self) -> Totals:
        return self._last[-1]

    def loss_sums(self) -> tuple[float, int]:
        """Σ loss·tokens and Σ tokens over the last 5 minutes or 20 steps, whichever is longer."""
        if not self._last:
            return 0.0, 0
        base = min(self._base(PERPLEXITY_SECONDS), self._last[0])
        return self.newest.loss_token_sum - base.loss_token_sum, self.newest.loss_tokens - base.loss_tokens

    def tokens_per_second(self) -> float | None:
        """Mean of the last minute; None before there is a step."""
        if not self._last:
            return None
        base = self._base(THROUGHPUT_SECONDS)
        seconds = (self.newest.time_ns - base.time_ns) / 1e9
        return (self.newest.tokens_all - base.tokens_all) / seconds if seconds > 0 else None

    def seconds_left(self, steps_expected: int, now_ns: int) -> float | None:
        """Time to the last expected step at the pace of the last 15 minutes; None while there is no pace."""
        if not self._last:
            return None
        base = self._base(PACE_SECONDS)
        steps = self.newest.step - base.step
        if steps <= 0 or not steps_expected:
            return None
        seconds_per_step = (self.newest.time_ns - base.time_ns) / 1e9 / steps
        # Between steps the time counts down, but no further than to the end of the step under way.
        since_newest = min((now_ns - self.newest.time_ns) / 1e9, seconds_per_step)
        return max(0.0, (steps_expected - self.newest.step) * seconds_per_step - since_newest)

    def seconds_left_range(self, steps_expected: int, now_ns: int) -> tuple[float, float] | None:
        """The least and the most time it may take: at the fastest and the slowest pace of late.

        The last 15 minutes are looked at in parts of equal steps; None while there are too few for that.
        """
        left = self.seconds_left(steps_expected, now_ns)
        base = self._base(PACE_SECONDS) if self._last else None
        if left is None or base is None:
            return None
        steps = self.newest.step - base.step
        limits = [base.step + steps * part / _PARTS for part in range(1, _PARTS)]
        borders = [base]
        for totals in self._kept:
            if len(borders) <= len(limits) and totals.step >= limits[len(borders) - 1] and totals > base:
                borders.append(totals)
        borders.append(self.newest)
        paces = [
            (after.time_ns - before.time_ns) / 1e9 / (after.step - before.step)
            for before, after in pairwise(borders)
            if after.step > before.step
        ]
        mean = (self.newest.time_ns - base.time_ns) / 1e9 / steps
        if len(paces) < 2 or mean <= 0:  # times that stand still or go back are no pace
            return None
        return left * min(paces) / mean, left * max(paces) / mean

    def _base(self, seconds: float) -> Totals:
        """The newest entry at least so old, or the oldest there is."""
        limit = self.newest.time_ns - seconds * 1e9
        base = self._kept[0]
        for totals in self._kept:
            if totals.time_ns > limit:
                break
            base = totals
        return base


def perplexity(loss_token_sum: float, tokens: int) -> float | None:
    """exp of the mean loss in nats; infinity on overflow, None without tokens or where the sum is unknown."""
    if tokens <= 0 or math.isnan(loss_token_sum):
        return None
    try:
        return math.exp(loss_token_sum / tokens)
    except OverflowError:
        return math.inf
