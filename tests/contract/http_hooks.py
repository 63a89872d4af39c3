"""What the tests of drivers share that talk to servers: a real server that can be as hostile as it likes, and calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from leasehold.hook_file import HookFile
from leasehold.ports import Driver, HookCall, HookResult, LogSink
from tests.contract.command_hooks import Log, agreed, unheard

LEASE: dict[str, Any] = {
    "id": "nightly",
    "number": 7,
    "owner": "alice",
    "description": None,
    "items": [{"pool": "r640", "count": 2, "params": {"image": "el9"}}],
    "resources": [
        {
            "pool": "r640",
            "name": name,
            "role": role,
            "item": 0,
            "epoch": 41,
            "tags": ["metal"],
            "properties": {"bmc": "127.0.0.1", "cores": 48, "uplink": None},
            "data": "",
        }
        for name, role in (("host01", "bastion"), ("host02", None))
    ],
}


@dataclass(frozen=True)
class Asked:
    """One request, as it came over the wire."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """One header; None if it is not there."""
        return dict(self.headers).get(name.lower())

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


Handler = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Remembers what it was asked, and lets a handler write whatever bytes it likes."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.handler: Handler = answers(200)
        self.url = ""
        self.port = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side has had enough."""
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                while True:
                    asked = await _read(reader)
                    self.asked.append(asked)
                    await self.handler(asked, writer)
                    await writer.drain()
        finally:
            self.connections -= 1
            writer.close()


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server on this machine, on a port of its own."""
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
        try:
            yield server
        finally:
            listening.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2]))
    body = await reader.readexactly(int(dict(headers).get("content-length", "0")))
    return Asked(method, target, headers, body)


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole answer, as bytes."""
    lines = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers(status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> Handler:
    """A handler that always says the same."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def handle(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(status, content, **headers))

    return handle


def one_after_another(*handlers: Handler) -> Handler:
    """A handler that does these things in turn, and the last one from then on."""
    left = list(handlers)

    async def handle(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked, writer)

    return handle


async def never(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Say nothing, for ever."""
    await asyncio.sleep(3600)


async def hang_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""
    writer.close()
    raise ConnectionResetError


def http_call(http: Mapping[str, Any], **rest: Any) -> HookCall:
    """A call of a hook over HTTP."""
    return remote_call({"http": http}, **rest)


def remote_call(
    hook: Mapping[str, Any],
    *,
    timeout: str = "60s",
    lease: Mapping[str, Any] = LEASE,
    resource: tuple[str, str] | None = ("r640", "host01"),
    params: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    folder: Path | None = None,
    locks: tuple[str, ...] = ("r640/host01",),
    log_stdout: bool = True,
    begin: Callable[[], Awaitable[bool]] = agreed,
    stopped: Callable[[], Awaitable[None]] = unheard,
) -> HookCall:
    """A call of a hook as a pools file describes it, on the first resource of `LEASE` if no other is named."""
    env = {"LEASEHOLD_STAGE": "provision", "LEASEHOLD_ATTEMPT": "2", "LEASEHOLD_SECRETS": json.dumps(secrets or {})}
    if resource is not None:
        env |= {"LEASEHOLD_POOL": resource[0], "LEASEHOLD_RESOURCE": resource[1], "LEASEHOLD_EPOCH": "43"}
        env |= {"LEASEHOLD_PARAMS": json.dumps(params or {}), "LEASEHOLD_PROPERTIES": '{"cores": 8}'}
        env |= {"LEASEHOLD_RESOURCE_DATA": ""}
    return HookCall(
        hook=HookFile.model_validate({**hook, "timeout": timeout}).hook(),
        env=env,
        folder=None if folder is None else str(folder),
        locks=locks,
        lease_file=json.dumps(lease).encode(),
        log_stdout=log_stdout,
        begin=begin,
        stopped=stopped,
    )


async def ask(driver: Driver, call: HookCall, log: LogSink | None = None) -> HookResult:
    """Run a hook that is let start."""
    result = await driver.run(call, log or Log())
    assert result is not None
    return result


def path_of(asked: Asked) -> str:
    """The path that was asked for, without its query."""
    return urlsplit(asked.target).path


SHORT = timedelta(seconds=1)
