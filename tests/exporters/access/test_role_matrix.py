"""Every route of the real application, and everybody who may knock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from exporters.access.access import Access, open_access
from exporters.access.guard import Guard
from exporters.access.limits import Buckets
from exporters.access.roles import RULES, SESSION, STREAM, WEBSOCKET, Need, Role, Rule, role_of, rule_for
from exporters.access.tokens import TokenFile, read_local_token
from exporters.gpu.simulated import Simulation
from exporters.history.database import Database
from exporters.service import Service, Trainings
from tests.exporters.access.guarded import bearer, now

URL = "http://127.0.0.1:8003"
FILLED_IN = {"{run}": "a-run", "{uuid}": "SIMULATED-0", "{name}": "page.css"}
REFUSALS = (401, 403, 421)
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Route(NamedTuple):
    """A method and the path as the application knows it, `{run}` for what stands for any."""

    method: str
    path: str

    @property
    def asked(self) -> str:
        path = self.path
        for name, value in FILLED_IN.items():
            path = path.replace(name, value)
        assert "{" not in path, f"say in FILLED_IN what {path} is to be asked with"
        return path


class Knock(NamedTuple):
    """Who asks: with which headers, and whose they are."""

    headers: dict[str, str]
    role: Role | None
    host_is_ours: bool = True
    origin_is_ours: bool = True


WHO = [
    "none",
    "viewer",
    "operator",
    "admin",
    "expired",
    "revoked",
    "local token",
    "wrong Host",
    "wrong Host with a session",
    "wrong Origin",
    "wrong Origin with a session",
]


class Matrix:
    """The whole service, whose collectors have not begun, and somebody of each kind."""

    def __init__(self, folder: Path, *, token_file: bool) -> None:
        file = TokenFile(folder / "tokens.json", now=now)
        tokens = {role.value: file.create(role, role)[1] for role in Role} if token_file else {}
        tokens["expired"] = file.create("expired", Role.admin, now() - timedelta(seconds=1))[1]
        tokens["revoked"] = file.create("revoked", Role.admin)[1]
        file.revoke("revoked")
        self.token_file = token_file
        self.access: Access = open_access(folder, token_file=file.path if token_file else None)
        self.access.failures = self.access.writes = Buckets(1e6, 1_000_000)
        tokens["local token"] = read_local_token(folder)
        self.database = Database(folder / "history.db")
        trainings = Trainings([folder / "recordings"], self.database)
        service = Service(self.access, trainings, simulation=Simulation(2))
        assert isinstance(service.app, Guard)
        assert isinstance(service.app.app, FastAPI)
        self.guard, self.app = service.app, service.app.app
        self.tokens = tokens

    def knock(self, who: str) -> Knock:
        session = {}
        if who.startswith("wrong"):
            opened = self.access.callers.open_session(self.tokens["local token"])
            assert opened is not None
            session = {"cookie": f"trainvitals_session={opened[0]}"}
        nobody = None if self.token_file else Role.viewer
        return {
            "none": Knock({}, nobody),
            "viewer": self._with_token("viewer", Role.viewer),
            "operator": self._with_token("operator", Role.operator),
            "admin": self._with_token("admin", Role.admin),
            "expired": self._with_token("expired", None),
            "revoked": self._with_token("revoked", None),
            "local token": self._with_token("local token", Role.admin),
            "wrong Host": Knock({"host": "evil.example:8003"}, nobody, host_is_ours=False),
            "wrong Host with a session": Knock(
                {"host": "evil.example:8003", **session}, Role.admin, host_is_ours=False
            ),
            "wrong Origin": Knock({"origin": "http://evil.example:8003"}, nobody, origin_is_ours=False),
            "wrong Origin with a session": Knock(
                {"origin": "http://evil.example:8003", **session}, Role.admin, origin_is_ours=False
            ),
        }[who]

    def _with_token(self, who: str, role: Role | None) -> Knock:
        # Without a file of tokens there are none of these roles: their tokens are wrong ones.
        known = who in self.tokens
        return Knock(bearer(self.tokens[who] if known else f"tvl_{who}"), role if known else None)

    @property
    def routes(self) -> list[Route]:
        return [Route(method, path) for method, path in _walked(self.app.routes)]


def _walked(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Methods and paths of every route, those of included routers and mounted applications too."""
    for route in routes:
        if hasattr(route, "effective_candidates"):  # FastAPI includes a router as one route
            yield from _walked(route.effective_candidates())
        elif hasattr(route, "starlette_route") and route.starlette_route is not None:
            yield from _walked([route.starlette_route])
        elif getattr(route, "methods", None):
            yield from ((method, route.path) for method in sorted(route.methods))
        elif hasattr(route, "routes"):
            yield WEBSOCKET, f"{route.path}/{{name:path}}"
            yield "GET", f"{route.path}/{{name:path}}"
        else:
            yield WEBSOCKET, route.path


