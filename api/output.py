"""The output of a command as it was printed: raw, or as server-sent events; followed for as long as there is more."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api import render
from api.following import KEEP_ALIVE_S, RETRY_MS, is_over, woken
from api.services import Services
from leasehold.commands import STAGE
from leasehold.model import LeaseState, LogChunk
from leasehold.ports import LogFilter

_PRINTED = ("stdout", "stderr")
_LATE_S, _LOOK_AGAIN_S = 30.0, 1.0
"""How long after its lease's end output is waited for that a runner could not hand over before, and how often."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which output: of which lease, of one `attempt` or all, of one `stream` or both, after the chunk `after`."""

    lease: str
    attempt: int | None = None
    stream: str | None = None
    after: int = 0
    follow: bool = False

    @property
    def only(self) -> LogFilter:
        """It as the log store takes it."""
        return LogFilter(stage=STAGE, attempt=self.attempt)


async def raw(wanted: Wanted, tail: int | None, service: Services) -> AsyncGenerator[bytes, None]:
    """What was printed, byte by byte; with `tail` the last lines of what there is by now, and all to come."""
    last = None if tail is None else _Tail(tail)
    async with aclosing(_chunks(wanted, service)) as pieces:
        async for chunks in pieces:
            data = b"".join(chunk.data for chunk in chunks if _is_wanted(chunk, wanted) and chunk.stream in _PRINTED)
            if last is not None and chunks:
                last.add(data)
            elif last is not None:
                yield last.data
                last = None
            elif data:
                yield data
    if last is not None:
        yield last.data


class _Tail:
    """The last lines of what it is given."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._whole: deque[bytes] = deque(maxlen=lines)
        self._rest = b""

    def add(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._whole.extend(whole)

    @property
    def data(self) -> bytes:
        lines = [line + b"\n" for line in self._whole]
        if self._rest:
            lines.append(self._rest)
        return b"".join(lines[len(lines) - self._lines :] if self._lines else ())


async def events(wanted: Wanted, service: Services) -> AsyncGenerator[bytes, None]:
    """Each piece of output as an event, in the wire format of server-sent events; the last tells how it ended."""
    yield format_sse_event(retry=RETRY_MS)
    async with aclosing(_chunks(wanted, service)) as pieces:
        async for chunks in pieces:
            shown = [chunk for chunk in chunks if _is_wanted(chunk, wanted)]
            if shown:
                yield b"".join(
                    format_sse_event(id=str(chunk.id), event="output", data_str=_json(_shown(chunk))) for chunk in shown
                )
            elif not chunks:
                yield KEEPALIVE_COMMENT
    if await service.store.state(wanted.lease) is LeaseState.ENDED:
        lease = await service.store.lease(wanted.lease, explained=False)
        yield format_sse_event(event="end", data_str=_json(render.command(lease.command)))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_wanted(chunk: LogChunk, wanted: Wanted) -> bool:
    return wanted.stream is None or chunk.stream == wanted.stream


def _shown(chunk: LogChunk) -> dict[str, Any]:
    try:
        text: str | None = chunk.data.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "at": render.time(chunk.at),
        "stream": chunk.stream,
        "attempt": chunk.attempt,
        "data": text,
        "data_base64": b64encode(chunk.data).decode(),
    }


async def _chunks(wanted: Wanted, service: Services) -> AsyncGenerator[list[LogChunk], None]:
    """The pieces that there are; an empty list once all that is there by now was read, and at each pause after.

    One who does not follow gets what there is.
    """
    changed = asyncio.Event()
    patience = _Patience(wanted, service)
    with ExitStack() as listening:
        for news in (service.news, service.log_news) if wanted.follow else ():
            listening.enter_context(news.listening(wanted.lease, changed))
        while True:
            changed.clear()
            # Asked before the output is read: what was printed until then is in it.
            over = not wanted.follow or await patience.is_over()
            while chunks := await service.logs.read(wanted.lease, wanted.after, only=wanted.only):
                wanted = replace(wanted, after=chunks[-1].id)
                yield chunks
            if over:
                return
            yield []
            await woken(changed, patience.look_again_s)


class _Patience:
    """Until when output is waited for: to the end of the lease, and a while for what its runner still has then."""

    def __init__(self, wanted: Wanted, service: Services) -> None:
        self._lease, self._service = wanted.lease, service
        self._until: float | None = None

    @property
    def look_again_s(self) -> float:
        """After how many seconds without any news to look again."""
        return KEEP_ALIVE_S if self._until is None else _LOOK_AGAIN_S

    async def is_over(self) -> bool:
        """Whether no more is to be expected."""
        if self._until is None:
            if not await is_over(self._lease, self._service):
                return False
            self._until = time.monotonic() + _LATE_S
        return time.monotonic() > self._until or not await self._service.logs.is_awaited(self._lease)
