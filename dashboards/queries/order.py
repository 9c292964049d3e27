"""Rows in the order in which people look for them.

Prometheus answers with series in the order of their labels' names and then their values as words. A label of
our own that comes before all others decides it.
"""

from __future__ import annotations

_FIRST = "_order"


def by_gpu(expr: str) -> str:
    """Instance by instance; `expr` has the labels instance and gpu."""
    return f'label_join({expr}, "{_FIRST}", " ", "instance", "gpu")'


def by_rank(expr: str) -> str:
    """By number, up to 9999; `expr` has the label rank."""
    for digits in range(1, 5):
        zeros, number = "0" * (4 - digits), "." * digits
        expr = f'label_replace({expr}, "{_FIRST}", "{zeros}$1", "rank", "({number})")'
    return expr
