"""The output of a command as it was printed: raw, or as server-sent events; followed for as long as there is more."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api import render
from api.following import KEEP_ALIVE_S, RETRY_MS, is_over, woken
from api.services import Services
from leasehold.commands import STAGE
from leasehold.model import LeaseState, LogChunk
from leasehold.ports import LogFilter

_PRINTED = ("stdout", "stderr")
_TAIL_LIMIT = 16 * 1024 * 1024
"""Bytes that are kept in memory of the last lines."""

_LATE_S, _LOOK_AGAIN_S = 30.0, 1.0
"""How long after its lease's end output is waited for that a runner could not hand over before, and how often."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which output: of which lease, of one `attempt` or all, of one `stream` or all, after the chunk `after`.

    `tail` are how many of the last lines that there are by now.
    """

    lease: str
    attempt: int | None = None
    stream: str | None = None
    after: int = 0
    tail: int | None = None
    follow: bool = False

    @property
    def only(self) -> LogFilter:
        """It as the log store takes it."""
        return LogFilter(stage=STAGE, attempt=self.attempt, stream=self.stream)

    @property
    def streams(self) -> Collection[str]:
        """Whose bytes and lines are wanted."""
        return _PRINTED if self.stream is None else (self.stream,)


async def raw(wanted: Wanted, service: Services) -> AsyncGenerator[bytes, None]:
    """What was printed, byte by byte; Leasehold's own words only where they alone are wanted."""
    async with aclosing(_parts(wanted, service)) as parts:
        async for chunks in parts:
            if data := b"".join(chunk.data for chunk in chunks if chunk.stream in wanted.streams):
                yield data


async def events(wanted: Wanted, service: Services) -> AsyncGenerator[bytes, None]:
    """Each piece of output as an event, in the wire format of server-sent events; the last tells how it ended."""
    yield format_sse_event(retry=RETRY_MS)
    async with aclosing(_parts(wanted, service)) as parts:
        async for chunks in parts:
            if chunks:
                yield b"".join(
                    format_sse_event(id=str(chunk.id), event="output", data_str=_json(_shown(chunk)))
                    for chunk in chunks
                )
            else:
                yield KEEPALIVE_COMMENT
    if await service.store.state(wanted.lease) is LeaseState.ENDED:
        lease = await service.store.lease(wanted.lease, explained=False)
        yield format_sse_event(event="end", data_str=_json(render.command(lease.command)))


async def _parts(wanted: Wanted, service: Services) -> AsyncGenerator[list[LogChunk], None]:
    """What is wanted of the pieces, with `tail` the last lines of what there is by now, and all to come."""
    last = None if wanted.tail is None else _Tail(wanted.tail, wanted.streams)
    async with aclosing(_chunks(wanted, service)) as found:
        async for chunks in found:
            if last is None:
                yield chunks
            elif chunks:
                last.add(chunks)
            else:
                yield last.chunks()
                last = None
    if last is not None:
        yield last.chunks()


class _Tail:
    """The last lines of what it is given, of which it keeps little more; of a line without an end no more than that."""

    def __init__(self, lines: int, streams: Collection[str]) -> None:
        self._lines, self._streams = lines, streams
        self._kept: deque[LogChunk] = deque()
        self._ends = self._size = 0

    def add(self, chunks: Iterable[LogChunk]) -> None:
        for chunk in chunks:
            self._kept.append(chunk)
            self._ends += self._ends_in(chunk)
            self._size += len(chunk.data)
            while self._ends - self._ends_in(self._kept[0]) > self._lines or self._size > _TAIL_LIMIT:
                gone = self._kept.popleft()
                self._ends -= self._ends_in(gone)
                self._size -= len(gone.data)

    def chunks(self) -> list[LogChunk]:
        """The pieces in which they are, the first of them cut."""
        printed = [chunk for chunk in self._kept if chunk.stream in self._streams]
        # A line that has no end yet is one, too.
        too_many = self._ends - self._lines + (0 if not printed or printed[-1].data.endswith(b"\n") else 1)
        kept = list(self._kept)
        while kept and too_many > 0:
            first = kept.pop(0)
            if self._ends_in(first) >= too_many:
                rest = first.data.split(b"\n", too_many)[-1]
                kept[:0] = [replace(first, data=rest)] if rest else []
            too_many -= self._ends_in(first)
        return kept if self._lines else []

    def _ends_in(self, chunk: LogChunk) -> int:
        return chunk.data.count(b"\n") if chunk.stream in self._streams else 0


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


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
        self._lease, self._only, self._service = wanted.lease, wanted.attempt, service
        self._until: float | None = None
        self._printed: int | None = None
        """The last attempt, if that has ended just now, and is known to have printed something."""

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
            lease = await self._service.store.lease(self._lease, explained=False)
            late = datetime.now(UTC) - timedelta(seconds=_LATE_S)
            if lease.command and lease.command.output_bytes and lease.ended_at and lease.ended_at > late:
                self._printed = lease.command.attempt
        return time.monotonic() > self._until or not await self._is_awaited()

    async def _is_awaited(self) -> bool:
        """Whether more is to come: of some attempt something has come, and not all, or nothing of what was printed."""
        come = await self._service.logs.outputs(self._lease)
        attempts = {*come, *([] if self._printed is None else [self._printed])}
        return any(not come.get(one, False) for one in attempts if self._only in (None, one))
