"""Following a lease: its events as server-sent events, its log as text, each for as long as there is more to come.

A follower is a task that sleeps until `News` wakes it: hundreds of them cost no thread, and no query in between.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api import render
from api.logtext import LogText
from api.services import Services
from leasehold.model import LeaseState
from leasehold.ports import LogFilter, RunFilter

LAST = frozenset({"lease_ended", "lease_refused"})
"""Kinds of events after which nothing happens to a lease any more; its resources' recycling goes on."""

KEEP_ALIVE_S = 15.0
"""After so long a silence proxies close a connection."""

RETRY_MS = 2000
"""How soon a client should come back that lost its connection."""

_PAGE = 500


async def is_over(lease: str, service: Services) -> bool:
    """Whether nothing happens to a lease any more: it has ended, or its workflow went before it was admitted."""
    state = await service.store.state(lease)
    return state is LeaseState.ENDED or (state is None and await service.gateway.submission(lease) is None)


async def event_stream(lease: str, after: int, service: Services) -> AsyncIterator[bytes]:
    """The events of a lease after one of them, in the wire format of server-sent events, up to its last."""
    changed = asyncio.Event()
    with service.news.listening(lease, changed):
        yield format_sse_event(retry=RETRY_MS)
        over = await is_over(lease, service)
        while True:
            changed.clear()
            while events := await service.store.events(lease=lease, after=after, limit=_PAGE):
                after = events[-1].id
                over = over or any(event.kind in LAST for event in events)
                yield b"".join(
                    format_sse_event(
                        id=str(event.id), event=event.kind, data_str=json.dumps(render.event(event), ensure_ascii=False)
                    )
                    for event in events
                )
            if over:
                return
            if not await _woken(changed):
                yield KEEPALIVE_COMMENT
                over = await is_over(lease, service)


async def log_text(
    lease: str, only: LogFilter, service: Services, *, follow: bool, tail: int | None
) -> AsyncIterator[str]:
    """A lease's log, or a part of it, as lines; with `tail` the last lines of what there is by now, and all to come."""
    text, after, changed = LogText(), 0, asyncio.Event()
    with ExitStack() as listening:
        for news in (service.news, service.log_news) if follow else ():
            listening.enter_context(news.listening(lease, changed))
        held: deque[str] | None = None if tail is None else deque(maxlen=tail)
        while True:
            changed.clear()
            # Asked before the log is read: what was printed until then is in it.
            over = not follow or await _is_printed(lease, only, service)
            while chunks := await service.logs.read(lease, after, only=only):
                after = chunks[-1].id
                if held is not None:
                    held.extend(text.lines(chunks))
                elif lines := "".join(text.lines(chunks)):
                    yield lines
            if over:
                if held is not None:
                    held.extend(text.rest())
                if rest := "".join(text.rest() if held is None else held):
                    yield rest
                return
            if held:
                yield "".join(held)
            held = None
            await _woken(changed)


async def _is_printed(lease: str, only: LogFilter, service: Services) -> bool:
    """Whether nothing more will be printed: the one run has ended or can no longer be alive, or the lease has ended."""
    if only.run is None:
        return await is_over(lease, service)
    runs = await service.store.runs(RunFilter(id=only.run, lease=lease))
    return all(run.ended_at is not None or run.deadline < datetime.now(UTC) for run in runs)


async def _woken(changed: asyncio.Event) -> bool:
    """Sleep until there is news, and return whether there is; `KEEP_ALIVE_S` at most."""
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), KEEP_ALIVE_S)
    return changed.is_set()
