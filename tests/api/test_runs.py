"""The runs of hooks, and what each of them printed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from activities.drivers.output import LOG_LIMIT
from tests.api.stack import PATIENCE_S, Json, Stack, fail
from tests.api.streams import stream

RUN = ("id lease pool resource epoch stage hook attempt host started_at ended_at seconds ending code detail ok").split()


async def runs(stack: Stack, lease: Json, **params: Any) -> list[Json]:
    answer = await stack.http.get(f"/v1/leases/{lease['id']}/runs", params=params)
    assert answer.status_code == 200, fail(answer)
    found: list[Json] = answer.json()["items"]
    return found


async def log(stack: Stack, lease: Json, **params: Any) -> list[str]:
    answer = await stack.http.get(f"/v1/leases/{lease['id']}/log", params=params)
    assert answer.status_code == 200, fail(answer)
    return answer.text.splitlines()


class TestRuns:
    async def test_they_say_how_each_attempt_went(self, stack: Stack) -> None:
        hook = {"run": 'test "$LEASEHOLD_ATTEMPT" = 2 || exit 3', "attempts": 2}
        pool = await stack.pool(1, wipe=hook, validate={"run": "true"}, release={"run": "true"})
        lease = await stack.take(pool)
        await stack.release(lease)
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await runs(stack, lease)) < 4 or found[-1]["ended_at"] is None:
                await asyncio.sleep(0.02)
        assert all(list(run) == RUN for run in found)
        assert [(r["stage"], r["hook"], r["attempt"], r["ok"], r["ending"], r["code"], r["detail"]) for r in found] == [
            ("wipe", 0, 1, False, "exited", 3, "exited with status 3"),
            ("wipe", 0, 2, True, "exited", 0, "exited with status 0"),
            ("validate", 0, 1, True, "exited", 0, "exited with status 0"),
            ("release", 0, 1, True, "exited", 0, "exited with status 0"),
        ]
        first = found[0]
        assert (first["lease"], first["pool"], first["resource"]) == (lease["id"], pool, "r0")
        assert first["started_at"] < first["ended_at"]
        assert 0 <= first["seconds"] < PATIENCE_S
        # The recycling is another actor.
        assert first["epoch"] == lease["resources"][0]["epoch"] < found[-1]["epoch"]

    async def test_one_that_goes_on_has_no_end_yet(self, stack: Stack) -> None:
        gate = stack.gate()
        lease = await stack.submit(await stack.pool(1, wipe=gate.hook))
        await stack.until(gate.reached)
        (run,) = await runs(stack, lease)
        assert [run[name] for name in ("ended_at", "seconds", "ending", "code", "detail", "ok")] == [None] * 6
        gate.open()

    async def test_they_come_in_pages_from_either_end(self, stack: Stack) -> None:
        pool = await stack.pool(3, wipe={"run": "true"}, validate={"run": "true"})
        lease = await stack.take(pool, 3)
        whole = await runs(stack, lease)
        assert len(whole) == 6
        for order, expected in (("asc", whole), ("desc", whole[::-1])):
            seen: list[Json] = []
            params: dict[str, Any] = {"limit": 4, "order": order}
            while True:
                page = (await stack.http.get(f"/v1/leases/{lease['id']}/runs", params=params)).json()
                seen += page["items"]
                if page["next_cursor"] is None:
                    break
                params["cursor"] = page["next_cursor"]
            assert seen == expected

    async def test_those_of_a_resource_tell_of_all_its_leases(self, stack: Stack) -> None:
        pool = await stack.pool(1, wipe={"run": "true"})
        leases = []
        for _ in range(2):
            leases.append(await stack.take(pool))
            await stack.release(leases[-1])
            await stack.ended(leases[-1])
        address = f"/v1/pools/{pool}/resources/r0"
        found = (await stack.http.get(f"{address}/runs", params={"order": "desc"})).json()["items"]
        assert [run["lease"] for run in found] == [lease["id"] for lease in leases[::-1]]
        happened = (await stack.http.get(f"{address}/events", params={"order": "desc", "limit": 1})).json()
        assert [event["kind"] for event in happened["items"]] == ["resource_free"]
        assert happened["next_cursor"] == str(happened["items"][0]["id"])
        listed = (await stack.http.get("/v1/leases", params={"resource": f"{pool}/r0"})).json()["items"]
        assert [lease["id"] for lease in listed] == [lease["id"] for lease in leases[::-1]]
        assert (await stack.http.get("/v1/leases", params={"resource": f"{pool}/r1"})).json()["items"] == []

    @pytest.mark.parametrize("resource", ["r0", "/r0", "a/b/c", "a/", ""])
    async def test_a_resource_among_leases_is_named_with_its_pool(self, stack: Stack, resource: str) -> None:
        answer = await stack.http.get("/v1/leases", params={"resource": resource})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), fail(answer)


class TestOutputOfARun:
    @pytest_asyncio.fixture(loop_scope="package")
    async def lease(self, stack: Stack) -> Json:
        hook = {"run": 'seq "$LEASEHOLD_ATTEMPT"; test "$LEASEHOLD_ATTEMPT" = 2', "attempts": 2}
        return await stack.take(await stack.pool(2, wipe=hook, validate={"run": "echo fine"}), 2)

    async def test_each_run_has_its_own(self, stack: Stack, lease: Json) -> None:
        for run in await runs(stack, lease):
            place = f"[{run['pool']}/{run['resource']} {run['stage']}#{run['attempt']} stdout]"
            lines = ["fine"] if run["stage"] == "validate" else ["1", "2"][: run["attempt"]]
            assert await log(stack, lease, run=run["id"]) == [f"{place} {line}" for line in lines]

    async def test_a_part_is_picked_by_stage_resource_and_attempt(self, stack: Stack, lease: Json) -> None:
        whole = await log(stack, lease)
        pool = lease["resources"][0]["pool"]
        for params, part in (
            ({"stage": "validate"}, "validate#"),
            ({"resource": "r1"}, "/r1 "),
            ({"resource": f"{pool}/r0"}, "/r0 "),
            ({"attempt": 2}, "#2 "),
        ):
            assert await log(stack, lease, **params) == [line for line in whole if part in line]
        assert await log(stack, lease, resource="elsewhere/r0") == []
        both = {"stage": "wipe", "resource": "r0", "attempt": 1}
        assert await log(stack, lease, **both) == [f"[{pool}/r0 wipe#1 stdout] 1"]

    async def test_the_last_lines_alone(self, stack: Stack, lease: Json) -> None:
        whole = await log(stack, lease)
        assert await log(stack, lease, tail=3) == whole[-3:]
        assert await log(stack, lease, tail=0) == []
        assert await log(stack, lease, tail=100) == whole

    async def test_a_run_of_another_lease_is_none_of_this_one(self, stack: Stack, lease: Json) -> None:
        other = await stack.take(await stack.pool(1, wipe={"run": "echo secret plans"}))
        (run,) = await runs(stack, other)
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/log", params={"run": run["id"]})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), fail(answer)

    @pytest.mark.parametrize(
        ("params", "status"),
        [({"stage": "polish"}, 422), ({"attempt": 0}, 422), ({"run": "x"}, 422), ({"resource": "a/b/c"}, 400)],
    )
    async def test_a_part_that_cannot_be_is_refused(
        self, stack: Stack, lease: Json, params: dict[str, Any], status: int
    ) -> None:
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/log", params=params)
        assert answer.status_code == status, fail(answer)

    async def test_following_one_run_ends_with_it(self, stack: Stack) -> None:
        gate = stack.gate("echo second")
        pool = await stack.pool(1, release={**gate.hook, "run": f"seq 5; {gate.hook['run']}"})
        lease = await stack.take(pool)
        await stack.release(lease)
        await stack.until(gate.reached)
        # The lease is over; the recycling of its resource goes on.
        (run,) = await runs(stack, await stack.ended(lease))
        async with stream(stack.app, f"/v1/leases/{lease['id']}/log?follow=true&run={run['id']}&tail=2") as piece:
            seen = await piece()
            while b"] 5\n" not in seen:
                seen += await piece()
            gate.open()
            assert b"second" in await piece()
            with pytest.raises(EOFError):
                await piece()

    async def test_a_hook_that_prints_without_end_fills_a_bounded_log_that_says_so(self, stack: Stack) -> None:
        hook = {"run": 'head -c 100000000 /dev/zero | tr "\\0" "x" | fold -w 99', "timeout": "1m"}
        lease = await stack.take(await stack.pool(1, wipe=hook))
        *lines, cut, _ = await log(stack, lease)
        assert cut.endswith("service] the log of this run is longer than 1024 KiB; the rest was dropped")
        kept = sum(len(line.partition("] ")[2]) + 1 for line in lines)
        assert LOG_LIMIT - 100 <= kept <= LOG_LIMIT + 1
