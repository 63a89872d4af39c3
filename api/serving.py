"""The HTTP servers of one process: they begin together, and end together."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from leasehold.errors import LeaseholdError

GRACE_S = 3
KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep an idle connection: none is closed under a request that is on its way."""

_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""A caller that the network has lost is found out within two minutes."""


class Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it; `on_stop` is called before it waits for its last answers."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        listening: socket.socket | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=GRACE_S,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._listening = None if listening is None else [listening]
        self._on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or self._listening)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)

    def stop(self) -> None:
        """End in good order; told again, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def run(servers: Sequence[Server]) -> None:
    """Serve until SIGTERM or SIGINT, or until one of them ends."""

    def stop() -> None:
        for server in servers:
            server.stop()

    async def serve(server: Server) -> None:
        await server.serve()
        for other in servers:
            other.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as tasks:
        for server in servers:
            tasks.create_task(serve(server))


def listen(host: str, port: int) -> socket.socket:
    """A socket whose callers are known to be there: who waits for long may be gone without a word.

    Raises `LeaseholdError` where it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise LeaseholdError(f"nobody can listen on {host} port {port}: {error.strerror or error}") from error
    # Accepted connections have what it has.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listening
