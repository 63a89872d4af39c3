"""Following a lease as it goes: each event once, through every lost connection, up to its last."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from tests.api.stack import PATIENCE_S, Json, Stack, caller, fail
from tests.api.streams import Sent, events, leave_while_sent, stream


async def told(stack: Stack, lease: Json, query: str = "", **headers: str) -> list[Sent]:
    """All that a follower is sent, to the end of the stream."""
    async with asyncio.timeout(PATIENCE_S), events(stack.app, lease["id"], query, **headers) as sent:
        return [event async for event in sent]


async def ask(stack: Stack, lease: Json, query: str = "", **headers: str) -> httpx.Response:
    address = f"/v1/leases/{lease['id']}/events{query}"
    return await stack.http.get(address, headers={"Accept": "text/event-stream", **headers})


async def recycled(stack: Stack, lease: Json) -> list[Json]:
    """All events of an ended lease, once its only resource is free again."""
    async with asyncio.timeout(PATIENCE_S):
        while (happened := await stack.events(lease))[-1]["kind"] != "resource_free":
            await asyncio.sleep(0.02)
    return happened


class TestEvents:
    async def test_they_are_those_of_the_list_up_to_the_last_of_the_lease(self, stack: Stack) -> None:
        gate = stack.gate()
        lease = await stack.submit(await stack.pool(1, wipe=gate.hook, validate={"run": "true"}))
        following = asyncio.create_task(told(stack, lease))
        gate.open()
        await stack.get(lease, wait="active", timeout=PATIENCE_S)
        await stack.steer(lease, "extend", {"by": "1h"})
        await stack.release(lease)
        sent = await following
        happened = await stack.events(lease)
        assert [event.data for event in sent] == happened[: len(sent)]
        assert [(event.id, event.kind) for event in sent] == [(e["id"], e["kind"]) for e in happened[: len(sent)]]
        assert sent[-1].kind == "lease_ended"

    async def test_each_comes_as_it_happens(self, stack: Stack) -> None:
        gate = stack.gate()
        lease = await stack.submit(await stack.pool(1, wipe=gate.hook))
        async with events(stack.app, lease["id"]) as sent:
            while (event := await anext(sent)).kind != "stage_started":
                pass
            assert event.data["data"]["stage"] == "wipe"
            gate.open()
            assert (await anext(sent)).kind == "stage_ended"
            assert (await anext(sent)).kind == "lease_active"

    async def test_whoever_loses_the_connection_goes_on_without_loss_or_repetition(self, stack: Stack) -> None:
        # Given a lease whose hooks leave many events.
        hook = {"run": 'test "$LEASEHOLD_ATTEMPT" = 3', "attempts": 3}
        lease = await stack.submit(await stack.pool(5, wipe=hook, provision=hook, validate=hook), 5)
        ending = asyncio.create_task(self.end(stack, lease))
        # When followers lose their connections again and again, while the events are written.
        seen = await asyncio.gather(*(self.in_parts(stack, lease, size) for size in (1, 2, 7)))
        await ending
        # Then each has seen every event once, in order.
        happened = [event["id"] for event in await stack.events(lease)]
        assert len(happened) > 90
        assert all(ids == happened[: len(ids)] and len(ids) > 90 for ids in seen)

    async def end(self, stack: Stack, lease: Json) -> None:
        await stack.get(lease, wait="active", timeout=PATIENCE_S)
        await stack.release(lease)

    async def in_parts(self, stack: Stack, lease: Json, size: int) -> list[int]:
        """The ids that a follower sees who loses the connection after so many events."""
        ids: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                resumed = {"last_event_id": str(ids[-1])} if ids else {}
                async with events(stack.app, lease["id"], **resumed) as sent:
                    for _ in range(size):
                        event = await anext(sent, None)
                        if event is None:
                            return ids
                        ids.append(event.id)
                        if event.kind == "lease_ended":
                            return ids

    async def test_an_ended_lease_tells_all_and_then_that_there_is_no_more(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1, release={"run": "true"}))
        await stack.release(lease)
        await stack.ended(lease)
        happened = await recycled(stack, lease)
        sent = await told(stack, lease)
        assert [event.data for event in sent] == happened
        # A browser would come back for ever.
        answer = await ask(stack, lease, **{"Last-Event-ID": str(sent[-1].id)})
        assert (answer.status_code, answer.content) == (204, b""), fail(answer)

    async def test_what_came_after_its_end_is_sent_to_who_comes_back(self, stack: Stack) -> None:
        gate = stack.gate()
        lease = await stack.take(await stack.pool(1, release=gate.hook))
        following = asyncio.create_task(told(stack, lease))
        await stack.until(lambda: bool(stack.services.news._waiting))
        await stack.release(lease)
        # A stuck host keeps nobody waiting.
        sent = await following
        assert sent[-1].kind == "lease_ended"
        gate.open()
        await recycled(stack, lease)
        more = await told(stack, lease, last_event_id=str(sent[-1].id))
        assert [event.kind for event in more][-1] == "resource_free"

    async def test_without_the_header_it_can_be_asked_for_too(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        await stack.release(lease)
        await stack.ended(lease)
        happened = await stack.events(lease)
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/events?follow=true&cursor={happened[1]['id']}")
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert answer.text.count("\nid: ") == len(happened) - 2

    async def test_the_header_of_a_lost_connection_counts_more_than_the_address(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        await stack.release(lease)
        await stack.ended(lease)
        happened = await stack.events(lease)
        sent = await told(stack, lease, "?cursor=0", last_event_id=str(happened[-2]["id"]))
        assert [event.id for event in sent] == [happened[-1]["id"]]

    @pytest.mark.parametrize("header", ["x", "-1", "1.5", "9" * 19, ""])
    async def test_an_id_that_was_never_given_out_is_refused(self, stack: Stack, header: str) -> None:
        answer = await ask(stack, await stack.take(await stack.pool(1)), **{"Last-Event-ID": header})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), fail(answer)

    async def test_a_stream_goes_forward_alone(self, stack: Stack) -> None:
        answer = await ask(stack, await stack.take(await stack.pool(1)), "?order=desc")
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), fail(answer)

    async def test_the_token_of_another_lease_follows_nothing(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        mine, other = await stack.take(pool), await stack.take(pool)
        async with caller(stack.app, other["token"]) as stranger:
            answer = await stranger.get(f"/v1/leases/{mine['id']}/events?follow=true")
        assert answer.status_code == 403, fail(answer)

    async def test_a_silent_lease_keeps_the_connection_alive(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.following.KEEP_ALIVE_S", 0.05)
        lease = await stack.take(await stack.pool(1))
        async with stream(stack.app, f"/v1/leases/{lease['id']}/events", accept="text/event-stream") as piece:
            assert (await piece()).startswith(b"retry: ")
            while not (await piece()).startswith(b":"):
                pass
            assert (await piece()).startswith(b":")

    @pytest.mark.parametrize("what", ["events?follow=true", "log?follow=true", "output?follow=true", "output?events=1"])
    async def test_nothing_is_kept_for_who_goes_while_it_is_sent(self, stack: Stack, what: str) -> None:
        pool = await stack.pool(1, wipe={"run": "echo wiped"}, commands={"allow": [{"role": "user"}]})
        lease = await stack.submit(pool, command={"run": ["sh", "-c", "echo printed; sleep 100"]})
        await stack.get(lease, wait="active", timeout=PATIENCE_S)

        await leave_while_sent(stack.app, f"/v1/leases/{lease['id']}/{what}")

        assert (stack.services.news._waiting, stack.services.log_news._waiting) == ({}, {})
        await stack.steer(lease, "cancel")

    async def test_hundreds_follow_at_once_without_a_thread_for_each(self, stack: Stack) -> None:
        gate = stack.gate()
        lease = await stack.submit(await stack.pool(1, wipe=gate.hook))
        await stack.until(gate.reached)
        threads = threading.active_count()
        followers = [asyncio.create_task(told(stack, lease)) for _ in range(300)]
        while len(stack.services.news._waiting.get(lease["id"], ())) < 300:
            await asyncio.sleep(0.02)
        assert threading.active_count() - threads < 60
        gate.open()
        await stack.get(lease, wait="active", timeout=PATIENCE_S)
        await stack.release(lease)
        seen = {tuple(event.id for event in sent) for sent in await asyncio.gather(*followers)}
        assert len(seen) == 1
        assert stack.services.news._waiting == {}
