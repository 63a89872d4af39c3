"""Tickets as resalloc's clients know them: taken, collected, waited for and closed over XML-RPC."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from xmlrpc import client as xmlrpc

import httpx
import pytest
import pytest_asyncio

from api.compat.resalloc.endpoint import Endpoint
from api.compat.resalloc.tickets import OWNER, Terms
from leasehold.errors import LeaseholdError
from leasehold.store.store import SqlStore
from tests.api.resalloc_lab import EVERY_BYTE, UNKNOWN, WAITING, ResallocLab, deliver, resalloc_lab, until
from tests.api.stack import PATIENCE_S, Stack, fail
from tests.conftest import NewDatabase


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[ResallocLab]:
    async with resalloc_lab(stack) as made:
        yield made


class TestTaking:
    async def test_what_is_prepared_is_handed_out_at_once(self, lab: ResallocLab) -> None:
        await lab.pool(2, deliver=deliver(lab, b"10.0.0.7\n"))
        ticket = await lab.take()
        assert await lab.wait(ticket) == b"10.0.0.7\n"
        assert await lab.check(ticket) == (True, b"10.0.0.7\n", False, False)

    async def test_a_ticket_is_a_lease_and_its_number_the_leases(self, lab: ResallocLab) -> None:
        pool = await lab.pool()
        lease = await lab.lease(await lab.take())
        assert (lease["owner"], lease["state"], lease["heartbeat_by"]) == (OWNER, "active", None)
        (item,) = lease["items"]
        assert (item["pool"], item["count"], item["tags"]) == (None, 1, [lab.tag])
        assert [one["pool"] for one in lease["resources"]] == [pool]

    async def test_who_waits_gets_what_is_given_back(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver=deliver(lab, b"host"))
        first, second = await lab.take(), await lab.take()
        await lab.wait(first)
        assert await lab.check(second) == WAITING
        waiting = asyncio.create_task(lab.wait(second))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert await lab.call("closeTicket", first) is None
        assert await waiting == b"host"

    async def test_a_ticket_waits_for_tags_that_no_pool_has_yet(self, lab: ResallocLab) -> None:
        await lab.stack.pool()
        ticket = await lab.take()
        assert await lab.check(ticket) == WAITING
        waiting = asyncio.create_task(lab.wait(ticket))
        await lab.pool(1, deliver=deliver(lab, b"new"))
        assert await waiting == b"new"

    async def test_the_oldest_goes_first(self, lab: ResallocLab) -> None:
        await lab.pool()
        tickets = [await lab.take() for _ in range(4)]
        for place, ticket in enumerate(tickets):
            await lab.wait(ticket)
            ready = [(await lab.check(other))[0] for other in tickets]
            assert ready == [other <= place for other in range(4)]
            await lab.call("closeTicket", ticket)

    async def test_all_tags_must_be_there(self, lab: ResallocLab) -> None:
        await lab.pool()
        other = f"{lab.tag}-big"
        ticket = await lab.call("takeTicket", [lab.tag, other])
        assert await lab.check(ticket) == WAITING
        await lab.stack.pool(1, tags=[other, lab.tag])
        assert await lab.wait(ticket) == b""

    @pytest.mark.parametrize("tags", [[5], [["a"]], [""], ["x" * 129], {"a": 1}, 7], ids=str)
    async def test_tags_that_cannot_be_are_a_fault_that_says_so(self, lab: ResallocLab, tags: Any) -> None:
        await lab.pool()
        with pytest.raises(xmlrpc.Fault, match="tags"):
            await lab.call("takeTicket", tags)

    async def test_where_there_is_no_pool_nothing_is_recorded(self, stack: Stack, new_sqlite: NewDatabase) -> None:
        """Their client asks again and again."""
        store = SqlStore(new_sqlite("main"))
        async with resalloc_lab(replace(stack, services=replace(stack.services, store=store))) as lab:
            with pytest.raises(xmlrpc.Fault, match="there is no pool yet"):
                await lab.take()
        assert await lab.tickets() == []
        store.close()

    async def test_a_request_that_a_hook_refuses_is_a_fault(self, lab: ResallocLab) -> None:
        await lab.pool(1, admit={"run": "echo not on Sundays; exit 3"})
        with pytest.raises(xmlrpc.Fault, match="request_refused"):
            await lab.take()


class TestSandboxes:
    async def asked(self, lab: ResallocLab, *sandbox: str) -> Any:
        """What is asked of the core for a ticket."""
        await lab.pool()
        lease = await lab.lease(await lab.take(*sandbox))
        submission = await lab.stack.services.gateway.submission(lease["id"])
        assert submission is not None
        return submission.request

    async def test_a_sandbox_is_what_may_be_had_again(self, lab: ResallocLab) -> None:
        request = await self.asked(lab, "copr/group--joe")
        assert (request.share_key, request.description) == ("copr/group--joe", "sandbox copr/group--joe")
        assert (request.self_service, request.wait_for_supply, request.principal) == (False, True, OWNER)

    @pytest.mark.parametrize("sandbox", [(), ("",)], ids=["none", "empty"])
    async def test_without_one_nothing_is_shared(self, lab: ResallocLab, sandbox: tuple[str, ...]) -> None:
        assert (await self.asked(lab, *sandbox)).share_key is None

    async def test_a_long_one_is_told_from_every_other(self, lab: ResallocLab) -> None:
        long = "s" * 300
        keys = {(await self.asked(lab, name)).share_key for name in (long, long, f"{long}!")}
        assert len(keys) == 2


class TestIdempotency:
    async def test_the_same_key_is_the_same_ticket(self, lab: ResallocLab) -> None:
        await lab.pool(3)
        key = uuid.uuid4().hex
        tickets = await asyncio.gather(*(lab.take("", key) for _ in range(4)))
        assert len(set(tickets)) == 1
        await lab.call("closeTicket", tickets[0])
        assert await lab.take("", key) == tickets[0]
        assert len(await lab.tickets()) == 1

    async def test_another_request_with_it_is_a_fault(self, lab: ResallocLab) -> None:
        await lab.pool(3)
        key = uuid.uuid4().hex
        await lab.take("", key)
        with pytest.raises(xmlrpc.Fault, match="idempotency_key_reused"):
            await lab.take("another sandbox", key)

    async def test_without_a_key_each_is_another(self, lab: ResallocLab) -> None:
        await lab.pool(2)
        assert await lab.take() != await lab.take()

    @pytest.mark.parametrize("key", ["k" * 256, 7], ids=["long", "number"])
    async def test_what_is_no_key_is_a_fault(self, lab: ResallocLab, key: Any) -> None:
        await lab.pool()
        with pytest.raises(xmlrpc.Fault, match="key"):
            await lab.take("", key)


class TestData:
    async def test_every_byte_comes_through(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver=deliver(lab, EVERY_BYTE))
        ticket = await lab.take()
        assert await lab.wait(ticket) == EVERY_BYTE
        assert (await lab.check(ticket))[1] == EVERY_BYTE

    async def test_without_any_a_ticket_is_ready_all_the_same(self, lab: ResallocLab) -> None:
        await lab.pool()
        ticket = await lab.take()
        assert await lab.wait(ticket) == b""
        assert await lab.check(ticket) == (True, b"", False, False)

    async def test_what_is_for_the_whole_lease_follows(self, lab: ResallocLab) -> None:
        hooks = [deliver(lab, b"mine "), {**deliver(lab, b"and all of it"), "scope": "lease"}]
        await lab.pool(1, deliver=hooks)
        assert await lab.wait(await lab.take()) == b"mine and all of it"

    async def test_what_a_pool_printed_when_it_made_the_resource_is_all_of_it(self, lab: ResallocLab) -> None:
        pool = {"name": f"p{lab.tag}", "tags": [lab.tag], "size": {"max": 1}, "create": deliver(lab, EVERY_BYTE)}
        answer = await lab.stack.http.put(f"/v1/pools/{pool['name']}", json={**pool, "delete": {"run": "true"}})
        assert answer.status_code == 200, fail(answer)
        ticket = await lab.take()
        assert await lab.wait(ticket) == EVERY_BYTE
        await lab.call("closeTicket", ticket)
        assert await lab.check(ticket) == (True, EVERY_BYTE, True, False)

    async def test_a_closed_ticket_keeps_it(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver=deliver(lab, EVERY_BYTE))
        ticket = await lab.take()
        await lab.wait(ticket)
        await lab.call("closeTicket", ticket)
        await lab.until_ended(ticket)
        assert await lab.check(ticket) == (True, EVERY_BYTE, True, False)
        assert await lab.wait(ticket) == EVERY_BYTE

    async def test_it_is_that_of_the_ticket_whoever_has_the_resource_now(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver={"run": "printf $LEASEHOLD_NUMBER"})
        first, second = await lab.take(), await lab.take()
        assert await lab.wait(first) == str(first).encode()
        await lab.call("closeTicket", first)
        assert await lab.wait(second) == str(second).encode()
        assert (await lab.check(first))[1] == str(first).encode()


class TestIds:
    async def test_they_may_be_sent_as_text(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver=deliver(lab, b"x"))
        ticket = str(await lab.take())
        assert await lab.wait(ticket) == b"x"
        assert await lab.check(f" {ticket}\n") == (True, b"x", False, False)
        assert await lab.call("closeTicket", ticket) is None
        assert (await lab.check(ticket))[2] is True

    @pytest.mark.parametrize("ticket", [2**31 - 1, -1, 0, "", "abc", "9" * 300, "\u0663", True, 1.5, [1]], ids=repr)
    async def test_one_that_there_is_not_is_no_fault(self, lab: ResallocLab, ticket: Any) -> None:
        await lab.pool()
        assert await lab.check(ticket) == UNKNOWN
        assert await lab.wait(ticket) == b""
        assert await lab.call("closeTicket", ticket) is None

    async def test_the_lease_of_somebody_else_is_no_ticket(self, lab: ResallocLab) -> None:
        """Nobody says who they are: what was delivered to others is shown to nobody, and ended by nobody."""
        pool = await lab.stack.pool(1, deliver=deliver(lab, b"a secret of alice"))
        lease = await lab.stack.take(pool)
        for ticket in (lease["number"], str(lease["number"]), lease["id"]):
            assert await lab.check(ticket) == UNKNOWN
            assert await lab.wait(ticket) == b""
            await lab.call("closeTicket", ticket)
        assert (await lab.stack.get(lease))["state"] == "active"

    async def test_one_that_was_given_to_somebody_else_is_none_any_more(self, lab: ResallocLab) -> None:
        await lab.pool()
        ticket = await lab.take()
        answer = await lab.stack.steer({"id": str(ticket)}, "transfer", {"owner": "alice"})
        assert answer.status_code == 200, fail(answer)
        assert await lab.check(ticket) == UNKNOWN


class TestClosing:
    async def test_closing_twice_does_not_touch_the_next_holder(self, lab: ResallocLab) -> None:
        await lab.pool()
        first, second = await lab.take(), await lab.take()
        await lab.wait(first)
        await lab.call("closeTicket", first)
        await lab.wait(second)
        for _ in range(2):
            assert await lab.call("closeTicket", first) is None
        assert await lab.check(second) == (True, b"", False, False)
        assert (await lab.lease(second))["state"] == "active"

    async def test_one_that_waits_is_called_off(self, lab: ResallocLab) -> None:
        ticket = await lab.call("takeTicket", [lab.tag]) if await lab.stack.pool() else 0
        await lab.call("closeTicket", ticket)
        assert (await lab.until_ended(ticket))["outcome"] == "cancelled"
        assert await lab.check(ticket) == (False, None, True, False)

    async def test_one_that_is_being_prepared_is_called_off(self, lab: ResallocLab) -> None:
        gate = lab.stack.gate()
        await lab.pool(1, validate=gate.hook)
        ticket = await lab.take()
        await lab.stack.until(gate.reached)
        await lab.call("closeTicket", ticket)
        assert await lab.check(ticket) == (False, None, True, False)
        assert await lab.wait(ticket) == b""


class TestFailing:
    async def test_one_that_could_not_be_prepared_has_failed(self, lab: ResallocLab) -> None:
        await lab.pool(1, validate={"run": "exit 3"}, policy={"on_failure": "fail"})
        ticket = await lab.take()
        assert await lab.wait(ticket) == b""
        assert await lab.check(ticket) == (False, None, False, True)

    @pytest.mark.parametrize("how", ["cancel", "release"])
    async def test_one_that_an_operator_ended_has_failed(self, lab: ResallocLab, how: str) -> None:
        await lab.pool(1, deliver=deliver(lab, b"x"))
        ticket = await lab.take()
        await lab.wait(ticket)
        await lab.stack.steer({"id": str(ticket)}, how)
        assert await lab.check(ticket) == (True, b"x", False, True)

    async def test_one_that_was_cancelled_in_temporal_has_failed(self, lab: ResallocLab) -> None:
        await lab.pool()
        ticket = await lab.take()
        await lab.stack.temporal.get_workflow_handle((await lab.lease(ticket))["id"]).cancel()
        assert (await lab.until_ended(ticket))["outcome"] == "cancelled"
        assert (await lab.check(ticket))[2:] == (False, True)

    async def test_who_waits_for_one_that_is_ended_meanwhile_is_let_go(self, lab: ResallocLab) -> None:
        await lab.stack.pool()
        ticket = await lab.take()
        waiting = asyncio.create_task(lab.wait(ticket))
        await asyncio.sleep(0.2)
        await lab.stack.steer({"id": str(ticket)}, "cancel")
        assert await waiting == b""

    async def test_closing_it_then_changes_nothing(self, lab: ResallocLab) -> None:
        await lab.pool()
        ticket = await lab.take()
        await lab.stack.steer({"id": str(ticket)}, "cancel")
        await lab.until_ended(ticket)
        assert await lab.call("closeTicket", ticket) is None
        assert (await lab.check(ticket))[2:] == (False, True)


class TestTerms:
    async def test_a_ticket_lasts_as_long_as_the_pools_allow_that_have_what_it_wants(self, lab: ResallocLab) -> None:
        await lab.pool(1, policy={"default_duration": "1h"})
        assert await self.lasts(lab, await lab.take()) == timedelta(days=365)

    async def test_or_for_its_lifetime(self, stack: Stack) -> None:
        async with resalloc_lab(stack, Terms(lifetime=timedelta(minutes=20))) as lab:
            await lab.pool()
            assert await self.lasts(lab, await lab.take()) == timedelta(minutes=20)

    async def test_a_lifetime_that_a_pool_forbids_is_cut_and_no_fault(self, stack: Stack) -> None:
        async with resalloc_lab(stack, Terms(lifetime=timedelta(days=300))) as lab:
            await lab.pool(1, policy={"default_duration": "1h", "max_duration": "1h"})
            assert await self.lasts(lab, await lab.take()) == timedelta(hours=1)

    async def lasts(self, lab: ResallocLab, ticket: int) -> timedelta:
        """How long a ticket's lease lasts."""
        lease = await lab.lease(ticket)
        return datetime.fromisoformat(lease["expires_at"]) - datetime.fromisoformat(lease["active_at"])

    async def test_one_whose_lifetime_is_over_has_failed_and_keeps_its_data(self, stack: Stack) -> None:
        async with resalloc_lab(stack, Terms(lifetime=timedelta(seconds=1))) as lab:
            await lab.pool(1, deliver=deliver(lab, b"x"))
            ticket = await lab.take()
            await lab.wait(ticket)
            assert (await lab.until_ended(ticket))["outcome"] == "expired"
            assert await lab.check(ticket) == (True, b"x", False, True)

    async def test_with_heartbeats_who_asks_for_a_ticket_keeps_it_and_who_does_not_loses_it(self, stack: Stack) -> None:
        async with resalloc_lab(stack, Terms(heartbeat=timedelta(seconds=2))) as lab:
            await lab.pool(2)
            kept, lost = await lab.take(), await lab.take()
            for _ in range(6):
                await asyncio.sleep(0.5)
                assert await lab.check(kept) == (True, b"", False, False)
            assert (await lab.until_ended(lost))["outcome"] == "lost"
            assert await lab.check(lost) == (True, b"", False, True)

    async def test_a_call_that_waits_is_a_heartbeat_as_long_as_its_client_is_there(self, stack: Stack) -> None:
        async with resalloc_lab(stack, Terms(heartbeat=timedelta(seconds=2))) as lab:
            await lab.stack.pool()
            ticket = await lab.take()
            connection = await lab.leave("waitTicket", ticket)
            await asyncio.sleep(3.5)
            assert (await lab.lease(ticket))["state"] == "queued"
            connection.close()
            assert (await lab.until_ended(ticket))["outcome"] == "lost"


