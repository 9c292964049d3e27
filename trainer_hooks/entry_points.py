"""The callbacks that Lightning and Fabric ask an installed package for: ours, where telemetry is asked for.

It is, where TRAINVITALS says so (`1`, `true` …), or TRAINVITALS_DIR is set and TRAINVITALS does not say no
(`0`, `false` …). Otherwise a factory returns nothing and imports nothing. A factory never raises: that would
be the end of `Trainer()`.

A callback made here is `automatic`: see `yields`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol

logger = logging.getLogger("trainvitals")

_NO = {"0", "false", "no", "off"}


class Callback(Protocol):
    """One of ours; `automatic` where nobody asked for it by name."""

    automatic: bool


class Unannounced(list[Any]):
    """A list that says it is empty until it is looked into: Lightning prints a line about any other."""

    def __bool__(self) -> bool:
        return False


def wanted() -> bool:
    """Whether the environment asks for telemetry."""
    answer = os.environ.get("TRAINVITALS", "").strip().lower()
    return answer not in _NO if answer else bool(os.environ.get("TRAINVITALS_DIR"))


def lightning() -> list[Any]:
    """For a Trainer of `lightning.pytorch`."""
    return _automatic("trainer_hooks.lightning")


def pytorch_lightning() -> list[Any]:
    """For a Trainer of `pytorch_lightning`."""
    return _automatic("trainer_hooks.pytorch_lightning")


def fabric() -> list[Any]:
    """For a Fabric of `lightning.fabric`."""
    return _automatic("trainer_hooks.fabric")


def lightning_fabric() -> list[Any]:
    """For a Fabric of `lightning_fabric`."""
    return _automatic("trainer_hooks.lightning_fabric")


def yields(callback: Callback, among: Sequence[Callback]) -> bool:
    """Whether one of several callbacks of ours leaves the recording to another.

    An automatic one does so to any that is not, and to an automatic one before it. `among` are all of ours
    that one Trainer or Fabric has, in its order.
    """
    return callback.automatic and (any(not each.automatic for each in among) or among[0] is not callback)


def _automatic(module: str) -> list[Any]:
    try:
        if not wanted():
            return []
        return Unannounced([importlib.import_module(module).TelemetryCallback(automatic=True)])
    except Exception as error:
        with contextlib.suppress(Exception):  # a stranger's filter
            logger.warning("telemetry is off for this training: %s", type(error).__name__)
        return []
