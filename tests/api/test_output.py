"""What comes out of a lease: the delivery, the log, the events; and secrets that come out nowhere else."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from typing import Any

import pytest

from tests.api.stack import PATIENCE_S, Json, Stack, fail
from tests.api.streams import stream

SECRET = "correct-horse-battery"


async def log(stack: Stack, lease: Json, **params: Any) -> str:
    answer = await stack.http.get(f"/v1/leases/{lease['id']}/log", params=params)
    assert answer.status_code == 200, fail(answer)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    return answer.text


class TestDelivery:
    async def show(self, stack: Stack, lease: Json) -> list[Json]:
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/delivery")
        assert answer.status_code == 200, fail(answer)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json()["lease"] == lease["id"]
        delivered: list[Json] = answer.json()["resources"]
        return delivered

    async def test_it_is_what_each_resources_hook_printed(self, stack: Stack) -> None:
        pool = await stack.pool(2, deliver={"run": 'echo "ssh $LEASEHOLD_RESOURCE"; echo noise >&2'})
        lease = await stack.take(pool, 2)
        delivered = await self.show(stack, lease)
        assert [(d["pool"], d["name"], d["role"], d["data"]) for d in delivered] == [
            (pool, "r0", None, "ssh r0\n"),
            (pool, "r1", None, "ssh r1\n"),
        ]

    async def test_bytes_that_are_no_text_are_kept_too(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1, deliver={"run": r"printf '\377\000\n'"}))
        (delivered,) = await self.show(stack, lease)
        assert (delivered["data"], b64decode(delivered["data_base64"])) == (None, b"\xff\x00\n")

    async def test_a_pool_that_prints_nothing_delivers_nothing(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        assert [d["data"] for d in await self.show(stack, lease)] == [""]

    async def test_nothing_is_delivered_before_every_resource_is_ready(self, stack: Stack) -> None:
        gate = stack.gate()
        slow = f'[ "$LEASEHOLD_RESOURCE" = r0 ] || {{ {gate.hook["run"]}; }}; echo {SECRET}'
        pool = await stack.pool(2, deliver={"run": slow})
        lease = await stack.submit(pool, 2)
        await stack.until(gate.reached)
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/delivery")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_delivered"), fail(answer)
        gate.open()
        await stack.get(lease, wait="active", timeout=PATIENCE_S)
        assert [d["data"] for d in await self.show(stack, lease)] == [f"{SECRET}\n"] * 2

    async def test_what_a_hook_for_the_whole_lease_prints_is_shared(self, stack: Stack) -> None:
        wide = {"run": 'echo "vlan of $LEASEHOLD_NUMBER"', "scope": "lease"}
        one, other = await stack.pool(2, deliver=wide), await stack.pool(1, deliver={"run": "echo own"})
        answer = await stack.post(
            {"items": [{"pool": one, "count": 2}, {"pool": other}]}, wait="active", timeout=PATIENCE_S
        )
        lease = answer.json()
        assert sorted(d["data"] for d in await self.show(stack, lease)) == ["", "", "own\n"]
        (shared,) = (await stack.http.get(f"/v1/leases/{lease['id']}/delivery")).json()["shared"]
        said = f"vlan of {lease['number']}\n"
        assert (shared["pool"], shared["data"], b64decode(shared["data_base64"]).decode()) == (one, said, said)
        assert said not in await log(stack, lease)

    async def test_a_queued_lease_has_nothing_yet(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        await stack.take(pool)
        lease = await stack.submit(pool)
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/delivery")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_delivered"), fail(answer)

    async def test_a_hook_knows_its_lease(self, stack: Stack) -> None:
        names = "LEASE NUMBER OWNER POOL RESOURCE ROLE STAGE ATTEMPT PROPERTIES PARAMS".split()
        pool = await stack.pool(1, deliver={"run": "; ".join(f'echo "$LEASEHOLD_{name}"' for name in names)})
        item = {"pool": pool, "role": "$(bastion)", "params": {"os": "`rhel9`"}}
        answer = await stack.post({"items": [item]}, wait="active", timeout=PATIENCE_S)
        lease = answer.json()
        (delivered,) = await self.show(stack, lease)
        own = [lease["id"], str(lease["number"]), "admin", pool, "r0"]
        # Nothing that a user typed is ever run.
        assert delivered["data"].splitlines() == [*own, "$(bastion)", "deliver", "1", '{"n": 0}', '{"os": "`rhel9`"}']

    async def test_large_properties_in_any_script_still_reach_the_hook(self, stack: Stack) -> None:
        pool = await stack.pool(0, deliver={"run": 'printf %s "$LEASEHOLD_PROPERTIES" | wc -c'})
        address = f"/v1/pools/{pool}/resources/r0"
        answer = await stack.http.put(address, json={"properties": {"note": "\N{EURO SIGN}" * 60_000}})
        assert answer.status_code in {200, 422}, fail(answer)
        if answer.status_code == 200:
            await stack.take(pool)


class TestSecrets:
    """What `deliver` prints is for the holder's eyes alone."""

    @pytest.mark.parametrize("ending", ["exit 0", "exit 3", "kill -9 $$", "sleep 60"])
    async def test_it_is_in_no_log_no_event_no_error_and_not_in_temporal(self, stack: Stack, ending: str) -> None:
        hook = {"run": f"echo {SECRET}; echo progress >&2; {ending}", "timeout": "1s" if "60" in ending else "5m"}
        pool = await stack.pool(1, deliver=hook, release={"run": "true"})
        answer = await stack.post({"items": [{"pool": pool}]}, wait="active", timeout=PATIENCE_S)
        lease = answer.json()
        assert lease["state"] == ("active" if ending == "exit 0" else "ended"), fail(answer)
        await stack.release(lease)
        ended = await stack.ended(lease)
        events = (await stack.http.get(f"/v1/leases/{lease['id']}/events")).text
        resources = (await stack.http.get("/v1/resources", params={"pool": pool})).text
        text = await log(stack, lease)
        history = await stack.temporal.get_workflow_handle(lease["id"]).fetch_history()
        assert "progress" in text
        assert SECRET not in f"{lease}{ended}{events}{resources}{text}{history.to_json()}"

    async def test_the_token_of_a_lease_is_not_in_temporal(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        history = await stack.temporal.get_workflow_handle(lease["id"]).fetch_history()
        assert lease["token"].partition(".")[2] not in history.to_json()


class TestLog:
    async def test_each_line_says_where_it_comes_from(self, stack: Stack) -> None:
        pool = await stack.pool(1, wipe={"run": "echo gone"}, validate={"run": "echo fine; echo oops >&2"})
        lease = await stack.take(pool)
        assert sorted((await log(stack, lease)).splitlines()) == [
            f"[{pool}/r0 validate#1 stderr] oops",
            f"[{pool}/r0 validate#1 stdout] fine",
            f"[{pool}/r0 wipe#1 stdout] gone",
        ]

    async def test_failed_attempts_are_in_it(self, stack: Stack) -> None:
        pool = await stack.pool(1, wipe={"run": 'echo "try $LEASEHOLD_ATTEMPT"; exit 1', "attempts": 2})
        lease = await stack.submit(pool)
        assert (await stack.ended(lease))["outcome"] == "failed"
        assert await log(stack, lease) == f"[{pool}/r0 wipe#1 stdout] try 1\n[{pool}/r0 wipe#2 stdout] try 2\n"

    async def test_a_line_without_an_end_and_bytes_that_are_no_text_are_shown(self, stack: Stack) -> None:
        pool = await stack.pool(1, wipe={"run": r"printf '\377\nunended'"})
        lease = await stack.take(pool)
        place = f"[{pool}/r0 wipe#1 stdout]"
        assert await log(stack, lease) == f"{place} \N{REPLACEMENT CHARACTER}\n{place} unended\n"

    async def test_a_lease_that_printed_nothing_has_an_empty_one(self, stack: Stack) -> None:
        assert await log(stack, await stack.take(await stack.pool(1))) == ""

    async def test_following_it_shows_lines_as_they_come(self, stack: Stack) -> None:
        gate = stack.gate("echo second")
        pool = await stack.pool(1, wipe={**gate.hook, "run": f"echo first; {gate.hook['run']}"})
        lease = await stack.submit(pool)
        async with stream(stack.app, f"/v1/leases/{lease['id']}/log?follow=true") as piece:
            assert b"first" in await piece()
            gate.open()
            assert b"second" in await piece()
            await stack.release(lease)
            with pytest.raises(EOFError):
                await piece()

    async def test_following_it_ends_with_the_lease_and_misses_nothing(self, stack: Stack) -> None:
        gate = stack.gate("seq 1000; exit 1")
        pool = await stack.pool(3, wipe=gate.hook)
        lease = await stack.submit(pool, 3)
        following = asyncio.create_task(log(stack, lease, follow=True))
        await stack.until(gate.reached)
        gate.open()
        await stack.ended(lease)
        assert await following == await log(stack, lease)

    async def test_following_what_has_ended_ends_at_once(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1, wipe={"run": "echo gone"}))
        await stack.release(lease)
        await stack.ended(lease)
        assert "gone" in await log(stack, lease, follow=True)


