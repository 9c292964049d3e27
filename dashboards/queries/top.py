"""Those of many series that are worth a line: the highest or the lowest, the same ones over the whole panel.

`topk` alone would choose anew at every moment, and lines would begin and end wherever two of them cross.
"""

from __future__ import annotations

# As many lines as can be told apart.
MOST_LINES = 10
# As many lines as a small panel has room to name.
FEW_LINES = 5
# As many rows as a heatmap or a timeline has room for.
MOST_ROWS = 64


def highest(expr: str, by: str, count: int = MOST_LINES) -> str:
    """The series of `expr` with the highest means over the time range; `by` are the labels it has."""
    return _chosen("topk", expr, by, count)


def lowest(expr: str, by: str, count: int = MOST_LINES) -> str:
    """The series of `expr` with the lowest means over the time range; `by` are the labels it has."""
    return _chosen("bottomk", expr, by, count)


def _chosen(choose: str, expr: str, by: str, count: int) -> str:
    means = f"avg_over_time(({expr})[$__range:$__interval] @ end())"
    return f"({expr}) and on {by} {choose}({count}, {means})"
