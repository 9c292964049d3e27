"""Why a call is not let in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

from exporters.access.tokens import LOCAL_FILE

_WHERE_TOKENS_ARE = (
    f"send one as `Authorization: Bearer TOKEN`; that of this machine is in the file {LOCAL_FILE} beside the "
    "service's database, others are made with `trainvitals token create`"
)


@dataclass(frozen=True)
class Refusal:
    """`reason` is for the log, in a word; `detail` for the caller, in a sentence."""

    status: int
    reason: str
    detail: str
    headers: dict[str, str] = field(default_factory=dict)

    def raised(self) -> HTTPException:
        """For a route to raise."""
        return HTTPException(self.status, self.detail, self.headers)


def no_token(reason: str, what: str) -> Refusal:
    return Refusal(401, reason, f"{what}; {_WHERE_TOKENS_ARE}", {"WWW-Authenticate": "Bearer"})


def wrong_token() -> Refusal:
    return no_token("wrong token", "the token is unknown, expired or revoked")


def limited(what: str, wait_seconds: float) -> Refusal:
    seconds = max(1, math.ceil(wait_seconds))
    return Refusal(
        429, what, f"too many {what} from here; try again in {seconds} s", {"Retry-After": str(seconds)}
    )
