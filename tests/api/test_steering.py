"""Extend, release and cancel: in each state of a lease, once and again."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.api.stack import PATIENCE_S, Json, Stack, as_shown, fail

STATES = ("queued", "preparing", "active", "releasing", "ended")


async def lease_in(stack: Stack, state: str) -> Json:
    """A lease in this state; a releasing one has a hook that only SIGKILL stops, after a second."""
    if state == "queued":
        pool = await stack.pool(1)
        await stack.take(pool)
        return await stack.submit(pool)
    if state in {"active", "ended"}:
        lease = await stack.take(await stack.pool(1))
        return await stack.release(lease) if state == "ended" else lease
    gate = stack.gate()
    stubborn = {**gate.hook, "run": f"trap '' TERM; {gate.hook['run']}"}
    pool = await stack.pool(1, wipe=stubborn if state == "releasing" else gate.hook)
    lease = await stack.submit(pool)
    await stack.until(gate.reached)
    if state == "releasing":
        await stack.steer(lease, "cancel")
    return await stack.get(lease)


class TestEnding:
    @pytest.mark.parametrize("call", ["release", "cancel"])
    @pytest.mark.parametrize("state", STATES)
    async def test_a_lease_ends_from_every_state(self, stack: Stack, state: str, call: str) -> None:
        lease = await lease_in(stack, state)
        assert lease["state"] == state
        answer = await stack.steer(lease, call)
        assert answer.status_code == 200, fail(answer)
        assert answer.json()["state"] in {"releasing", "ended"}
        ended = await stack.ended(lease)
        # What was never delivered cannot be given back: its release is a cancel.
        given_back = state == "ended" or (state, call) == ("active", "release")
        assert ended["outcome"] == ("released" if given_back else "cancelled")

    @pytest.mark.parametrize("state", ["releasing", "ended"])
    async def test_on_a_lease_that_is_over_nothing_changes(self, stack: Stack, state: str) -> None:
        lease = await lease_in(stack, state)
        before = await stack.events(lease)
        for call in ("cancel", "release"):
            answer = await stack.steer(lease, call)
            assert (answer.status_code, answer.json()["state"]) == (200, state), fail(answer)
        after = await stack.events(lease)
        assert after[: len(before)] == before
        assert [e["kind"] for e in after].count("lease_releasing") == 1

    @pytest.mark.parametrize("state", STATES)
    async def test_ended_from_all_sides_it_ends_once(self, stack: Stack, state: str) -> None:
        lease = await lease_in(stack, state)
        calls = ["release", "cancel"] * 4
        answers = await asyncio.gather(*(stack.steer(lease, call) for call in calls))
        assert {answer.status_code for answer in answers} == {200}
        await stack.ended(lease)
        kinds = [event["kind"] for event in await stack.events(lease)]
        assert kinds.count("lease_ended") == 1

    @pytest.mark.parametrize("state", ["queued", "preparing", "active"])
    async def test_what_it_had_goes_to_the_next_one(self, stack: Stack, state: str) -> None:
        lease = await lease_in(stack, state)
        pool = lease["items"][0]["pool"]
        next_one = await stack.submit(pool)
        assert next_one["state"] == "queued"
        await stack.release(lease)
        if state == "queued":
            assert (await stack.get(next_one))["queue"]["position"] == 1
        else:
            assert (await stack.get(next_one))["state"] in {"preparing", "active"}

    async def test_it_is_told_who_ended_it(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        await stack.release(lease)
        (event,) = [e for e in await stack.events(lease) if e["kind"] == "lease_releasing"]
        assert (event["actor"], event["data"]["outcome"]) == ("admin", "released")


class TestExtending:
    async def extend(self, stack: Stack, lease: Json, **body: Any) -> httpx.Response:
        return await stack.steer(lease, "extend", body)

    @staticmethod
    def time(text: str) -> datetime:
        assert text.endswith("Z")
        return datetime.fromisoformat(text)

    async def test_by_a_duration_adds_to_the_end(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        answer = await self.extend(stack, lease, by="90m")
        assert answer.status_code == 200, fail(answer)
        assert self.time(answer.json()["expires_at"]) == self.time(lease["expires_at"]) + timedelta(minutes=90)
        assert await stack.get(lease) == answer.json()

    @pytest.mark.parametrize("zone", [UTC, None])
    async def test_until_a_time_in_any_zone(self, stack: Stack, zone: Any) -> None:
        lease = await stack.take(await stack.pool(1), duration="1h")
        until = (datetime.now(UTC) + timedelta(hours=5)).replace(microsecond=0)
        answer = await self.extend(stack, lease, until=until.astimezone(zone).isoformat())
        assert self.time(answer.json()["expires_at"]) == until, fail(answer)

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            ({}, "one_of"),
            ({"by": "1h", "until": "2030-01-01T00:00:00Z"}, "one_of"),
            ({"by": "0s"}, "by duration"),
            ({"by": "-1h"}, "by duration"),
            ({"by": 3600}, "by duration"),
            ({"until": "tomorrow"}, "until"),
            ({"until": "2030-01-01T00:00:00"}, "until timezone_aware"),
            ({"for": "1h"}, "for unknown_field"),
        ],
    )
    async def test_a_body_that_cannot_be(self, stack: Stack, body: Json, place: str) -> None:
        lease = await stack.take(await stack.pool(1))
        answer = await self.extend(stack, lease, **body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), fail(answer)
        assert f"{answer.json()['errors'][0]['path']} {answer.json()['errors'][0]['code']}".strip().startswith(place)
        assert await stack.get(lease) == as_shown(lease)

    @pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
    async def test_not_into_the_past(self, stack: Stack, until: str) -> None:
        lease = await stack.take(await stack.pool(1))
        answer = await self.extend(stack, lease, until=until)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), fail(answer)

    @pytest.mark.parametrize(
        "body", [{"by": "2h"}, {"until": "9999-12-31T23:59:59.999999-14:00"}, {"until": "2120-01-01T00:00:00Z"}]
    )
    async def test_not_longer_than_the_policy_allows(self, stack: Stack, body: Json) -> None:
        pool = await stack.pool(1, policy={"default_duration": "1h", "max_duration": "2h"})
        lease = await stack.take(pool)
        answer = await self.extend(stack, lease, **body)
        assert (answer.status_code, answer.json()["code"]) == (403, "duration_refused"), fail(answer)
        assert (await stack.get(lease))["expires_at"] == lease["expires_at"]

    async def test_not_longer_than_a_year_whatever_the_policy(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1), duration="365d")
        answer = await self.extend(stack, lease, by="1d")
        assert (answer.status_code, answer.json()["code"]) == (403, "duration_refused"), fail(answer)

    @pytest.mark.parametrize("state", ["queued", "preparing", "releasing", "ended"])
    async def test_only_an_active_lease(self, stack: Stack, state: str) -> None:
        lease = await lease_in(stack, state)
        answer = await self.extend(stack, lease, by="1h")
        assert (answer.status_code, answer.json()["code"]) == (409, "lease_not_active"), fail(answer)
        await stack.steer(lease, "cancel")

    async def test_a_lease_that_was_extended_does_not_end_at_its_old_end(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1), duration="1s")
        longer = await self.extend(stack, lease, by="1s")
        ended = await stack.ended(lease)
        assert (ended["outcome"], ended["expires_at"]) == ("expired", longer.json()["expires_at"])
        assert ended["ended_at"] >= ended["expires_at"]


class TestTheRecord:
    """What a lease says of itself, from its request to its end."""

    async def test_a_time_is_set_when_its_state_is_reached(self, stack: Stack) -> None:
        pool = await stack.pool(1, validate={"run": "true"}, policy={"default_duration": "3h"})
        lease = await stack.take(pool, description="nightly", cc=["bob"], priority=7)
        assert lease["created_at"] <= lease["active_at"] < lease["expires_at"]
        assert (lease["ended_at"], lease["outcome"], lease["error"], lease["queue"]) == (None, None, None, None)
        assert (lease["description"], lease["cc"], lease["priority"]) == ("nightly", ["bob"], 7)
        ended = await stack.release(lease)
        ended = await stack.ended(ended)
        assert ended["ended_at"] >= lease["active_at"]
        assert {r["state"] for r in ended["resources"]} == {"released"}

    async def test_a_preparing_resource_shows_its_stage(self, stack: Stack) -> None:
        gate = stack.gate()
        pool = await stack.pool(1, tags=["metal"], wipe={"run": "true"}, provision=gate.hook)
        lease = await stack.submit(pool)
        await stack.until(gate.reached)
        (resource,) = (await stack.get(lease))["resources"]
        assert (resource["state"], resource["stage"], resource["attempt"]) == ("preparing", "provision", 1)
        assert (resource["tags"], resource["properties"]) == (["metal"], {"n": 0})
        gate.open()
        (resource,) = (await stack.get(lease, wait="active", timeout=PATIENCE_S))["resources"]
        assert (resource["state"], resource["stage"], resource["attempt"]) == ("ready", None, None)

    async def test_a_queued_lease_says_where_it_stands_and_why(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        taken = await stack.take(pool)
        first, second = await stack.submit(pool), await stack.submit(pool)
        holder = taken["number"]
        assert first["queue"]["position"] == 1
        assert re.fullmatch(
            rf"needs 1 of {pool}; 0 free; 1 held by lease {holder} until (\S+ )?\d\d:\d\d UTC", first["queue"]["reason"]
        )
        assert first["queue"]["eta"] >= taken["expires_at"]
        assert second["queue"]["position"] == 2
        assert "1 lease before it" in second["queue"]["reason"]

    async def test_the_link_leads_to_its_workflow(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        described = await stack.temporal.get_workflow_handle(lease["id"]).describe()
        assert lease["temporal_url"].endswith(f"/default/workflows/{lease['id']}/{described.run_id}/history")

    async def test_an_attempt_is_made_as_often_as_the_pool_allows(self, stack: Stack) -> None:
        mark = stack.new_path()
        pool = await stack.pool(1, validate={"run": f"[ -e {mark} ] || {{ touch {mark}; exit 1; }}", "attempts": 2})
        lease = await stack.take(pool)
        ends = [e["data"]["ok"] for e in await stack.events(lease) if e["kind"] == "stage_ended"]
        assert ends == [False, True]
