"""The alert inbox over HTTP: Alertmanager's webhook, and what it brought."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from exporters.alert_inbox import Notification
from exporters.api import models
from exporters.api.models import AlertList
from exporters.history import alerts as alert_store
from exporters.history.database import Database

logger = logging.getLogger(__name__)

_FAILS: dict[int | str, dict[str, Any]] = {
    503: {"description": "The database cannot be used; Alertmanager will try again."}
}


class Received(BaseModel):
    stored: int = Field(examples=[1])


def routes(database: Database) -> APIRouter:
    router = APIRouter(tags=["alerts"])

    @router.post("/alerts", responses=_FAILS)
    def receive(notification: Notification) -> Received:
        """Alertmanager's webhook. The same alert from two Alertmanagers is one alert."""
        alert_store.add(database, notification.alerts)
        for alert in notification.alerts:
            logger.info("alert %s: %r", alert.status, alert.labels.get("alertname", "?"))
        if notification.truncated_alerts:
            logger.warning(
                "Alertmanager left out %d alerts: raise its max_alerts", notification.truncated_alerts
            )
        return Received(stored=len(notification.alerts))

    @router.get("/alerts", responses=_FAILS)
    def alerts(
        run: Annotated[str | None, Query(max_length=128)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 500,
    ) -> AlertList:
        """The alerts received, of one run or of all, the last received first."""
        stored = alert_store.listed(database, run, most=limit)
        return AlertList(alerts=[models.alert(each) for each in stored])

    return router
