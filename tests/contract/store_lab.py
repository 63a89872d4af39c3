"""What the tests of the store share: a clock moved by hand, and a lab in words of the domain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, select

from leasehold.commands import CommandPolicy, CommandSpec, OnEnd
from leasehold.messages import (
    AddResources,
    AdmitLease,
    Admitted,
    BrokenInLease,
    BrokenResource,
    Claim,
    Closed,
    CloseLease,
    ExtendLease,
    GiveBack,
    Held,
    HookReport,
    PlannedStage,
    Recycled,
    RecycleResource,
    RunHook,
    SubmitLease,
    Tick,
)
from leasehold.model import Event, Hook, Inventory, Item, Lease, Outcome, Policy, PoolSpec, ResourceSpec, StageName
from leasehold.ports import Begun, Place, ResourceFilter
from leasehold.store import tables as t
from leasehold.store.store import SqlStore

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC)
OK = HookReport(ending="exited", code=0, detail="exit status 0", ok=True)
FAILED = HookReport(ending="exited", code=3, detail="exit status 3", ok=False)
HOST = Place(host="worker1")


class Clock:
    """The database's time, moved by hand."""

    def __init__(self) -> None:
        self.now = NINE

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        """Let time pass."""
        self.now += timedelta(**span)

    def back(self, **span: float) -> None:
        """Set the clock back, as an operator may."""
        self.now -= timedelta(**span)


def spec(
    name: str,
    *stages: str,
    policy: Policy | None = None,
    priority: int = 0,
    commands: CommandPolicy | None = None,
) -> PoolSpec:
    """A pool with one hook for each of these stages."""
    hooks = {StageName(stage): (Hook(run=f"./{stage}.sh", timeout=timedelta(minutes=10)),) for stage in stages}
    return PoolSpec(
        name=name,
        stages=hooks,
        policy=policy or Policy(),
        priority=priority,
        folder="/srv/pools",
        commands=commands,
    )


def hosts(count: int, first: int = 1) -> tuple[ResourceSpec, ...]:
    """Resources host01, host02, …"""
    return tuple(ResourceSpec(name=f"host{n:02}") for n in range(first, first + count))


def file(*pools: tuple[PoolSpec, Sequence[ResourceSpec]], name: str = "default") -> Inventory:
    """A pools file."""
    return Inventory(name=name, pools=tuple((pool, tuple(resources)) for pool, resources in pools))


def admission(asked: SubmitLease, age_s: float = 0.0) -> AdmitLease:
    """The order to admit a request, which was submitted `age_s` ago."""
    return AdmitLease(request=asked, age_s=age_s)


def request(
    lease: str,
    *items: Item,
    duration: str | None = None,
    priority: int = 0,
    heartbeat: str | None = None,
    principal: str = "alice-token",
    owner: str = "alice",
    start_at: datetime | None = None,
    queue_timeout: str | None = None,
    wait_for_supply: bool = False,
    self_service: bool = False,
    unverified: bool = False,
    share_key: str | None = None,
    command: CommandSpec | None = None,
    on_end: OnEnd = OnEnd.FREE,
    on_end_reason: str | None = None,
    digest: str | None = None,
) -> SubmitLease:
    """A request whose digest is that of its own words, if nothing else is said."""
    return SubmitLease(
        lease=lease,
        principal=principal,
        owner=owner,
        digest=digest or f"digest of {lease}",
        items=items,
        duration=duration,
        priority=priority,
        heartbeat=heartbeat,
        start_at=start_at,
        queue_timeout=queue_timeout,
        wait_for_supply=wait_for_supply,
        self_service=self_service,
        unverified=unverified,
        share_key=share_key,
        command=command,
        on_end=on_end,
        on_end_reason=on_end_reason,
    )


def run_of(lease: str, claim: Claim, planned: PlannedStage, *, attempt: int = 1) -> RunHook:
    """The order to run the first hook of a stage."""
    last = planned is claim.stages[-1]
    return RunHook(
        lease=lease,
        pool=claim.pool,
        resource=claim.resource,
        epoch=claim.epoch,
        spec=claim.spec,
        stage=planned.stage,
        hook=0,
        attempt=attempt,
        timeout_s=planned.hooks[0].timeout_s,
        last=last,
    )


