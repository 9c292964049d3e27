"""The hook in a script that says nothing of it: what is installed once a framework was imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

from trainer_hooks import entry_points, identity, imports
from trainer_hooks.monitor import Monitor, current, warn
from trainer_hooks.wrapping import put_around

_process: Any = None


def tell_of_exits() -> None:
    """Have the recording closed before an `os._exit`, which lets nothing else run."""
    if not hasattr(os._exit, "__wrapped__"):
        put_around(os, "_exit", _telling)


def _telling(original: Callable[..., Any]) -> Any:
    def leave(status: int) -> Any:
        monitor = current()
        # Another thread's is a watchdog's: the training may hold what closing would wait for.
        if monitor is not None and monitor.thread == get_ident() and isinstance(status, int):
            monitor.guard(monitor.end, SystemExit(status), "exit")
        return original(status)

    return leave


def torch() -> None:
    """Follow a plain torch loop."""
    global _process
    from trainer_hooks import torch_process

    _process = torch_process.install(_open_monitor)


def transformers_saves() -> None:
    """Make checkpoints of what transformers saves."""
    _process.watch_saves(sys.modules["transformers.modeling_utils"].PreTrainedModel, "save_pretrained")


def peft_saves() -> None:
    """Make checkpoints of the adapters that peft saves."""
    _process.watch_saves(sys.modules["peft.peft_model"].PeftModel, "save_pretrained")


def lightning() -> None:
    """Give every Trainer of `lightning.pytorch` a callback of ours, unless it has one."""
    _provide("lightning.pytorch.trainer.connectors.callback_connector", "lightning")


def pytorch_lightning() -> None:
    """Give every Trainer of `pytorch_lightning` a callback of ours, unless it has one."""
    _provide("pytorch_lightning.trainer.connectors.callback_connector", "pytorch_lightning")


def fabric() -> None:
    """Give every Fabric of `lightning.fabric` a callback of ours, unless it has one."""
    _provide("lightning.fabric.fabric", "fabric")


def lightning_fabric() -> None:
    """Give every Fabric of `lightning_fabric` a callback of ours, unless it has one."""
    _provide("lightning_fabric.fabric", "lightning_fabric")


def _provide(module: str, factory: str) -> None:
    """Let Lightning find our entry point, also where the hook is not installed beside it."""

    def with_ours(original: Callable[[str], list[Any]]) -> Callable[[str], list[Any]]:
        def load(group: str) -> list[Any]:
            found = original(group)
            try:
                if not any(type(each).__module__.startswith("trainer_hooks.") for each in found):
                    # Nothing is printed of what is added here.
                    found = [*found, *getattr(entry_points, factory)()]
            except Exception as error:
                warn("telemetry is off for this training: %s", type(error).__name__)
            return found

        return load

    put_around(sys.modules[module], "_load_external_callbacks", with_ours)


def _open_monitor() -> Monitor | None:
    """The recording of a training of which there is evidence; None in the helpers of one."""
    if identity.is_worker():
        return None
    return Monitor(
        info={"framework": f"torch {sys.modules['torch'].__version__}"},
        start_ns=imports.armed_ns,
        provisional=True,
    )
