"""Who may call what: every route there is, with no token, a wrong one, and the token of one lease."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from api.app import create_app
from tests.api.stack import ADMIN, Json, Stack, caller, fail

LOGIN = "/api/v3/login"
OPEN_TO_ALL = {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", LOGIN}
OF_A_LEASE = "/v1/leases/{ref}"
WHO_AM_I = "/v1/whoami"

# A body that each call takes, where it takes one: what is refused is the caller, not what is said.
BODIES: dict[str, Json] = {
    "POST /v1/leases": {"items": [{"pool": "nope"}]},
    "POST /v1/leases/{ref}/extend": {"by": "1m"},
    "POST /v1/apply": {"pools": []},
    "PUT /v1/pools/{name}": {"name": "pool-of-nobody"},
    "PUT /v1/pools/{pool}/resources/{name}": {},
    "POST /v1/pools/{pool}/resources/{name}/offline": {"reason": "test"},
    "POST /v1/tokens": {"user": "user-of-nobody"},
    "POST /v1/users": {"name": "user-of-nobody", "password": "password of nobody"},
    "POST /v1/users/{name}/password": {"password": "password of nobody"},
    "POST /api/v3/assignments/self": {"description": "test"},
    "POST /api/v3/schedules": {"cloud": "nope", "hostname": "nope"},
}


def calls(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of every call of the application, whether or not it is documented."""
    for route in routes:
        # FastAPI keeps an included router as one route.
        inside = getattr(route, "original_router", None)
        if inside is not None:
            yield from calls(inside.routes)
            continue
        assert isinstance(route, Route), f"a kind of route that this test does not know: {route}"
        for method in sorted(set(route.methods or ()) - {"HEAD", "OPTIONS"}):
            yield method, route.path


async def call(http: httpx.AsyncClient, method: str, path: str, ref: str = "1") -> httpx.Response:
    """Make a call; `ref` is the lease that it is about, if it is about one."""
    address = re.sub(r"\{(\w+)(:\w+)?\}", lambda m: ref if m[1] == "ref" else "pool-of-nobody", path)
    return await http.request(method, address, json=BODIES.get(f"{method} {path}"))


def all_calls(stack: Stack, *, guarded: bool = True) -> list[tuple[str, str]]:
    found = [(method, path) for method, path in calls(stack.app.routes) if not guarded or path not in OPEN_TO_ALL]
    assert len(found) > 20, "the routes were not found"
    return found


async def test_every_body_of_this_table_belongs_to_a_call(stack: Stack) -> None:
    assert set(BODIES) <= {f"{method} {path}" for method, path in all_calls(stack)}


async def test_only_these_calls_need_no_token(stack: Stack) -> None:
    async with caller(stack.app, None) as nobody:
        for method, path in all_calls(stack, guarded=False):
            answer = await call(nobody, method, path)
            assert (answer.status_code != 401) is (path in OPEN_TO_ALL - {LOGIN}), fail(answer)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {ADMIN}",
        ADMIN,
        f"Bearer {ADMIN}x",
        f"Bearer {ADMIN[:-1]}",
        f"Bearer {ADMIN.upper()}",
        "Bearer l.0",
        "Bearer .",
        f"Bearer lh_{'a' * 12}_{'a' * 52}",
        f"Bearer lh_{'a' * 12}_",
        "Bearer lh__",
        b"Bearer \xff\xfe",
    ],
)
async def test_without_a_valid_token_nothing_is_answered(stack: Stack, header: str | bytes | None) -> None:
    async with caller(stack.app, None) as nobody:
        if header is not None:
            nobody.headers = httpx.Headers(
                [(b"Authorization", header if isinstance(header, bytes) else header.encode())]
            )
        for method, path in all_calls(stack):
            answer = await call(nobody, method, path)
            assert answer.status_code == 401, fail(answer)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("header", [f"bearer {ADMIN}", f"BEARER   {ADMIN}"])
async def test_how_the_scheme_is_written_does_not_matter(stack: Stack, header: str) -> None:
    async with caller(stack.app, None) as admin:
        answer = await admin.get("/v1/pools", headers={"Authorization": header})
        assert answer.status_code == 200, fail(answer)


