"""The alerts Alertmanager's webhook brings (its payload version 4)."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _FromAlertmanager(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class Alert(_FromAlertmanager):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = Field(default_factory=dict)
    starts_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    generator_url: str = Field(default="", alias="generatorURL")
    fingerprint: str = Field(min_length=1, max_length=64)


class Notification(_FromAlertmanager):
    """What Alertmanager posts: the alerts of one group."""

    version: Literal["4"]
    status: Literal["firing", "resolved"]
    receiver: str
    truncated_alerts: int = 0
    alerts: list[Alert] = Field(max_length=1000)


class StoredAlert(Alert):
    """An alert with when it last came (unix seconds) and how often."""

    received_at: float
    notifications: int
