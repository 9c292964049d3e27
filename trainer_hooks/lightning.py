"""The hook for Lightning: `Trainer(callbacks=[TelemetryCallback()])`.

For a Trainer of `pytorch_lightning` it is that of `trainer_hooks.pytorch_lightning`.
"""

from __future__ import annotations

import lightning
from lightning.pytorch import Callback

from trainer_hooks.lightning_fit import FitTelemetry


class TelemetryCallback(FitTelemetry, Callback):
    __doc__ = FitTelemetry.__doc__
    framework = f"lightning {lightning.__version__}"
