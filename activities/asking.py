"""What is asked of Temporal about workflows: the seam between those who compare and the client that asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from temporalio import activity

from leasehold.healing import Identity
from leasehold.holdings import Holding
from leasehold.messages import LeaseView, Steer, SubmitLease

In = TypeVar("In")
Out = TypeVar("Out")

AT_ONCE = 20
"""How many calls to Temporal are under way at once."""


@dataclass(frozen=True, kw_only=True)
class RunningLease:
    """A lease's workflow as Temporal lists it, which may be a little late; `state` is what it shows, if it does."""

    lease: str
    state: str | None


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of a workflow, surely: `how` it was closed, in a word, or None if it runs."""

    run_id: str
    started_at: datetime
    how: str | None = None
    closed_at: datetime | None = None


COMPLETED = "completed"
"""How a workflow ends by itself; its lease or recycling is over in the record before that."""


class Workflows(Protocol):
    """What is asked of Temporal. Each call but the lists is made once; `calls` counts them all."""

    calls: int

    async def identity(self) -> Identity:
        """Which Temporal it is."""
        ...

    def running_leases(self) -> AsyncIterator[list[RunningLease]]:
        """The leases whose workflows run, in pages; may be late by seconds."""
        ...

    def running_recyclings(self) -> AsyncIterator[list[Holding]]:
        """The resources whose recycling runs, in pages; may be late by seconds."""
        ...

    def closed_leases(self, since: datetime | None) -> AsyncIterator[list[str]]:
        """The leases whose workflows were closed since, or that Temporal has not forgotten; may be late by seconds."""
        ...

    async def lease(self, lease: str) -> Fate | None:
        """What became of a lease's workflow; None if Temporal does not know it."""
        ...

    async def recycling(self, holding: Holding) -> Fate | None:
        """What became of a recycling; None if Temporal does not know it."""
        ...

    async def view(self, lease: str) -> LeaseView | None:
        """Where a lease's workflow believes itself to be, also after its end; None if it does not answer."""
        ...

    async def request(self, lease: str) -> SubmitLease | None:
        """With what a lease's workflow began."""
        ...

    async def outcome(self, lease: str) -> str | None:
        """What a completed workflow returned."""
        ...

    async def tell(self, lease: str, signal: str, steer: Steer | None = None) -> None:
        """Signal a lease's workflow; one that is closed needs none."""
        ...


async def bounded(items: Sequence[In], ask: Callable[[In], Awaitable[Out]]) -> list[tuple[In, Out]]:
    """Ask for each of these, so many at a time that one which is slow holds up nobody."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(item: In) -> tuple[In, Out]:
        async with free:
            answer = await ask(item)
        activity.heartbeat()
        return item, answer

    return await asyncio.gather(*(one(item) for item in items))
