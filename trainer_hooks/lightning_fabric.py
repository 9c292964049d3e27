"""The hook for Fabric by its own package: for a Fabric of `lightning_fabric`, not of `lightning.fabric`."""

from __future__ import annotations

import lightning_fabric
from lightning_fabric import Fabric

from trainer_hooks.fabric_training import FabricTelemetry, follow


class TelemetryCallback(FabricTelemetry):
    __doc__ = FabricTelemetry.__doc__
    framework = f"lightning_fabric {lightning_fabric.__version__}"  # type: ignore[attr-defined]


follow(Fabric)
