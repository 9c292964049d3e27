"""Discovery for Prometheus: nodes register here, and Prometheus asks for them by `http_sd_configs`."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from exporters import discovery
from exporters.api.times import iso_of
from exporters.discovery import Node, TooManyNodesError
from exporters.history.database import Database


class Targets(BaseModel):
    """A node as Prometheus reads it."""

    targets: list[str] = Field(examples=[["node-7:8003"]])
    labels: dict[str, str] = Field(examples=[{"rack": "b4", discovery.NODE: "node-7"}])


class Registered(BaseModel):
    """Until when a node stays, unless it registers anew."""

    address: str
    expires_at: float
    expires_at_iso = iso_of("expires_at")


def routes(database: Database) -> APIRouter:
    router = APIRouter(tags=["discovery"])

    @router.get("/sd", responses={503: {"description": "The database cannot be read."}})
    def nodes() -> list[Targets]:
        """Prometheus' HTTP service discovery: the nodes that registered and have not expired."""
        return [
            Targets(targets=list(each.targets), labels=dict(each.labels))
            for each in discovery.target_groups(database)
        ]

    @router.post(
        "/sd", responses={503: {"description": "Too many nodes, or the database cannot be written."}}
    )
    def register(node: Node) -> Registered:
        """Register a node, or say once more that it is there."""
        try:
            expires_at = discovery.register(database, node)
        except TooManyNodesError as error:
            raise HTTPException(503, str(error)) from None
        return Registered(address=node.address, expires_at=expires_at)

    return router