class TestGoingAway:
    async def test_who_goes_away_before_the_answer_leaves_no_ticket(self, lab: ResallocLab) -> None:
        gate = lab.stack.gate("exit 0")
        await lab.pool(1, admit=gate.hook)
        connection = await lab.leave("takeTicket", [lab.tag])
        await lab.stack.until(gate.reached)
        connection.close()
        await asyncio.sleep(0.1)
        gate.open()

        async def is_over() -> bool:
            return [lease["outcome"] for lease in await lab.tickets()] == ["cancelled"]

        await until(is_over)
        await lab.pool(1)
        assert await lab.wait(await lab.take()) == b""

    async def test_with_a_key_it_waits_for_who_comes_again(self, lab: ResallocLab) -> None:
        gate = lab.stack.gate("exit 0")
        pool = await lab.pool(1, admit=gate.hook)
        connection = await lab.leave("takeTicket", [lab.tag], "", "the key of " + pool)
        await lab.stack.until(gate.reached)
        connection.close()
        await asyncio.sleep(0.1)
        gate.open()
        ticket = await lab.take("", "the key of " + pool)
        assert await lab.wait(ticket) == b""
        assert len(await lab.tickets()) == 1

    async def test_who_waits_and_goes_away_harms_nobody(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver=deliver(lab, b"x"))
        first, second = await lab.take(), await lab.take()
        connection = await lab.leave("waitTicket", second)
        await asyncio.sleep(0.1)
        connection.close()
        await lab.call("closeTicket", first)
        assert await lab.wait(second) == b"x"


