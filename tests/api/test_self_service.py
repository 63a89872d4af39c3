"""Self-service over HTTP: who is bound by it, who need not say who they are, and who steers whose lease."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.stack import Json, Stack, caller, fail


@asynccontextmanager
async def user(stack: Stack, name: str, role: str = "user") -> AsyncIterator[httpx.AsyncClient]:
    """A client that bears a user's token."""
    made = await stack.http.post("/v1/tokens", json={"user": name, "role": role})
    assert made.status_code == 201, fail(made)
    async with caller(stack.app, made.json()["token"]) as http:
        yield http


@asynccontextmanager
async def nobody(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client that does not say who it is."""
    async with caller(stack.app, None) as http:
        yield http


async def request(
    http: httpx.AsyncClient, pool: str, count: int = 1, key: str | None = None, **more: object
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"items": [{"pool": pool, "count": count}], **more}
    return await http.post("/v1/leases", json=body, headers=headers, params={"wait": "active"})


def refusal(answer: httpx.Response, status: int = 403) -> Json:
    assert answer.status_code == status, fail(answer)
    told: Json = answer.json()
    return told


Asking = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture(loop_scope="package")
async def asking(stack: Stack) -> AsyncIterator[Asking]:
    """Makes a pool with an `admit` hook, which is asked nothing more once the test is over."""
    made: list[str] = []

    async def make(admit: Json, **settings: Any) -> str:
        made.append(await stack.pool(1, admit=admit, **settings))
        return made[-1]

    yield make
    for pool in made:
        await stack.http.put(f"/v1/pools/{pool}", json={"name": pool})


class TestRules:
    async def test_a_user_is_bound_and_an_operator_is_not(self, stack: Stack) -> None:
        pool = await stack.pool(2, policy={"self_service": {"enabled": False}})
        async with user(stack, "uwe") as http:
            assert refusal(await request(http, pool))["code"] == "self_service_closed"
            seen = (await http.get("/v1/available", params={"pool": pool})).json()
            assert (seen["open"], seen["free"]) == (False, 0)
            assert seen["reason"] == f"1 wanted, 0 of 2 free; self-service of {pool} is closed"
        async with user(stack, "otto", "operator") as http:
            assert (await request(http, pool)).status_code == 201
            assert (await http.get("/v1/available", params={"pool": pool})).json()["free"] == 1

    async def test_of_many_requests_at_a_users_limit_exactly_the_limit_succeeds(self, stack: Stack) -> None:
        pool = await stack.pool(9, policy={"self_service": {"enabled": True, "per_owner": {"leases": 2}}})
        async with user(stack, "uwe") as http:
            answers = await asyncio.gather(*(request(http, pool) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 2 + [403] * 6
        told = {answer.json()["code"]: answer.json()["errors"][0]["code"] for answer in answers if answer.is_error}
        assert told == {"limit_reached": "leases"}

    async def test_an_operator_closes_and_opens_a_pool_at_run_time(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        async with user(stack, "otto", "operator") as otto, user(stack, "uwe") as uwe:
            forced = await otto.post(f"/v1/pools/{pool}/self-service", json={"opening": "off", "reason": "audit"})
            assert forced.json()["reason"] == f"self-service of {pool} is closed by otto: audit"
            assert refusal(await request(uwe, pool))["detail"] == forced.json()["reason"]
            listed = (await uwe.get("/v1/self-service")).json()["items"]
            assert {one["pool"]: one["open"] for one in listed}[pool] is False
            await otto.post(f"/v1/pools/{pool}/self-service", json={"opening": "auto", "reason": "done"})
            assert (await request(uwe, pool)).status_code == 201

    async def test_a_policy_that_says_no_sense_is_refused_with_its_place(self, stack: Stack) -> None:
        for rule, path in (
            ({"open_when": {"free": "120%"}}, "policy.self_service.open_when.free"),
            ({"deadline": {"day": "someday", "at": "21:00"}}, "policy.self_service.deadline.day"),
            ({"deadline": {"day": "sunday", "at": "25:00"}}, "policy.self_service.deadline.at"),
            ({"deadline": {"day": "sunday", "at": "21:00", "zone": "Moon"}}, "policy.self_service.deadline.zone"),
        ):
            answer = await stack.http.put("/v1/pools/odd", json={"name": "odd", "policy": {"self_service": rule}})
            assert refusal(answer, 422)["errors"][0]["path"] == path


@asynccontextmanager
async def open_pool(stack: Stack, count: int = 1) -> AsyncIterator[str]:
    """A pool that anybody may request from, until the test is over."""
    pool = await stack.pool(count, policy={"self_service": {"open_requests": True}})
    try:
        yield pool
    finally:
        await stack.http.put(f"/v1/pools/{pool}", json={"name": pool})


class TestWithoutAToken:
    async def test_nothing_is_shown_and_nothing_lent_unless_the_policy_says_so(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        async with nobody(stack) as http:
            assert (await http.get("/v1/available")).status_code == 401
            assert (await request(http, pool, owner="eve")).status_code == 401

    async def test_a_lease_is_requested_by_name_and_steered_by_its_token(self, stack: Stack) -> None:
        async with open_pool(stack) as pool, nobody(stack) as http:
            answer = await request(http, pool, owner="eve")
            assert answer.status_code == 201, fail(answer)
            lease = answer.json()
            assert (lease["owner"], lease["unverified"]) == ("eve", True)
            assert (await http.post(f"/v1/leases/{lease['id']}/release")).status_code == 401
            assert (await http.get(f"/v1/leases/{lease['id']}")).status_code == 401
        async with caller(stack.app, lease["token"]) as mine:
            assert (await mine.get(f"/v1/leases/{lease['id']}/delivery")).status_code == 200
            assert (await mine.post(f"/v1/leases/{lease['id']}/release")).json()["outcome"] == "released"

    async def test_a_repetition_tells_no_token(self, stack: Stack) -> None:
        async with open_pool(stack) as pool, nobody(stack) as http:
            first = await request(http, pool, key="once", owner="eve2")
            again = await request(http, pool, key="once", owner="eve2")
        assert (first.json()["id"], again.status_code) == (again.json()["id"], 200)
        assert first.json()["token"] is not None
        assert again.json()["token"] is None

    async def test_who_repeats_a_request_before_it_is_admitted_gets_no_token(
        self, stack: Stack, asking: Asking
    ) -> None:
        gate = stack.gate()
        pool = await asking(gate.hook, policy={"self_service": {"open_requests": True}})
        body = {"items": [{"pool": pool}], "owner": "eve3"}

        async def ask() -> httpx.Response:
            async with nobody(stack) as http:
                return await http.post("/v1/leases", json=body, headers={"Idempotency-Key": "once"})

        first, again = asyncio.create_task(ask()), asyncio.create_task(ask())
        answers = await asyncio.gather(first, again)
        gate.open()
        assert [answer.json()["id"] for answer in answers] == [answers[0].json()["id"]] * 2
        assert [answer.json()["token"] is None for answer in sorted(answers, key=lambda a: not a.json()["token"])] == [
            False,
            True,
        ]

    async def test_nobody_without_a_token_goes_before_others(self, stack: Stack) -> None:
        async with open_pool(stack) as pool, nobody(stack) as http:
            assert refusal(await request(http, pool, owner="eve", priority=1), 422)["errors"][0]["path"] == "priority"

    async def test_a_name_is_needed(self, stack: Stack) -> None:
        async with open_pool(stack) as pool, nobody(stack) as http:
            assert refusal(await request(http, pool), 422)["errors"][0]["path"] == "owner"

    async def test_other_pools_stay_closed(self, stack: Stack) -> None:
        closed = await stack.pool(1)
        async with open_pool(stack) as open_, nobody(stack) as http:
            body = {"owner": "eve", "items": [{"pool": open_}, {"pool": closed}]}
            assert (await http.post("/v1/leases", json=body)).status_code == 401
            assert (await http.post("/v1/leases", json={"owner": "eve", "items": [{}]})).status_code == 401

    async def test_a_token_says_itself_for_whom_it_is(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        async with user(stack, "uwe") as http:
            assert refusal(await request(http, pool, owner="eve"), 422)["errors"][0]["code"] == "not_the_owner"
            assert (await request(http, pool, owner="uwe")).status_code == 201

    async def test_the_lab_may_let_everybody_look_and_ask_so_often(self, stack: Stack) -> None:
        pool = await stack.pool(9)
        lab = {"open_reading": True, "open_requests_per_minute": 2, "self_service": {"open_requests": True}}
        try:
            applied = await stack.http.post("/v1/apply", json={"name": "the-lab", "lab": lab, "pools": []})
            assert applied.status_code == 200, fail(applied)
            async with nobody(stack) as http:
                assert (await http.get("/v1/available", params={"pool": pool})).json()["free"] == 9
                assert (await http.get("/v1/leases")).status_code == 200
                assert (await http.get("/v1/tokens")).status_code == 401
                answers = [await request(http, pool, owner=f"eve{n}") for n in range(4)]
            assert answers[-1].status_code == 429, fail(answers[-1])
            assert answers[-1].headers["Retry-After"] == "60"
            assert answers[-1].json()["code"] == "too_many_requests"
        finally:
            await stack.http.post("/v1/apply", json={"name": "the-lab", "pools": []})


class TestThoseInCc:
    async def test_may_extend_and_release_where_the_policy_says_so(self, stack: Stack) -> None:
        pool = await stack.pool(1, policy={"cc_may": ["extend", "release"]})
        async with user(stack, "uwe") as uwe, user(stack, "cora") as cora:
            lease = (await request(uwe, pool, cc=["cora"])).json()["id"]
            assert (await cora.post(f"/v1/leases/{lease}/extend", json={"by": "1m"})).status_code == 200
            ended = await cora.post(f"/v1/leases/{lease}/release", json={"reason": "uwe is ill"})
            assert ended.json()["outcome"] == "released"

    async def test_may_not_where_it_does_not(self, stack: Stack) -> None:
        pool = await stack.pool(1, policy={"cc_may": ["extend"]})
        async with user(stack, "uwe") as uwe, user(stack, "cora") as cora:
            lease = (await request(uwe, pool, cc=["cora"])).json()["id"]
            refusal(await cora.post(f"/v1/leases/{lease}/release"))
            assert (await cora.post(f"/v1/leases/{lease}/extend", json={"by": "1m"})).status_code == 200

    async def test_all_pools_of_a_lease_must_let_them(self, stack: Stack) -> None:
        lax, strict = await stack.pool(1, policy={"cc_may": ["extend"]}), await stack.pool(1)
        async with user(stack, "uwe") as uwe, user(stack, "cora") as cora:
            body = {"items": [{"pool": lax}, {"pool": strict}], "cc": ["cora"]}
            lease = (await uwe.post("/v1/leases", json=body, params={"wait": "active"})).json()["id"]
            refusal(await cora.post(f"/v1/leases/{lease}/extend", json={"by": "1m"}))


class TestTransfer:
    async def test_an_admin_gives_a_lease_to_another_owner_and_its_old_token_is_good_no_more(
        self, stack: Stack
    ) -> None:
        pool = await stack.pool(1)
        async with user(stack, "uwe") as uwe, user(stack, "tom") as tom:
            lease = (await request(uwe, pool)).json()
            given = await stack.http.post(f"/v1/leases/{lease['id']}/transfer", json={"owner": "tom"})
            assert given.status_code == 200, fail(given)
            assert given.json()["owner"] == "tom"
            refusal(await uwe.post(f"/v1/leases/{lease['id']}/extend", json={"by": "1m"}))
            async with caller(stack.app, lease["token"]) as old:
                told = refusal(await old.get(f"/v1/leases/{lease['id']}"), 401)
                assert told["errors"][0]["code"] == "transferred"
            async with caller(stack.app, given.json()["token"]) as new:
                assert (await new.get(f"/v1/leases/{lease['id']}")).status_code == 200
            assert (await tom.post(f"/v1/leases/{lease['id']}/release")).json()["outcome"] == "released"
        kinds = [event["kind"] for event in (await stack.http.get(f"/v1/leases/{lease['id']}/events")).json()["items"]]
        assert "lease_transferred" in kinds

    async def test_one_that_waits_keeps_its_place(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        held = await stack.take(pool)
        waits = await stack.submit(pool)
        given = await stack.http.post(f"/v1/leases/{waits['id']}/transfer", json={"owner": "tom"})
        assert given.json()["queue"]["position"] == 1
        await stack.http.post(f"/v1/leases/{held['id']}/release")
        shown = await stack.http.get(f"/v1/leases/{waits['id']}", params={"wait": "active"})
        assert (shown.json()["state"], shown.json()["owner"]) == ("active", "tom")

    async def test_one_that_is_over_goes_to_nobody(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        lease = await stack.take(pool)
        await stack.http.post(f"/v1/leases/{lease['id']}/release")
        given = await stack.http.post(f"/v1/leases/{lease['id']}/transfer", json={"owner": "tom"})
        assert refusal(given, 409)["code"] == "lease_not_active"


class TestAdmitHook:
    """The hook of a pool that is asked about each request before it is admitted."""

    @staticmethod
    def says(answer: object) -> Json:
        return {"run": ["echo", json.dumps(answer)], "timeout": "30s"}

    async def test_it_gives_a_ticket_which_is_in_the_answer(self, stack: Stack, asking: Asking) -> None:
        pool = await asking(self.says({"ticket": "https://tickets.test/42"}))
        lease = await stack.take(pool)
        assert lease["ticket"] == "https://tickets.test/42"

    async def test_it_refuses_with_its_reason(self, stack: Stack, asking: Asking) -> None:
        pool = await asking(self.says({"refuse": "no change on Fridays"}))
        answer = await stack.post({"items": [{"pool": pool}]})
        assert (refusal(answer)["code"], answer.json()["detail"]) == ("request_refused", "no change on Fridays")

    async def test_it_names_the_request_that_this_one_repeats(self, stack: Stack, asking: Asking) -> None:
        pool = await asking(self.says({"duplicate_of": "lease 7"}))
        answer = await stack.post({"items": [{"pool": pool}]})
        assert (refusal(answer)["code"], answer.json()["detail"]) == ("duplicate", "the same as lease 7")

    async def test_it_is_told_of_the_request(self, stack: Stack, asking: Asking) -> None:
        told = stack.new_path()
        pool = await asking({"run": f'cp "$LEASEHOLD_LEASE_FILE" {told}; echo "$LEASEHOLD_STAGE" >&2'})
        lease = await stack.take(pool, description="nightly; $(touch /tmp/x)", cc=["cora"])
        document = json.loads(told.read_text())
        assert (document["id"], document["owner"], document["cc"]) == (lease["id"], "admin", ["cora"])
        assert document["description"] == "nightly; $(touch /tmp/x)"
        assert document["items"][0]["pool"] == pool
        log = (await stack.http.get(f"/v1/leases/{lease['id']}/log")).text
        assert "admit" in log

    async def test_saying_nothing_is_consent(self, stack: Stack, asking: Asking) -> None:
        pool = await asking({"run": "true"})
        assert (await stack.take(pool))["ticket"] is None

    @pytest.mark.parametrize("answer", ["no json", '["a"]', '{"tickets": "x"}', '{"ticket": "javascript:alert(1)"}'])
    async def test_an_answer_that_makes_no_sense_refuses(self, stack: Stack, asking: Asking, answer: str) -> None:
        pool = await asking({"run": ["echo", answer]})
        refused = await stack.post({"items": [{"pool": pool}]})
        assert refusal(refused)["detail"].startswith(f"the admit hook of {pool} failed: its ")

    async def test_one_that_fails_is_asked_again_and_then_refuses(self, stack: Stack, asking: Asking) -> None:
        count = stack.new_path()
        pool = await asking({"run": f"echo x >> {count}; exit 3", "attempts": 2})
        refused = await stack.post({"items": [{"pool": pool}]})
        assert refusal(refused)["detail"] == f"the admit hook of {pool} failed: exited with status 3"
        assert count.read_text() == "x\nx\n"

    async def test_a_request_is_called_off_while_it_is_asked(self, stack: Stack, asking: Asking) -> None:
        gate = stack.gate()
        pool = await asking(gate.hook)
        submitted = await stack.post({"items": [{"pool": pool}]}, timeout=0)
        assert (submitted.status_code, submitted.json()["state"]) == (202, "submitted")
        ended = await stack.http.post(f"/v1/leases/{submitted.json()['id']}/cancel")
        assert (ended.json()["state"], ended.json()["error"]["code"]) == ("ended", "cancelled")

    async def test_a_dry_run_asks_nobody(self, stack: Stack, asking: Asking) -> None:
        asked = stack.new_path()
        pool = await asking({"run": f"touch {asked}"})
        assert (await stack.post({"items": [{"pool": pool}]}, dry_run=True)).status_code == 200
        assert not asked.exists()

    async def test_of_any_pool_those_are_asked_that_have_what_suits(self, stack: Stack, asking: Asking) -> None:
        asked = stack.new_path()
        pool = await asking({"run": f"touch {asked}"}, priority=-50, resources=[{"name": "x", "tags": ["odd"]}])
        await stack.take(await stack.pool(1))
        assert not asked.exists()
        answer = await stack.post({"items": [{"tags": ["odd"]}]}, wait="active")
        assert answer.json()["resources"][0]["pool"] == pool, fail(answer)
        assert asked.exists()