class TestTheTokenOfALease:
    """It comes with the answer to POST, is good for that lease, and for nothing else."""

    async def test_it_reaches_its_own_lease_by_every_call_about_a_lease(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        async with caller(stack.app, lease["token"]) as holder:
            for ref in (lease["id"], str(lease["number"])):
                for method, path in all_calls(stack):
                    # Only an admin gives it to somebody else.
                    if path.startswith(OF_A_LEASE) and not path.endswith("/transfer"):
                        answer = await call(holder, method, path, ref)
                        assert answer.status_code not in {401, 403, 404}, fail(answer)

    async def test_it_reaches_no_other_lease_by_any_call(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        mine, theirs = await stack.take(pool), await stack.take(pool)
        before = await stack.get(theirs)
        unknown = f"l{'a' * 25}"
        async with caller(stack.app, mine["token"]) as holder:
            for ref in (theirs["id"], str(theirs["number"]), unknown):
                for method, path in all_calls(stack):
                    if path.startswith(OF_A_LEASE):
                        answer = await call(holder, method, path, ref)
                        assert answer.status_code == 403, fail(answer)
                        assert answer.json()["code"] == "forbidden"
        assert await stack.get(theirs) == before

    async def test_it_reaches_nothing_but_leases_and_says_whose_it_is(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        async with caller(stack.app, lease["token"]) as holder:
            assert (await holder.get(WHO_AM_I)).json()["lease"] == lease["id"]
            for method, path in all_calls(stack):
                if not path.startswith(OF_A_LEASE) and path != WHO_AM_I:
                    answer = await call(holder, method, path)
                    assert answer.status_code == 403, fail(answer)

    async def test_a_stranger_learns_nothing_of_what_is_wrong_with_the_body(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        mine, theirs = await stack.take(pool), await stack.take(pool)
        async with caller(stack.app, mine["token"]) as holder:
            answer = await holder.post(f"/v1/leases/{theirs['id']}/extend", json={"by": "never"})
            assert answer.status_code == 403, fail(answer)
        async with caller(stack.app, None) as nobody:
            assert (await nobody.post("/v1/leases", json={"items": "x"})).status_code == 401

    async def test_it_is_in_the_answer_to_post_alone(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        for address in (f"/v1/leases/{lease['id']}", "/v1/leases", f"/v1/leases/{lease['id']}/events"):
            assert lease["token"].partition(".")[2] not in (await stack.http.get(address)).text
        assert "token" not in await stack.release(lease)

    async def test_it_still_shows_the_lease_after_its_end(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        await stack.release(lease)
        async with caller(stack.app, lease["token"]) as holder:
            answer = await holder.get(f"/v1/leases/{lease['id']}")
            assert answer.json()["state"] == "ended", fail(answer)

    async def test_a_part_of_it_is_good_for_nothing(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        mine, theirs = await stack.take(pool), await stack.take(pool)
        name, _, mac = mine["token"].partition(".")
        for token in (name, f"{name}.", f"{name}.{mac[:-1]}", f"{name}.{mac.upper()}", f"{theirs['id']}.{mac}", mac):
            async with caller(stack.app, token) as forger:
                answer = await forger.get(f"/v1/leases/{mine['id']}")
                assert answer.status_code == 401, fail(answer)

    async def test_another_api_process_with_the_same_key_accepts_it(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        async with caller(create_app(stack.services), lease["token"]) as holder:
            assert (await holder.get(f"/v1/leases/{lease['id']}")).status_code == 200


async def test_the_owner_comes_from_the_token_and_never_from_the_body(stack: Stack) -> None:
    pool = await stack.pool(1)
    answer = await stack.post({"items": [{"pool": pool}], "owner": "somebody"})
    assert answer.json()["errors"][0]["path"] == "owner"
    assert (await stack.take(pool))["owner"] == "admin"


async def test_no_error_repeats_a_token_or_what_was_to_be_kept_secret(stack: Stack) -> None:
    pool = await stack.pool(1)
    lease = await stack.take(pool)
    answers = [
        await stack.post({"items": [{"pool": pool, "password": "hunter2"}], "secrets": {"a": "hunter2"}}),
        await stack.post({"items": [{"pool": pool, "params": ["hunter2"]}]}),
        await stack.http.post(
            "/v1/leases", content=b'{"password": "hunter2', headers={"Content-Type": "application/json"}
        ),
        await stack.http.post("/v1/apply", content=b"pools: [{name: a, password: hunter2}]"),
    ]
    for token in ("hunter2", f"{lease['id']}.hunter2", lease["token"]):
        async with caller(stack.app, token) as other:
            answers += [await other.get("/v1/pools"), await other.post("/v1/leases", json={})]
    for answer in answers:
        assert answer.is_error, fail(answer)
        assert "hunter2" not in answer.text
        assert lease["token"] not in answer.text
        assert ADMIN not in answer.text
