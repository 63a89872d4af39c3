"""Heartbeats of activities: Temporal learns within seconds that a worker is gone, and they that they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity

HEARTBEAT = timedelta(seconds=2)
"""How often an activity reports that it is alive, which is also how soon it learns that it is cancelled."""


@asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """Tell Temporal that this activity is alive, for as long as the block runs."""

    async def beat() -> None:
        # What is short is over before its first heartbeat is due.
        while True:
            await asyncio.sleep(HEARTBEAT.total_seconds())
            activity.heartbeat()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