class TestEvents:
    async def test_they_tell_the_story_with_who_and_why(self, stack: Stack) -> None:
        pool = await stack.pool(1, validate={"run": "true"})
        lease = await stack.take(pool)
        await stack.release(lease)
        await stack.ended(lease)
        events = await stack.events(lease)
        assert [event["kind"] for event in events] == [
            "lease_preparing",
            "resource_leased",
            "stage_started",
            "stage_ended",
            "lease_active",
            "lease_releasing",
            "resource_free",
            "lease_ended",
        ]
        assert set(events[0]) == {"id", "at", "kind", "lease", "pool", "resource", "actor", "reason", "data"}
        assert all(event["lease"] == lease["id"] and event["at"].endswith("Z") for event in events)
        assert (events[0]["actor"], events[3]["resource"], events[3]["data"]["stage"]) == ("admin", "r0", "validate")

    async def test_they_come_in_pages(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1, validate={"run": "true"}))
        whole = await stack.events(lease)
        seen: list[Json] = []
        cursor = "0"
        for _ in range(len(whole)):
            params: dict[str, str] = {"limit": "2", "cursor": cursor}
            page = (await stack.http.get(f"/v1/leases/{lease['id']}/events", params=params)).json()
            seen += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = page["next_cursor"]
        assert seen == whole
