"""`leasehold compat resalloc`, over the API as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio

from tests.api.commands import any_commands
from tests.api.resalloc_lab import EVERY_BYTE, ResallocLab, deliver, resalloc_lab, until
from tests.api.stack import Stack


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[ResallocLab]:
    async with resalloc_lab(stack) as made:
        yield made


class TestCommands:
    """`leasehold compat resalloc` does over the API what the old client does here."""

    async def test_a_ticket_is_taken_waited_for_and_closed(self, lab: ResallocLab) -> None:
        await lab.pool(1, deliver=deliver(lab, EVERY_BYTE))
        async with served(lab.stack) as leasehold:
            first, second = [(await leasehold("ticket", "--tag", lab.tag, "--sandbox", "s"))[1] for _ in range(2)]
            assert await leasehold("ticket-wait", first.decode().strip()) == (0, EVERY_BYTE)
            assert await leasehold("ticket-check", first.decode().strip()) == (0, EVERY_BYTE)
            assert await leasehold("ticket-check", second.decode().strip()) == (1, b"")
            waiting = asyncio.create_task(leasehold("ticket-wait", second.decode().strip()))
            for _ in range(2):
                assert await leasehold("ticket-close", first.decode().strip()) == (0, b"")
            assert await waiting == (0, EVERY_BYTE)
            assert await leasehold("ticket-check", first.decode().strip()) == (1, EVERY_BYTE)
            line = f"{second.decode().strip()} - state=OPEN tags={lab.tag} resource=r0".encode()
            assert line in (await leasehold("ticket-list"))[1].splitlines()
        lease = await lab.stack.get({"id": second.decode().strip()})
        submission = await lab.stack.services.gateway.submission(lease["id"])
        assert submission is not None
        assert (submission.request.share_key, submission.request.wait_for_supply) == ("s", True)
        await lab.stack.release(lease)

    async def test_a_resource_is_deleted_and_its_ticket_fails(self, lab: ResallocLab) -> None:
        pool = await lab.pool(2)
        ticket = await lab.take()
        await lab.wait(ticket)
        async with served(lab.stack) as leasehold:
            listed = (await leasehold("resource-list", "--up"))[1].decode().splitlines()
            mine = [line for line in listed if f"pool={pool}" in line]
            assert [line.rpartition("ticket=")[2] for line in mine] == [str(ticket), "NULL"]
            assert await leasehold("resource-delete", f"{pool}/r0") == (0, b"")

        async def is_gone() -> bool:
            return (await lab.stack.http.get(f"/v1/pools/{pool}/resources/r0")).status_code == 404

        await until(is_gone)
        assert (await lab.check(ticket))[2:] == (False, True)


@asynccontextmanager
async def served(stack: Stack) -> AsyncIterator[Callable[..., Coroutine[Any, Any, tuple[int, bytes]]]]:
    """A function that runs one of these commands and returns its status and what it printed."""
    async with any_commands(stack) as run:

        async def leasehold(*arguments: str) -> tuple[int, bytes]:
            status, out, _ = await run("compat", "resalloc", *arguments)
            return status, out

        yield leasehold
