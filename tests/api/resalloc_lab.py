"""The endpoint of resalloc's clients on a port of its own, and what these do with it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from xmlrpc import client as xmlrpc

import httpx

from api.compat.resalloc.endpoint import Endpoint
from api.compat.resalloc.tickets import Terms
from api.gateway import Gateway
from api.serving import Server
from tests.api.stack import PATIENCE_S, Json, Stack
from tests.servers import free_port

UNKNOWN = (None, None, None, None)
WAITING = (False, None, False, False)
EVERY_BYTE = bytes(range(256)) + b"\xff\xfe\r\n \t"


@dataclass(frozen=True)
class ResallocLab:
    """The running endpoint. Each test has a tag of its own, for pools that only its tickets can be served from."""

    stack: Stack
    server: Server
    port: int
    tag: str

    @property
    def url(self) -> str:
        """What resalloc's clients are told as `--connection`."""
        return f"http://127.0.0.1:{self.port}"

    async def call(self, method: str, *params: Any) -> Any:
        """Call a method as the old client does, on a thread and a connection of its own."""

        def call() -> Any:
            # Like the old client: no None among what is sent, and binary data stays wrapped.
            with xmlrpc.ServerProxy(self.url) as proxy:
                return getattr(proxy, method)(*params)

        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.to_thread(call)

    async def take(self, *more: Any) -> int:
        """Take a ticket for what this test's pools have."""
        ticket = await self.call("takeTicket", [self.tag], *more)
        assert isinstance(ticket, int)
        return ticket

    async def wait(self, ticket: object) -> bytes:
        """What a ticket was waited for."""
        found = await self.call("waitTicket", ticket)
        assert isinstance(found, xmlrpc.Binary)
        return found.data

    async def check(self, ticket: object) -> tuple[Any, Any, Any, Any]:
        """Whether a ticket is ready, what was delivered, whether it is closed, and whether it failed."""
        found = await self.call("collectTicket", ticket)
        assert set(found) == {"ready", "output", "closed", "failed"}
        output = found["output"]
        return (
            found["ready"],
            output.data if isinstance(output, xmlrpc.Binary) else output,
            found["closed"],
            found["failed"],
        )

    async def until_ended(self, ticket: int) -> Json:
        """The lease of a ticket, once it has ended."""
        return await self.stack.ended({"id": str(ticket)})

    async def lease(self, ticket: int) -> Json:
        """The lease of a ticket."""
        return await self.stack.get({"id": str(ticket)})

    async def tickets(self) -> list[Json]:
        """The leases of all tickets that this test took, newest first."""
        answer = await self.stack.http.get("/v1/leases", params={"owner": "resalloc", "limit": "1000"})
        return [lease for lease in answer.json()["items"] if self.tag in lease["items"][0]["tags"]]

    async def pool(self, count: int = 1, **settings: Any) -> str:
        """Make a pool of resources with this test's tag."""
        return await self.stack.pool(count, tags=[self.tag], **settings)

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        """Send anything at all."""
        sent = {"Content-Type": "text/xml", **headers}
        # Without `verify=False` each call would read all of the machine's certificates first.
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False, verify=False) as http:
            return await http.post(f"{self.url}/RPC2", content=body, headers=sent)

    async def leave(self, method: str, *params: Any) -> asyncio.StreamWriter:
        """Call a method on a connection that can be closed before the answer has come."""
        body = xmlrpc.dumps(params, method).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return writer


@asynccontextmanager
async def resalloc_lab(
    stack: Stack, terms: Terms | None = None, *, gateway: Gateway | None = None
) -> AsyncIterator[ResallocLab]:
    """The endpoint until the block ends; then all that was taken there is cancelled."""
    services = replace(stack.services, gateway=gateway or stack.services.gateway)
    endpoint = Endpoint(services, terms or Terms())
    port = free_port()
    server = endpoint.server("127.0.0.1", port)
    serving = asyncio.create_task(server.serve())
    lab = ResallocLab(stack, server, port, f"t{uuid.uuid4().hex[:10]}")
    try:
        yield lab
    finally:
        server.should_exit = True
        await serving
        await endpoint.finish(PATIENCE_S)
        for lease in await lab.tickets():
            if lease["ended_at"] is None:
                await stack.steer(lease, "cancel")


def deliver(lab: ResallocLab, data: bytes) -> Json:
    """A hook that delivers these bytes."""
    path = lab.stack.new_path()
    path.write_bytes(data)
    return {"run": f"cat {path}"}


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until something can be seen by asking for it."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)
