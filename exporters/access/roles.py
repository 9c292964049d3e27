"""Which role each route needs: the one table. A route of the application that is not in it fails a test."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from starlette.routing import compile_path

# What changes nothing. Any other method, whatever its name, is held to change something.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
WEBSOCKET = "WEBSOCKET"


class Role(enum.StrEnum):
    """What somebody may do: a viewer reads, an operator acts on runs and feeds the service, an admin all."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


class Need(enum.StrEnum):
    """What a route needs of its caller: nothing, the scrape token, or a role."""

    open = "open"
    scrape = "scrape"
    viewer = "viewer"
    operator = "operator"
    admin = "admin"


@dataclass(frozen=True)
class Caller:
    """Who calls, by the name of the token; `nobody` reads without one where that is allowed."""

    name: str
    role: Role
    authenticated: bool = True


NOBODY = Caller("nobody", Role.viewer, authenticated=False)


def role_of(need: Need) -> Role | None:
    """The least role that is enough; None where anybody may."""
    return None if need is Need.open else Role.viewer if need is Need.scrape else Role(need)


@dataclass(frozen=True)
class Rule:
    """What one route needs.

    `action` is what the audit log calls a call, where the method does not say it. Calls that are `routine`
    come by themselves every few seconds, or change nothing but a session: the log has a line a minute of each
    kind, with their number. Probes ask by whatever address a container has: `any_host`.
    """

    method: str
    path: str
    need: Need
    action: str | None = None
    routine: bool = False
    any_host: bool = False


API = "/api/v1"
SESSION = f"{API}/session"
STREAM = f"{API}/stream"
AUDIT = f"{API}/audit"
LOGIN = "login"

RULES = (
    Rule("GET", "/", Need.open),
    Rule("GET", "/assets/{name}", Need.open),
    Rule("GET", "/health", Need.open, any_host=True),
    Rule("GET", "/ready", Need.open, any_host=True),
    Rule("GET", "/metrics", Need.scrape),
    Rule("GET", "/openapi.json", Need.viewer),
    Rule("GET", API, Need.viewer),
    Rule("GET", SESSION, Need.open),
    Rule("POST", SESSION, Need.open, action=LOGIN, routine=True),
    Rule("DELETE", SESSION, Need.open, action="logout", routine=True),
    Rule("GET", AUDIT, Need.admin),
    Rule("GET", f"{API}/runs", Need.viewer),
    Rule("GET", f"{API}/runs/{{run}}", Need.viewer),
    Rule("DELETE", f"{API}/runs/{{run}}", Need.operator, action="abort"),
    Rule("GET", f"{API}/runs/{{run}}/progress", Need.viewer),
    Rule("GET", f"{API}/runs/{{run}}/series", Need.viewer),
    Rule("GET", f"{API}/runs/{{run}}/events", Need.viewer),
    Rule("GET", f"{API}/runs/{{run}}/ranks", Need.viewer),
    Rule("GET", f"{API}/runs/{{run}}/gpus", Need.viewer),
    Rule("GET", f"{API}/compare", Need.viewer),
    Rule("GET", f"{API}/gpus", Need.viewer),
    Rule("GET", f"{API}/gpus/{{uuid}}/series", Need.viewer),
    Rule("POST", f"{API}/gpus/release", Need.operator, action="release NVML"),
    Rule("DELETE", f"{API}/gpus/release", Need.operator, action="resume NVML"),
    Rule("GET", f"{API}/alerts", Need.viewer),
    Rule("POST", f"{API}/alerts", Need.operator),
    Rule("GET", f"{API}/sd", Need.scrape),
    Rule("POST", f"{API}/sd", Need.operator, action="register", routine=True),
    Rule("POST", f"{API}/kubeflow/{{run}}", Need.operator, action="report status", routine=True),
    Rule(WEBSOCKET, STREAM, Need.viewer),
)

_COMPILED = [(compile_path(rule.path)[0], rule) for rule in RULES]


def rule_for(method: str, path: str) -> Rule:
    """The rule of a call; `path` is the decoded one that the routes are matched with.

    Where there is none the application will answer 404 or 405, and needs a viewer to say so; what would
    change something needs an admin, so that a route that was forgotten here is shut and not open.
    """
    # Matched as starlette does, with the same expression: another notion of the same path would be a way in.
    wanted = "GET" if method in SAFE_METHODS else method
    for expression, rule in _COMPILED:
        if rule.method == wanted and expression.match(path):
            return rule
    reads = method in (*SAFE_METHODS, WEBSOCKET)
    return Rule(method, path, Need.viewer if reads else Need.admin)
