"""Answers that come piece by piece; httpx's transport for applications shows one only when it is whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.types import Message, Scope

from tests.api.stack import ADMIN, PATIENCE_S, Json


def _scope(address: str, headers: dict[str, str]) -> Scope:
    parts = urlsplit(address)
    sent = {"authorization": f"Bearer {ADMIN}", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.encode(), text.encode()) for name, text in sent.items()],
        "server": ("leasehold.test", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }


@asynccontextmanager
async def stream(app: FastAPI, address: str, **headers: str) -> AsyncIterator[Callable[[], Any]]:
    """Yield what returns the next piece of an answer's body, and raises `EOFError` at its end."""
    pieces: asyncio.Queue[Message] = asyncio.Queue()
    gone, ended = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    serving = asyncio.create_task(app(_scope(address, headers), receive, pieces.put))

    async def piece() -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            while not ended.is_set():
                message = await pieces.get()
                if message["type"] == "http.response.body":
                    if not message.get("more_body", False):
                        ended.set()
                    if message.get("body"):
                        return bytes(message["body"])
            raise EOFError

    try:
        yield piece
    finally:
        gone.set()
        async with asyncio.timeout(PATIENCE_S):
            await serving


async def leave_while_sent(app: FastAPI, address: str, **headers: str) -> None:
    """Ask for an answer, take nothing of its body, and go once the first of it is there."""
    sending = asyncio.Event()

    async def receive() -> Message:
        await sending.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            assert message["more_body"], "the answer has an end"
            sending.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE_S):
        await app(_scope(address, headers), receive, send)


@dataclass(frozen=True)
class Sent:
    """One server-sent event."""

    id: int
    kind: str
    data: Json


@asynccontextmanager
async def events(app: FastAPI, lease: str, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[Sent]]:
    """Follow the events of a lease until the block, or the stream, ends."""
    async with stream(app, f"/v1/leases/{lease}/events{query}", accept="text/event-stream", **headers) as piece:
        yield _parsed(piece)


async def _parsed(piece: Callable[[], Any]) -> AsyncIterator[Sent]:
    buffer = b""
    while True:
        try:
            buffer += await piece()
        except EOFError:
            assert buffer == b"", "the stream ended within an event"
            return
        *whole, buffer = buffer.split(b"\n\n")
        for block in whole:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if "data" in fields:
                yield Sent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
