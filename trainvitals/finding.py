"""What `trainvitals doctor` reports, line by line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "limited", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: `limited` where the rest works without it, `failed` where it does not."""

    subject: str
    status: Status
    detail: str
    remedy: str = ""
