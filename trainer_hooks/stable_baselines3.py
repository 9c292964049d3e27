"""The hook for Stable-Baselines3: `model.learn(…, callback=TelemetryCallback())`.

A recording opens at the start of `learn` and closes at its end; a second `learn` is the next attempt. Samples
are the steps of the environments, collecting them is phase data, learning from them phase compute. Steps are
those of the optimizer itself, of the critic's where there are several: PPO's own `n_updates` counts epochs.
What SB3 logs is recorded as it logs it; there is no perplexity.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

import stable_baselines3
from stable_baselines3.common import callbacks
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from trainer_hooks.monitor import COMPUTE, DATA, OTHER, Monitor, Number, current, warn
from trainer_hooks.names import Names, is_number
from trainer_hooks.options import Options
from trainer_hooks.wrapping import put_around

_TOLD_AT_MOST_EVERY_NS = 100_000_000

# A callback holds its model: strongly, an entry would keep its own key alive.
_learning: WeakKeyDictionary[BaseAlgorithm, ReferenceType[TelemetryCallback]] = WeakKeyDictionary()


def _harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """SB3 calls its callbacks without a net: keep every fault of ours away from the training."""

    @functools.wraps(hook)
    def harmless(self: TelemetryCallback, *arguments: Any) -> None:
        if self.monitor is not None:
            self.monitor.guard(hook, self, *arguments)

    return harmless


class TelemetryCallback(BaseCallback):
    """Records the vital signs of `learn`.

    Args:
        run, name, record_messages: see Monitor.
        model, environment: what is trained in what; for the run's info.
    """

    def __init__(
        self,
        *,
        run: str | None = None,
        name: str | None = None,
        model: str | None = None,
        environment: str | None = None,
        record_messages: bool = False,
    ) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._options = Options(run, name, None, model, environment, record_messages)
        self._names = Names()
        self._undo: list[Callable[[], None]] = []
        self._collected = 0
        self._tell_at_ns = 0
        self._stepped_since_told = False

    def _on_training_start(self) -> None:
        try:
            if self.monitor is not None:  # the `learn` before came to no end that SB3 told of
                self._close("unknown")
            _learning[self.model] = ReferenceType(self)
            monitor = self._options.monitor(
                framework=f"stable-baselines3 {stable_baselines3.__version__}",
                model=type(self.model).__name__,
            )
            if monitor.recording:
                self.monitor = monitor
                monitor.guard(self._begin, monitor)
        except Exception as error:
            warn("telemetry is off for this training: %s", type(error).__name__)

    def _begin(self, monitor: Monitor) -> None:
        monitor.measured |= {"validation_loss"}
        self._names = Names()
        self._collected = 0
        optimizer = _leading_optimizer(self.model)
        if optimizer is not None:
            self._undo.append(optimizer.register_step_post_hook(self._stepped).remove)
        formats, ours = self.logger.output_formats, _Logged(self)
        formats.append(ours)
        self._undo.append(lambda: formats.remove(ours) if ours in formats else None)

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.monitor is not None:
            self.monitor.guard(self._count_step, optimizer)

    def _count_step(self, optimizer: Any) -> None:
        assert self.monitor is not None
        self._stepped_since_told = True
        self.monitor.learning_rates([group["lr"] for group in optimizer.param_groups])
        self.monitor.end_step()

    @_harmless
    def _on_rollout_start(self) -> None:
        assert self.monitor is not None
        if self._stepped_since_told:  # SB3 prints it after the next rollout only
            self.tell(self.logger.name_to_value)
        self.monitor.enter(DATA)

    def _on_step(self) -> bool:
        self._collect()
        return True

    @_harmless
    def _collect(self) -> None:
        self._collected += self.model.n_envs
        now = monotonic_ns()
        if now >= self._tell_at_ns:
            self._tell_at_ns = now + _TOLD_AT_MOST_EVERY_NS
            self._tell_collected()

    def _tell_collected(self) -> None:
        assert self.monitor is not None
        collected, self._collected = self._collected, 0
        self.monitor.progress(samples=collected)

    @_harmless
    def _on_rollout_end(self) -> None:
        assert self.monitor is not None
        self._tell_collected()
        self.monitor.enter(COMPUTE)

    @_harmless
    def _on_training_end(self) -> None:
        assert self.monitor is not None
        if self._stepped_since_told:
            self.monitor.guard(self.tell, self.logger.name_to_value)
        early = self.model.num_timesteps < self.model._total_timesteps
        self._close("early_stopping" if early else "completed")

    def failed(self, error: BaseException) -> None:
        """`learn` ends with this exception."""
        monitor = self.monitor
        if monitor is not None:
            monitor.guard(self._close, "completed", error)

    def _close(self, reason: str, error: BaseException | None = None) -> None:
        monitor, self.monitor = self.monitor, None
        undone, self._undo = self._undo, []
        if monitor is None:
            return
        for undo in undone:
            monitor.guard(undo)
        if self._collected:
            monitor.progress(samples=self._collected)
        monitor.enter(OTHER)
        monitor.end(error, reason)

    def tell(self, values: Mapping[str, Any]) -> None:
        """Numbers that SB3 logs."""
        monitor = self.monitor
        if monitor is None:
            return
        self._stepped_since_told = False
        others: dict[str, Number] = {}
        for name, value in values.items():
            ours = self._names(name) if is_number(value) else None
            if ours == "loss":
                monitor.told(loss=value)
            elif ours is not None and ours not in monitor.measured:
                others[ours] = value
        monitor.log(**others)


class _Logged(KVWriter):
    """One more output of SB3's logger."""

    def __init__(self, callback: TelemetryCallback) -> None:
        self._callback = callback

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """What SB3 prints at this step."""
        monitor = self._callback.monitor
        if monitor is not None:
            monitor.guard(self._callback.tell, key_values)

    def close(self) -> None:
        """Nothing is to be closed: the recording ends with the training."""


