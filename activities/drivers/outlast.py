"""Waiting for what must come to its end, however often we are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


async def outlast(future: asyncio.Future[Any]) -> None:
    """Wait until it is done, even if cancelled meanwhile; what came of it no longer matters."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({future})
    if not future.cancelled():
        future.exception()


async def patiently(
    task: asyncio.Future[Any], stop: asyncio.Future[None], *, last: timedelta, most: timedelta | None = None
) -> None:
    """Wait for it, for `most` at most; once `stop` is done, no longer than `last`. It goes on all the same."""
    patience = None if most is None else most.total_seconds()
    await asyncio.wait({task, stop}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        await asyncio.wait({task}, timeout=last.total_seconds())


async def unbroken(work: Awaitable[T]) -> T:
    """Do what must not be left half-way: cancelled meanwhile, it is finished before that is heard."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await outlast(future)
        raise
