"""Times in questions and answers: unix seconds, and ISO 8601 beside them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, WithJsonSchema, computed_field

FAR_FUTURE_SECONDS = 1e11  # the year 5138


def iso(unix_seconds: float | None) -> str | None:
    """Such as 2026-01-02T03:04:05.678Z; None is unknown, or no time that a calendar has."""
    if unix_seconds is None or not 0 <= unix_seconds <= FAR_FUTURE_SECONDS:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_of(name: str) -> Any:
    """A field of a model: the time that another of its fields has in unix seconds, as ISO 8601."""

    def value(self: BaseModel) -> str | None:
        return iso(getattr(self, name))

    value.__doc__ = f"`{name}` as ISO 8601."
    return computed_field(return_type=str | None, examples=["2026-01-02T03:04:05.678Z"])(property(value))


def unix_seconds(text: object) -> float:
    """A moment out of a query: unix seconds, or ISO 8601 with its zone. Raises ValueError for others."""
    try:
        seconds = float(str(text))
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(text))
        except ValueError:
            raise ValueError("neither unix seconds nor ISO 8601, such as 2026-01-02T03:04:05Z") from None
        if moment.tzinfo is None:
            raise ValueError("a time without its zone; end it with Z for UTC") from None
        seconds = moment.timestamp()
    if not 0 <= seconds <= FAR_FUTURE_SECONDS:
        raise ValueError(f"no time from 0 to {FAR_FUTURE_SECONDS:.0f} unix seconds")
    return seconds


Moment = Annotated[
    float,
    BeforeValidator(unix_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": FAR_FUTURE_SECONDS},
                {"type": "string", "format": "date-time"},
            ],
            "description": "Unix seconds, or ISO 8601 with its zone.",
        }
    ),
]
