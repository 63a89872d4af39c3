"""Who may make which call: every route there is, by every kind of caller, on a lease of their own and of others."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter

from api import access
from api.access import GuardedRoute, LeaseRight, Right, allow, guarded
from tests.api.stack import ADMIN, Json, Stack, caller, fail
from tests.api.test_auth import OPEN_TO_ALL, calls

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "access.md"

# Whose token it is, its role, and what narrows it: HERE are the pools of this test, ELSEWHERE another one.
HERE, ELSEWHERE = {"pools": ["HERE"]}, {"pools": ["elsewhere"]}
READ = {"read": True}
USERS: dict[str, tuple[str, str, Mapping[str, object]]] = {
    "viewer": ("vera", "viewer", {}),
    "user": ("uwe", "user", {}),
    "operator": ("otto", "operator", {}),
    "operator here": ("otto", "operator", HERE),
    "operator elsewhere": ("otto", "operator", ELSEWHERE),
    "operator reading": ("otto", "operator", READ),
    "admin": ("anna", "admin", {}),
    "admin here": ("anna", "admin", HERE),
    "admin elsewhere": ("anna", "admin", ELSEWHERE),
    "admin reading": ("anna", "admin", READ),
    "owner": ("olga", "user", {}),
    "owner here": ("olga", "user", HERE),
    "owner elsewhere": ("olga", "user", ELSEWHERE),
    "owner reading": ("olga", "user", READ),
    "owner as viewer": ("olga", "viewer", {}),
    "cc": ("cora", "user", {}),
    "cc here": ("cora", "user", HERE),
    "cc elsewhere": ("cora", "user", ELSEWHERE),
    "cc as viewer": ("cora", "viewer", {}),
    "runner": ("HERE", "runner", {}),
    "another runner": ("rita", "runner", {}),
}
LEASES = {"the lease", "another lease"}
RUNNERS = {"runner", "another runner"}
WITH_A_ROLE = {*USERS, "admin of the file"} - RUNNERS
OPERATORS = {"operator", "operator here", "admin", "admin here", "admin of the file"}

# What each caller's refusal would be a fault of ours.
ALLOWED: dict[str, set[str]] = {
    "known": WITH_A_ROLE | LEASES,
    "read": WITH_A_ROLE,
    "request here": {
        "user", "operator", "operator here", "admin", "admin here", "admin of the file",
        "owner", "owner here", "cc", "cc here",
    },
    # Which pool it is about is known from the body, after what it names was found.
    "request anywhere": {
        "user", "operator", "operator here", "operator elsewhere", "admin", "admin here", "admin elsewhere",
        "admin of the file", "owner", "owner here", "owner elsewhere", "cc", "cc here", "cc elsewhere",
    },
    "operate here": OPERATORS,
    "read a log here": {*OPERATORS, "operator reading", "admin reading"},
    "configure here": {"admin", "admin here", "admin of the file"},
    "configure all": {"admin", "admin of the file"},
    "list tokens": WITH_A_ROLE - {"viewer", "owner as viewer", "cc as viewer"},
    "make a token for here": {
        "user", "operator", "operator here", "admin", "admin here", "admin of the file",
        "owner", "owner here", "cc", "cc here",
    },
    "see a token of the owner": {
        "owner", "owner here", "owner elsewhere", "owner reading", "admin", "admin reading", "admin of the file",
    },
    "revoke a token of the owner": {"owner", "owner here", "owner elsewhere", "admin", "admin of the file"},
    "see the lease": WITH_A_ROLE | {"the lease"},
    "read its log": {
        "the lease", "owner", "owner here", "owner elsewhere", "owner reading", "owner as viewer",
        "cc", "cc here", "cc elsewhere", "cc as viewer", *OPERATORS, "operator reading", "admin reading",
    },
    "connect to it": {
        "the lease", "owner", "owner here", "owner reading", "cc", "cc here",
        "admin", "admin here", "admin reading", "admin of the file",
    },
    "steer it": {"the lease", "owner", "owner here", *OPERATORS},
    "transfer it": {"admin", "admin here", "admin of the file"},
    "operate all": {"operator", "admin", "admin of the file"},
    "run commands here": {"runner"},
}  # fmt: skip

MATRIX: dict[str, str] = {
    "GET /v1/whoami": "known",
    "GET /v1/leases": "read",
    "GET /v1/available": "read",
    "GET /v1/pools": "read",
    "GET /v1/pools/{name}": "read",
    "GET /v1/pools/{name}/queue": "read",
    "GET /v1/pools/{name}/events": "read",
    "GET /v1/resources": "read",
    "GET /v1/runners": "read",
    "PUT /v1/runners/{name}": "run commands here",
    "DELETE /v1/runners/{name}/{instance}": "run commands here",
    "POST /v1/runners/{name}/commands/{lease}/begin": "run commands here",
    "POST /v1/runners/{name}/commands/{lease}/output": "run commands here",
    "GET /v1/pools/{pool}/resources/{name}": "read",
    "GET /v1/pools/{pool}/resources/{name}/events": "read",
    "GET /v1/pools/{pool}/resources/{name}/runs": "read",
    "GET /v1/pools/{pool}/resources/{name}/log": "read a log here",
    "GET /v1/pools/{pool}/log": "read a log here",
    "GET /metrics": "read",
    "POST /v1/leases": "request here",
    "GET /v1/leases/{ref}": "see the lease",
    "GET /v1/leases/{ref}/events": "see the lease",
    "GET /v1/leases/{ref}/runs": "see the lease",
    "GET /v1/leases/{ref}/log": "read its log",
    "GET /v1/leases/{ref}/output": "read its log",
    "GET /v1/leases/{ref}/delivery": "connect to it",
    "POST /v1/leases/{ref}/extend": "steer it",
    "POST /v1/leases/{ref}/heartbeat": "steer it",
    "POST /v1/leases/{ref}/resources": "steer it",
    "DELETE /v1/leases/{ref}/resources/{pool}/{name}": "steer it",
    "POST /v1/leases/{ref}/release": "steer it",
    "POST /v1/leases/{ref}/cancel": "steer it",
    "POST /v1/leases/{ref}/transfer": "transfer it",
    "GET /v1/self-service": "read",
    "POST /v1/self-service": "operate all",
    "POST /v1/pools/{pool}/self-service": "operate here",
    "PUT /v1/pools/{pool}/resources/{name}": "operate here",
    "DELETE /v1/pools/{pool}/resources/{name}": "operate here",
    "POST /v1/pools/{pool}/resources/{name}/offline": "operate here",
    "POST /v1/pools/{pool}/resources/{name}/online": "operate here",
    "POST /v1/pools/{pool}/resources/{name}/repair": "operate here",
    "POST /v1/pools/{pool}/pause": "operate here",
    "POST /v1/pools/{pool}/resume": "operate here",
    "PUT /v1/pools/{name}": "configure here",
    # Of a pool that there is not: the one of the others stays.
    "DELETE /v1/pools/{name}": "configure all",
    "POST /v1/apply": "configure all",
    "POST /v1/reconcile": "configure all",
    "GET /v1/reconcile/{run}": "configure all",
    "GET /v1/tokens": "list tokens",
    "POST /v1/tokens": "make a token for here",
    "GET /v1/tokens/{token}": "see a token of the owner",
    "DELETE /v1/tokens/{token}": "revoke a token of the owner",
    "GET /v1/users": "configure all",
    "POST /v1/users": "configure all",
    "GET /v1/users/{name}": "configure all",
    "POST /v1/users/{name}/password": "configure all",
    "POST /v1/users/{name}/disable": "configure all",
    "POST /v1/users/{name}/enable": "configure all",
    "DELETE /v1/users/{name}": "configure all",
    "POST /api/v3/logout": "read",
    "GET /api/v3/version": "read",
    "GET /api/v3/hosts": "read",
    "GET /api/v3/hosts/{hostname}": "read",
    "GET /api/v3/available": "read",
    "GET /api/v3/available/{hostname}": "read",
    "GET /api/v3/clouds": "read",
    "GET /api/v3/clouds/free": "read",
    "GET /api/v3/clouds/summary": "read",
    "GET /api/v3/vlans": "read",
    "GET /api/v3/vlans/free": "read",
    "GET /api/v3/vlans/{vlan}": "read",
    "GET /api/v3/assignments": "read",
    "GET /api/v3/assignments/active": "read",
    "GET /api/v3/assignments/active/{cloud}": "read",
    "GET /api/v3/assignments/{assignment}": "read",
    "POST /api/v3/assignments/self": "request anywhere",
    "POST /api/v3/assignments/terminate/{ref}": "steer it",
    "POST /api/v3/schedules": "request anywhere",
    "GET /api/v3/schedules/current": "read",
    "GET /api/v3/schedules/{schedule}": "read",
    "GET /api/v3/moves/progress": "read",
    "GET /api/v3/moves/progress/{hostname}": "read",
}

BODIES: dict[str, Json] = {
    "POST /v1/leases": {"items": [{"pool": "HERE"}]},
    "POST /v1/leases/{ref}/extend": {"by": "1m"},
    "POST /v1/leases/{ref}/resources": {"items": [{"pool": "HERE"}]},
    "POST /v1/apply": {"name": "of-the-matrix", "pools": []},
    "PUT /v1/pools/{name}": {"name": "HERE"},
    "PUT /v1/pools/{pool}/resources/{name}": {},
    "PUT /v1/runners/{name}": {"instance": "i", "slots": 1, "host": "h"},
    "POST /v1/runners/{name}/commands/{lease}/begin": {"instance": "i", "attempt": 1},
    "POST /v1/pools/{pool}/resources/{name}/offline": {"reason": "test"},
    "POST /v1/pools/{pool}/pause": {"reason": "test"},
    "POST /v1/leases/{ref}/transfer": {"owner": "olga"},
    "POST /v1/self-service": {"opening": "auto", "reason": "test"},
    "POST /v1/pools/{pool}/self-service": {"opening": "auto", "reason": "test"},
    "POST /v1/tokens": {"role": "user", "scopes": {"pools": ["HERE"]}},
    "POST /v1/users": {"name": "of-the-matrix", "password": "password of the matrix"},
    "POST /v1/users/{name}/password": {"password": "password of the matrix"},
    "POST /api/v3/assignments/self": {"description": "test", "cloud": "HERE"},
    "POST /api/v3/schedules": {"cloud": "HERE", "hostname": "HERE"},
}


QUERIES = {"POST /v1/runners/{name}/commands/{lease}/output": "?attempt=1&offset=0&now=0"}


@dataclass(frozen=True)
class Lab:
    """A pool, a lease of olga's with cora in its cc, a token of olga's, and all kinds of callers."""

    stack: Stack
    pool: str
    lease: Json
    token: str
    callers: Mapping[str, httpx.AsyncClient]

    async def call(self, who: str, call: str, content: bytes | None = None) -> httpx.Response:
        """Have somebody make a call about all that, with a body that it takes, or with this one."""
        method, _, path = call.partition(" ")
        values = {"ref": self.lease["id"], "pool": self.pool, "token": self.token, "name": self.pool, "run": "0" * 32}
        values |= {"instance": "i", "lease": self.lease["id"]}
        if call == "DELETE /v1/pools/{name}":
            values["name"] = "none"
        values |= {"cloud": "HERE", "hostname": "r0", "vlan": "1", "assignment": "1", "schedule": "1"}
        if "{pool}" in path:
            values["name"] = "r9"
        address = re.sub(r"\{(\w+)\}", lambda m: values[m[1]], path) + QUERIES.get(call, "")
        if content is not None:
            headers = {"Content-Type": "application/json"}
            return await self.callers[who].request(method, address, content=content, headers=headers)
        return await self.callers[who].request(method, address, json=self._here(BODIES.get(call)))

    def _here(self, said: object) -> object:
        if isinstance(said, dict):
            return {key: self._here(value) for key, value in said.items()}
        if isinstance(said, list):
            return [self._here(value) for value in said]
        return self.pool if said == "HERE" else said


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[Lab]:
    pool = await stack.pool(2)
    async with AsyncExitStack() as clients:
        callers = {
            "nobody": await clients.enter_async_context(caller(stack.app, None)),
            "admin of the file": await clients.enter_async_context(caller(stack.app, ADMIN)),
        }
        for who, (user, role, scopes) in USERS.items():
            scoped = {"pools": [pool]} if scopes == HERE else dict(scopes)
            named = pool if user == "HERE" else user
            token = (await stack.token(named, role, scopes=scoped))["token"]
            callers[who] = await clients.enter_async_context(caller(stack.app, token))
        leases = []
        for who in ("owner", "user"):
            body = {"items": [{"pool": pool}], "cc": ["cora"]}
            leases.append((await callers[who].post("/v1/leases?wait=active", json=body)).json())
            assert leases[-1]["state"] == "active"
        for who, lease in zip(("the lease", "another lease"), leases, strict=True):
            callers[who] = await clients.enter_async_context(caller(stack.app, lease["token"]))
        yield Lab(stack, pool, leases[0], (await stack.token("olga"))["id"], callers)


def refused(answer: httpx.Response) -> bool:
    """Whether it was the caller that was wrong, not what was asked."""
    return answer.status_code in {401, 403} or answer.json()["code"] == "token_unknown"


def test_every_call_there_is_has_its_line(stack: Stack) -> None:
    there = {f"{method} {path}" for method, path in calls(stack.app.routes) if path not in OPEN_TO_ALL}
    assert set(MATRIX) == there


def test_every_line_names_callers_that_there_are() -> None:
    assert set(MATRIX.values()) == set(ALLOWED)
    assert set().union(*ALLOWED.values()) == WITH_A_ROLE | LEASES | {"runner"}
    assert set(BODIES) <= set(MATRIX)


@pytest.mark.parametrize("call", MATRIX)
async def test_a_call_is_for_those_who_may_make_it(lab: Lab, call: str) -> None:
    wrong = []
    for who in lab.callers:
        answer = await lab.call(who, call)
        assert answer.status_code != 500, fail(answer)
        may = not answer.is_error or not refused(answer)
        if may is not (who in ALLOWED[MATRIX[call]]):
            wrong.append(f"{who}: {fail(answer)}")
        if who == "nobody":
            assert answer.status_code == 401, fail(answer)
    assert wrong == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"[" * 100_000, b" " * 9_000_000], ids=lambda c: repr(c[:3]))
@pytest.mark.parametrize("call", BODIES)
async def test_a_stranger_learns_nothing_of_the_body(lab: Lab, call: str, content: bytes) -> None:
    # Those who are refused for the pool that they name are told after what they sent was read.
    role_is_too_small = {"viewer", "another lease", "owner as viewer"} - ALLOWED[MATRIX[call]]
    for who in ("nobody", *sorted(role_is_too_small)):
        answer = await lab.call(who, call, content)
        assert answer.status_code == (401 if who == "nobody" else 403), fail(answer)
    answer = await lab.call("admin", call, content)
    assert answer.status_code in {400, 413, 422}, fail(answer)


async def test_who_may_not_is_told_what_is_missing(lab: Lab) -> None:
    expected = [
        ("nobody", "GET /v1/pools", 401, "missing", "send a token"),
        ("viewer", "POST /v1/leases", 403, "role_too_small", "role user"),
        (
            "user",
            "POST /v1/leases/{ref}/release",
            403,
            "role_too_small",
            "a lease of olga: this needs the role operator",
        ),
        ("operator", "GET /v1/leases/{ref}/delivery", 403, "role_too_small", "role admin"),
        ("operator", "POST /v1/apply", 403, "role_too_small", "role admin"),
        ("operator elsewhere", "POST /v1/leases/{ref}/release", 403, "other_pool", "limited to the pools elsewhere"),
        ("admin here", "POST /v1/apply", 403, "other_pool", f"limited to the pools {lab.pool}"),
        ("operator reading", "POST /v1/leases/{ref}/release", 403, "read_only", "only read"),
        ("another lease", "GET /v1/leases/{ref}", 403, "other_lease", "another lease"),
        ("the lease", "GET /v1/pools", 403, "other_lease", "that lease alone"),
    ]
    for who, call, status, code, said in expected:
        answer = await lab.call(who, call)
        assert answer.status_code == status, fail(answer)
        assert answer.json()["code"] == ("unauthenticated" if status == 401 else "forbidden")
        assert answer.json()["errors"][0]["path"] == "Authorization"
        assert answer.json()["errors"][0]["code"] == code
        assert said in answer.json()["detail"]


async def test_a_token_for_one_pool_requests_nothing_else(lab: Lab) -> None:
    for items, places in (
        ([{"pool": "elsewhere"}], ["items[0].pool"]),
        ([{}], ["items[0].pool"]),
        ([{"pool": lab.pool}, {"pool": "elsewhere"}, {"match": ["n=0"]}], ["items[1].pool", "items[2].pool"]),
    ):
        answer = await lab.callers["owner here"].post("/v1/leases", json={"items": items})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), fail(answer)
        assert [(e["path"], e["code"]) for e in answer.json()["errors"]] == [(p, "other_pool") for p in places]


async def test_a_lease_over_several_pools_is_steered_by_a_token_for_all_of_them(lab: Lab, stack: Stack) -> None:
    other = await stack.pool(1)
    body = {"items": [{"pool": lab.pool}, {"pool": other}]}
    lease = (await lab.callers["owner"].post("/v1/leases", json=body)).json()
    answer = await lab.callers["owner here"].post(f"/v1/leases/{lease['id']}/cancel")
    assert answer.status_code == 403, fail(answer)
    async with stack.user("olga", scopes={"pools": [other, lab.pool]}) as owner:
        answer = await owner.post(f"/v1/leases/{lease['id']}/cancel")
        assert answer.status_code == 200, fail(answer)


async def test_what_a_lease_of_any_pool_got_says_which_token_steers_it(stack: Stack) -> None:
    pool = await stack.pool(1, tags=["only-here"])
    async with (
        stack.user("olga") as owner,
        stack.user("olga", scopes={"pools": [pool]}) as here,
        stack.user("olga", scopes={"pools": ["elsewhere"]}) as elsewhere,
    ):
        body = {"items": [{"tags": ["only-here"]}]}
        held, waiting = [(await owner.post("/v1/leases", json=body)).json() for _ in range(2)]
        assert (held["state"], waiting["state"]) == ("active", "queued")
        # It may get anything yet.
        assert (await here.post(f"/v1/leases/{waiting['id']}/cancel")).status_code == 403
        assert (await elsewhere.post(f"/v1/leases/{held['id']}/release")).status_code == 403
        assert (await here.post(f"/v1/leases/{held['id']}/release")).status_code == 200


def test_a_route_that_does_not_say_what_it_needs_cannot_be_made() -> None:
    async def new_call() -> None: ...

    with pytest.raises(TypeError, match=r"/v1/new: say who may call it"):
        guarded("/v1", "test").get("/new")(new_call)


def test_what_needs_a_token_is_guarded_before_it_reads(stack: Stack) -> None:
    def found(routers: APIRouter) -> Iterator[object]:
        for route in routers.routes:
            inside = getattr(route, "original_router", None)
            yield from found(inside) if inside else [route]

    for route in found(stack.app.router):
        if getattr(route, "path", "") not in OPEN_TO_ALL:
            assert isinstance(route, GuardedRoute), route


RIGHTS = [right for right in vars(access).values() if isinstance(right, Right)]


def documented() -> dict[str, list[str]]:
    """The rows of the tables that begin with a right: its other cells."""
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        if match := re.match(r"\| `([a-z-]+)` \|(.*)\|$", line):
            rows[match[1]] = [cell.strip() for cell in match[2].split(" | ")]
    return rows


def test_the_document_says_of_every_call_what_it_needs(stack: Stack) -> None:
    document = stack.app.openapi()["paths"]
    needs = {
        f"{method.upper()} {path}": operation["x-right"]
        for path, item in document.items()
        for method, operation in item.items()
        if path not in OPEN_TO_ALL
    }
    rows = documented()
    said = {call: right.name for right in RIGHTS for call in re.findall(r"`(.+?)`", rows[right.name][-1])}
    assert said == needs


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: right.name)
def test_the_document_says_of_every_right_who_has_it(right: Right) -> None:
    cells = documented()[right.name]
    if isinstance(right, LeaseRight):
        cc = f"`{right.cc}`" if right.cc else "no"
        if right.cc_may:
            cc = f"where the policy's `cc_may` has `{right.cc_may}`: `{right.owner}`"
        assert cells[:4] == [f"`{right.owner}`", cc, f"`{right.role}`", "yes" if right.lease_tokens else "no"]
    elif right.lease_tokens:
        assert cells[0] == "any token, that of a lease too"
    else:
        assert cells[0].startswith(f"`{right.role}`")


def test_saying_what_a_call_needs_leaves_it_as_it_is() -> None:
    async def call() -> None: ...

    assert allow(access.READ)(call) is call
