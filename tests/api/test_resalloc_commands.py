"""`leasehold compat resalloc`, over the API as it is."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio

from api.serving import Server
from tests.api.resalloc_lab import EVERY_BYTE, ResallocLab, deliver, resalloc_lab, until
from tests.api.stack import ADMIN, PATIENCE_S, Stack
from tests.servers import free_port
from tests.stack import LEASEHOLD


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
    """The API on a port, and a function that runs one of the commands and returns its status and what it printed."""
    server = Server(stack.app, "127.0.0.1", free_port())
    # Its end would end what all tests share.
    server.config.lifespan = "off"
    serving = asyncio.create_task(server.serve())

    async def leasehold(*arguments: str) -> tuple[int, bytes]:
        address = {"LEASEHOLD_URL": f"http://127.0.0.1:{server.config.port}", "LEASEHOLD_TOKEN": ADMIN}
        process = await asyncio.create_subprocess_exec(
            str(LEASEHOLD), "compat", "resalloc", *arguments, env={**os.environ, **address}, stdout=subprocess.PIPE
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
        return process.returncode or 0, out

    try:
        yield leasehold
    finally:
        server.should_exit = True
        await serving
