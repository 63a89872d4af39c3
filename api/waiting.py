"""Waking callers who wait for news of a lease, without asking the database for each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Protocol

log = logging.getLogger(__name__)

_LINGER_S = 2.0
"""How long the watch goes on after the last caller: the next one starts at once."""
_RETRY_S = 1.0


class Source(Protocol):
    """A store that tells of which leases there is news."""

    def changes(self) -> AsyncGenerator[list[str], None]:
        """See `leasehold.ports`."""
        ...


class News:
    """One watch over a database, shared by all who wait in this process; idle while nobody does."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def until(self, lease: str, reached: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Return as soon as `reached()` holds, or after the timeout; it is asked again at each change of the lease."""
        changed = asyncio.Event()
        with self.listening(lease, changed), suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not await reached():
                    await changed.wait()
                    changed.clear()

    @contextmanager
    def listening(self, lease: str, changed: asyncio.Event) -> Iterator[None]:
        """Set `changed` at each news of a lease from now on, and now and then without any."""
        self._waiting.setdefault(lease, set()).add(changed)
        if self._watch is None:
            self._watch = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._waiting[lease].discard(changed)
            if not self._waiting[lease]:
                del self._waiting[lease]
            if not self._waiting:
                asyncio.get_running_loop().call_later(_LINGER_S, self._rest)

    def _rest(self) -> None:
        """Stop watching while nobody waits."""
        if not self._waiting and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    async def _run(self) -> None:
        while True:
            try:
                async with aclosing(self._source.changes()) as changes:
                    async for leases in changes:
                        self._wake(leases)
            except Exception:
                log.exception("the watch over the database broke; starting again")
                await asyncio.sleep(_RETRY_S)

    def _wake(self, leases: list[str]) -> None:
        # The first batch, an empty one, says that nothing is missed from now on: all look again.
        for lease in leases or list(self._waiting):
            for changed in self._waiting.get(lease, ()):
                changed.set()
