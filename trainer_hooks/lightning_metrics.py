"""What the module of a fit logs through Lightning, by the names of ours; never a wait for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer_hooks.names import known

# Of the names in the table: those taken as soon as the module logs them, and those measured or evaluated.
_OF_THE_STEP = {"accuracy", "gradient_norm", "loss_scale", "preprocessing_seconds"}
_RECORDED_OTHERWISE = {
    *("loss", "learning_rate", "gradient_norm", "loss_scale", "preprocessing_seconds", "epoch", "step"),
    *("validation_loss", "validation_accuracy"),
}


class LoggedAtSteps:
    """What the module logs at its steps under a name of `_OF_THE_STEP`, without a conversion.

    Lightning keeps what was last logged, however long ago: what was told once is not new.
    """

    def __init__(self) -> None:
        self._count = 0
        self._names: dict[str, str] = {}  # by Lightning's key
        self._told: dict[str, Any] = {}

    def new(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """By our name. `results` are Lightning's, of the loop that trains."""
        if len(results) != self._count:
            self._count = len(results)
            self._names = {
                key: name
                for key, metric in results.items()
                if metric.meta.on_step and (name := known(metric.meta.name)) in _OF_THE_STEP
            }
        new: dict[str, Any] = {}
        for key, name in self._names.items():
            value = results[key]._forward_cache
            if value is not self._told.get(key):
                new[name] = self._told[key] = value
        return new


def makes_numbers(trainer: Any, epoch_loop: Any) -> bool:
    """Whether this is a batch at which Lightning itself makes numbers of all metrics.

    `trainer.callback_metrics` does so with all that the progress bar shows, which waits for the device.
    """
    every = trainer.log_every_n_steps
    return bool(every) and bool((epoch_loop._batches_that_stepped + 1) % every == 0 or trainer.should_stop)


def metrics_of(trainer: Any) -> dict[str, Any]:
    """What Lightning has of all that was logged, by our name, except for what is recorded otherwise.

    An epoch's mean serves as the training accuracy; an "accuracy" without "train" is one of the validation,
    unless the step logged it.
    """
    metrics: dict[str, Any] = {}
    for name, value in trainer.callback_metrics.items():
        meaning = known(name)
        if meaning in _RECORDED_OTHERWISE or (meaning == "accuracy" and not name.lower().startswith("train")):
            continue
        metrics[meaning or name] = value
    return metrics


def first(metrics: Mapping[str, Any], meaning: str) -> Any:
    """The first of Lightning's metrics that means this; None where none does."""
    return next((value for name, value in metrics.items() if known(name) == meaning), None)
