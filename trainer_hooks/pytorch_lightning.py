"""The hook for Lightning by its older name: for a Trainer of `pytorch_lightning`."""

from __future__ import annotations

import pytorch_lightning
from pytorch_lightning import Callback

from trainer_hooks.lightning_fit import FitTelemetry


class TelemetryCallback(FitTelemetry, Callback):
    __doc__ = FitTelemetry.__doc__
    framework = f"pytorch_lightning {pytorch_lightning.__version__}"  # type: ignore[attr-defined]
