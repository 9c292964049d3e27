"""What a training with Fabric tells a Monitor, whichever of the two namespaces the Fabric is of.

A recording opens when the first optimizer is set up, on every rank; so a Fabric that only evaluates has none.
It closes at `TelemetryCallback.close`, at the end of the process, or where the training of another Fabric
begins. What is set up, before or after, is followed as `torch_loop` tells; `fabric.call` and `fabric.log` are
not needed, and not recorded.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from trainer_hooks.entry_points import yields
from trainer_hooks.monitor import Monitor, current, warn
from trainer_hooks.options import Options
from trainer_hooks.torch_loop import TorchLoop
from trainer_hooks.torch_process import tell_norm, watch
from trainer_hooks.wrapping import put_around

_recording: FabricTelemetry | None = None  # whose recording was opened last


class FabricTelemetry:
    """Records the vital signs of what a Fabric trains.

    Args:
        run, name, loss_kind, record_messages: see Monitor.
        model, dataset: what is trained on what; for the run's info.
        automatic: nobody asked for this one by name. It records nothing where its Fabric has one that is not
            automatic, or an automatic one before it, or where a Monitor records in this process already.
    """

    framework = ""  # name and version, for the run's info

    def __init__(
        self,
        *,
        run: str | None = None,
        name: str | None = None,
        loss_kind: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        record_messages: bool = False,
        automatic: bool = False,
    ) -> None:
        self.monitor: Monitor | None = None
        self.automatic = automatic
        self._options = Options(run, name, loss_kind, model, dataset, record_messages)
        self._loop: TorchLoop | None = None
        self._fabric: Callable[[], Any] = _no_fabric
        self._models: weakref.WeakSet[Any] = weakref.WeakSet()

    def close(self) -> None:
        """The training has ended: close the recording."""
        if self.monitor is not None:
            self.monitor.finish()

    def set_up(self, fabric: Any, result: Any) -> None:
        """`result` is what a method of setup returned. Raises what a stranger's Fabric raises."""
        given = result if isinstance(result, tuple) else (result,)
        models = [each._forward_module for each in given if hasattr(each, "_forward_module")]
        optimizers = [each for each in given if isinstance(each, torch.optim.Optimizer)]
        self._models.update(models)
        if optimizers and not (self._fabric() is fabric and self.monitor and self.monitor.recording):
            self._begin(fabric)
            models = list(self._models)
        if self._loop is not None and self._fabric() is fabric:
            for model in models:
                self._loop.watch_model(model)
            for optimizer in optimizers:
                self._loop.watch_optimizer(optimizer)

    def _begin(self, fabric: Any) -> None:
        global _recording
        others = [each for each in fabric._callbacks if isinstance(each, FabricTelemetry)]
        if yields(self, others):
            return
        before = current()
        if _recording is not None and _recording.monitor is before:
            _recording.close()
        elif self.automatic and before is not None and not before.provisional:
            return
        monitor = self._options.monitor(
            framework=self.framework,
            precision=str(fabric._precision.precision),
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self.monitor, self._loop, self._fabric = monitor, None, weakref.ref(fabric)
        if monitor.recording:
            _recording = self
            self._loop = watch(monitor)
            for name, tell in {
                "clip_gradients": functools.partial(tell_norm, self._loop),
                "save": functools.partial(_save, monitor),
            }.items():
                monitor.when_closing(put_around(fabric, name, functools.partial(functools.partial, tell)))


def follow(fabric: Any) -> None:
    """Make the methods of setup of this class, a Fabric, tell those callbacks of theirs that are ours."""
    for name in ("setup", "setup_module", "setup_optimizers"):
        put_around(fabric, name, _telling)


def _telling(original: Callable[..., Any]) -> Callable[..., Any]:
    def setup(fabric: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(fabric, *args, **kwargs)
        try:
            for each in fabric._callbacks:
                if isinstance(each, FabricTelemetry):
                    each.set_up(fabric, result)
        except Exception as error:
            monitor = current()
            if monitor is not None:  # what has been opened goes on
                monitor.fault(error)
            else:
                warn("telemetry is off for this training: %s", type(error).__name__)
        return result

    return setup


def _save(monitor: Monitor, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with monitor.checkpoint(args[0] if args else kwargs.get("path")):
        return method(*args, **kwargs)


def _no_fabric() -> None:
    """Nothing is trained yet."""
