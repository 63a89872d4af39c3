"""An application of this process on a port, for clients that are processes or know nothing but HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.serving import Server
from tests.servers import free_port

_STARTED_WITHIN_S = 30


class Port:
    """A port at which an application is, or is not for a while."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Be there."""
        server = self._server = Server(self._app, "127.0.0.1", self._port)
        # Its end would end what all tests share.
        server.config.lifespan = "off"
        self._serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(_STARTED_WITHIN_S):
            while not server.started:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Go away."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The address of an application that is served until the block ends."""
    port = Port(app)
    await port.start()
    try:
        yield port.url
    finally:
        await port.stop()
