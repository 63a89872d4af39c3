"""Dynamic pools over time, whatever happens in whatever order: never too many, nothing lost, and nothing gets stuck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leasehold import sizing
from leasehold.model import ResourceState, Size
from leasehold.sizing import Attempts, Instance, Plan, Source, Spread, Standing, Wish

CREATING, FREE, LEASED = ResourceState.CREATING, ResourceState.FREE, ResourceState.LEASED
RECYCLING, BROKEN, DELETING = ResourceState.RECYCLING, ResourceState.BROKEN, ResourceState.DELETING
UNDER_WAY = CREATING, DELETING, RECYCLING
SECOND = timedelta(seconds=1)
REUSE_WINDOW = timedelta(seconds=45)
MOST_LOOKS = 200
"""More of them in a row, and it is going round in circles."""

SIZES = st.builds(
    Size,
    max=st.sampled_from(range(7)),
    max_creating=st.integers(1, 3),
    min_free=st.integers(0, 3),
    create_delay=st.sampled_from([None, None, 5 * SECOND]),
    idle=st.sampled_from([None, 30 * SECOND]),
    age=st.sampled_from([None, None, 600 * SECOND]),
    keep_broken=st.integers(0, 2),
    keep_broken_for=st.just(60 * SECOND),
)
POOLS = st.sampled_from(["cheap", "dear"])


@dataclass(kw_only=True)
class Resource:
    """One that a pool has made."""

    name: str
    created_at: datetime
    since: datetime
    state: ResourceState = CREATING
    is_unwanted: bool = False
    is_suspect: bool = False
    kept_until: datetime | None = None

    @property
    def is_spare(self) -> bool:
        return self.state is FREE and not (self.is_unwanted or self.is_suspect or self.kept_until)


@dataclass(kw_only=True)
class Request:
    """So many resources that somebody waits for, all of them together, of any of these pools."""

    count: int
    pools: tuple[str, ...]


@dataclass(kw_only=True)
class Pool:
    """A dynamic pool as the store would have it."""

    name: str
    kind: int
    size: Size
    is_for_anyone: bool
    is_on_demand: bool
    is_paused: bool = False
    is_closing: bool = False
    attempts: Attempts = field(default_factory=Attempts)
    look_at: datetime | None = None
    resources: dict[str, Resource] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return not (self.is_paused or self.is_closing)

    def all(self, *states: ResourceState) -> list[Resource]:
        return [one for one in self.resources.values() if one.state in states]

    def spare(self) -> list[Resource]:
        return [one for one in self.resources.values() if one.is_spare]

    def coming(self) -> list[Resource]:
        coming = [CREATING, RECYCLING] if self.is_for_anyone else [CREATING]
        return [one for one in self.all(*coming) if not one.is_unwanted]

    @property
    def min_free(self) -> int:
        return 0 if self.is_on_demand else self.size.min_free

    def creates_for(self, request: Request) -> bool:
        return self.is_open and (not self.is_on_demand or request.pools == (self.name,))

    def room(self, now: datetime) -> int:
        return sizing.room(self.size, len(self.resources), len(self.all(CREATING)), self.attempts, now)


class AnyTime(RuleBasedStateMachine):
    """Two pools that make resources, those who wait for some, and everything that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.pools: dict[str, Pool] = {}
        self.waiting: list[Request] = []
        self.made = 0

    @initialize(cheap=SIZES, dear=SIZES, for_anyone=st.tuples(st.booleans(), st.booleans()), on_demand=st.booleans())
    def begin(self, cheap: Size, dear: Size, for_anyone: tuple[bool, bool], on_demand: bool) -> None:
        first, second = for_anyone
        self.pools = {
            "cheap": Pool(name="cheap", kind=0, size=cheap, is_for_anyone=first, is_on_demand=False),
            "dear": Pool(name="dear", kind=1, size=dear, is_for_anyone=second, is_on_demand=on_demand),
        }
        self.changed()

    # What the store does

    def changed(self) -> None:
        """Serve those who wait, and look at the pools."""
        for request in list(self.waiting):
            lending = [self.pools[name] for name in request.pools if self.pools[name].is_open]
            free = [one for pool in lending for one in pool.spare()]
            if len(free) >= request.count:
                self.waiting.remove(request)
                for one in free[: request.count]:
                    one.state = LEASED
        for _ in range(MOST_LOOKS):
            # What begins to be deleted has its pool looked at again, what begins to be created has not.
            if not any([self.tend(pool) for pool in self.pools.values()]):
                return
        raise AssertionError("it is looked at for ever")

    def tend(self, pool: Pool) -> bool:
        """Do what is due in a pool; whether something began to be deleted."""
        plan = self.plan(pool, pool.size)
        self.check(pool, plan)
        for name in plan.delete:
            pool.resources[name].state = DELETING
        for _ in range(plan.create):
            self.made += 1
            name = f"{pool.name}{self.made}"
            pool.resources[name] = Resource(name=name, created_at=self.now, since=self.now)
            pool.attempts = replace(pool.attempts, last_start_at=self.now)
        pool.look_at = plan.look_at
        return bool(plan.delete)

    def plan(self, pool: Pool, size: Size) -> Plan:
        """As `leasehold.store.tending` has it decided."""
        spread = self.spread()
        standing = Standing(
            size=size,
            on_demand=pool.is_on_demand,
            instances=[self.instance(one) for one in pool.resources.values()],
            wanted=0 if pool.is_closing else spread.create.get(pool.name, 0),
            left=0 if pool.is_closing else spread.left.get(pool.kind, 0),
            attempts=pool.attempts,
            growing=not pool.is_paused,
            closing=pool.is_closing,
        )
        return sizing.plan(standing, self.now)

    def spread(self) -> Spread:
        """As `leasehold.store.demand` has it decided."""
        lending = {pool.name: pool.kind for pool in self.pools.values() if pool.is_open}
        wishes = [
            Wish(
                count=one.count,
                kinds=[lending[name] for name in one.pools if name in lending],
                pool=one.pools[0] if len(one.pools) == 1 else None,
            )
            for one in self.waiting
        ]
        supply: Counter[int] = Counter()
        for pool in self.pools.values():
            supply[pool.kind] += len(pool.spare()) + len(pool.coming())
        sources = [
            Source(
                pool=pool.name,
                kind=pool.kind,
                room=pool.room(self.now),
                cost=pool.kind,
                on_demand=["gpu"] if pool.is_on_demand else [],
            )
            for pool in self.pools.values()
            if pool.is_open
        ]
        return sizing.spread(wishes, supply, sources)

    def instance(self, one: Resource) -> Instance:
        return Instance(
            name=one.name,
            state=one.state,
            created_at=one.created_at,
            since=one.since,
            spare=one.is_spare,
            unwanted=one.is_unwanted,
            kept_until=one.kept_until if one.state is FREE else None,
        )

    # What must hold of all that is planned

    def check(self, pool: Pool, plan: Plan) -> None:
        assert plan.look_at is None or plan.look_at > self.now
        if plan.create:
            self.check_creations(pool, plan.create, plan.delete)
        going = [pool.resources[name] for name in plan.delete]
        for one in going:
            assert one.state in (FREE, BROKEN)
            is_kept = one.kept_until is not None and one.kept_until > self.now
            assert pool.is_closing or one.is_unwanted or not is_kept
        if pool.is_closing:
            assert len(going) == len(pool.all(FREE, BROKEN))
        else:
            self.check_surplus(pool, [one for one in going if one.is_spare and not self.is_too_old(pool, one)], plan)
            self.check_broken(pool, plan)

    def check_creations(self, pool: Pool, many: int, going: Collection[str]) -> None:
        size, attempts = pool.size, pool.attempts
        assert pool.is_open
        assert len(pool.resources) + many <= size.max
        assert len(pool.all(CREATING)) + many <= size.max_creating
        if attempts.failures:
            assert attempts.retry_at is not None
            assert attempts.retry_at <= self.now
        if attempts.failures >= sizing.OPENS_AFTER:
            assert len(pool.all(CREATING)) + many == 1
        if size.create_delay is not None:
            assert many == 1
            assert attempts.last_start_at is None or attempts.last_start_at + size.create_delay <= self.now
        if not self.waiting:
            staying = [one for one in pool.spare() if one.name not in going]
            assert len(staying) + len(pool.coming()) + many <= pool.min_free

    def check_surplus(self, pool: Pool, surplus: list[Resource], plan: Plan) -> None:
        """What is deleted only because it is too much."""
        assert not surplus or not pool.is_paused
        there = [one for one in pool.resources.values() if one.state is not DELETING]
        others = [name for name in plan.delete if pool.resources[name] not in surplus]
        too_many = max(0, len(there) - len(others) - pool.size.max)
        if len(surplus) > too_many:
            staying = [one for one in pool.spare() if one.name not in plan.delete]
            assert len(staying) >= pool.min_free
            late = [one for one in surplus if one.since + (pool.size.idle or timedelta(0)) <= self.now]
            assert len(late) >= len(surplus) - too_many

    def check_broken(self, pool: Pool, plan: Plan) -> None:
        staying = [one for one in pool.all(BROKEN) if one.name not in plan.delete]
        assert len(staying) <= pool.size.keep_broken
        assert all(one.since + pool.size.keep_broken_for > self.now for one in staying)
        assert not any(one.is_unwanted for one in staying)

    def is_too_old(self, pool: Pool, one: Resource) -> bool:
        return pool.size.age is not None and one.created_at + pool.size.age <= self.now

    @invariant()
    def nothing_is_overdue(self) -> None:
        assert all(pool.look_at is None or pool.look_at > self.now for pool in self.pools.values())

    # What may happen

    def some(self, *states: ResourceState) -> list[tuple[Pool, Resource]]:
        return [(pool, one) for pool in self.pools.values() for one in pool.all(*states)]

    @rule(count=st.integers(1, 4), pools=st.sampled_from([("cheap",), ("dear",), ("cheap", "dear")]))
    def somebody_waits(self, count: int, pools: tuple[str, ...]) -> None:
        self.waiting.append(Request(count=count, pools=pools))
        self.changed()

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 9))
    def somebody_waits_no_more(self, which: int) -> None:
        del self.waiting[which % len(self.waiting)]
        self.changed()

    @precondition(lambda self: self.some(*UNDER_WAY))
    @rule(
        ends=st.lists(st.sampled_from(["well", "well", "well", "badly", "broken", "not yet"]), min_size=1, max_size=4)
    )
    def what_has_begun_ends(self, ends: list[str]) -> None:
        for (pool, one), end in zip(self.some(*UNDER_WAY), ends, strict=False):
            if end != "not yet":
                self.end(pool, one, end)
                self.changed()

    def end(self, pool: Pool, one: Resource, how: str) -> None:
        """End what has begun of a resource: `well`, or `badly`, or so that it is left `broken`."""
        if one.state is DELETING:
            # Otherwise it will be tried again.
            if how == "well":
                del pool.resources[one.name]
            return
        failed = BROKEN
        if one.state is CREATING:
            failures = 0 if how == "well" else pool.attempts.failures + 1
            retry_at = self.now + sizing.pause_after(failures) if failures else None
            pool.attempts = replace(pool.attempts, failures=failures, retry_at=retry_at)
            failed = BROKEN if how == "broken" else DELETING
        one.state, one.since = FREE if how == "well" else failed, self.now

    @precondition(lambda self: self.some(CREATING))
    @rule(pool=POOLS)
    def a_pool_keeps_failing(self, pool: str) -> None:
        mine = self.pools[pool]
        while mine.all(CREATING):
            for one in mine.all(CREATING):
                self.end(mine, one, "badly")
            for one in mine.all(DELETING):
                self.end(mine, one, "well")
            self.changed()
            if mine.attempts.is_open:
                return
            if mine.attempts.retry_at is not None:
                self.wait(mine.attempts.retry_at - self.now)

    @precondition(lambda self: self.some(LEASED))
    @rule(
        how=st.lists(
            st.sampled_from(["with a key", "with a key", "clean", "used up", "broken"]), min_size=1, max_size=4
        )
    )
    def some_are_given_back(self, how: list[str]) -> None:
        for (pool, one), each in zip(self.some(LEASED), how, strict=False):
            one.since = self.now
            if each == "broken":
                one.state = BROKEN
            elif each != "used up" and pool.is_for_anyone:
                one.state = RECYCLING
            elif each == "with a key":
                one.state, one.kept_until = FREE, self.now + REUSE_WINDOW
            else:
                one.state = DELETING
            self.changed()

    @precondition(lambda self: self.kept())
    @rule()
    def somebody_comes_with_the_key(self) -> None:
        first = self.kept()[0]
        first.state, first.kept_until = LEASED, None
        self.changed()

    def kept(self) -> list[Resource]:
        return [one for _, one in self.some(FREE) if one.kept_until]

    @precondition(lambda self: self.some(FREE))
    @rule(found=st.lists(st.sampled_from(["alive", "alive", "suspect", "dead"]), min_size=1, max_size=4))
    def some_are_checked(self, found: list[str]) -> None:
        for (_, one), what in zip(self.some(FREE), found, strict=False):
            one.is_suspect = what == "suspect"
            if what == "dead":
                one.state, one.since, one.kept_until = BROKEN, self.now, None
        self.changed()

    @precondition(lambda self: self.some(BROKEN))
    @rule()
    def one_is_repaired(self) -> None:
        _, one = self.some(BROKEN)[0]
        one.state, one.since = FREE, self.now
        self.changed()

    @precondition(lambda self: self.some(*ResourceState))
    @rule(which=st.integers(0, 9))
    def somebody_wants_one_deleted(self, which: int) -> None:
        for _, one in self.some(*ResourceState)[which : which + 1]:
            one.is_unwanted = True
        self.changed()

    @rule(pool=POOLS, size=SIZES)
    def the_size_is_changed(self, pool: str, size: Size) -> None:
        self.pools[pool].size = size
        self.changed()

    @rule(pool=POOLS, how=st.sampled_from(["open", "open", "open", "paused", "closing"]))
    def a_pool_is_paused_or_closed_or_opened(self, pool: str, how: str) -> None:
        self.pools[pool].is_paused = how == "paused"
        self.pools[pool].is_closing = how == "closing"
        self.changed()

    @rule(seconds=st.sampled_from([1, 4, 30, 60, 600]))
    def time_passes(self, seconds: int) -> None:
        self.wait(seconds * SECOND)

    def wait(self, long: timedelta) -> None:
        until = self.now + long
        for _ in range(MOST_LOOKS):
            self.now = min([until, *self.due()])
            if self.now not in self.due():
                return
            self.changed()
        raise AssertionError("it is looked at for ever")

    def due(self) -> list[datetime]:
        return [pool.look_at for pool in self.pools.values() if pool.look_at is not None]

    # What it comes to

    @precondition(lambda self: self.waiting or self.some(*UNDER_WAY) or self.due())
    @rule()
    def nothing_else_happens(self) -> None:
        """What has begun ends well, and the pools are looked at when they want to be: they come to rest."""
        for _ in range(MOST_LOOKS):
            if self.some(*UNDER_WAY):
                self.all_ends_well()
            elif all(self.is_calm(pool) for pool in self.pools.values()):
                break
            else:
                assert self.due(), "something is due, and nobody will look at it"
                self.wait(min(self.due()) - self.now)
        else:
            raise AssertionError("it does not come to rest")
        for pool in self.pools.values():
            self.check_rest(pool)
        for request in self.waiting:
            self.check_waits_for_a_reason(request)

    def all_ends_well(self) -> None:
        self.wait(SECOND)
        for pool, one in self.some(*UNDER_WAY):
            self.end(pool, one, "well")
        self.changed()

    def is_calm(self, pool: Pool) -> bool:
        """Whether nothing is due in it any more, but that what is free is replaced when it is too old."""
        return self.plan(pool, replace(pool.size, age=None)) == Plan(create=0, delete={}, look_at=None)

    def check_rest(self, pool: Pool) -> None:
        plan = self.plan(pool, pool.size)
        assert (plan.create, plan.delete) == (0, {})
        assert not pool.all(BROKEN)
        for one in pool.all(FREE):
            assert not pool.is_closing
            assert not one.is_unwanted
            assert one.kept_until is None
            assert one.is_suspect or not self.is_too_old(pool, one)
        if pool.is_open and not self.waiting:
            others = len(pool.resources) - len(pool.spare())
            assert len(pool.spare()) == min(pool.min_free, max(0, pool.size.max - others))

    def check_waits_for_a_reason(self, request: Request) -> None:
        lending = [self.pools[name] for name in request.pools if self.pools[name].is_open]
        assert sum(len(pool.spare()) for pool in lending) < request.count
        assert all(len(pool.resources) >= pool.size.max for pool in lending if pool.creates_for(request))


TestAnyTime = AnyTime.TestCase
TestAnyTime.settings = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
