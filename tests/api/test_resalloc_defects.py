"""What goes wrong with resalloc's tickets, each by its name, and does not here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest_asyncio

from api.compat.resalloc.tickets import Terms
from tests.api.resalloc_lab import ResallocLab, resalloc_lab
from tests.api.stack import PATIENCE_S, Stack


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[ResallocLab]:
    async with resalloc_lab(stack) as made:
        yield made


async def test_no_lease_ever_expires(stack: Stack) -> None:
    """Clients die: what they have comes back, by its lifetime, and sooner where heartbeats are wanted."""
    for terms, outcome in (
        (Terms(lifetime=timedelta(seconds=1)), "expired"),
        (Terms(heartbeat=timedelta(seconds=1)), "lost"),
    ):
        async with resalloc_lab(stack, terms) as lab:
            await lab.pool()
            died = await lab.take()
            assert (await lab.until_ended(died))["outcome"] == outcome
            assert await lab.wait(await lab.take()) == b""


async def test_take_ticket_is_not_idempotent(lab: ResallocLab) -> None:
    """With a key it is; and without one, who loses the connection before the answer leaves nothing behind."""
    pool = await lab.pool(5)
    tickets = await asyncio.gather(*(lab.take("", f"build 7 on {pool}") for _ in range(5)))
    assert len(set(tickets)) == 1
    assert len(await lab.tickets()) == 1


async def test_data_that_is_not_utf8_crashes_its_tools(lab: ResallocLab) -> None:
    await lab.pool(1, deliver={"run": r"printf '\377\376\000\200'"})
    ticket = await lab.take()
    assert await lab.wait(ticket) == b"\xff\xfe\x00\x80"
    assert (await lab.check(ticket))[1] == b"\xff\xfe\x00\x80"


async def test_wake_up_takes_up_to_ten_seconds(lab: ResallocLab) -> None:
    await lab.pool()
    first, second = await lab.take(), await lab.take()
    waiting = asyncio.create_task(lab.wait(second))
    await asyncio.sleep(0.3)
    begun = time.monotonic()
    await lab.call("closeTicket", first)
    await waiting
    assert time.monotonic() - begun < 9


async def test_a_fault_is_repeated_for_ever(lab: ResallocLab) -> None:
    """So there is none where there is something to say: of tickets that are unknown, over, or closed before."""
    await lab.pool()
    ticket = await lab.take()
    async with asyncio.timeout(PATIENCE_S):
        for known in (ticket, ticket + 1_000_000, "nothing of ours"):
            for _ in range(2):
                await lab.call("closeTicket", known)
                await lab.wait(known)
                await lab.check(known)


async def test_a_ticket_is_waited_for_by_a_thread_each(lab: ResallocLab) -> None:
    """A server that is full of waiting calls answers others all the same."""
    await lab.stack.pool()
    ticket = await lab.take()
    connections = [await lab.leave("waitTicket", ticket) for _ in range(200)]
    async with asyncio.timeout(PATIENCE_S):
        assert (await lab.check(ticket))[0] is False
    for connection in connections:
        connection.close()
