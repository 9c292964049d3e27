"""PromQL as the dashboards write it, with Grafana's variables in it: filling them in, and looking inside."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import promql_parser
from promql_parser import AggregateExpr, Call, Expr, MatrixSelector, StringLiteral, VectorSelector

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::\w+)?\})")
_CHILDREN = ("expr", "lhs", "rhs", "param", "vector_selector")

# A duration that nobody would type, so that its place shows where $__rate_interval stood.
RATE_INTERVAL_MS = 8_642_001
INTERVALS = {
    "__rate_interval": f"{RATE_INTERVAL_MS}ms",
    "__interval": "299999ms",
    "__range": "1199999ms",
    "__range_s": "1200",
    "__interval_ms": "300",
}


def fill_in(expr: str, values: Mapping[str, str]) -> str:
    """`expr` with the variables named in `values` replaced; all others stay as they are."""
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[2], match[0]), expr)


@functools.cache
def parse(expr: str) -> Expr:
    """The syntax tree; raises ValueError when it is not PromQL. Label values may still be variables."""
    tree: Expr = promql_parser.parse(fill_in(expr, INTERVALS))
    return tree


class Node(NamedTuple):
    """An expression and those around it, the outermost first."""

    expr: Any
    parents: tuple[Any, ...]


def nodes(tree: Expr, parents: tuple[Any, ...] = ()) -> Iterator[Node]:
    """All expressions in a tree, each before those inside it."""
    yield Node(tree, parents)
    children: list[Any] = [getattr(tree, name, None) for name in _CHILDREN]
    if isinstance(tree, Call):
        children += tree.args
    for child in children:
        if isinstance(child, Expr):
            yield from nodes(child, (*parents, tree))


def vector_selectors(expr: str) -> list[Node]:
    """The selectors of an expression, those under a range among them."""
    return [node for node in nodes(parse(expr)) if isinstance(node.expr, VectorSelector)]


def matrix_selectors(expr: str) -> list[Node]:
    """The selectors with a range."""
    return [node for node in nodes(parse(expr)) if isinstance(node.expr, MatrixSelector)]


def metric_names(expr: str) -> set[str]:
    """The names of the metrics that an expression reads."""
    return {node.expr.name for node in vector_selectors(expr)}


def made_labels(expr: str) -> set[str]:
    """The labels that an expression gives its series itself, by label_replace, label_join or count_values."""
    made = set()
    for node in nodes(parse(expr)):
        match node.expr:
            case Call() as call if call.func.name in {"label_replace", "label_join"}:
                made.add(call.args[1].val)
            case AggregateExpr() as aggregate if isinstance(aggregate.param, StringLiteral):
                made.add(aggregate.param.val)
    return made
