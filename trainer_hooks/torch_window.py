"""What is gathered before it can be recorded: the micro-batches of a step, the losses of an evaluation."""

from __future__ import annotations

from typing import Any

from trainer_hooks import readback
from trainer_hooks.batches import kept, on_host
from trainer_hooks.monitor import Monitor
from trainer_hooks.torch_calls import Call, divisor, function_of, is_sum

_MOST_HELD = 256  # passes without a step, after which they are recorded as they are
_CLOSE_TO_WHOLE = 1e-6


class Scalar:
    """What a backward pass is taken of, to be kept; what that was divided by last, and what it was before."""

    __slots__ = ("divisor", "function", "summed", "value")

    def __init__(self, loss: Any) -> None:
        is_scalar = getattr(loss, "ndim", None) == 0
        self.value = kept(loss) if is_scalar else None
        self.divisor = divisor(loss) if is_scalar else None
        self.summed = self.divisor is not None and is_sum(loss)
        self.function = ""


UNKNOWN = Scalar(None)


class Window:
    """The micro-batches since the last optimizer step. What a device holds stays there."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._loss_kind = monitor.loss_kind
        self._told = monitor.loss_kind is not None
        self._held: list[Call] = []
        self._longest = 0
        self._continues = False  # whether the last pass followed a call, and so may have a successor
        self._scalars = False  # whether the loss of that pass was its scalar

    def __len__(self) -> int:
        return len(self._held)

    def take(self, calls: list[Call], loss: Any) -> None:
        """A backward pass of `loss`, a tensor or Scalar, begins; `calls` are those since the pass before."""
        if not calls:
            self._take_scalar(loss)
            return
        self._continues = True
        if len(calls) > 1:
            models = [call for call in calls if call.loss is not None and not call.criterion]
            if len(models) > 1 and _function(loss) == models[-1].function:
                del models[:-1]  # a batch that was left out, for its loss perhaps
            calls = models or [_combined(calls)]
        call = calls[-1]
        self._scalars = call.loss is None
        if self._scalars:
            scalar = loss if loss.__class__ is Scalar else Scalar(loss)
            call.loss, call.divisor, call.summed = scalar.value, scalar.divisor, scalar.summed
        self._held += calls
        if len(self._held) > _MOST_HELD:
            self.record()

    def _take_scalar(self, loss: Any) -> None:
        scalar = loss if loss.__class__ is Scalar else Scalar(loss)
        if not (self._held and self._continues):
            call = Call()
            call.loss, call.divisor = scalar.value, scalar.divisor
            self._held.append(call)
        elif self._scalars and scalar.value is not None:  # the graph again: another part of the same loss
            before = self._held[-1]
            before.loss = scalar.value if before.loss is None else before.loss + scalar.value
        if len(self._held) > _MOST_HELD:
            self.record()

    def drop_last(self) -> None:
        """The pass that was taken last did not come to its end."""
        if self._held:
            self._held.pop()

    def clear(self) -> None:
        """They were another optimizer's."""
        self._held.clear()
        self._continues = False

    def record(self) -> None:
        """Tell the Monitor of them all."""
        held, self._held = self._held, []
        self._continues = False
        passes = len(held)
        if passes > self._longest:
            self._longest = passes
        for call in held:
            divided_by, normalizer = call.divisor, call.normalizer
            if call.summed and divided_by == call.samples:
                divided_by = None  # perhaps only the mean, taken by hand
            if divided_by is not None and _is_one_of(divided_by, passes, self._longest):
                weight = 1 if call.trained_tokens is None else call.trained_tokens
                normalizer = weight * round(divided_by)
            self._monitor.batch(
                loss=call.loss,
                samples=call.samples,
                tokens=call.tokens,
                trained_tokens=call.trained_tokens,
                normalizer=normalizer,
            )
            if call.auxiliary is not None:
                self._monitor.log(auxiliary_loss=call.auxiliary)
            if call.loss is not None and not self._told:
                self._describe("cross_entropy" if call.plain else "other")

    def _describe(self, kind: str) -> None:
        """The run has a perplexity for as long as every loss has one."""
        if self._loss_kind is None and kind == "other":
            self._told = True
        elif self._loss_kind != kind:
            self._told = kind == "other"
            self._loss_kind = kind
            self._monitor.describe(loss_kind=kind)


class Evaluation:
    """The losses of an evaluation: those the model returned, else those of a criterion."""

    def __init__(self) -> None:
        self._sums: dict[bool, tuple[Any, Any, bool]] = {}

    def add(self, call: Call) -> None:
        """One more batch."""
        trained = call.trained_tokens
        if call.loss is None or readback.capturing(call.loss, trained):
            return
        total, weights, known = self._sums.get(call.criterion, (0.0, 0, True))
        if isinstance(trained, float) and trained == 0:  # in this order: it may be on a device
            return
        weight = trained if trained is not None else call.samples or 1
        factor = weight if call.normalizer is None else on_host(call.normalizer)
        self._sums[call.criterion] = (
            total + call.loss * factor,
            weights + weight,
            known and trained is not None,
        )

    def result(self) -> tuple[Any, Any]:
        """The mean loss, and the tokens behind it where they are known; None where there was no loss."""
        if not self._sums:
            return None, None
        total, weight, known = self._sums.get(False) or self._sums[True]
        if isinstance(weight, (int, float)) and not weight:
            return None, None
        return total / weight, weight if known else None


def _function(loss: Any) -> str:
    return loss.function if isinstance(loss, Scalar) else function_of(loss)


def _combined(calls: list[Call]) -> Call:
    """One micro-batch of several calls, of which no model's returned a loss."""
    models = [call for call in calls if not call.criterion]
    criteria = [call for call in calls if call.criterion and call.loss is not None]
    combined = Call()
    if len(criteria) == 1:
        (criterion,) = criteria
        combined.loss, combined.normalizer = criterion.loss, criterion.normalizer
        combined.plain, combined.trained_tokens = criterion.plain, criterion.trained_tokens
    else:
        known = (call.trained_tokens for call in models if call.trained_tokens is not None)
        combined.trained_tokens = next(known, None)
    combined.samples = max(call.samples for call in calls)
    combined.tokens = _sum([call.tokens for call in models])
    return combined


def _sum(values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if known else None


def _is_one_of(number: float, *counts: int) -> bool:
    return any(count > 1 and abs(number - count) < _CLOSE_TO_WHOLE * count for count in counts)
