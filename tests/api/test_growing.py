"""An active lease gets more resources, and gives parts back, over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from tests.api.stack import PATIENCE_S, Json, Stack, as_shown, caller, fail
from tests.api.test_bad_input import check
from tests.api.test_steering import lease_in


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


async def add(stack: Stack, lease: Json, *items: Json, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await stack.http.post(f"/v1/leases/{lease['id']}/resources", json={"items": list(items)}, headers=headers)


async def give_back(stack: Stack, lease: Json, pool: str, name: str) -> httpx.Response:
    return await stack.http.delete(f"/v1/leases/{lease['id']}/resources/{pool}/{name}")


def states(lease: Json) -> dict[str, str]:
    return {resource["name"]: resource["state"] for resource in lease["resources"]}


async def until_ready(stack: Stack, lease: Json) -> Json:
    async with asyncio.timeout(PATIENCE_S):
        while "preparing" in states(found := await stack.get(lease)).values():
            await asyncio.sleep(0.02)
    return found


async def test_what_was_added_is_prepared_and_delivered_while_the_lease_goes_on(stack: Stack) -> None:
    gate = stack.gate("echo key of $LEASEHOLD_RESOURCE for $LEASEHOLD_ROLE")
    pool = await stack.pool(2, validate={"run": "true"}, deliver={"run": "echo first"})
    lease = await stack.take(pool)
    await stack.http.put(f"/v1/pools/{pool}", json={"name": pool, "deliver": gate.hook}, params={"folder": "/"})

    answer = await add(stack, lease, {"pool": pool, "role": "worker"})

    assert answer.status_code == 200, fail(answer)
    assert (answer.json()["state"], states(answer.json())) == ("active", {"r0": "ready", "r1": "preparing"})
    assert [item["role"] for item in answer.json()["items"]] == [None, "worker"]
    delivery = f"/v1/leases/{lease['id']}/delivery"
    assert [d["name"] for d in (await stack.http.get(delivery)).json()["resources"]] == ["r0"]
    gate.open()
    assert states(await until_ready(stack, lease)) == {"r0": "ready", "r1": "ready"}
    delivered = (await stack.http.get(delivery)).json()["resources"]
    assert [d["data"] for d in delivered] == ["first\n", "key of r1 for worker\n"]
    kinds = [event["kind"] for event in await stack.events(lease) if event["kind"].startswith("lease_")]
    assert kinds[-2:] == ["lease_grown", "lease_resource_ready"]


async def test_what_is_not_free_is_refused_and_not_waited_for(stack: Stack) -> None:
    pool = await stack.pool(2)
    lease, other = await stack.take(pool), await stack.take(pool)
    check(await add(stack, lease, {"pool": pool}), 409, "not_free")
    await stack.release(other)
    assert states(await stack.get(lease)) == {"r0": "ready"}
    assert (await add(stack, lease, {"pool": pool})).status_code == 200


async def test_what_fails_its_stages_is_dropped_and_the_lease_goes_on(stack: Stack) -> None:
    pool = await stack.pool(2, wipe={"run": "test $LEASEHOLD_RESOURCE = r0"})
    lease = await stack.take(pool)

    assert (await add(stack, lease, {"pool": pool})).status_code == 200

    found = await until_ready(stack, lease)
    assert (found["state"], states(found)) == ("active", {"r0": "ready", "r1": "released"})
    broken = (await stack.http.get(f"/v1/pools/{pool}/resources/r1")).json()["broken"]
    assert broken["reason"].startswith("wipe: ")


@pytest.mark.parametrize("state", ["queued", "preparing", "releasing", "ended"])
async def test_only_an_active_lease_grows_or_shrinks(stack: Stack, state: str) -> None:
    lease = await lease_in(stack, state)
    pool = lease["items"][0]["pool"]
    check(await add(stack, lease, {"pool": pool}), 409, "lease_not_active")
    check(await give_back(stack, lease, pool, "r0"), 409, "lease_not_active")
    await stack.steer(lease, "cancel")


# The body, with POOL for the pool of the test, and what the error says.
BODIES: dict[str, tuple[Any, int, str, tuple[str, ...]]] = {
    "nothing": ({}, 422, "invalid", ("items missing",)),
    "no items": ({"items": []}, 422, "invalid", ("items too_short",)),
    "too many items": ({"items": [{}] * 51}, 422, "invalid", ("items too_long",)),
    "an unknown field": ({"items": [{}], "duration": "1h"}, 422, "invalid", ("duration unknown_field",)),
    "an unknown field of an item": ({"items": [{"nmae": "r1"}]}, 422, "invalid", ("items[0].nmae unknown_field",)),
    "an unknown stage": ({"items": [{"skip": ["reboot"]}]}, 422, "invalid", ("items[0].skip[0] enum",)),
    "a stage that follows a lease": (
        {"items": [{"skip": ["release"]}]}, 422, "invalid", ("items[0].skip not_skippable",),
    ),
    "a filter that is none": ({"items": [{"match": ["n"]}]}, 400, "bad_filter", ("items[0].match[0] bad_filter",)),
    "an unknown pool": ({"items": [{"pool": "nope"}]}, 422, "unsatisfiable", ("items[0].pool pool_unknown",)),
    "more than there is": ({"items": [{"pool": "POOL", "count": 3}]}, 422, "unsatisfiable", ("items[0] too_many",)),
    "what the lease has itself": (
        {"items": [{"pool": "POOL", "names": ["r0"]}]}, 422, "unsatisfiable", ("items[0] too_many",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
async def test_an_addition_that_cannot_be(stack: Stack, case: str) -> None:
    body, status, code, places = BODIES[case]
    pool = await stack.pool(2)
    lease = await stack.take(pool)
    said = [{**item, "pool": pool} if item.get("pool") == "POOL" else item for item in body.get("items", [])]
    answer = await stack.steer(lease, "resources", {**body, **({"items": said} if "items" in body else {})})
    check(answer, status, code, *places)
    assert await stack.get(lease) == as_shown(lease)


async def test_nothing_is_had_by_it_for_longer_than_its_pool_allows(stack: Stack) -> None:
    scarce = await stack.pool(1, policy={"default_duration": "1h", "max_duration": "1h"})
    lease = await stack.take(await stack.pool(1), duration="5h")
    check(await add(stack, lease, {"pool": scarce}), 403, "duration_refused")


class TestTheSameKey:
    """An addition that comes twice counts once, whatever became of the first answer."""

    async def test_counts_once(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(3)
        lease = await stack.take(pool)
        answers = [await add(stack, lease, {"pool": pool}, key=key) for _ in range(2)]
        answers += await asyncio.gather(*(add(stack, lease, {"count": 1, "pool": pool}, key=key) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(states(await stack.get(lease))) == 2

    async def test_with_another_addition_is_refused(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(4)
        lease = await stack.take(pool)
        await add(stack, lease, {"pool": pool}, key=key)
        others: list[list[Json]] = [[{"pool": pool, "count": 2}], [{"pool": pool}, {"pool": pool}], [{}]]
        for items in others:
            answer = await add(stack, lease, *items, key=key)
            check(answer, 422, "idempotency_key_reused", "Idempotency-Key reused")
        assert len(states(await stack.get(lease))) == 2

    async def test_of_an_extension_is_another_calls(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(2)
        lease = await stack.take(pool)
        await stack.steer(lease, "extend", {"by": "1h"}, **{"Idempotency-Key": key})
        check(await add(stack, lease, {"pool": pool}, key=key), 422, "idempotency_key_reused", "Idempotency-Key reused")

    async def test_repeats_a_refusal(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(2)
        lease, other = await stack.take(pool), await stack.take(pool)
        check(await add(stack, lease, {"pool": pool}, key=key), 409, "not_free")
        await stack.release(other)
        check(await add(stack, lease, {"pool": pool}, key=key), 409, "not_free")
        assert (await add(stack, lease, {"pool": pool}, key=key + "2")).status_code == 200

    async def test_is_answered_after_the_end_too(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(2)
        lease = await stack.take(pool)
        await add(stack, lease, {"pool": pool}, key=key)
        await stack.release(lease)
        await stack.ended(lease)
        answer = await add(stack, lease, {"pool": pool}, key=key)
        assert (answer.status_code, answer.json()["state"]) == (200, "ended"), fail(answer)
        check(await add(stack, lease, {"pool": pool}), 409, "lease_not_active")

    async def test_without_one_each_counts(self, stack: Stack) -> None:
        pool = await stack.pool(3)
        lease = await stack.take(pool)
        for _ in range(2):
            await add(stack, lease, {"pool": pool})
        assert len(states(await stack.get(lease))) == 3


class TestGivingBack:
    """A part of a lease."""

    async def test_goes_to_who_waits_for_it(self, stack: Stack) -> None:
        pool = await stack.pool(2, release={"run": "true"})
        lease = await stack.take(pool, 2)
        waiting = await stack.submit(pool)
        answer = await give_back(stack, lease, pool, "r0")
        assert answer.status_code == 200, fail(answer)
        assert (answer.json()["state"], states(answer.json())) == ("active", {"r0": "released", "r1": "ready"})
        served = await stack.get(waiting, wait="active", timeout=PATIENCE_S)
        assert states(served) == {"r0": "ready"}
        assert "lease_shrunk" in [event["kind"] for event in await stack.events(lease)]

    async def test_twice_does_no_harm(self, stack: Stack) -> None:
        pool = await stack.pool(3)
        lease = await stack.take(pool, 2)
        first = await give_back(stack, lease, pool, "r0")
        await stack.take(pool)
        again = await give_back(stack, lease, pool, "r0")
        assert (again.status_code, again.json()) == (200, first.json()), fail(again)

    async def test_not_the_last(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        lease = await stack.take(pool)
        check(await give_back(stack, lease, pool, "r0"), 409, "last_resource")

    async def test_not_what_it_never_had(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        lease = await stack.take(pool)
        check(await give_back(stack, lease, pool, "r1"), 404, "resource_unknown")
        check(await give_back(stack, lease, "elsewhere", "r0"), 404, "resource_unknown")

    @pytest.mark.parametrize("name", ["%00", "%ff", "'", "9" * 3000, "%F0%9F%9A%80", "*"])
    async def test_no_name_that_no_resource_can_have(self, stack: Stack, name: str) -> None:
        lease = await stack.take(await stack.pool(2), 2)
        for path in (f"{name}/r0", f"p/{name}"):
            answer = await stack.http.delete(f"/v1/leases/{lease['id']}/resources/{path}")
            assert answer.status_code in {404, 422}, fail(answer)
        assert states(await stack.get(lease)) == {"r0": "ready", "r1": "ready"}


class TestTheTokenOfTheLease:
    """It is good for the lease, and for no more than the lease's owner may have."""

    async def test_adds_of_the_pools_that_the_lease_is_about_and_gives_them_back(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        lease = await stack.take(pool)
        async with caller(stack.app, lease["token"]) as holder:
            address = f"/v1/leases/{lease['id']}/resources"
            answer = await holder.post(address, json={"items": [{"pool": pool}]})
            assert (answer.status_code, len(states(answer.json()))) == (200, 2), fail(answer)
            answer = await holder.delete(f"{address}/{pool}/r1")
            assert (answer.status_code, states(answer.json())["r1"]) == (200, "released"), fail(answer)

    @pytest.mark.parametrize("item", [{"pool": "OTHER"}, {}])
    async def test_adds_nothing_of_pools_that_its_owners_token_is_not_good_for(self, stack: Stack, item: Json) -> None:
        pool, other = await stack.pool(2), await stack.pool(1)
        async with stack.user("olga", scopes={"pools": [pool]}) as olga:
            answer = await olga.post("/v1/leases?wait=active", json={"items": [{"pool": pool}]})
        lease = answer.json()
        assert lease["state"] == "active", fail(answer)
        wanted = {"pool": other} if item else {}
        async with caller(stack.app, lease["token"]) as holder:
            answer = await holder.post(f"/v1/leases/{lease['id']}/resources", json={"items": [wanted]})
        check(answer, 403, "forbidden", "items[0].pool other_pool")
        assert (await stack.http.get(f"/v1/pools/{other}")).json()["free"] == 1

    async def test_reaches_no_other_lease(self, stack: Stack) -> None:
        pool = await stack.pool(4)
        mine, theirs = await stack.take(pool), await stack.take(pool, 2)
        async with caller(stack.app, mine["token"]) as holder:
            address = f"/v1/leases/{theirs['id']}"
            for answer in (
                await holder.post(f"{address}/resources", json={"items": [{"pool": pool}]}),
                await holder.delete(f"{address}/resources/{pool}/r1"),
                await holder.post(f"{address}/heartbeat"),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), fail(answer)
        assert states(await stack.get(theirs)) == {"r1": "ready", "r2": "ready"}
