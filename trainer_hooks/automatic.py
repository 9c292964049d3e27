"""The hook in a script that says nothing of it: what is installed once a framework was imported."""

from __future__ import annotations

import os
import sys
from typing import Any

from trainer_hooks import exits, identity, imports
from trainer_hooks.monitor import Monitor, current

_process: Any = None


def torch() -> None:
    """Follow a plain torch loop, and note how the script ends."""
    global _process
    from trainer_hooks import torch_process

    _process = torch_process.install(_open_monitor)
    exits.watch(_leave)


def transformers_saves() -> None:
    """Make checkpoints of what transformers saves."""
    _process.watch_saves(sys.modules["transformers.modeling_utils"].PreTrainedModel, "save_pretrained")


def peft_saves() -> None:
    """Make checkpoints of the adapters that peft saves."""
    _process.watch_saves(sys.modules["peft.peft_model"].PeftModel, "save_pretrained")


def _open_monitor() -> Monitor | None:
    """The recording of a training of which there is evidence; None in the helpers of one."""
    if identity.is_worker():
        return None
    rank, world_size = _place_in_group()
    return Monitor(
        rank=rank,
        world_size=world_size,
        info={"framework": f"torch {sys.modules['torch'].__version__}"},
        start_ns=imports.armed_ns,
        provisional=True,
    )


def _place_in_group() -> tuple[int | None, int | None]:
    """Rank and world size of a script that gives them to torch alone, as spawned ranks may."""
    group = identity.process_group()
    if group is None or "RANK" in os.environ:
        return None, None
    return group.get_rank(), group.get_world_size()


def _leave(error: SystemExit) -> None:
    monitor = current()
    if monitor is not None:
        monitor._end(error, "exit")
