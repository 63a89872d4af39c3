"""Heartbeats over HTTP: who is heard keeps the lease, who is not loses it, in whatever state it is."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from tests.api.stack import Json, Stack, as_shown, caller, fail
from tests.api.test_bad_input import check
from tests.api.test_steering import lease_in


def left(lease: Json, since: str) -> timedelta:
    """How long after another time of the lease its next heartbeat is due."""
    return datetime.fromisoformat(lease["heartbeat_by"]) - datetime.fromisoformat(lease[since])


async def test_the_first_is_due_from_the_request_on_and_each_moves_that(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1), heartbeat="5m")
    assert left(lease, "created_at") == timedelta(minutes=5)
    await asyncio.sleep(0.1)

    answer = await stack.steer(lease, "heartbeat")

    assert answer.status_code == 200, fail(answer)
    assert left(answer.json(), "created_at") > timedelta(minutes=5)
    assert {**answer.json(), "heartbeat_by": None} == {**as_shown(lease), "heartbeat_by": None}


async def test_a_lease_that_expects_none_takes_them_too(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1))
    answer = await stack.steer(lease, "heartbeat")
    assert (answer.status_code, answer.json()["heartbeat_by"]) == (200, None), fail(answer)


@pytest.mark.parametrize("state", ["queued", "active"])
async def test_who_is_not_heard_loses_the_lease_to_who_waits(stack: Stack, state: str) -> None:
    pool = await stack.pool(1)
    holder = await stack.take(pool) if state == "queued" else None
    lease = await stack.submit(pool, heartbeat="1s")
    assert lease["state"] == state
    waiting = await stack.submit(pool)

    ended = await stack.ended(lease)

    assert (ended["outcome"], ended["error"], ended["heartbeat_by"]) == ("lost", None, None)
    check(await stack.steer(lease, "heartbeat"), 409, "lease_not_active")
    if holder is not None:
        await stack.release(holder)
    assert (await stack.get(waiting, wait="active", timeout=10))["state"] == "active"
    (released,) = [e for e in await stack.events(lease) if e["data"].get("outcome") == "lost"][:1]
    assert (released["actor"], released["reason"]) == ("leasehold", "no heartbeat came in time")


async def test_who_is_heard_keeps_it(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1), heartbeat="2s")
    for _ in range(6):
        await asyncio.sleep(0.5)
        assert (await stack.steer(lease, "heartbeat")).status_code == 200
    assert (await stack.get(lease))["state"] == "active"


async def test_its_own_token_is_enough(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1), heartbeat="5m")
    async with caller(stack.app, lease["token"]) as holder:
        answer = await holder.post(f"/v1/leases/{lease['number']}/heartbeat")
    assert answer.status_code == 200, fail(answer)


@pytest.mark.parametrize("state", ["releasing", "ended"])
async def test_a_lease_that_is_over_is_beyond_it(stack: Stack, state: str) -> None:
    lease = await lease_in(stack, state)
    check(await stack.steer(lease, "heartbeat"), 409, "lease_not_active")
    await stack.steer(lease, "cancel")


async def test_a_repeated_request_is_no_heartbeat(stack: Stack) -> None:
    pool = await stack.pool(1)
    body = {"items": [{"pool": pool}], "heartbeat": "5m"}
    first, again = await stack.post(body, "key-of-" + pool), await stack.post(body, "key-of-" + pool)
    assert again.status_code == 200, fail(again)
    assert again.json()["heartbeat_by"] == first.json()["heartbeat_by"]