def expected(rule: Rule, route: Route, knock: Knock) -> int | None:
    """The refusal the table says, None where the call is to be let through."""
    if rule.any_host:
        return None
    if not knock.host_is_ours:
        return 421
    if not knock.origin_is_ours and route.method in (*WRITES, WEBSOCKET):
        return 403
    needed = role_of(rule.need)
    has_wrong_token = knock.role is None and "authorization" in knock.headers
    if route.path == SESSION and has_wrong_token:
        return 401
    if needed is None or (knock.role is not None and knock.role.includes(needed)):
        return None
    if route.path == STREAM and not has_wrong_token:
        return None  # it may authenticate by a message
    is_known = knock.role is not None and ("authorization" in knock.headers or "cookie" in knock.headers)
    return 403 if is_known else 401


@pytest.fixture(params=["on loopback", "with a token file"])
def matrix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Matrix]:
    matrix = Matrix(tmp_path, token_file=request.param == "with a token file")
    yield matrix
    matrix.access.close()
    matrix.database.close()


def test_every_route_of_the_application_is_in_the_table_and_no_other(matrix: Matrix) -> None:
    of_table = {(rule.method, rule.path) for rule in RULES}
    of_app = {(route.method.replace("HEAD", "GET"), route.path) for route in matrix.routes}

    assert len(of_app) > 20
    assert of_app - of_table == set(), "name them in exporters/access/roles.py"
    assert of_table - of_app == set(), "they are gone; so should their rules"


@pytest.mark.parametrize("who", WHO)
def test_everybody_gets_what_the_table_says_of_every_route(matrix: Matrix, who: str) -> None:
    wrong = []
    with TestClient(matrix.guard, base_url=URL, raise_server_exceptions=False) as client:
        for route in matrix.routes:
            knock = matrix.knock(who)
            rule = rule_for(route.method, route.asked)
            want = expected(rule, route, knock)
            got = _status(client, route, knock.headers)
            is_right = got in REFUSALS and got == want if want else got not in REFUSALS
            if route.method == WEBSOCKET:
                is_right = got == (403 if want else 101)
            elif route == Route("POST", "/api/v1/session") and want is None:
                is_right = got == 422  # it is asked without a token to log in with
            fails = got >= 500 and route.path != "/ready"  # nobody has looked yet
            if not is_right or fails:
                wrong.append((*route, f"{got} and not {want or 'let in'}"))

    assert wrong == []


def _status(client: TestClient, route: Route, headers: dict[str, str]) -> int:
    if route.method == WEBSOCKET:
        url = URL.replace("http", "ws") + route.asked
        try:
            # The stream may be in the midst of a look when it is left, which the client tells as cancelled.
            with contextlib.suppress(CancelledError), client.websocket_connect(url, headers=headers):
                pass
        except WebSocketDisconnect:  # before it was accepted, which is 403
            return 403
        return 101
    body: dict[str, str] | None = {} if route.method in ("POST", "PUT", "PATCH") else None
    return client.request(route.method, route.asked, headers=headers, json=body).status_code


def test_a_route_that_reads_needs_no_operator_and_one_that_writes_does() -> None:
    """But for logging in and out, and what is an admin's."""
    for rule in RULES:
        if rule.method in WRITES:
            assert rule.need in (Need.operator, Need.admin) or rule.path.endswith("/session")
        else:
            assert rule.need in (Need.open, Need.scrape, Need.viewer) or rule.path.endswith("/audit")
