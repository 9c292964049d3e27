"""What trainers usually call what they log, and what it is called here.

`known("eval/loss")` is "validation_loss". Names compare without case, and `/ . - : space` count as `_`. What
may mean something else is not in the table: `scale`, `success`, `steps`, `reward`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

_TRAIN = ("", "train_", "training_")
_VALIDATION = ("val_", "valid_", "validation_", "eval_", "evaluation_", "dev_")
# Where reinforcement learning collects what it learns from: Stable-Baselines3, CleanRL, RLlib, Lightning.
_COLLECTED = (*_TRAIN, "rollout_", "charts_", "env_runners_", "ray_tune_", "ray_tune_env_runners_")
_EVALUATED = (*_VALIDATION, "evaluation_env_runners_", "ray_tune_evaluation_")
_OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "lion")


def _alike(canonical: str, prefixes: tuple[str, ...], *names: str) -> dict[str, str]:
    return {prefix + name: canonical for prefix in prefixes for name in names}


def _of_a_set(canonical: str, sets: tuple[str, ...], *names: str) -> dict[str, str]:
    """`val_loss`, and `Loss/val` as well."""
    suffixed = {f"{name}_{each.rstrip('_')}": canonical for each in sets if each for name in names}
    return {**_alike(canonical, sets, *names), **suffixed}


_RETURNS = (
    "avg_return",
    "average_return",
    "mean_return",
    "return_mean",
    "ep_return_mean",
    "avg_episode_return",
)
_REWARDS = (
    "ep_rew_mean",
    "episode_reward_mean",
    "episode_return_mean",
    "mean_episode_reward",
    "mean_ep_reward",
)
_LENGTHS = ("ep_len_mean", "episode_len_mean", "episode_length_mean", "mean_ep_length", "mean_episode_length")
_SUCCESS = (
    "success_rate",
    "avg_success_rate",
    "average_success_rate",
    "mean_success_rate",
    "success_rate_mean",
)
_COMPLETE = ("complete_rate", "completion_rate")
_TURNS = ("turns", "avg_turns", "average_turns", "mean_turns")

_KNOWN = {
    **_of_a_set("loss", _TRAIN, "loss", "total_loss", "loss_total"),
    **_alike("loss", _TRAIN, "loss_step", "batch_loss"),
    **_of_a_set("learning_rate", _TRAIN, "learning_rate", "lr"),
    **_alike("learning_rate", ("charts_", "epoch_", "learning_rate_"), "learning_rate", "lr"),
    **_alike("learning_rate", ("lr_",), *_OPTIMIZERS),
    **_alike("gradient_norm", _TRAIN, "grad_norm", "gradient_norm", "gradnorm", "grad_2_0_norm_total"),
    **_alike("loss_scale", _TRAIN, "loss_scale", "grad_scale"),
    **_of_a_set("accuracy", _TRAIN, "accuracy", "acc"),
    **_alike("accuracy", _TRAIN, "accuracy_step", "acc_step"),
    **_of_a_set("validation_loss", _VALIDATION, "loss"),
    **_alike("validation_loss", _VALIDATION, "loss_epoch"),
    **_of_a_set("validation_accuracy", _VALIDATION, "accuracy", "acc"),
    **_alike("validation_accuracy", _VALIDATION, "accuracy_epoch", "acc_epoch"),
    **_alike("epoch", (*_TRAIN, "trainer_"), "epoch"),
    **_alike("step", (*_TRAIN, "trainer_"), "step", "global_step", "completed_steps", "iteration", "iter"),
    **_alike("preprocessing_seconds", _TRAIN, "preprocessing_seconds", "preprocessing_time"),
    # Reinforcement learning and dialogue policies: scalars of the user, under one name each.
    **_alike("success_rate", _COLLECTED, *_SUCCESS),
    **_alike("validation_success_rate", _EVALUATED, *_SUCCESS),
    **_alike("complete_rate", _COLLECTED, *_COMPLETE),
    **_alike("validation_complete_rate", _EVALUATED, *_COMPLETE),
    **_alike("average_return", _COLLECTED, *_RETURNS, *_REWARDS),
    **_alike("validation_average_return", _EVALUATED, *_RETURNS, *_REWARDS, "mean_reward"),
    **_alike("average_turns", _COLLECTED, *_TURNS),
    **_alike("validation_average_turns", _EVALUATED, *_TURNS),
    **_alike("average_episode_length", _COLLECTED, *_LENGTHS),
    **_alike("validation_average_episode_length", _EVALUATED, *_LENGTHS),
    # Of one episode, the last.
    **_alike(
        "episode_return", _COLLECTED, "episodic_return", "episode_return", "episode_reward", "ep_return"
    ),
    **_alike("episode_length", _COLLECTED, "episodic_length", "episode_length", "ep_length"),
}
_SEPARATORS = re.compile(r"[/.\-: _]+")
# What `Monitor.log` takes for its own; under these names nothing else is logged.
_MONITORS_OWN = {
    *("loss", "learning_rate", "gradient_norm", "loss_scale", "accuracy", "validation_accuracy"),
    *("preprocessing_seconds", "epoch"),
}
_MOST_NAMES = 1024


@functools.lru_cache(_MOST_NAMES)
def known(name: str) -> str | None:
    """The name that a Monitor has for what usually bears this one; None for any other."""
    return _KNOWN.get(_SEPARATORS.sub("_", name.strip().lower()))


def is_number(value: Any) -> bool:
    """Whether a logged value is one number, on whatever device."""
    if isinstance(value, (str, bytes, bool)):
        return False
    return isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0


class Names:
    """Whose of the names that one training logs ours are: the first's, of several that mean the same.

    A script that logs both `train/loss` and `total_loss` means two things by them: the first is the loss, the
    second a scalar of its own.
    """

    def __init__(self) -> None:
        self._bearers: dict[str, str] = {}
        self._logged_as: dict[str, str | None] = {}

    def __call__(self, name: str) -> str | None:
        """What to log this as: under our name, else under its own; None for not at all."""
        try:
            return self._logged_as[name]
        except KeyError:
            logged_as = self._decide(name)
            if len(self._logged_as) < _MOST_NAMES:
                self._logged_as[name] = logged_as
            return logged_as

    def _decide(self, name: str) -> str | None:
        ours = known(name)
        if ours is not None and self._bearers.setdefault(ours, name) == name:
            return ours
        return None if name in _MONITORS_OWN or name in self._bearers else name
