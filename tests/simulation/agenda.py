"""Virtual time: what is due when, and a clock that stands still until whatever was due has been dealt with."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)

Turn = tuple[int, str]
"""Of what is due at the same moment, what has the least turn goes first; each its own."""


class Agenda:
    """A clock, and what waits for a time to come. Calling it tells the time."""

    def __init__(self) -> None:
        self._now = BEGIN
        self._due: list[tuple[datetime, Turn, Callable[[], Awaitable[None]]]] = []
        self._sleepers: set[asyncio.Event] = set()

    @property
    def asleep(self) -> int:
        """How many sleep now."""
        return len(self._sleepers)

    def __call__(self) -> datetime:
        return self._now

    def at(self, span: timedelta, turn: Turn, action: Callable[[], Awaitable[None]]) -> None:
        """Do something after a while."""
        heapq.heappush(self._due, (self._now + span, turn, action))

    async def sleep(self, span: timedelta, turn: Turn) -> None:
        """Return when so much time has passed."""
        awake = asyncio.Event()

        async def wake() -> None:
            # From this moment on it is at work again, even if it has not noticed yet.
            self._sleepers.discard(awake)
            awake.set()

        self._sleepers.add(awake)
        self.at(span, turn, wake)
        try:
            await awake.wait()
        finally:
            self._sleepers.discard(awake)

    async def go_on(self) -> None:
        """Let time pass until the next thing is due, and do that alone. Raises `LookupError` if nothing is."""
        if not self._due:
            raise LookupError("everybody waits for something, and nothing will ever happen")
        self._now, _, action = heapq.heappop(self._due)
        await action()
