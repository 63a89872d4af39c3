"""wait: the answer is held until the state is reached, the lease has ended, or the time is up."""

from __future__ import annotations

import asyncio

from tests.api.stack import PATIENCE_S, Stack, fail


async def test_post_is_held_until_the_lease_is_delivered(stack: Stack) -> None:
    gate = stack.gate()
    pool = await stack.pool(1, validate=gate.hook)
    waiting = asyncio.create_task(stack.take(pool))
    await stack.until(gate.reached)
    assert not waiting.done()
    gate.open()
    assert (await waiting)["state"] == "active"


async def test_without_wait_the_answer_comes_at_once(stack: Stack) -> None:
    gate = stack.gate()
    pool = await stack.pool(1, validate=gate.hook)
    lease = await stack.submit(pool)
    assert lease["state"] == "preparing"
    gate.open()
    assert (await stack.get(lease, wait="active"))["state"] == "active"


async def test_at_the_timeout_the_lease_is_shown_as_it_is(stack: Stack) -> None:
    pool = await stack.pool(1)
    await stack.take(pool)
    answer = await stack.post({"items": [{"pool": pool}]}, wait="active", timeout=0.05)
    assert (answer.status_code, answer.json()["state"]) == (201, "queued"), fail(answer)
    assert (await stack.get(answer.json(), wait="active", timeout=0))["state"] == "queued"


async def test_a_state_that_is_reached_is_not_waited_for(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1))
    async with asyncio.timeout(PATIENCE_S):
        assert (await stack.get(lease, wait="active", timeout=60))["state"] == "active"
        await stack.release(lease)
        # A lease that has ended is never active again.
        assert (await stack.get(lease, wait="active", timeout=60))["state"] == "ended"


async def test_a_waiter_in_the_queue_is_woken_by_the_hand_over(stack: Stack) -> None:
    pool = await stack.pool(1)
    holder = await stack.take(pool)
    waiting = asyncio.create_task(stack.take(pool))
    queue = f"/v1/pools/{pool}/queue"
    async with asyncio.timeout(PATIENCE_S):
        while not (await stack.http.get(queue)).json()["items"]:
            await asyncio.sleep(0.02)
    await stack.release(holder)
    assert (await waiting)["state"] == "active"
    assert (await stack.http.get(queue)).json()["items"] == []


async def test_who_waits_for_active_learns_of_a_failure(stack: Stack) -> None:
    pool = await stack.pool(1, validate={"run": "exit 3"})
    answer = await stack.post({"items": [{"pool": pool}]}, wait="active", timeout=PATIENCE_S)
    lease = answer.json()
    assert (answer.status_code, lease["state"]) == (201, "ended"), fail(answer)
    assert (lease["outcome"], lease["error"]["code"]) == ("failed", "stage_failed")
    assert "validate" in lease["error"]["detail"]


async def test_who_waits_for_the_end_learns_of_a_cancel(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1))
    waiting = asyncio.create_task(stack.ended(lease))
    await asyncio.sleep(0)
    await stack.steer(lease, "cancel")
    assert (await waiting)["outcome"] == "cancelled"


async def test_a_lease_ends_when_its_time_is_over(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1), duration="1s")
    ended = await stack.ended(lease)
    assert (ended["outcome"], ended["expires_at"]) == ("expired", lease["expires_at"])
    assert ended["ended_at"] >= ended["expires_at"]


async def test_many_who_wait_for_one_lease_are_all_woken(stack: Stack) -> None:
    gate = stack.gate()
    pool = await stack.pool(1, validate=gate.hook)
    lease = await stack.submit(pool)
    waiting = [asyncio.create_task(stack.get(lease, wait="active", timeout=PATIENCE_S)) for _ in range(50)]
    await stack.until(gate.reached)
    gate.open()
    assert {found["state"] for found in await asyncio.gather(*waiting)} == {"active"}


async def test_many_leases_are_waited_for_each_by_its_own_caller(stack: Stack) -> None:
    pool = await stack.pool(20, validate={"run": "true"})
    leases = await asyncio.gather(*(stack.take(pool) for _ in range(20)))
    assert len({lease["resources"][0]["name"] for lease in leases}) == 20
    await asyncio.gather(*(stack.release(lease) for lease in leases))


async def test_a_caller_who_goes_away_harms_nobody(stack: Stack) -> None:
    pool = await stack.pool(1)
    holder = await stack.take(pool)
    gone = asyncio.create_task(stack.take(pool))
    stays = asyncio.create_task(stack.ended(holder))
    async with asyncio.timeout(PATIENCE_S):
        while not (await stack.http.get(f"/v1/pools/{pool}/queue")).json()["items"]:
            await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.wait([gone])
    await stack.release(holder)
    assert (await stays)["state"] == "ended"
    # Nobody gave the request back: the lease lives on.
    (left,) = (await stack.http.get("/v1/leases", params={"pool": pool, "state": "preparing,active"})).json()["items"]
    assert (await stack.get(left, wait="active"))["state"] == "active"
