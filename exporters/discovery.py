"""The nodes that registered here, as Prometheus' HTTP service discovery reads them.

Format: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from exporters.access.hosts import parse_host
from exporters.catalog import CATALOG
from exporters.history.database import Database

MOST_NODES = 10_000
MOST_LABELS = 16
LONGEST_LABEL = 128
DEFAULT_EXPIRY_SECONDS = 120.0
NODE = "__meta_trainvitals_node"

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# A target's label that a metric has, too, takes its name from it: `run` would become `exported_run`.
_TAKEN = frozenset({"job", "instance", "le", "quantile"}).union(
    *(metric.labels for metric in CATALOG.values())
)


class TooManyNodesError(Exception):
    """As many nodes are registered as are kept."""


def _address(text: str) -> str:
    host = parse_host(text)
    if host is None or host.port is None:
        raise ValueError("no HOST:PORT, such as node-7:8003 or [fd00::7]:8003")
    return f"{host.name}:{host.port}"


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name) or len(name) > LONGEST_LABEL:
            raise ValueError("a label's name has letters, digits and underscores, and no digit first")
        if name.startswith("__") or name in _TAKEN:
            raise ValueError(f"the label {name} is not free: Prometheus or a metric has it")
        if not value.isprintable():
            raise ValueError(f"the value of the label {name} has characters that cannot be printed")
    return labels


Address = Annotated[
    str,
    StringConstraints(max_length=300),
    AfterValidator(_address),
    WithJsonSchema({"type": "string", "maxLength": 300, "example": "node-7:8003"}),
]
LabelValue = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_LABEL)]


class Node(BaseModel):
    """Where a service of trainvitals is scraped, which labels its series get, and for how long."""

    model_config = ConfigDict(extra="forbid")

    address: Address
    scheme: Literal["http", "https"] = "http"
    labels: Annotated[dict[str, LabelValue], AfterValidator(_labels)] = Field(
        default_factory=dict, max_length=MOST_LABELS, examples=[{"rack": "b4"}]
    )
    expires_seconds: float = Field(default=DEFAULT_EXPIRY_SECONDS, ge=30, le=86_400)


class TargetGroup(NamedTuple):
    """What Prometheus reads of one node."""

    targets: tuple[str]
    labels: Mapping[str, str]


def register(database: Database, node: Node) -> float:
    """Keep a node, in the place of what is known of its address; until when, in unix seconds.

    Raises TooManyNodesError, and sqlite3.Error where the database cannot be written.
    """
    now = database.wall()
    expires_at = round(now + node.expires_seconds, 3)
    with database.write() as connection:
        connection.execute("DELETE FROM registered_nodes WHERE expires_at <= ?", (now,))
        (others,) = connection.execute(
            "SELECT count(*) FROM registered_nodes WHERE address != ?", (node.address,)
        ).fetchone()
        if others >= MOST_NODES:
            raise TooManyNodesError(f"{MOST_NODES} nodes are registered already")
        connection.execute(
            "INSERT OR REPLACE INTO registered_nodes (address, scheme, labels, expires_at) "
            "VALUES (?, ?, ?, ?)",
            (node.address, node.scheme, json.dumps(node.labels, sort_keys=True), expires_at),
        )
    return expires_at


def target_groups(database: Database) -> list[TargetGroup]:
    """Of every node that has not expired, by address. Raises sqlite3.Error where it cannot be read."""
    with database.read() as connection:
        rows = connection.execute(
            "SELECT address, scheme, labels FROM registered_nodes WHERE expires_at > ? ORDER BY address",
            (database.wall(),),
        ).fetchall()
    return [_target_group(*row) for row in rows]


def _target_group(address: str, scheme: str, labels: str) -> TargetGroup:
    host = address.rpartition(":")[0].strip("[]")
    more = {} if scheme == "http" else {"__scheme__": scheme}
    return TargetGroup((address,), {**json.loads(labels), NODE: host, **more})
