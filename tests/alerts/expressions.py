"""What stands in a PromQL expression."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser


class Selector(NamedTuple):
    """A metric and the labels it is selected by."""

    metric: str
    labels: dict[str, str]


class Pairing(NamedTuple):
    """An operator between two vectors; `on` is None where no `on (…)` says which labels are matched."""

    operator: str
    on: tuple[str, ...] | None
    explicit: bool


def selectors(expr: str) -> list[Selector]:
    """Every series selector of `expr`. Raises ValueError when it is no PromQL."""
    return [
        Selector(node.name or "", {matcher.name: matcher.value for matcher in node.matchers.matchers})
        for node in _nodes(expr)
        if isinstance(node, promql_parser.VectorSelector)
    ]


def pairings(expr: str) -> list[Pairing]:
    """Every operator of `expr` that stands between two vectors, not between a vector and a number."""
    found = []
    for node in _nodes(expr):
        if not isinstance(node, promql_parser.BinaryExpr) or _is_scalar(node.lhs) or _is_scalar(node.rhs):
            continue
        matching = node.modifier.matching if node.modifier else None
        is_on = matching is not None and matching.type == promql_parser.LabelModifierType.Include
        found.append(
            Pairing(
                str(node.op), tuple(matching.labels) if matching and is_on else None, matching is not None
            )
        )
    return found


def fragile_parts(expr: str) -> list[str]:
    """What is silent or flaps where it should not: a comparison with NaN, and a choice of the k greatest.

    NaN equals nothing, so such a comparison tells nothing or everything; who is among the k greatest changes
    from one evaluation to the next, and each change is an alert that ends and one that begins.
    """
    found = []
    for node in _nodes(expr):
        if isinstance(node, promql_parser.BinaryExpr) and str(node.op) in ("==", "!="):
            sides = [re.sub(r"^\((.*)\)$", r"\1", side.prettify()) for side in (node.lhs, node.rhs)]
            if sides[0] == sides[1] or "NaN" in sides:
                found.append(f"{sides[0]} {node.op} {sides[1]}")
        elif isinstance(node, promql_parser.AggregateExpr) and str(node.op) in ("topk", "bottomk"):
            found.append(str(node.op))
    return found


def _nodes(expr: str) -> Iterator[Any]:
    nodes: list[Any] = []
    promql_parser.walk(promql_parser.parse(expr), nodes.append)
    return iter(nodes)


def _is_scalar(node: Any) -> bool:
    if isinstance(node, promql_parser.NumberLiteral):
        return True
    if isinstance(node, promql_parser.Call):
        return bool(node.func.return_type == promql_parser.ValueType.Scalar)
    if isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        return _is_scalar(node.expr)
    if isinstance(node, promql_parser.BinaryExpr):
        return _is_scalar(node.lhs) and _is_scalar(node.rhs)
    return False
