"""The bundled fine-tuning workload: data, model, training."""

from __future__ import annotations


class WorkloadError(Exception):
    """Something the user can set right; the message says what is wrong and the one thing to do."""
