"""The running totals and newest values of a recording, and how those that have arrived are added to them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite, nan
from typing import Any

from trainer_hooks import readback
from trainer_hooks.recording import BODY, SLOT, Recorder


class Totals:
    """What a Monitor has counted: its other half, of which nothing is called from outside.

    A base, not a part: in the middle of a training each hop from one object to the next is a wait for memory.
    """

    # What each step touches lies side by side.
    __slots__ = (
        "_append",
        "_doubles",
        "_flops_per_token",
        "_learning_rate",
        "_loss_token_sum",
        "_loss_told",
        "_model_flops",
        "_step_loss_sum",
        "_step_loss_weight",
        "_totals",
        "_unsigned",
        "recording",
    )

    recording: bool

    def _start(self, recorder: Recorder) -> None:
        self._unsigned, self._doubles = recorder.unsigned, recorder.doubles
        # The counts once more, to read them: from a view that costs as much as to write.
        self._totals = list(recorder.unsigned)
        self._append: Callable[[bytes], None] = recorder.append
        self._loss_token_sum = 0.0
        self._learning_rate = nan  # of the first group
        self._step_loss_sum = 0.0
        self._step_loss_weight = 0
        self._loss_told = False
        self._flops_per_token = 0
        self._model_flops = 0

    def _apply_batch(
        self,
        loss: Any,
        tokens: Any,
        trained_tokens: Any,
        normalizer: Any,
    ) -> None:
        unsigned, totals = self._unsigned, self._totals
        if tokens is not None:
            count = tokens if tokens.__class__ is int and tokens >= 0 else count_of(tokens)
            unsigned[_TOKENS_ALL] = totals[_TOKENS_ALL] = totals[_TOKENS_ALL] + count
            if self._flops_per_token:
                self._model_flops += count * self._flops_per_token
                self._doubles[_MODEL_FLOPS] = float(self._model_flops)
        weight = 1
        if trained_tokens is not None:
            weight = trained_tokens
            if weight.__class__ is not int or weight < 0:
                weight = count_of(weight)
            unsigned[_TOKENS_TRAINED] = totals[_TOKENS_TRAINED] = totals[_TOKENS_TRAINED] + weight
        if loss is None:
            return
        if not -inf < loss < inf:
            self._count("nonfinite_loss")
            return
        weighted = loss * (weight if normalizer is None else normalizer)
        self._step_loss_sum += weighted
        self._step_loss_weight += weight
        if trained_tokens is not None:
            self._doubles[_LOSS_TOKEN_SUM] = self._loss_token_sum = self._loss_token_sum + weighted
            unsigned[_LOSS_TOKENS] = totals[_LOSS_TOKENS] = totals[_LOSS_TOKENS] + weight

    def _apply_step(
        self,
        gradient_norm: Any,
        step: int,
        time_ns: int,
        duration_ns: int,
        phase_ns: list[int],
        batches: int,
        samples: int,
    ) -> None:
        totals, doubles = self._totals, self._doubles
        weight = self._step_loss_weight
        loss = self._step_loss_sum / weight if weight else nan
        self._step_loss_sum = 0.0
        self._step_loss_weight = 0
        if gradient_norm is None:
            gradient_norm = nan
        elif not -inf < gradient_norm < inf:
            self._count("nonfinite_gradient")
            gradient_norm = nan
        if weight or not self._loss_told:
            doubles[_LOSS] = loss
        doubles[_GRADIENT_NORM] = gradient_norm
        init, data, forward, backward, compute, optimizer, evaluation, checkpoint, other = phase_ns
        self._append(
            _pack_body(
                step,
                time_ns,
                duration_ns,
                init,
                data,
                forward,
                backward,
                compute,
                optimizer,
                evaluation,
                checkpoint,
                other,
                batches,
                samples,
                totals[_TOKENS_ALL],
                totals[_TOKENS_TRAINED],
                totals[_LOSS_TOKENS],
                self._loss_token_sum,
                loss,
                self._learning_rate,
                gradient_norm,
            )
        )

    def _apply_told(self, slot: int, counter: str, value: float | None) -> None:
        if value is not None and not isfinite(value):
            self._count(counter)
        self._store(slot, value)

    def _store(self, slot: int, value: float | None) -> None:
        self._doubles[slot] = stored = value if value is not None and isfinite(value) else nan
        if slot == _LEARNING_RATE:
            self._learning_rate = stored

    def _count(self, name: str) -> None:
        if self.recording:
            slot, totals = SLOT[name], self._totals
            self._unsigned[slot] = totals[slot] = totals[slot] + 1


def count_of(value: Any) -> int:
    """The value as a count. Raises ValueError for a negative one, OverflowError for one without end."""
    if value.__class__ is not int:
        number = readback.read_now(value)
        if number is None:
            raise ValueError("a count on a device cannot be read without waiting for it")
        value = int(number)
    if value < 0:
        raise ValueError(f"{value} is no count")
    return value  # type: ignore[no-any-return]


_pack_body = BODY.pack
_TOKENS_ALL, _TOKENS_TRAINED = SLOT["tokens_all"], SLOT["tokens_trained"]
_LOSS_TOKENS, _LOSS_TOKEN_SUM = SLOT["loss_tokens"], SLOT["loss_token_sum"]
_LOSS, _GRADIENT_NORM, _MODEL_FLOPS = SLOT["loss"], SLOT["gradient_norm"], SLOT["model_flops"]
_LEARNING_RATE = SLOT["learning_rates"]
