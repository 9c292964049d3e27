"""What trainers usually call what they log, and what it is called here.

`known("eval/loss")` is "validation_loss". Names compare without case, and `/ . - : space` count as `_`.
"""

from __future__ import annotations

import re

_TRAIN = ("", "train_", "training_")
_VALIDATION = ("val_", "valid_", "validation_", "eval_", "evaluation_", "dev_")


def _alike(canonical: str, prefixes: tuple[str, ...], *names: str) -> dict[str, str]:
    return {prefix + name: canonical for prefix in prefixes for name in names}


_KNOWN = {
    **_alike("loss", _TRAIN, "loss", "total_loss", "loss_total", "loss_step", "batch_loss"),
    **_alike("learning_rate", _TRAIN, "learning_rate", "lr"),
    **_alike("gradient_norm", _TRAIN, "grad_norm", "gradient_norm", "gradnorm", "grad_2_0_norm_total"),
    **_alike("loss_scale", _TRAIN, "loss_scale", "grad_scale", "scale"),
    **_alike("accuracy", _TRAIN, "accuracy", "acc"),
    **_alike("validation_loss", _VALIDATION, "loss"),
    **_alike("validation_accuracy", _VALIDATION, "accuracy", "acc"),
    **_alike("epoch", _TRAIN, "epoch", "epochs"),
    **_alike("step", _TRAIN, "step", "global_step", "completed_steps", "steps"),
    **_alike("preprocessing_seconds", _TRAIN, "preprocessing_seconds", "preprocessing_time"),
    # Reinforcement learning and dialogue policies: scalars of the user, under one name each.
    **_alike("success_rate", (*_TRAIN, "rollout_", "eval_"), "success_rate", "success"),
    **_alike("complete_rate", (*_TRAIN, "eval_"), "complete_rate", "completion_rate"),
    **_alike(
        "average_return",
        (*_TRAIN, "rollout_", "eval_"),
        *("avg_return", "average_return", "mean_return", "ep_rew_mean", "episode_reward", "mean_reward"),
    ),
    **_alike(
        "average_turns", (*_TRAIN, "rollout_", "eval_"), "turns", "avg_turns", "average_turns", "ep_len_mean"
    ),
}
_SEPARATORS = re.compile(r"[/.\-: ]+")


def known(name: str) -> str | None:
    """The name that a Monitor has for what usually bears this one; None for any other."""
    return _KNOWN.get(_SEPARATORS.sub("_", name.strip().lower()))
