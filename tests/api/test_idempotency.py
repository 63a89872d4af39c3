"""Idempotency-Key: the same request, however often it comes, is one lease with one answer."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from leasehold.store.engine import Database
from leasehold.store.store import SqlStore
from tests.api.stack import Json, Stack, fail


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def wanted(pool: str, count: int = 1) -> Json:
    return {"items": [{"pool": pool, "count": count}]}


async def free(stack: Stack, pool: str) -> int:
    found: int = (await stack.http.get(f"/v1/pools/{pool}")).json()["free"]
    return found


async def test_a_repeated_request_is_answered_with_the_same_lease(stack: Stack, key: str) -> None:
    pool = await stack.pool(3)
    first, again = await stack.post(wanted(pool), key), await stack.post(wanted(pool), key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert await free(stack, pool) == 2


async def test_without_a_key_each_request_is_a_lease(stack: Stack) -> None:
    pool = await stack.pool(3)
    first, second = await stack.submit(pool), await stack.submit(pool)
    assert first["id"] != second["id"]
    assert await free(stack, pool) == 1


async def test_many_at_once_are_one_lease(stack: Stack, key: str) -> None:
    pool = await stack.pool(20)
    answers = await asyncio.gather(*(stack.post(wanted(pool), key) for _ in range(12)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await free(stack, pool) == 19


async def test_the_same_thing_said_in_other_words_is_the_same_request(stack: Stack, key: str) -> None:
    pool = await stack.pool(3)
    first = await stack.post({"items": [{"pool": pool}], "duration": "2h"}, key)
    again = await stack.post({"duration": "120m", "items": [{"count": 1, "pool": pool, "tags": []}]}, key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"]), fail(again)


async def test_a_repetition_shows_the_lease_as_it_is_by_then(stack: Stack, key: str) -> None:
    pool = await stack.pool(1)
    holder = await stack.take(pool)
    waiting = await stack.post(wanted(pool), key)
    assert waiting.json()["state"] == "queued"
    await stack.release(holder)
    again = await stack.post(wanted(pool), key, wait="active")
    assert (again.json()["id"], again.json()["state"]) == (waiting.json()["id"], "active")


async def test_after_its_end_a_key_starts_no_second_lease(stack: Stack, key: str) -> None:
    pool = await stack.pool(1)
    first = await stack.post(wanted(pool), key)
    await stack.release(first.json())
    again = await stack.post(wanted(pool), key, wait="active")
    assert again.status_code == 200, fail(again)
    assert (again.json()["id"], again.json()["state"]) == (first.json()["id"], "ended")
    assert await free(stack, pool) == 1


async def test_a_refusal_is_repeated_even_when_it_would_be_granted_by_now(stack: Stack, key: str) -> None:
    pool = await stack.pool(1)
    refused = await stack.post(wanted(pool, 2), key)
    await stack.http.put(f"/v1/pools/{pool}/resources/another", json={})
    again = await stack.post(wanted(pool, 2), key)
    assert (refused.status_code, again.status_code) == (422, 422)
    assert refused.json() == again.json()
    assert await free(stack, pool) == 2


async def refused_as_reused(answer: httpx.Response) -> None:
    assert answer.status_code == 422, fail(answer)
    problem = answer.json()
    assert (problem["code"], problem["errors"][0]["path"]) == ("idempotency_key_reused", "Idempotency-Key")


@pytest.mark.parametrize("ended", [False, True])
async def test_another_request_with_the_same_key_is_refused(stack: Stack, key: str, ended: bool) -> None:
    pool = await stack.pool(3)
    first = await stack.post(wanted(pool), key)
    if ended:
        await stack.release(first.json())
    await refused_as_reused(await stack.post(wanted(pool, 2), key))
    assert (await stack.get(first.json()))["state"] == ("ended" if ended else "active")


async def test_another_request_with_the_key_of_a_refused_one_is_refused_as_that(stack: Stack, key: str) -> None:
    pool = await stack.pool(1)
    await stack.post(wanted(pool, 2), key)
    await refused_as_reused(await stack.post(wanted(pool), key))


async def test_what_was_wrong_in_itself_leaves_the_key_unused(stack: Stack, key: str) -> None:
    pool = await stack.pool(1)
    assert (await stack.post(wanted(pool, 0), key)).status_code == 422
    assert (await stack.post(wanted(pool), key)).status_code == 201


async def test_a_key_is_its_tokens_own(stack: Stack, key: str) -> None:
    pool = await stack.pool(3)
    headers = {"Idempotency-Key": key}
    leases = [(await stack.post(wanted(pool), key)).json()]
    # Two pipelines of one user may count their builds alike, and must not share a host for it.
    for _ in range(2):
        async with stack.user("admin") as somebody:
            theirs = await somebody.post("/v1/leases", json=wanted(pool), headers=headers)
            again = await somebody.post("/v1/leases", json=wanted(pool), headers=headers)
            assert (theirs.status_code, again.status_code) == (201, 200), fail(theirs)
            assert theirs.json()["id"] == again.json()["id"]
            leases.append(theirs.json())
    assert len({lease["id"] for lease in leases}) == 3
    assert {lease["owner"] for lease in leases} == {"admin"}
    assert await free(stack, pool) == 0


@pytest.mark.parametrize("key", ["a", "x" * 255, "with spaces, and: signs", "../../etc", "0"])
async def test_a_key_may_be_any_text(stack: Stack, key: str) -> None:
    pool = await stack.pool(1)
    key = f"{key[: 255 - len(pool)]}{pool}"
    first, again = await stack.post(wanted(pool), key), await stack.post(wanted(pool), key)
    assert (first.status_code, again.status_code) == (201, 200), fail(first)


async def test_ids_are_never_taken_for_numbers(stack: Stack) -> None:
    pool = await stack.pool(5)
    leases = [await stack.submit(pool) for _ in range(5)]
    assert not any(lease["id"].isdecimal() for lease in leases)
    for lease in leases:
        by_number = await stack.http.get(f"/v1/leases/{lease['number']}")
        assert by_number.json()["id"] == lease["id"]


def until(lease: Json) -> datetime:
    return datetime.fromisoformat(lease["expires_at"])


def in_minutes(minutes: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


async def test_more_that_was_added_is_answered_alike_after_the_lease_has_ended(stack: Stack, key: str) -> None:
    pool = await stack.pool(2)
    lease = await stack.take(pool)
    body = {"items": [{"pool": pool}]}
    done = await stack.steer(lease, "resources", body, **{"Idempotency-Key": key})
    assert (done.status_code, len(done.json()["resources"])) == (200, 2), fail(done)
    await stack.release(lease)
    again = await stack.steer(lease, "resources", body, **{"Idempotency-Key": key})
    assert (again.status_code, again.json()["state"], len(again.json()["resources"])) == (200, "ended", 2), fail(again)
    late = await stack.steer(lease, "resources", body, **{"Idempotency-Key": f"{key}2"})
    assert (late.status_code, late.json()["code"]) == (409, "lease_not_active")


class TestExtending:
    """A repeated extension counts once."""

    async def extend(self, stack: Stack, lease: Json, by: str, key: str) -> httpx.Response:
        return await stack.steer(lease, "extend", {"by": by}, **{"Idempotency-Key": key})

    async def test_the_same_key_counts_once(self, stack: Stack, key: str) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        first = await self.extend(stack, lease, "1h", key)
        again = await self.extend(stack, lease, "1h", key)
        assert (first.status_code, again.status_code) == (200, 200), fail(again)
        assert first.json()["expires_at"] == again.json()["expires_at"] != lease["expires_at"]

    async def test_it_counts_once_even_after_another_extension(self, stack: Stack, key: str) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        await self.extend(stack, lease, "1h", key)
        last = await self.extend(stack, lease, "2h", f"{key}2")
        await self.extend(stack, lease, "1h", key)
        assert (await stack.get(lease))["expires_at"] == last.json()["expires_at"]

    async def test_several_at_once_count_once(self, stack: Stack, key: str) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        answers = await asyncio.gather(*(self.extend(stack, lease, "1h", key) for _ in range(6)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["expires_at"] for answer in answers}) == 1

    async def test_another_extension_with_the_same_key_is_refused(self, stack: Stack, key: str) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        first = await self.extend(stack, lease, "1h", key)
        await refused_as_reused(await self.extend(stack, lease, "2h", key))
        assert (await stack.get(lease))["expires_at"] == first.json()["expires_at"]

    async def test_a_refusal_is_repeated_and_another_key_is_asked_anew(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(1, policy={"default_duration": "1h", "max_duration": "2h"})
        lease = await stack.take(pool, duration="1h")
        refused = await self.extend(stack, lease, "90m", key)
        assert (refused.status_code, refused.json()["code"]) == (403, "duration_refused"), fail(refused)
        nearer = await stack.steer(lease, "extend", {"until": in_minutes(10)})
        assert nearer.status_code == 200, fail(nearer)
        assert (await self.extend(stack, lease, "90m", key)).json() == refused.json()
        assert (await self.extend(stack, lease, "90m", f"{key}2")).status_code == 200

    async def test_a_repetition_is_answered_alike_after_the_lease_has_ended(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(1, policy={"default_duration": "1h", "max_duration": "3h"})
        lease = await stack.take(pool, duration="1h")
        done = await self.extend(stack, lease, "1h", key)
        refused = await self.extend(stack, lease, "9h", f"{key}2")
        await stack.release(lease)
        again = await self.extend(stack, lease, "1h", key)
        assert (again.status_code, again.json()["state"]) == (200, "ended"), fail(again)
        assert again.json()["expires_at"] == done.json()["expires_at"]
        assert (await self.extend(stack, lease, "9h", f"{key}2")).json() == refused.json()
        late = await self.extend(stack, lease, "1h", f"{key}3")
        assert (late.status_code, late.json()["code"]) == (409, "lease_not_active")

    async def test_what_could_not_be_recorded_is_tried_again_under_its_key(
        self, stack: Stack, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workflows.lease._EXTEND_WITHIN", timedelta(seconds=1))
        lease = await stack.take(await stack.pool(1), duration="1h")
        assert isinstance(stack.services.store, SqlStore)
        other = Database(stack.services.store.database.url.render_as_string(hide_password=False))
        # Given a database in which nothing can be written for a while.
        with other.writer.begin() as connection:
            other.lock(connection)
            for _ in range(2):
                answer = await self.extend(stack, lease, "1h", key)
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), fail(answer)
        other.close()
        # When it is back, then the same key is good for one extension.
        for _ in range(2):
            answer = await self.extend(stack, lease, "1h", key)
            assert answer.status_code == 200, fail(answer)
        assert until(answer.json()) - until(lease) == timedelta(hours=1)

    async def test_a_key_is_for_one_lease(self, stack: Stack, key: str) -> None:
        pool = await stack.pool(2)
        for lease in (await stack.take(pool, duration="1h"), await stack.take(pool, duration="1h")):
            answer = await self.extend(stack, lease, "1h", key)
            assert answer.json()["expires_at"] != lease["expires_at"], fail(answer)

    async def test_without_a_key_each_extension_counts(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        ends = [(await stack.steer(lease, "extend", {"by": "1h"})).json()["expires_at"] for _ in range(2)]
        assert len({lease["expires_at"], *ends}) == 3
