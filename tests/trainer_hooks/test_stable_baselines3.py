from __future__ import annotations

import gc
import inspect
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common import logger as sb3_logger
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor as EpisodeMonitor

from tests.trainer_hooks.recorded import clean, every_byte, only, recorded, scalars
from trainer_hooks import monitor as monitors
from trainer_hooks import stable_baselines3, tee
from trainer_hooks.monitor import CHECKPOINT, COMPUTE, DATA, EVALUATION, Monitor
from trainer_hooks.recording import FAILED, FINISHED
from trainer_hooks.stable_baselines3 import TelemetryCallback

SECRET = "the client said that she"


class Corridor(gymnasium.Env[Any, Any]):
    """Five steps to the right are a success; a step costs 0.1, and ten are the most."""

    def __init__(
        self, *, continuous: bool = False, fails_at: int = 0, error: BaseException | None = None
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gymnasium.spaces.Discrete(2)
        )
        self._continuous = continuous
        self._fails_at = fails_at
        self._error = error
        self._steps = 0

    def _observation(self) -> np.ndarray[Any, Any]:
        return np.array([self._place / 5, self._time / 10], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._place = self._time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self._steps == self._fails_at and self._error is not None:
            raise self._error
        right = action[0] > 0 if self._continuous else bool(action)
        self._place = max(0, self._place + (1 if right else -1))
        self._time += 1
        success = self._place == 5
        over = success or self._time == 10
        return self._observation(), (1.0 if success else -0.1), over, False, {"is_success": success}


class Kept(sb3_logger.KVWriter):
    """What SB3 logs, as its own outputs get it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.values.update(key_values)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def _alone(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(monitors, "_current", None)
    monkeypatch.setattr(
        BaseAlgorithm, "_init_callback", inspect.unwrap(vars(BaseAlgorithm)["_init_callback"])
    )
    yield
    tee.remove()


def ppo(environment: gymnasium.Env[Any, Any] | None = None, **options: Any) -> PPO:
    given: dict[str, Any] = {
        "n_steps": 64,
        "batch_size": 24,
        "n_epochs": 3,
        "seed": 0,
        "device": "cpu",
        **options,
    }
    return PPO("MlpPolicy", environment or Corridor(), **given)


def test_steps_samples_and_what_is_logged_are_those_of_ppo(recordings: Path) -> None:
    model, kept = ppo(), Kept()
    model.set_logger(sb3_logger.Logger(None, [kept]))
    model.learn(192, callback=TelemetryCallback(name="corridor", environment="Corridor"))
    last = {**kept.values, **model.logger.name_to_value}  # the last training is logged, never printed
    seen = clean(recordings)
    live = seen.live
    assert live.steps == live.step == live.batches == 3 * 3 * 3  # rollouts, epochs, batches of 24, 24 and 16
    assert model._n_updates == 9
    assert live.samples == model.num_timesteps == 192
    assert live.loss == last["train/loss"]
    assert live.learning_rates[0] == 3e-4
    assert live.loss_tokens == live.tokens_all == 0
    values = scalars(seen)
    assert values["success_rate"] == kept.values["rollout/success_rate"]
    assert values["average_return"] == pytest.approx(kept.values["rollout/ep_rew_mean"])
    assert values["average_episode_length"] == kept.values["rollout/ep_len_mean"]
    assert values["train/value_loss"] == pytest.approx(float(last["train/value_loss"]))
    assert "loss" not in values
    assert (live.outcome, seen.of("finish")[0]["reason"]) == (FINISHED, "completed")
    assert (seen.static.info["model"], seen.static.info["dataset"]) == ("PPO", "Corridor")
    assert seen.static.info["framework"].startswith("stable-baselines3 ")
    assert live.phase_ns[DATA] > 0
    assert live.phase_ns[COMPUTE] > 0
    assert model.logger.output_formats == [kept]
    assert not model.policy.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("algorithm", [DQN, SAC])
def test_steps_off_policy_are_the_updates(recordings: Path, algorithm: Any) -> None:
    environment = Corridor(continuous=algorithm is SAC)
    model = algorithm(
        "MlpPolicy", environment, learning_starts=20, train_freq=4, gradient_steps=2, batch_size=8, seed=0
    )
    model.learn(60, callback=[TelemetryCallback()], log_interval=1)
    live = clean(recordings).live
    assert live.steps == live.batches == model._n_updates == 20
    assert live.samples == 60


def test_two_environments_collect_twice_the_samples(recordings: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    environments: Any = DummyVecEnv([lambda: EpisodeMonitor(Corridor()) for _ in range(2)])
    model = ppo(environments, n_steps=32)
    model.learn(64, callback=TelemetryCallback())
    assert clean(recordings).live.samples == model.num_timesteps == 64


def test_evaluations_and_checkpoints_are_seen(recordings: Path, tmp_path: Path) -> None:
    evaluation = EvalCallback(
        EpisodeMonitor(Corridor()), eval_freq=64, n_eval_episodes=3, verbose=0, callback_after_eval=None
    )
    checkpoint = CheckpointCallback(64, str(tmp_path / "models"))
    model = ppo()
    model.learn(128, callback=[evaluation, checkpoint, TelemetryCallback()])
    model.save(tmp_path / "after")
    seen = clean(recordings)
    files = sorted((tmp_path / "models").iterdir(), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))
    assert [event["bytes"] for event in seen.of("checkpoint")] == [path.stat().st_size for path in files]
    assert len(files) == seen.live.checkpoints_ok == 2
    assert seen.live.phase_ns[EVALUATION] > 0
    assert seen.live.phase_ns[CHECKPOINT] > 0
    assert scalars(seen)["validation_average_return"] == pytest.approx(evaluation.last_mean_reward)
    assert PPO.load(files[-1]).num_timesteps == 128


class Stops(BaseCallback):
    def _on_step(self) -> bool:
        return bool(self.num_timesteps < 70)


def test_a_callback_that_ends_the_training_early_is_the_reason(recordings: Path) -> None:
    ppo().learn(192, callback=[TelemetryCallback(), Stops()])
    seen = clean(recordings)
    assert (seen.live.outcome, seen.of("finish")[0]["reason"]) == (FINISHED, "early_stopping")
    assert seen.live.samples == 70


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError(SECRET), FAILED), (KeyboardInterrupt(), FINISHED), (SystemExit(3), FAILED)],
)
def test_an_exception_passes_unchanged_and_is_recorded(
    recordings: Path, error: BaseException, outcome: int
) -> None:
    model = ppo(Corridor(fails_at=80, error=error))
    with pytest.raises(type(error)) as raised:
        model.learn(192, callback=TelemetryCallback())
    assert raised.value is error
    seen = clean(recordings)
    assert seen.live.outcome == outcome
    assert [event["type"] for event in seen.of("exception")] == [type(error).__name__] * (outcome == FAILED)
    assert SECRET.encode() not in every_byte(recordings)
    assert len(model.logger.output_formats) == 0
    assert not model.policy.optimizer._optimizer_step_post_hooks


def test_the_next_learn_is_the_next_attempt(recordings: Path) -> None:
    model, callback = ppo(), TelemetryCallback(run="a-run")
    model.learn(64, callback=callback)
    model.learn(64, callback=callback, reset_num_timesteps=False)
    assert [(seen.static.run, seen.live.samples, seen.live.outcome) for seen in recorded(recordings)] == [
        ("a-run", 64, FINISHED)
    ] * 2


def test_the_training_and_what_it_prints_are_the_same(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(callback: BaseCallback | None) -> tuple[list[torch.Tensor], list[str]]:
        model = ppo(verbose=1).learn(192, callback=callback)
        printed = [
            line for line in capsys.readouterr().out.splitlines() if not re.search("fps|elapsed", line)
        ]
        return [each.detach().clone() for each in model.policy.parameters()], printed

    (weights, printed), (with_it, printed_with_it) = train(None), train(TelemetryCallback())
    assert all(torch.equal(mine, other) for mine, other in zip(with_it, weights, strict=True))
    assert printed_with_it == printed
    assert any("success_rate" in line for line in printed)
    assert clean(recordings).live.steps == 27


def test_installed_every_learn_is_recorded_once(recordings: Path) -> None:
    stable_baselines3.install()
    stable_baselines3.install()
    given: list[Any] = [None, lambda local, of_all: True, [Stops()], Stops()]
    for callback in given:
        ppo().learn(64, callback=callback)
    assert len(recorded(recordings)) == len(given)
    for explicit in (
        TelemetryCallback(run="mine"),
        CallbackList([CallbackList([TelemetryCallback(run="mine")])]),
    ):
        ppo().learn(64, callback=explicit)
    seen = recorded(recordings)
    assert len(seen) == len(given) + 2
    assert [each.static.run for each in seen].count("mine") == 2
    assert {(each.live.steps, each.live.hook_errors) for each in seen} == {(9, 0)}


def test_installed_it_leaves_a_training_alone_that_is_recorded(recordings: Path) -> None:
    stable_baselines3.install()
    with Monitor(run="by-hand"):
        ppo().learn(64)
    assert only(recordings).live.steps == 0


def test_a_tee_adds_nothing_to_what_the_callback_tells(recordings: Path, tmp_path: Path) -> None:
    tee.install()
    ppo(tensorboard_log=str(tmp_path / "tb")).learn(128, callback=TelemetryCallback())
    teed = clean(recordings)
    assert teed.live.steps == 18
    assert {"success_rate", "average_return"} < scalars(teed).keys()
    assert not {"rollout/success_rate", "rollout/ep_rew_mean", "train/loss"} & scalars(teed).keys()


def test_a_recording_that_cannot_be_opened_costs_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    model = ppo().learn(64, callback=TelemetryCallback())
    assert model.num_timesteps == 64
    forgotten = weakref.ref(model)
    del model
    gc.collect()
    assert forgotten() is None
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]


def test_faults_of_the_hook_reach_nobody(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(SECRET)

    for name in ("_count_step", "tell", "_tell_collected"):
        monkeypatch.setattr(TelemetryCallback, name, fails)
    ppo().learn(64, callback=TelemetryCallback())
    live = only(recordings).live
    assert live.hook_errors > 9
