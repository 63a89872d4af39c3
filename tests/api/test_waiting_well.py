"""Waiting, as callers see it: reserved, tried, patient, paused, and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.stack import PATIENCE_S, Json, Stack, fail


def soon(**span: float) -> str:
    """A time to come, as the API takes it."""
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


async def got(stack: Stack, path: str, **params: Any) -> Json:
    """What a GET answers."""
    answer = await stack.http.get(f"/v1{path}", params=params)
    assert answer.status_code == 200, fail(answer)
    found: Json = answer.json()
    return found


class TestReservations:
    async def test_one_begins_by_itself_when_its_time_has_come(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        lease = await stack.submit(pool, 2, start_at=soon(seconds=1.5))
        assert (lease["state"], lease["queue"]["position"]) == ("queued", 0)
        assert lease["queue"]["eta"] == lease["start_at"]
        active = await stack.get(lease, wait="active", timeout=PATIENCE_S)
        assert active["state"] == "active"
        assert active["active_at"] >= lease["start_at"]
        assert (await stack.release(active))["outcome"] == "released"

    async def test_others_are_served_before_it_if_they_end_in_time(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        reserved = await stack.submit(pool, start_at=soon(hours=2))
        long = await stack.submit(pool, duration="3h")
        assert f"promised to lease {reserved['number']} from" in long["queue"]["reason"]
        short = await stack.submit(pool, duration="1h")
        assert (long["state"], short["state"]) == ("queued", "active")
        refused = await stack.http.post(f"/v1/leases/{short['id']}/extend", json={"by": "2h"})
        assert (refused.status_code, refused.json()["code"]) == (403, "extension_refused")

    async def test_one_that_cannot_be_kept_is_refused(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        await stack.submit(pool, start_at=soon(hours=2))
        answer = await stack.post({"items": [{"pool": pool}], "start_at": soon(hours=2.5)})
        assert (answer.status_code, answer.json()["code"]) == (409, "not_reservable")
        assert "the earliest is" in answer.json()["detail"]

    async def test_it_is_seen_in_the_queue_and_in_what_is_available(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        reserved = await stack.submit(pool, start_at=soon(minutes=30))
        (item,) = (await got(stack, f"/pools/{pool}/queue"))["items"]
        assert (item["id"], item["start_at"]) == (reserved["id"], reserved["start_at"])
        usual = await got(stack, "/available", pool=pool, count=2)
        assert (usual["open"], usual["free"], len(usual["resources"])) == (False, 1, 1)
        first = f"{reserved['start_at'][:19]}Z"
        assert usual["reason"] == f"2 wanted, 1 of 2 free; 1 promised to reservations, the first from {first}"
        (promise,) = usual["promised"]
        assert (promise["lease"], promise["begins_at"]) == (reserved["number"], reserved["start_at"])
        assert (await got(stack, "/available", pool=pool, duration="10m"))["free"] == 2

    @pytest.mark.parametrize("start_at", ["tomorrow", "2026-01-05T10:00:00", 5])
    async def test_a_time_that_is_none_is_refused_with_its_place(self, stack: Stack, start_at: object) -> None:
        answer = await stack.post({"items": [{"pool": await stack.pool(1)}], "start_at": start_at})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "start_at")

    async def test_a_repetition_is_answered_alike_though_its_time_has_come(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        body = {"items": [{"pool": pool}], "start_at": soon(seconds=0.3)}
        first = (await stack.post(body, key=f"k{pool}")).json()
        await asyncio.sleep(0.5)
        again = await stack.post(body, key=f"k{pool}")
        assert (again.status_code, again.json()["id"]) == (200, first["id"])


class TestPatience:
    async def test_a_lease_fails_when_it_has_waited_long_enough(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        await stack.take(pool)
        waiting = await stack.submit(pool, queue_timeout="1s")
        ended = await stack.get(waiting, wait="ended", timeout=PATIENCE_S)
        assert (ended["state"], ended["outcome"], ended["error"]["code"]) == ("ended", "failed", "queue_timeout")

    async def test_one_that_is_granted_in_time_goes_on(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        holder = await stack.take(pool)
        waiting = await stack.submit(pool, queue_timeout="2s")
        await stack.release(holder)
        assert (await stack.get(waiting, wait="active", timeout=PATIENCE_S))["state"] == "active"
        await asyncio.sleep(2.2)
        assert (await stack.get(waiting))["state"] == "active"


class TestTrying:
    async def test_it_says_what_would_be_granted(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        answer = await stack.post({"items": [{"pool": pool, "count": 2}]}, dry_run=True)
        tried = answer.json()
        assert answer.status_code == 200
        assert (tried["state"], tried["id"], tried["number"], tried["token"]) == ("active", None, None, None)
        assert [(r["name"], r["epoch"]) for r in tried["resources"]] == [("r0", None), ("r1", None)]
        assert (await got(stack, "/available", pool=pool))["free"] == 2
        assert (await got(stack, "/leases", pool=pool))["items"] == []

    async def test_it_says_when_it_would_be_and_what_could_be_had_instead(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        holder = await stack.take(pool)
        tried = (await stack.post({"items": [{"pool": pool, "count": 2}]}, dry_run=True)).json()
        assert (tried["state"], tried["queue"]["position"]) == ("queued", 1)
        assert tried["queue"]["eta"] == holder["expires_at"]
        assert tried["queue"]["alternatives"][0]["detail"] == f"1 of {pool}, not 2"
        (item,) = tried["queue"]["alternatives"][0]["items"]
        assert (await stack.post({"items": [item]})).json()["state"] == "active"

    async def test_it_is_refused_as_the_request_would_be(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        answer = await stack.post({"items": [{"pool": pool, "match": ["model=R999"]}]}, dry_run=True)
        assert (answer.status_code, answer.json()["code"]) == (422, "unsatisfiable")
        assert answer.json()["detail"] == f"no model=R999 in pool {pool}"


class TestSupply:
    async def test_who_waits_for_supply_gets_it(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        body = {"items": [{"pool": pool, "count": 2}], "wait_for_supply": True}
        lease = (await stack.post(body)).json()
        assert lease["queue"]["reason"] == f"needs 2 of {pool}; there is just 1; 1 free"
        answer = await stack.http.put(f"/v1/pools/{pool}/resources/r1", json={})
        assert answer.status_code == 200, fail(answer)
        assert (await stack.get(lease, wait="active", timeout=PATIENCE_S))["state"] == "active"


class TestOperators:
    @pytest_asyncio.fixture
    async def bob(self, stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
        """An operator."""
        async with stack.user("bob", role="operator") as http:
            yield http

    async def test_a_holder_whose_lease_is_ended_is_told_by_whom_and_why(
        self, stack: Stack, bob: httpx.AsyncClient
    ) -> None:
        lease = await stack.take(await stack.pool(1))
        answer = await bob.post(f"/v1/leases/{lease['id']}/release", json={"reason": "the rack is moved"})
        assert answer.status_code == 200, fail(answer)
        ended = await stack.get(lease, wait="ended", timeout=PATIENCE_S)
        assert (ended["outcome"], ended["error"]) == (
            "released",
            {"code": "ended_by_operator", "detail": "ended by bob: the rack is moved"},
        )
        (event,) = [e for e in await stack.events(lease) if e["kind"] == "lease_releasing"]
        assert (event["actor"], event["reason"]) == ("bob", "the rack is moved")

    async def test_who_ends_the_own_lease_may_say_why_too(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        await stack.http.post(f"/v1/leases/{lease['id']}/release", json={"reason": "done"})
        ended = await stack.get(lease, wait="ended", timeout=PATIENCE_S)
        assert (ended["outcome"], ended["error"]) == ("released", None)

    async def test_a_paused_pool_lends_nothing_until_it_is_resumed(self, stack: Stack, bob: httpx.AsyncClient) -> None:
        pool = await stack.pool(1)
        paused = (await bob.post(f"/v1/pools/{pool}/pause", json={"reason": "new switch"})).json()
        assert (paused["paused"]["by"], paused["paused"]["reason"]) == ("bob", "new switch")
        waiting = await stack.submit(pool)
        assert waiting["queue"]["reason"] == f"{pool} is paused: new switch; needs 1 of {pool}; 0 free; 1 paused"
        closed = await got(stack, "/available", pool=pool)
        assert (closed["open"], closed["reason"]) == (False, f"1 wanted, 0 of 1 free; {pool} is paused: new switch")
        assert (await bob.post(f"/v1/pools/{pool}/resume")).json()["paused"] is None
        assert (await stack.get(waiting, wait="active", timeout=PATIENCE_S))["state"] == "active"
        happened = [e for e in (await got(stack, f"/pools/{pool}/events"))["items"] if e["kind"] != "pool_added"]
        assert [(e["kind"], e["actor"], e["reason"]) for e in happened] == [
            ("pool_paused", "bob", "new switch"),
            ("pool_resumed", "bob", None),
        ]

    async def test_there_must_be_a_reason_and_a_pool(self, stack: Stack, bob: httpx.AsyncClient) -> None:
        pool = await stack.pool(1)
        assert (await bob.post(f"/v1/pools/{pool}/pause", json={})).status_code == 422
        assert (await bob.post("/v1/pools/nope/pause", json={"reason": "x"})).json()["code"] == "pool_unknown"


class TestQueue:
    async def test_it_is_listed_page_by_page_in_the_order_of_service(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        await stack.take(pool)
        leases = [(await stack.submit(pool, priority=n % 2))["id"] for n in range(5)]
        wanted = [leases[n] for n in (1, 3, 0, 2, 4)]
        first = await got(stack, f"/pools/{pool}/queue", limit=3)
        rest = await got(stack, f"/pools/{pool}/queue", limit=3, cursor=first["next_cursor"])
        assert [lease["id"] for lease in (*first["items"], *rest["items"])] == wanted
        assert [lease["queue"]["position"] for lease in (*first["items"], *rest["items"])] == [1, 2, 3, 4, 5]
        assert rest["next_cursor"] is None
        answer = await stack.http.get(f"/v1/pools/{pool}/queue", params={"cursor": "x"})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
        for lease in leases:
            await stack.http.post(f"/v1/leases/{lease}/cancel")
