"""A run's state in words and colours, as it is recorded in numbers."""

from __future__ import annotations

from alerts.fleet import CODES
from dashboards.colors import STATES
from dashboards.grafana.panels import Text

STATE_TEXTS = {code: Text(state, STATES[state]) for state, code in CODES.items()}
