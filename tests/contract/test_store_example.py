"""The example of `docs/why/who-gets-what-next.md`, step by step."""

from __future__ import annotations

from datetime import timedelta

from leasehold.messages import Admitted
from leasehold.model import Item, LeaseState
from tests.contract.store_lab import NINE, Lab

TWELVE = NINE + timedelta(hours=3)
BOTH = Item(pool="r640", count=2)


async def test_reservations_and_those_who_use_the_time_before(lab: Lab) -> None:
    async def active(lease: str, duration: str) -> Admitted:
        admitted = await lab.submit(lease, duration=duration)
        if admitted.state is LeaseState.PREPARING:
            await lab.store.activate(lease)
        return admitted

    await lab.pool("r640", 2)
    await lab.submit("R", BOTH, start_at=TWELVE, duration="2h")
    assert (await active("a", "3h")).state is LeaseState.PREPARING
    lab.clock.forward(minutes=10)
    assert (await active("b", "3h")).state is LeaseState.QUEUED
    assert "1 free; 1 promised to lease 1 from 12:00 UTC" in await lab.reason("b")
    lab.clock.forward(minutes=10)
    assert (await active("c", "2h")).state is LeaseState.PREPARING
    lab.clock.forward(minutes=10)
    refusal = (await lab.extend("a", "30m")).refusal
    assert refusal is not None
    assert refusal.code == "extension_refused"
    lab.clock.forward(minutes=10)
    later = await lab.submit("S", BOTH, start_at=TWELVE + timedelta(hours=1), duration="1h")
    assert later.refusal is not None
    assert "the earliest is 2026-01-05T17:00:00Z" in later.refusal.detail

    lab.clock.now = NINE + timedelta(hours=2, minutes=20)
    await lab.close("c")
    lab.clock.now = TWELVE
    await lab.close("a")
    assert len((await lab.store.wake("R")).claims) == 2
    await lab.store.activate("R")
    assert await lab.state("b") == "queued"
    lab.clock.forward(hours=2)
    await lab.close("R")
    assert await lab.held("b") == ["host01"]
