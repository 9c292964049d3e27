"""What changes over time and is no line: states that hold for a while, and how values are distributed."""

from __future__ import annotations

from typing import Literal

import attr

from dashboards.grafana.panels import DataPanel, Json, legend


@attr.s(auto_attribs=True, kw_only=True)
class StateTimeline(DataPanel):
    """A band for each series, in the colour and with the word of its value.

    Give `value_texts` with colours, or `thresholds`.
    """

    kind = "state-timeline"

    unit: str = "none"
    color_mode: str = "thresholds"

    def options(self) -> Json:
        return {
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.9,
            "legend": legend(()),
            "tooltip": {"mode": "single", "sort": "none"},
        }

    def custom_field_options(self) -> Json:
        return {"lineWidth": 0, "fillOpacity": 80, "spanNulls": False}


@attr.s(auto_attribs=True, kw_only=True)
class Heatmap(DataPanel):
    """Colour by time and row: give queries in the format heatmap, for rows that are buckets, or series.

    `unit` is that of the buckets' bounds, `cell_unit` that of what the colour shows; of series the names are
    the rows. The colour runs from `minimum` to `maximum`, in the cell's unit. Counts fade into the ground, so
    that nothing is seen where nothing was; shares do not. The first row is at the bottom, or at the top with
    `from_top`.
    """

    kind = "heatmap"

    cell_unit: str = "short"
    cell_decimals: int | None = None
    shown: Literal["counts", "shares"] = "counts"
    from_top: bool = False

    def options(self) -> Json:
        counts = self.shown == "counts"
        return {
            "calculate": False,
            # Rows of many GPUs or ranks are thin.
            "cellGap": 1 if counts else 0,
            "cellValues": {"unit": self.cell_unit, "decimals": self.cell_decimals},
            "color": {
                "mode": "scheme",
                "scheme": "Oranges" if counts else "YlGnBu",
                "fill": "dark-orange",
                "scale": "exponential",
                "exponent": 0.5 if counts else 1,
                "steps": 64,
                "reverse": False,
                "min": self.minimum,
                "max": self.maximum,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            # Not given, Grafana leaves out what is not above 0.
            "filterValues": {"le": 1e-9 if counts else -1e9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": counts, "showColorScale": True},
            "yAxis": {
                "axisPlacement": "left",
                "reverse": self.from_top,
                "unit": self.unit,
                "decimals": self.decimals,
            },
        }

    def custom_field_options(self) -> Json:
        return {
            "hideFrom": {"legend": False, "tooltip": False, "viz": False},
            "scaleDistribution": {"type": "linear"},
        }
