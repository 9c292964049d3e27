"""What the panels of alerts have in common: what an alert judges, and beside it the limit it judges by.

Windows are those of the rules and not the zoom's, so that a line crosses its limit where the alert begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from alerts.thresholds import duration
from dashboards import links
from dashboards.grafana.panels import GROUND, Override, Query, TimeSeries, dashed_limit, limit


def judged(
    *,
    title: str,
    description: str,
    unit: str,
    shown: Sequence[Query],
    limit_at: float | None = None,
    moving_limit: Query | None = None,
    value_texts: Mapping[int, str] | None = None,
    minimum: float | None = 0,
    maximum: float | None = None,
    overrides: Sequence[Override] = (),
    worst: Literal["highest", "lowest"] = "highest",
) -> TimeSeries:
    """What an alert judges over time.

    `limit_at` is drawn as a red line, in the panel's unit; `moving_limit` as red dashes. Neither is given
    where anything above 0 is too much, or where `value_texts` say it in words. In the legend the `worst` of
    what was judged comes first.
    """
    queries = [*shown, *([moving_limit] if moving_limit else [])]
    dashes = [dashed_limit(chr(ord("A") + len(shown)))] if moving_limit else []
    to_run = links.to_run(cluster=links.CLUSTER_OF_SERIES)
    return TimeSeries(
        title=title,
        description=description,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        targets=queries,
        thresholds=[GROUND] if limit_at is None else limit(limit_at),
        threshold_line=limit_at is not None,
        value_texts=value_texts or {},
        overrides=[*overrides, *dashes],
        legend_highest="max" if worst == "highest" else None,
        legend_lowest="min" if worst == "lowest" else None,
        # What is 0 all the time lies on an axis to 1, not to 100.
        soft_maximum=None if maximum is not None or unit != "none" else 1,
        data_links=[to_run] if any("{{run}}" in query.legend for query in queries) else [],
    )


def per_second(counter: str, seconds: float) -> str:
    """The mean rate of a selected counter over the window; of seconds spent, their share of the time."""
    return f"increase({counter}[{duration(seconds)}]) / {seconds:g}"


def percent(ratio: float) -> str:
    return f"{100 * ratio:g} %"
