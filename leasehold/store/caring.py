"""The store's part for pools that make their resources, or check them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from leasehold.messages import Checked, Created, Deleted, HeldResource, ListPool, Tended, TendPool
from leasehold.ports import Briefing
from leasehold.store import briefing, checks, listing, making, tending
from leasehold.store.engine import Database

Write = Callable[..., Awaitable[Any]]


class SqlTending:
    """See `leasehold.ports.Tending` for what each call means."""

    def __init__(self, database: Database, write: Write) -> None:
        self._database = database
        self._write = write

    async def tend(self, order: TendPool) -> Tended:
        tended: Tended = await self._write(tending.tend, order)
        return tended

    async def created(self, done: Created) -> None:
        await self._write(making.created, done)

    async def deleted(self, done: Deleted) -> bool:
        is_over: bool = await self._write(making.deleted, done)
        return is_over

    async def brief_check(self, spec: int, held: HeldResource) -> Briefing | None:
        return await self._database.read(briefing.of_check, spec, held)

    async def checked(self, results: Sequence[Checked]) -> None:
        await self._write(checks.checked, results)

    async def brief_listing(self, order: ListPool) -> Briefing:
        return await self._database.read(briefing.of_listing, order)

    async def listed(self, order: ListPool, names: Sequence[str], trouble: str | None = None) -> None:
        await self._write(listing.listed, order, names, trouble)
