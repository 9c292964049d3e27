"""The hook for Accelerate: `Accelerator(log_with="trainvitals")` once this module was imported.

With Accelerate before 1.15: `Accelerator(log_with=TelemetryTracker())`. A recording opens at `init_trackers`,
on every rank, and closes at `end_training`. What is prepared, before or after, is followed as `torch_loop`
tells; losses are those given to `accelerator.backward`, before it divides them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from trainer_hooks.monitor import Monitor, warn
from trainer_hooks.names import Names, is_number
from trainer_hooks.options import Options
from trainer_hooks.torch_calls import precision
from trainer_hooks.torch_loop import TorchLoop
from trainer_hooks.torch_process import tell_norm, watch
from trainer_hooks.wrapping import put_around


class TelemetryTracker(GeneralTracker):  # type: ignore[misc]
    """Records the vital signs of what an Accelerator trains.

    Args:
        project: as given to `init_trackers`; the display name, where there is no other.
        run, name, loss_kind, record_messages: see Monitor.
        model, dataset: what is trained on what; for the run's info.
    """

    name = "trainvitals"
    requires_logging_directory = False
    main_process_only = False

    def __init__(
        self,
        project: str = "",
        *,
        run: str | None = None,
        name: str | None = None,
        loss_kind: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        record_messages: bool = False,
    ) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._project = project
        self._options = Options(run, name, loss_kind, model, dataset, record_messages)
        self._names = Names()
        self._preparing = 0

    @property
    def tracker(self) -> Monitor | None:
        """The Monitor that records; None before `init_trackers` and where nothing can be recorded."""
        return self.monitor

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Nothing is kept of it: it may hold anything."""

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Numbers a script logs; what is measured anyway is left out."""
        if self.monitor is not None:
            self.monitor.guard(self._log, values)

    def _log(self, values: Mapping[str, Any]) -> None:
        assert self.monitor is not None
        numbers: dict[str, Any] = {}
        for name, value in values.items():
            ours = self._names(name)
            if ours is None or ours in self.monitor.measured or not is_number(value):
                continue
            if ours == "validation_loss":
                self.monitor.evaluated(loss=value)
            else:
                numbers[ours] = value
        self.monitor.log(**numbers)

    def finish(self) -> None:
        """The training has ended: close the recording."""
        if self.monitor is not None:
            self.monitor.finish()

    def begin(self, accelerator: Any, project: str = "") -> None:
        """Open the recording of what this Accelerator trains."""
        if self.monitor is not None and self.monitor.recording:
            return
        try:
            monitor = self._options.monitor(
                framework=f"accelerate {accelerate.__version__}",
                name=self._project or project or None,
                precision=precision(accelerator.mixed_precision, accelerator._models),
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            )
            if monitor.recording:
                self.monitor = monitor
                monitor.guard(self._follow, accelerator, monitor)
        except Exception as error:
            warn("telemetry is off for this training: %s", type(error).__name__)

    def _follow(self, accelerator: Any, monitor: Monitor) -> None:
        loop = watch(monitor)
        self._watch_prepared(accelerator, loop)
        prepare = functools.partial(self._prepare, accelerator, loop)
        told: dict[str, Callable[..., Any]] = {
            "prepare": prepare,
            "prepare_model": prepare,
            "prepare_optimizer": prepare,
            "backward": functools.partial(_backward, loop),
            "clip_grad_norm_": functools.partial(tell_norm, loop),
            "save_state": functools.partial(_save_state, accelerator, monitor),
            "end_training": self._end,
        }
        for name, tell in told.items():
            monitor.when_closing(put_around(accelerator, name, functools.partial(functools.partial, tell)))

    def _prepare(
        self, accelerator: Any, loop: TorchLoop, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self._preparing += 1
        try:
            return method(*args, **kwargs)
        finally:
            self._preparing -= 1
            if not self._preparing:
                loop.monitor.guard(self._watch_prepared, accelerator, loop)

    def _watch_prepared(self, accelerator: Any, loop: TorchLoop) -> None:
        for model in accelerator._models:
            loop.watch_model(model)
        # Known with the first model, where none is mixed.
        loop.monitor.describe(precision=precision(accelerator.mixed_precision, accelerator._models))
        for optimizer in accelerator._optimizers:
            loop.watch_optimizer(optimizer)

    def _end(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)  # tells only the trackers of the main process
        finally:
            self.finish()


def _backward(loop: TorchLoop, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not loop.may_go_backward_here():
        return method(*args, **kwargs)
    loop.backward_begins(args[0] if args else kwargs.get("loss"))
    completed = False
    try:
        result = method(*args, **kwargs)
        completed = True
        return result
    finally:
        loop.backward_ended(completed)


def _save_state(
    accelerator: Any, monitor: Monitor, method: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with monitor.checkpoint(_folder(accelerator, args[0] if args else kwargs.get("output_dir"))):
        return method(*args, **kwargs)


def _folder(accelerator: Any, given: Any) -> Any:
    """Where `save_state` saves: of its own choice where Accelerate names the checkpoints."""
    try:
        if not accelerator.project_configuration.automatic_checkpoint_naming:
            return given
        return Path(accelerator.project_dir, "checkpoints", f"checkpoint_{accelerator.save_iteration}")
    except Exception:  # another version's: then the size is unknown
        return None


def _begin(accelerator: Any, project_name: str = "", config: Any = None, init_kwargs: Any = None) -> None:
    """Begin our tracker, which Accelerate itself makes, or tells of, only on the main process."""
    for each in (*accelerator.trackers, *accelerator.log_with):
        if isinstance(each, TelemetryTracker):
            each.begin(accelerator, project_name)
            return
    if TelemetryTracker.name in accelerator.log_with:
        options = (init_kwargs or {}).get(TelemetryTracker.name, {})
        TelemetryTracker(project_name, **options).begin(accelerator, project_name)


def _on_every_rank(original: Callable[..., None]) -> Callable[..., None]:
    def init_trackers(accelerator: Any, *args: Any, **kwargs: Any) -> None:
        original(accelerator, *args, **kwargs)
        try:
            _begin(accelerator, *args, **kwargs)
        except Exception as error:
            warn("telemetry is off for this training: %s", type(error).__name__)

    return init_trackers


def _register() -> None:
    register = getattr(tracking, "register_tracker_class", None)  # since 1.15
    if register is not None:
        register(TelemetryTracker)
    put_around(accelerate.Accelerator, "init_trackers", _on_every_rank)


_register()
