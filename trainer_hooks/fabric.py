"""The hook for Fabric: `Fabric(callbacks=[TelemetryCallback()])`.

For a Fabric of `lightning_fabric` it is that of `trainer_hooks.lightning_fabric`.
"""

from __future__ import annotations

import lightning
from lightning.fabric import Fabric

from trainer_hooks.fabric_training import FabricTelemetry, follow


class TelemetryCallback(FabricTelemetry):
    __doc__ = FabricTelemetry.__doc__
    framework = f"fabric {lightning.__version__}"


follow(Fabric)