class Lab:
    """One database with its store, and what people and workflows do with it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = Clock()
        self.store = SqlStore(url, self.clock)

    @property
    def postgres(self) -> bool:
        return self.url.startswith("postgresql")

    async def pool(
        self,
        name: str = "r640",
        count: int = 1,
        *stages: str,
        policy: Policy | None = None,
        priority: int = 0,
        commands: CommandPolicy | None = None,
    ) -> None:
        """Apply a pools file of the pool's own name; a lease has to be validated at least, before it is delivered."""
        made = spec(name, *(stages or ("validate",)), policy=policy, priority=priority, commands=commands)
        await self.store.apply(file((made, hosts(count)), name=name), "operator")

    async def submit(self, lease: str, *items: Item, pool: str = "r640", age_s: float = 0.0, **asked: Any) -> Admitted:
        """Ask for these items, or for one resource of a pool; `asked` is what `request` takes beside."""
        wanted = items or (Item(pool=pool),)
        return await self.store.admit(admission(request(lease, *wanted, **asked), age_s), f"run of {lease}")

    async def take(self, lease: str, *items: Item, pool: str = "r640", **asked: Any) -> Admitted:
        """Have a lease that is granted at once, and make it active."""
        admitted = await self.submit(lease, *items, pool=pool, **asked)
        assert admitted.claims, admitted
        await self.store.activate(lease)
        return admitted

    async def close(
        self, lease: str, outcome: Outcome = Outcome.RELEASED, *, stopped: bool = True, broken: str | None = None
    ) -> Closed:
        """End a lease; `broken` is the reason why all that it has is broken."""
        left = (await self.store.standing(lease)).claims if broken else ()
        why = tuple(BrokenResource(pool=c.pool, resource=c.resource, epoch=c.epoch, reason=str(broken)) for c in left)
        return await self.store.close_lease(
            CloseLease(lease=lease, outcome=outcome, actor="alice", stopped=stopped, reason="enough", broken=why)
        )

    async def report(self, lease: str, *claims: Claim, reason: str = "wipe: exit status 3") -> Admitted:
        """Say that these of a lease's resources failed their stages."""
        broken = tuple(BrokenResource(pool=c.pool, resource=c.resource, epoch=c.epoch, reason=reason) for c in claims)
        return await self.store.report_broken(BrokenInLease(lease=lease, broken=broken))

    async def add(
        self, lease: str, *items: Item, pool: str = "r640", request: str = "", lasting: bool = False
    ) -> Admitted:
        """Give an active lease these items, or one resource of a pool."""
        more = AddResources(items=items or (Item(pool=pool),), actor="alice", request=request, lasting=lasting)
        return await self.store.add(lease, more)

    async def give_back(self, lease: str, resource: str, pool: str = "r640") -> Admitted:
        """Take a resource out of a lease."""
        return await self.store.give_back(lease, GiveBack(pool=pool, resource=resource, actor="alice"))

    async def tick(self, lease: str = "a") -> Held:
        """Do what is due for a lease."""
        return await self.store.tick(Tick(lease=lease, stopped=True))

    async def extend(
        self, lease: str, by: str | None = None, *, until: datetime | None = None, request: str = ""
    ) -> Held:
        """Extend a lease."""
        return await self.store.extend(lease, ExtendLease(by=by, until=until, actor="alice", request=request))

    async def begin(self, lease: str, claim: Claim, *, stage: int = 0, attempt: int = 1, host: Place = HOST) -> Begun:
        """Let the first hook of the claim's nth stage start."""
        return await self.store.begin_run(run_of(lease, claim, claim.stages[stage], attempt=attempt), host)

    async def run(
        self,
        lease: str,
        claim: Claim,
        *,
        stage: int = 0,
        attempt: int = 1,
        report: HookReport = OK,
        secret: bytes = b"",
    ) -> None:
        """Run the first hook of the claim's nth stage to its end."""
        order = run_of(lease, claim, claim.stages[stage], attempt=attempt)
        begun = await self.store.begin_run(order, HOST)
        await self.store.finish_run(order, begun.run, report, secret or None)

    async def recycling_of(self, resource: str = "host01") -> list[Claim]:
        """The claims of the recyclings that were posted for a resource."""
        due = await self.store.outbox_due()
        started = [posted.start for posted in due if isinstance(posted.start, RecycleResource)]
        return [order.claim for order in started if order.claim.resource == resource]

    async def recycling(self, resource: str = "host01") -> Claim:
        """The claim of the recycling that was posted last for a resource."""
        return (await self.recycling_of(resource))[-1]

    async def reason(self, lease: str) -> str:
        """Why a lease waits."""
        place = (await self.store.lease(lease)).queue
        assert place is not None
        return place.reason

    async def positions(self, *leases: str) -> list[int | None]:
        """The places of leases in the queue."""
        places = [(await self.store.lease(lease)).queue for lease in leases]
        return [place.position if place else None for place in places]

    async def recycled(self, lease: str, resource: str = "host01", *, broken: str | None = None) -> None:
        """End the recycling of a resource."""
        claim = await self.recycling(resource)
        await self.store.recycled(Recycled(lease=lease, claim=claim, broken=broken))

    async def recycled_claim(self, claim: Claim) -> None:
        """End a recycling, whichever lease came before it."""
        await self.store.recycled(Recycled(lease="", claim=claim, broken=None))

    async def states(self, pool: str = "r640") -> dict[str, str]:
        """The state of each resource of a pool."""
        return {r.name: str(r.state) for r in await self.store.resources(ResourceFilter(pool=pool))}

    async def lease(self, lease: str) -> Lease:
        """A lease's record."""
        return await self.store.lease(lease)

    async def state(self, lease: str) -> str:
        """A lease's state."""
        return str((await self.store.lease(lease)).state)

    async def held(self, lease: str) -> list[str]:
        """The names of the resources that a lease has now."""
        return [claim.resource for claim in (await self.store.standing(lease)).claims]

    async def events(self, lease: str) -> list[Event]:
        """What happened to a lease."""
        return await self.store.events(lease=lease)

    async def kinds(self, lease: str) -> list[str]:
        """The kinds of what happened to a lease and its resources."""
        return [event.kind for event in await self.events(lease)]

    async def grants_data(self) -> Sequence[Row[Any]]:
        """What was kept for the holder with each grant, however it is shown."""
        return await self.store.database.read(
            lambda c: c.execute(select(t.grants.c.data).order_by(t.grants.c.id)).all()
        )

    async def signalled(self) -> list[str]:
        """The leases whose workflows are to look at their grants again."""
        return [posted.lease for posted in await self.store.outbox_due() if posted.start is None]
