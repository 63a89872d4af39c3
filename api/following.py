"""Following a lease: its events as server-sent events, its log as text, each for as long as there is more to come.

The log of what happens without a lease, the creation of a resource say, is followed in the same way.

A follower is a task that sleeps until `News` wakes it: hundreds of them cost no thread, and no query in between.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api import render
from api.logtext import LogText
from api.services import Services
from api.waiting import News
from leasehold.errors import ResourceUnknown
from leasehold.model import LeaseState
from leasehold.ports import LogFilter, RunFilter

LAST = frozenset({"lease_ended", "lease_refused"})
"""Kinds of events after which nothing happens to a lease any more; its resources' recycling goes on."""

KEEP_ALIVE_S = 15.0
"""After so long a silence proxies close a connection."""

RETRY_MS = 2000
"""How soon a client should come back that lost its connection."""

WITHOUT_LEASE = ""
"""What logs and runs have in the place of a lease where none is involved."""

_PAGE = 500
_LOOK_AGAIN_S = 2.0
"""How soon a log that no lease's news tell the end of is looked at again."""


async def is_over(lease: str, service: Services) -> bool:
    """Whether nothing happens to a lease any more: it has ended, or its workflow went before it was admitted."""
    state = await service.store.state(lease)
    return state is LeaseState.ENDED or (state is None and await service.gateway.submission(lease) is None)


async def event_stream(lease: str, after: int, service: Services) -> AsyncGenerator[bytes, None]:
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
            if not await woken(changed, KEEP_ALIVE_S):
                yield KEEPALIVE_COMMENT
                over = await is_over(lease, service)


def log_text(
    lease: str, only: LogFilter, service: Services, *, follow: bool, tail: int | None
) -> AsyncGenerator[str, None]:
    """A lease's log, or a part of it, as lines; with `tail` the last lines of what there is by now, and all to come."""

    async def is_printed() -> bool:
        return not follow or await _is_printed(lease, only, service)

    news = (service.news, service.log_news) if follow else ()
    return _lines(lease, only, service, news, is_printed, tail, KEEP_ALIVE_S)


def log_without_lease(
    pool: str, only: LogFilter, service: Services, *, follow: bool, tail: int | None
) -> AsyncGenerator[str, None]:
    """What was printed in a pool, or a part of it, while no lease was involved; followed for as long as it is there."""
    only = replace(only, pool=pool)

    async def is_printed() -> bool:
        return not follow or await _is_printed_without_lease(pool, only, service)

    news = (service.log_news,) if follow else ()
    return _lines(WITHOUT_LEASE, only, service, news, is_printed, tail, _LOOK_AGAIN_S)


async def _lines(
    lease: str,
    only: LogFilter,
    service: Services,
    news: Collection[News],
    is_printed: Callable[[], Awaitable[bool]],
    tail: int | None,
    look_again_s: float,
) -> AsyncGenerator[str, None]:
    """The lines of a log until nothing more will be printed, which is asked at each news, and now and then."""
    text, after, changed = LogText(), 0, asyncio.Event()
    with ExitStack() as listening:
        for one in news:
            listening.enter_context(one.listening(lease, changed))
        held: deque[str] | None = None if tail is None else deque(maxlen=tail)
        while True:
            changed.clear()
            # Asked before the log is read: what was printed until then is in it.
            over = await is_printed()
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
            await woken(changed, look_again_s)


async def _is_printed(lease: str, only: LogFilter, service: Services) -> bool:
    """Whether nothing more will be printed: the one run has ended or can no longer be alive, or the lease has ended."""
    if only.run is None:
        return await is_over(lease, service)
    return await _has_run(RunFilter(id=only.run, lease=lease), service)


async def _is_printed_without_lease(pool: str, only: LogFilter, service: Services) -> bool:
    """Whether nothing more will be printed: the one run has ended, or the resource or the pool is gone."""
    if only.run is not None:
        return await _has_run(RunFilter(id=only.run, lease=WITHOUT_LEASE), service)
    if only.resource is None:
        return pool not in await service.store.policies()
    try:
        await service.store.resource(pool, only.resource)
    except ResourceUnknown:
        return True
    return False


async def _has_run(wanted: RunFilter, service: Services) -> bool:
    """Whether runs have ended, or can no longer be alive."""
    runs = await service.store.runs(wanted)
    return all(run.ended_at is not None or run.deadline < datetime.now(UTC) for run in runs)


async def woken(changed: asyncio.Event, within_s: float) -> bool:
    """Sleep until there is news, so long at most, and return whether there is."""
    with suppress(TimeoutError):
        await asyncio.wait_for(changed.wait(), within_s)
    return changed.is_set()