def install() -> None:
    """Put a TelemetryCallback into every `learn` that is given none and of which no Monitor records."""
    put_around(BaseAlgorithm, "_init_callback", _with_ours)  # which adds none to one of ours


def _with_ours(original: Callable[..., Any]) -> Callable[..., Any]:
    def _init_callback(model: BaseAlgorithm, callback: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            callback = _joined(callback)
        except Exception as error:
            warn("telemetry is off for this training: %s", type(error).__name__)
        return original(model, callback, *args, **kwargs)

    return _init_callback


def _joined(callback: Any) -> Any:
    """The callback, or list of them, with one of ours."""
    monitor = current()
    if _has_ours(callback) or (monitor is not None and not monitor.provisional):
        return callback
    if callback is None:
        return TelemetryCallback()
    if isinstance(callback, list):
        return [*callback, TelemetryCallback()]
    if not isinstance(callback, BaseCallback):
        callback = ConvertCallback(callback)
    return CallbackList([callback, TelemetryCallback()])


def _has_ours(callback: Any) -> bool:
    if isinstance(callback, list):
        return any(map(_has_ours, callback))
    within = getattr(callback, "callbacks", None) or getattr(callback, "callback", None)
    return isinstance(callback, TelemetryCallback) or (
        isinstance(within, (list, BaseCallback)) and _has_ours(within)
    )


def _leading_optimizer(model: BaseAlgorithm) -> Any:
    critic = getattr(model, "critic", None)
    return getattr(critic, "optimizer", None) or getattr(model.policy, "optimizer", None)


def _told_of_exceptions(original: Callable[..., Any]) -> Callable[..., Any]:
    def learn(model: BaseAlgorithm, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(model, *args, **kwargs)
        except BaseException as error:
            callback = _callback_of(model)
            if callback is not None:
                callback.failed(error)
            raise

    return learn


def _in_phase_evaluation(original: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate_policy(model: Any, *args: Any, **kwargs: Any) -> Any:
        monitor = _monitor_of(model)
        if monitor is None:
            return original(model, *args, **kwargs)
        with monitor.phase("evaluation"):
            return original(model, *args, **kwargs)

    return evaluate_policy


def _as_a_checkpoint(original: Callable[..., Any]) -> Callable[..., Any]:
    def save(model: BaseAlgorithm, path: Any, *args: Any, **kwargs: Any) -> Any:
        monitor = _monitor_of(model)
        if monitor is None:
            return original(model, path, *args, **kwargs)
        with monitor.checkpoint(_zip(path)):
            return original(model, path, *args, **kwargs)

    return save


def _monitor_of(model: Any) -> Monitor | None:
    callback = _callback_of(model) if isinstance(model, BaseAlgorithm) else None
    return callback.monitor if callback is not None else None


def _callback_of(model: BaseAlgorithm) -> TelemetryCallback | None:
    try:
        return _learning[model]()
    except Exception:  # one of which nothing is recorded, or that cannot be a key
        return None


def _zip(path: Any) -> Any:
    """The file that SB3 writes: with a suffix, unless the path has one."""
    if not isinstance(path, (str, os.PathLike)):
        return None
    try:
        name = os.fspath(path)
        return name if os.path.splitext(name)[1] else f"{name}.zip"  # noqa: PTH122
    except Exception:  # then SB3 cannot have it either, and says so
        return None


def _register() -> None:
    # None of these has a callback: an exception, an evaluation, a save.
    for algorithm in (OnPolicyAlgorithm, OffPolicyAlgorithm):
        put_around(algorithm, "learn", _told_of_exceptions)
    put_around(callbacks, "evaluate_policy", _in_phase_evaluation)
    put_around(BaseAlgorithm, "save", _as_a_checkpoint)


_register()
