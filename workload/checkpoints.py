"""Where a run's checkpoints lie, and which one a resume takes up.

`<checkpoints>/<run>/step-<optimizer step>.ckpt`, beside them the run's tokenizer.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workload import WorkloadError

DEFAULT_FOLDER = Path("checkpoints")
TOKENIZER = "tokenizer.json"

_STEP = re.compile(r"step-(\d+)\.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as far as a resume must know it before the trainer loads the rest."""

    path: Path
    step: int
    perplexity_before: float
    model_shape: dict[str, int]
    vocabulary_size: int


def checkpoint_name(step: int) -> str:
    return f"step-{step}.ckpt"


def step_of(path: Path) -> int | None:
    """The optimizer step in a checkpoint's name; None for any other file."""
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else None


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps in a run's folder."""
    found = [(step, path) for path in folder.glob("*.ckpt") if (step := step_of(path)) is not None]
    return max(found)[1] if found else None


def keep_newest(folder: Path) -> None:
    """Delete a run's checkpoints but the one with the most steps."""
    newest = newest_checkpoint(folder)
    for path in folder.glob("*.ckpt"):
        if step_of(path) is not None and path != newest:
            path.unlink()


def newest_run(checkpoints: Path) -> str | None:
    """The run whose newest checkpoint was written last."""
    newest = [path for folder in checkpoints.glob("*/") if (path := newest_checkpoint(folder))]
    return max(newest, key=lambda path: path.stat().st_mtime).parent.name if newest else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code it may hold; `WorkloadError` when it is not one of ours."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        workload = content["workload"]
        return Checkpoint(
            path=path,
            step=int(content["global_step"]),
            perplexity_before=float(workload["perplexity_before"]),
            model_shape=dict(workload["model_shape"]),
            vocabulary_size=int(workload["vocabulary_size"]),
        )
    except (
        Exception
    ) as error:  # torch raises half a dozen types for a file that is cut short or no checkpoint
        raise WorkloadError(
            f"cannot resume from {path} ({type(error).__name__}); delete it to resume from an earlier one"
        ) from None
