"""While no worker is there: what was submitted is kept, shown, and can be cancelled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import httpx
import pytest
import pytest_asyncio
from temporalio.client import Client

from api.app import create_app
from api.gateway import Gateway
from tests.api.stack import PATIENCE_S, URL, Json, Stack, as_shown, caller, fail
from tests.api.streams import events, stream
from tests.servers import free_port
from worker.wiring import build_worker


@dataclass(frozen=True)
class Alone(Stack):
    """An API whose leases go to a task queue of its own, on which nobody works yet."""

    queue: str

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Have a worker until the block ends; none of these leases has a stage to run."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.services.gateway, "answer_within_s", PATIENCE_S)
            async with build_worker(self.temporal, self.services.store, self.services.logs, {}, task_queue=self.queue):
                yield


@pytest_asyncio.fixture(loop_scope="package")
async def alone(stack: Stack) -> AsyncIterator[Alone]:
    """It soon gives up waiting for a worker."""
    queue = f"nobody-{uuid.uuid4().hex}"
    services = replace(stack.services, gateway=Gateway(stack.temporal, queue, answer_within_s=0.2))
    app = create_app(services)
    async with caller(app) as http:
        yield Alone(app, services, stack.temporal, http, stack.folder, queue)


async def submitted(alone: Alone, pool: str, key: str | None = None) -> Json:
    answer = await alone.post({"items": [{"pool": pool, "count": 2}], "description": "nightly", "cc": ["bob"]}, key)
    assert answer.status_code == 202, fail(answer)
    lease: Json = answer.json()
    return lease


async def test_a_request_is_taken_and_says_that_it_is_only_submitted(alone: Alone) -> None:
    pool = await alone.pool(2)
    lease = await submitted(alone, pool)
    assert (lease["state"], lease["number"], lease["resources"]) == ("submitted", None, [])
    assert (lease["items"][0]["count"], lease["description"], lease["cc"]) == (2, "nightly", ["bob"])
    assert (lease["owner"], lease["token"].partition(".")[0]) == ("admin", lease["id"])


async def test_it_has_all_fields_of_a_lease(alone: Alone, stack: Stack) -> None:
    pool = await alone.pool(2)
    lease, other = await submitted(alone, pool), await stack.submit(pool)
    assert set(lease) == set(other)
    assert set(lease["items"][0]) == set(other["items"][0])


async def test_it_is_shown_again(alone: Alone) -> None:
    lease = await submitted(alone, await alone.pool(2))
    shown = await alone.get(lease)
    assert shown == as_shown(lease)
    assert (await alone.get(lease, wait="active", timeout=0.1))["state"] == "submitted"


async def test_what_its_command_prints_is_followed_from_before_there_was_a_worker(alone: Alone) -> None:
    pool = await alone.pool(1, commands={"allow": [{"role": "user"}]})
    answer = await alone.post({"items": [{"pool": pool}], "command": {"run": ["true"]}})
    lease = answer.json()
    assert (answer.status_code, lease["state"]) == (202, "submitted"), fail(answer)
    async with stream(alone.app, f"/v1/leases/{lease['id']}/output?events=1") as piece:
        assert (await piece()).startswith(b"retry: ")
        async with alone.worker():
            sent = b""
            while b"event: end" not in sent:
                sent += await piece()
    assert b'"result": "exited"' in sent


async def test_its_own_token_reaches_it(alone: Alone) -> None:
    lease = await submitted(alone, await alone.pool(2))
    async with caller(alone.app, lease["token"]) as holder:
        assert (await holder.get(f"/v1/leases/{lease['id']}")).json()["state"] == "submitted"


async def test_whose_it_is_is_known_before_anybody_has_admitted_it(alone: Alone) -> None:
    pool = await alone.pool(1)
    async with (
        alone.user("alice") as alice,
        alone.user("bob") as bob,
        alone.user("carol") as carol,
        alone.user("alice", scopes={"pools": ["elsewhere"]}) as elsewhere,
    ):
        lease = (await alice.post("/v1/leases", json={"items": [{"pool": pool}], "cc": ["bob"]})).json()
        assert (lease["state"], lease["owner"]) == ("submitted", "alice")
        address = f"/v1/leases/{lease['id']}"
        for call, expected in (("log", (200, 200, 403, 200)), ("delivery", (409, 409, 403, 403))):
            answers = [await one.get(f"{address}/{call}") for one in (alice, bob, carol, elsewhere)]
            assert tuple(answer.status_code for answer in answers) == expected, call
        assert [(await one.get(address)).status_code for one in (alice, bob, carol)] == [200] * 3
        steered = [await one.post(f"{address}/cancel") for one in (bob, carol, elsewhere, alice)]
        assert [answer.status_code for answer in steered] == [403, 403, 403, 202]


async def test_a_repeated_request_is_the_same_lease(alone: Alone) -> None:
    pool, key = await alone.pool(2), uuid.uuid4().hex
    assert (await submitted(alone, pool, key))["id"] == (await submitted(alone, pool, key))["id"]


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("delivery", 409, "not_delivered"),
        ("events", 200, None),
        ("log", 200, None),
        ("extend", 409, "lease_not_active"),
        ("resources", 409, "lease_not_active"),
    ],
)
async def test_what_there_is_not_yet_is_told(alone: Alone, call: str, status: int, code: str | None) -> None:
    lease = await submitted(alone, await alone.pool(2))
    address = f"/v1/leases/{lease['id']}/{call}"
    body = {"extend": {"by": "1h"}, "resources": {"items": [{}]}}.get(call)
    answer = await (alone.http.post(address, json=body) if body else alone.http.get(address))
    assert answer.status_code == status, fail(answer)
    assert code is None or answer.json()["code"] == code


async def follow(alone: Alone, lease: Json) -> None:
    """Follow a log to its end; whatever goes wrong after the first byte is raised here."""
    headers = {"Authorization": f"Bearer {lease['token']}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(alone.app), base_url=URL, headers=headers) as http:
        answer = await http.get(f"/v1/leases/{lease['id']}/log?follow=true")
        assert answer.status_code == 200, fail(answer)


async def watch(alone: Alone, lease: Json) -> list[str]:
    """The kinds of all events that a follower is sent."""
    async with events(alone.app, lease["id"]) as sent:
        return [event.kind async for event in sent]


async def test_once_a_worker_comes_it_is_served(stack: Stack, alone: Alone) -> None:
    lease = await submitted(alone, await alone.pool(2))
    following = asyncio.create_task(follow(alone, lease))
    watching = asyncio.create_task(watch(alone, lease))
    waiting = asyncio.create_task(alone.get(lease, wait="active", timeout=30))
    async with alone.worker():
        assert (await waiting)["state"] == "active"
        assert len((await alone.get(lease))["resources"]) == 2
        await alone.release(lease)
        await following
        assert [kind for kind in await watching if kind.startswith("lease_")] == [
            "lease_preparing",
            "lease_active",
            "lease_releasing",
            "lease_ended",
        ]


class TestHeartbeats:
    """They count from submission on, whether or not anybody has admitted the lease."""

    async def submitted(self, alone: Alone, count: int = 1) -> Json:
        pool = await alone.pool(1)
        answer = await alone.post({"items": [{"pool": pool, "count": count}], "heartbeat": "2s"})
        assert answer.status_code == 202, fail(answer)
        lease: Json = answer.json()
        return lease

    async def test_who_is_heard_meanwhile_is_served_once_a_worker_comes(self, alone: Alone) -> None:
        lease = await self.submitted(alone)
        async with caller(alone.app, lease["token"]) as holder:
            for _ in range(6):
                await asyncio.sleep(0.5)
                answer = await holder.post(f"/v1/leases/{lease['id']}/heartbeat")
                assert (answer.status_code, answer.json()["state"]) == (200, "submitted"), fail(answer)
        async with alone.worker():
            active = await alone.get(lease, wait="active", timeout=30)
        assert active["state"] == "active"
        assert active["heartbeat_by"] > active["active_at"]

    async def test_who_went_away_gets_nothing(self, alone: Alone) -> None:
        lease = await self.submitted(alone)
        pool = lease["items"][0]["pool"]
        await asyncio.sleep(2.1)
        async with alone.worker():
            ended = await alone.ended(lease)
        assert (ended["outcome"], ended["resources"]) == ("lost", [])
        assert (await alone.http.get(f"/v1/pools/{pool}")).json()["free"] == 1

    async def test_after_a_refusal_there_is_nothing_to_keep(self, alone: Alone) -> None:
        lease = await self.submitted(alone, count=2)
        assert (await alone.steer(lease, "heartbeat")).status_code == 200
        async with alone.worker():
            assert (await alone.ended(lease))["error"]["code"] == "unsatisfiable"
        answer = await alone.steer(lease, "heartbeat")
        assert (answer.status_code, answer.json()["code"]) == (409, "lease_not_active"), fail(answer)
        assert answer.json()["detail"] == f"lease {lease['id']} is over"

    async def test_a_lease_that_expects_none_is_none_the_worse(self, alone: Alone) -> None:
        lease = await submitted(alone, await alone.pool(2))
        assert (await alone.steer(lease, "heartbeat")).status_code == 200
        async with alone.worker():
            active = await alone.get(lease, wait="active", timeout=30)
        assert (active["state"], active["heartbeat_by"]) == ("active", None)


async def test_it_can_be_cancelled_and_that_is_not_lost(alone: Alone) -> None:
    pool = await alone.pool(2)
    lease = await submitted(alone, pool)
    answer = await alone.steer(lease, "cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "submitted"), fail(answer)
    async with alone.worker():
        assert (await alone.ended(lease))["outcome"] == "cancelled"
    assert (await alone.http.get(f"/v1/pools/{pool}")).json()["free"] == 2


async def test_an_active_lease_of_a_worker_that_went_away_is_still_shown_and_steered(alone: Alone) -> None:
    pool = await alone.pool(2)
    async with alone.worker():
        lease = await alone.take(pool)
    assert (await alone.get(lease))["state"] == "active"
    answer = await alone.steer(lease, "extend", {"by": "1h"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), fail(answer)
    assert int(answer.headers["Retry-After"]) > 0
    assert (await alone.steer(lease, "release")).status_code == 202
    async with alone.worker():
        assert (await alone.ended(lease))["outcome"] == "released"


class TestRefusedOnceAWorkerCame:
    """Who was told 202 learns of the refusal wherever they look."""

    async def submitted(self, alone: Alone, **params: str) -> Json:
        """A request for two resources of a pool that has one."""
        self.pool = await alone.pool(1)
        return await submitted(alone, self.pool)

    async def test_the_lease_has_failed_with_the_reason(self, alone: Alone) -> None:
        lease = await self.submitted(alone)
        async with alone.worker():
            ended = await alone.ended(lease)
        assert (ended["state"], ended["outcome"], ended["number"]) == ("ended", "failed", None)
        detail = f"2 wanted, and the most that exist in pool {self.pool} is 1"
        assert ended["error"] == {"code": "unsatisfiable", "detail": detail}
        same = ("id", "owner", "items", "description", "cc", "priority", "resources", "temporal_url")
        assert {name: ended[name] for name in same} == {name: lease[name] for name in same}
        assert ended["ended_at"] == ended["created_at"]
        # Without any worker, and by its own token.
        async with caller(alone.app, lease["token"]) as holder:
            assert (await holder.get(f"/v1/leases/{lease['id']}")).json() == ended

    async def test_waiting_and_following_end_at_once(self, alone: Alone) -> None:
        lease = await self.submitted(alone)
        waiting = asyncio.create_task(alone.get(lease, wait="active", timeout=60))
        reading = asyncio.create_task(follow(alone, lease))
        watching = asyncio.create_task(watch(alone, lease))
        async with asyncio.timeout(PATIENCE_S), alone.worker():
            assert (await waiting)["error"]["code"] == "unsatisfiable"
            await reading
            assert await watching == ["lease_refused"]
        async with asyncio.timeout(PATIENCE_S):
            assert (await alone.get(lease, wait="ended", timeout=60))["outcome"] == "failed"
            await follow(alone, lease)
            assert await watch(alone, lease) == ["lease_refused"]

    async def test_the_event_says_who_and_why(self, alone: Alone) -> None:
        lease = await self.submitted(alone)
        async with alone.worker():
            ended = await alone.ended(lease)
        (event,) = await alone.events(lease)
        assert (event["kind"], event["actor"], event["reason"]) == ("lease_refused", "admin", ended["error"]["detail"])
        assert event["data"] == {"code": "unsatisfiable"}

    async def test_it_is_over_for_all_that_could_be_done_to_it(self, alone: Alone) -> None:
        lease = await self.submitted(alone)
        async with alone.worker():
            ended = await alone.ended(lease)
        for call in ("release", "cancel"):
            answer = await alone.steer(lease, call)
            assert (answer.status_code, answer.json()) == (200, ended), fail(answer)
        answer = await alone.steer(lease, "extend", {"by": "1h"})
        assert (answer.status_code, answer.json()["code"]) == (409, "lease_not_active"), fail(answer)
        answer = await alone.http.get(f"/v1/leases/{lease['id']}/delivery")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_delivered"), fail(answer)
        answer = await alone.http.get(f"/v1/leases/{lease['id']}/runs")
        assert answer.json() == {"items": [], "next_cursor": None}, fail(answer)

    async def test_a_request_that_is_held_gets_the_refusal_itself(self, alone: Alone) -> None:
        pool, key = await alone.pool(1), uuid.uuid4().hex
        body = {"items": [{"pool": pool, "count": 2}]}
        asking = asyncio.create_task(alone.post(body, key, wait="active", timeout=60))
        await asyncio.sleep(1)
        async with alone.worker():
            answer = await asking
        assert (answer.status_code, answer.json()["code"]) == (422, "unsatisfiable"), fail(answer)
        assert (await alone.post(body, key)).json() == answer.json()


async def test_whoever_follows_a_lease_that_vanished_before_it_was_admitted_is_let_go(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.following.KEEP_ALIVE_S", 0.1)
    lease = await submitted(alone, await alone.pool(2))
    async with stream(alone.app, f"/v1/leases/{lease['id']}/events?follow=true") as piece:
        assert (await piece()).startswith(b"retry: ")
        await alone.temporal.get_workflow_handle(lease["id"]).terminate()
        said = b""
        with suppress(EOFError):
            while True:
                said += await piece()
        assert said.replace(b": ping\n\n", b"") == b""


async def test_without_a_worker_the_service_is_not_ready(alone: Alone) -> None:
    answer = await alone.http.get("/readyz")
    assert answer.status_code == 503, fail(answer)
    assert answer.json() == {"ready": False, "database": True, "temporal": True, "worker": False, "alerts": []}


async def test_an_api_that_has_never_reached_temporal_says_so(stack: Stack) -> None:
    nobody = await Client.connect(f"127.0.0.1:{free_port()}", lazy=True)
    services = replace(stack.services, gateway=Gateway(nobody, "nowhere"))
    async with caller(create_app(services)) as http:
        ready = await http.get("/readyz")
        submitted = await http.post("/v1/leases", json={"items": [{"pool": "any"}]})
    assert (ready.status_code, ready.json()["temporal"], ready.json()["database"]) == (503, False, True)
    assert (submitted.status_code, submitted.json()["code"]) == (503, "unavailable")