async def test_a_hundred_who_wait_take_no_thread(lab: ResallocLab) -> None:
    await lab.stack.pool()
    tickets = [await lab.take() for _ in range(5)]
    before = {thread.name for thread in threading.enumerate()}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False, limits=limits) as http:
        waiting = [asyncio.create_task(wait_for(http, lab, tickets[n % 5])) for n in range(100)]
        async with asyncio.timeout(PATIENCE_S):
            while len(lab.server.server_state.tasks) < 100:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        started = {thread.name for thread in threading.enumerate()} - before
        # The database's own, of which there are so many at most.
        assert {name.rpartition("_")[0] for name in started} <= {"store-read", "store-write"}, started
        assert not any(task.done() for task in waiting)
        await lab.pool(5, deliver=deliver(lab, b"x"))
        assert {data for data in await asyncio.gather(*waiting)} == {b"x"}


async def wait_for(http: httpx.AsyncClient, lab: ResallocLab, ticket: int) -> bytes:
    """Wait for a ticket without a thread on this side either."""
    body = xmlrpc.dumps((ticket,), "waitTicket")
    answer = await http.post(f"{lab.url}/RPC2", content=body, headers={"Content-Type": "text/xml"})
    ((data,), _) = xmlrpc.loads(answer.content, use_builtin_types=True)
    assert isinstance(data, bytes)
    return data


async def test_it_says_what_it_can_be_asked(lab: ResallocLab) -> None:
    methods = await lab.call("system.listMethods")
    assert {"takeTicket", "collectTicket", "waitTicket", "closeTicket"} <= set(methods)


async def test_other_addresses_are_none(lab: ResallocLab) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:
        for path in ("/v1/leases", "/healthz", "/docs"):
            assert (await http.post(f"{lab.url}{path}")).status_code == 404


async def test_two_cannot_listen_on_one_port(lab: ResallocLab) -> None:
    with pytest.raises(LeaseholdError, match=str(lab.port)):
        Endpoint(lab.stack.services, Terms()).server("127.0.0.1", lab.port)
