"""Pools that make their resources, without Temporal: what the store posts is done here, as workflows would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from leasehold.messages import (
    Checked,
    CheckRound,
    Claim,
    Created,
    CreateResource,
    Deleted,
    DeleteResource,
    ListPool,
    PlannedStage,
    Recycled,
    RecycleResource,
    Tended,
    TendPool,
)
from leasehold.model import Cadence, Hook, Policy, PoolSpec, Resource, Size, StageName
from leasehold.ports import Posted, ResourceFilter
from leasehold.store import tables as t
from tests.contract.store_lab import FAILED, HOST, OK, Lab, file, run_of

LIVECHECK = Cadence(every=timedelta(minutes=5), attempts=2)
LISTING = Cadence(every=timedelta(minutes=30))


def vm(
    name: str = "vm",
    *stages: str,
    size: Size | None = None,
    policy: Policy | None = None,
    livecheck: Cadence | None = None,
    listing: Cadence | None = None,
    **more: Any,
) -> PoolSpec:
    """A pool that makes its resources, with one hook for each of these stages beside those that it needs."""
    names = ["create", "delete", *stages, *(["livecheck"] if livecheck else []), *(["list"] if listing else [])]
    hooks = {StageName(stage): (Hook(run=f"./{stage}.sh", timeout=timedelta(minutes=10)),) for stage in names}
    return PoolSpec(
        name=name,
        stages=hooks,
        size=size or Size(max=4, max_creating=4),
        policy=policy or Policy(),
        folder="/srv/pools",
        livecheck=livecheck,
        listing=listing,
        **more,
    )


def always(_: Claim) -> bool:
    return True


@dataclass
class Cloud:
    """What there really is, and what becomes of what is asked of it."""

    lab: Lab
    there: set[str] = field(default_factory=set)
    creates: Callable[[Claim], bool] = always
    deletes: Callable[[Claim], bool] = always
    releases: Callable[[Claim], bool] = always
    lives: Callable[[str], bool] = lambda name: True
    most: int = 0
    """How many there were at most."""
    most_creating: int = 0
    checks: list[CheckRound] = field(default_factory=list)
    data: bytes = b"address"

    async def apply(self, *pools: PoolSpec, name: str = "default") -> None:
        """Apply a pools file with these."""
        await self.lab.store.apply(file(*((pool, ()) for pool in pools), name=name), "operator")

    async def tend(self, pool: str = "vm") -> Tended:
        """Look after a pool, as its workflow does."""
        return await self.lab.store.tending.tend(TendPool(pool=pool))

    async def due(self) -> list[Any]:
        """What is to be started, without what only says that a pool is to be looked after."""
        return [p.start for p in await self.lab.store.outbox_due() if p.start and not isinstance(p.start, TendPool)]

    async def settle(self, rounds: int = 50) -> None:
        """Do all that is posted, until there is no more."""
        for _ in range(rounds):
            due = await self.lab.store.outbox_due()
            if not due:
                return
            await self.lab.store.outbox_delivered([posted.id for posted in due])
            await self._watch()
            for posted in due:
                await self.do(posted)
        raise AssertionError("it never comes to an end")

    async def goes_on(self, *, pool: str = "vm", times: int = 1, **span: float) -> None:
        """Let time pass, have a pool looked after, and do all that comes of it; so many times."""
        for _ in range(times):
            self.lab.clock.forward(**span)
            await self.tend(pool)
            await self.settle()

    async def _watch(self) -> None:
        states = [str(one.state) for one in await self.lab.store.resources(ResourceFilter(limit=1000))]
        self.most = max(self.most, len(states))
        self.most_creating = max(self.most_creating, states.count("creating"))

    async def do(self, posted: Posted) -> None:
        """Do one thing as workflows and hooks would."""
        match posted.start:
            case TendPool(pool=pool):
                await self.tend(pool)
            case CreateResource(claim=claim):
                await self.create(claim)
            case DeleteResource(claim=claim):
                await self.delete(claim)
            case RecycleResource(lease=lease, claim=claim):
                ok = self.releases(claim)
                await self.lab.store.recycled(
                    Recycled(lease=lease, claim=claim, broken=None if ok else "release: exit status 1")
                )
            case CheckRound() as order:
                self.checks.append(order)
                results = [
                    Checked(
                        pool=held.pool,
                        resource=held.resource,
                        epoch=held.epoch,
                        failed=None if self.lives(held.resource) else "exited with status 1",
                    )
                    for held in order.resources
                ]
                await self.lab.store.tending.checked(results)
            case ListPool() as order:
                await self.lab.store.tending.listed(order, sorted(self.there))

    async def create(self, claim: Claim) -> None:
        """Make something, and say so."""
        self.there.add(claim.resource)
        stage = claim.stages[0]
        begun = await self.lab.store.begin_run(run_of("", claim, stage), HOST)
        ok = self.creates(claim)
        await self.lab.store.finish_run(
            run_of("", claim, stage), begun.run, OK if ok else FAILED, self.data if ok else None
        )
        failed = None if ok else "create: exited with status 1"
        await self.lab.store.tending.created(Created(claim=claim, failed=failed))

    async def delete(self, claim: Claim, tries: int = 1) -> bool:
        """Delete something, and say so; return whether it is gone."""
        ok = self.deletes(claim)
        if ok:
            self.there.discard(claim.resource)
        failed = None if ok else "delete: exited with status 1"
        return await self.lab.store.tending.deleted(Deleted(claim=claim, tries=tries, failed=failed))

    async def resources(self, pool: str | None = None) -> list[Resource]:
        """What the inventory has."""
        return await self.lab.store.resources(ResourceFilter(pool=pool, limit=1000))

    async def states(self, pool: str | None = None) -> list[str]:
        """The states of all there is, in order."""
        return sorted(str(one.state) for one in await self.resources(pool))

    async def places(self, pool: str = "vm") -> list[int | None]:
        """The lowest free numbers that a pool's resources have got."""
        return sorted(one.instance.place for one in await self.resources(pool) if one.instance)  # type: ignore[type-var]

    async def counted(self) -> list[tuple[str, int]]:
        """The numbers of named counters that are taken."""
        rows = await self.lab.store.database.read(lambda c: c.execute(select(t.counted)).all())
        return sorted((row.counter, row.value) for row in rows)


def planned(claim: Claim) -> list[str]:
    """The stages of a claim."""
    return [stage.stage for stage in claim.stages]


def other(claim: Claim, stage: PlannedStage) -> Claim:
    """The same claim, with another stage."""
    return replace(claim, stages=(stage,))
