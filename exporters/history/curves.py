"""What curves can be drawn of steps, and how each is made of what the steps had and of running totals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from exporters.progress import perplexity
from trainer_hooks.recording import PHASES

# Of what the totals grew by, in their order, and in how many seconds; None is unknown.
Value = Callable[[Sequence[float], float], float | None]


class Curve(NamedTuple):
    """Of a `quantity` that each step has, or of what some running `totals` grew by within some seconds.

    `over_ranks` says how a run's curve is made of its ranks': "sum" of their values, "pool" of their totals;
    else it is that of the leading rank. `from_start` is false where the time before the first step says
    nothing.
    """

    unit: str
    quantity: str = ""
    scale: float = 1.0
    totals: tuple[str, ...] = ()
    value: Value = lambda grown, seconds: None
    over_ranks: str = ""
    from_start: bool = True


def _rate(total: str, unit: str) -> Curve:
    def value(grown: Sequence[float], seconds: float) -> float | None:
        return grown[0] / seconds if seconds > 0 else None

    return Curve(unit, totals=(total,), value=value, over_ranks="sum", from_start=False)


def _share(phase: str) -> Curve:
    def value(grown: Sequence[float], seconds: float) -> float | None:
        return min(1.0, grown[0] / 1e9 / seconds) if seconds > 0 else None

    return Curve("ratio", totals=(f"{phase}_ns",), value=value)


def _perplexity(grown: Sequence[float], seconds: float) -> float | None:
    loss_token_sum, tokens = grown
    value = perplexity(loss_token_sum, int(tokens))
    return None if value is None or math.isinf(value) else value


CURVES: dict[str, Curve] = {
    "loss": Curve("", "loss"),
    "learning_rate": Curve("", "learning_rate"),
    "gradient_norm": Curve("", "gradient_norm"),
    "step_seconds": Curve("seconds", "duration_ns", 1e-9),
    "tokens_per_second": _rate("tokens_all", "tokens/second"),
    "samples_per_second": _rate("samples", "samples/second"),
    "perplexity": Curve("", totals=("loss_token_sum", "loss_tokens"), value=_perplexity, over_ranks="pool"),
    **{f"phase_{phase}_ratio": _share(phase) for phase in PHASES},
}
