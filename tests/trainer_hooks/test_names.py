from __future__ import annotations

import pytest

from trainer_hooks.names import Names, known

# What each of these logs under its own settings, or in its examples.
LOGGED_BY: dict[str, dict[str, str | None]] = {
    "Hugging Face's Trainer": {
        "loss": "loss",
        "train/loss": "loss",
        "grad_norm": "gradient_norm",
        "train/grad_norm": "gradient_norm",
        "learning_rate": "learning_rate",
        "train/learning_rate": "learning_rate",
        "train/epoch": "epoch",
        "train/global_step": "step",
        "eval_loss": "validation_loss",
        "eval/loss": "validation_loss",
        "eval_accuracy": "validation_accuracy",
        "eval_runtime": None,
        "train_runtime": None,
        "total_flos": None,
        "rewards/margins": None,
    },
    "Lightning": {
        "train_loss": "loss",
        "train_loss_step": "loss",
        "train_loss_epoch": None,
        "val_loss": "validation_loss",
        "val_acc": "validation_accuracy",
        "lr-AdamW": "learning_rate",
        "lr-AdamW/pg1": None,
        "trainer/global_step": "step",
        "grad_2.0_norm_total": "gradient_norm",
        "hp_metric": None,
    },
    "Accelerate's scripts": {
        "train_loss": "loss",
        "eval_loss": "validation_loss",
        "completed_steps": "step",
        "epoch": "epoch",
        "perplexity": None,
    },
    "Keras": {
        "loss": "loss",
        "accuracy": "accuracy",
        "val_loss": "validation_loss",
        "val_accuracy": "validation_accuracy",
        "batch_loss": "loss",
        "epoch_learning_rate": "learning_rate",
    },
    "TensorBoard tutorials": {
        "Loss/train": "loss",
        "Loss/val": "validation_loss",
        "Loss/validation": "validation_loss",
        "Accuracy/train": "accuracy",
        "Accuracy/valid": "validation_accuracy",
        "Loss/test": None,
        "training loss": "loss",
    },
    "ConvLab-3": {
        "complete_rate": "complete_rate",
        "success_rate": "success_rate",
        "success_rate_strict": None,
        "avg_return": "average_return",
        "turns": "average_turns",
        "avg_actions": None,
        "book_acts": None,
    },
    "Stable-Baselines3": {
        "rollout/ep_rew_mean": "average_return",
        "rollout/ep_len_mean": "average_episode_length",
        "rollout/success_rate": "success_rate",
        "eval/mean_reward": "validation_average_return",
        "eval/success_rate": "validation_success_rate",
        "eval/mean_ep_length": "validation_average_episode_length",
        "train/loss": "loss",
        "train/learning_rate": "learning_rate",
        "train/value_loss": None,
        "time/fps": None,
    },
    "CleanRL": {
        "charts/episodic_return": "episode_return",
        "charts/episodic_length": "episode_length",
        "charts/learning_rate": "learning_rate",
        "losses/value_loss": None,
        "charts/SPS": None,
    },
    "RLlib": {
        "episode_reward_mean": "average_return",
        "env_runners/episode_return_mean": "average_return",
        "ray/tune/episode_reward_mean": "average_return",
        "evaluation/episode_reward_mean": "validation_average_return",
        "evaluation/env_runners/episode_return_mean": "validation_average_return",
        "episode_len_mean": "average_episode_length",
    },
}


@pytest.mark.parametrize("trainer", LOGGED_BY)
def test_the_names_a_trainer_logs_are_known(trainer: str) -> None:
    assert {name: known(name) for name in LOGGED_BY[trainer]} == LOGGED_BY[trainer]


@pytest.mark.parametrize("name", ["scale", "success", "steps", "reward", "losses", "lr_scheduler", ""])
def test_a_name_that_may_mean_something_else_is_unknown(name: str) -> None:
    assert known(name) is None


def test_names_compare_without_case_and_separators() -> None:
    assert {known(name) for name in ("Train/Loss", "train.loss", " train loss", "TRAIN__LOSS")} == {"loss"}


def test_the_first_of_two_names_that_mean_the_same_bears_ours() -> None:
    names = Names()
    logged = ["train/loss", "total_loss", "loss", "train/loss", "Train Loss", "mine"]
    assert [names(name) for name in logged] == ["loss", "total_loss", None, "loss", "Train Loss", "mine"]


def test_a_scalar_of_ours_is_not_mixed_with_another_of_that_name() -> None:
    names = Names()
    assert [names(name) for name in ("rollout/success_rate", "success_rate")] == ["success_rate", None]


def test_names_without_end_take_no_memory_without_end() -> None:
    names = Names()
    assert [names(f"item-{number}") for number in range(5000)] == [f"item-{number}" for number in range(5000)]
    assert len(names._logged_as) < 2000
