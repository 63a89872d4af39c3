"""How many resources a dynamic pool creates and deletes now: pure, and the only place that decides it.

First, over all pools: what those who wait will get of what is free or on its way, and where what is missing is best
created, in the cheapest pool first. Then, of each pool: what to begin, what to delete, and when to look again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from leasehold.model import ResourceState, Size

OPENS_AFTER = 3
"""After so many failures in a row a pool is not counted on: those who wait are served from the next one."""

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)


def pause_after(failures: int) -> timedelta:
    """How long nothing is created after so many failures in a row: twice as long after each."""
    longer: int = 2 ** min(max(failures - 1, 0), 20)
    return min(_FIRST_PAUSE * longer, _LONGEST_PAUSE)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """So many resources that somebody waits for, of any of these kinds, in order of preference.

    `tags` are those that are asked for, and `pool` the pool, if one is.
    """

    count: int
    kinds: Collection[int]
    tags: Collection[str] = ()
    pool: str | None = None
    limits: Mapping[int, int] = field(default_factory=dict)
    """So much of a kind at most, free or created: a quota leaves no more."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dynamic pool as one that could create: `room` for so many more of a `kind`; lower `cost` goes first.

    One `on_demand` creates nothing but for those who ask for one of these tags, or for the pool by its name. Tags have
    priorities.
    """

    pool: str
    kind: int
    room: int
    cost: int = 0
    tags: Mapping[str, int] = field(default_factory=dict)
    on_demand: Collection[str] = ()

    def suits(self, wish: Wish) -> bool:
        """Whether it may create for a wish."""
        asked = not self.on_demand or wish.pool == self.pool or not set(self.on_demand).isdisjoint(wish.tags)
        return asked and self.kind in wish.kinds

    def score(self, wish: Wish) -> int:
        """How much it is preferred for a wish: the priorities of the tags asked for, together."""
        return sum(self.tags.get(tag, 0) for tag in wish.tags)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What is to be created for those who wait, by pool, and what they leave of what there is, by kind."""

    create: Mapping[str, int]
    left: Mapping[int, int]


def spread(wishes: Iterable[Wish], supply: Mapping[int, int], sources: Sequence[Source]) -> Spread:
    """Serve wishes, in their order, from the `supply` of free or coming resources, and what is missing from pools."""
    left = Counter(supply)
    rooms = {source.pool: source.room for source in sources}
    create: Counter[str] = Counter()
    for wish in wishes:
        missing, limits = wish.count, dict(wish.limits)
        for kind in wish.kinds:
            taken = min(missing, left[kind], limits.get(kind, missing))
            left[kind] -= taken
            missing -= taken
            if kind in limits:
                limits[kind] -= taken
        able = [source for source in sources if source.suits(wish)]
        for source in sorted(able, key=lambda one: (-one.score(wish), one.cost, one.pool)):
            taken = min(missing, rooms[source.pool], limits.get(source.kind, missing))
            rooms[source.pool] -= taken
            create[source.pool] += taken
            missing -= taken
    return Spread(create=create, left=left)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A resource that a pool has made. `spare`: it is free, and nothing keeps it from being granted to anyone."""

    name: str
    state: ResourceState
    created_at: datetime
    since: datetime
    """Since when it is as it is: free, kept or broken."""
    spare: bool = False
    unwanted: bool = False
    """Its pool is to have it no longer than its holder does."""
    untouchable: bool = False
    """Somebody looks at it, or it is promised: it stays as long as that is so."""
    kept_until: datetime | None = None
    """It is free, and kept for one key until then."""
    granted_until: datetime | None = None
    """It is free, was used before, and is granted again until then."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How creations went: when the last one began, how many failed in a row since one worked, until when to pause."""

    last_start_at: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open: so many have failed that the pool is not counted on."""
        return self.failures >= OPENS_AFTER

    def is_trying(self, now: datetime) -> bool:
        """Whether one may be created to see whether it works again."""
        return self.is_open and (self.retry_at is None or self.retry_at <= now)


def room(size: Size, existing: int, creating: int, attempts: Attempts, now: datetime) -> int:
    """How many more resources may be counted on to be created in a pool in which so many exist."""
    free = max(0, size.max - existing)
    if not attempts.is_open:
        return free
    # One at a time, once it is time, until one works.
    return min(free, 1) if creating == 0 and attempts.is_trying(now) else 0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A dynamic pool as it stands: `wanted` by those who wait, who leave `left` of what is free or being created.

    One that creates `on_demand` keeps nothing free. With `growing` off it creates nothing, and nothing is too much;
    `closing`: it is to have nothing any more.
    """

    size: Size
    instances: Sequence[Instance]
    on_demand: bool = False
    wanted: int = 0
    left: int = 0
    attempts: Attempts = Attempts()
    growing: bool = True
    closing: bool = False

    @property
    def min_free(self) -> int:
        """How many are kept free for whoever comes."""
        return 0 if self.closing or self.on_demand else self.size.min_free


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now: begin to create so many, delete these, each with why; and when to look again at the latest."""

    create: int
    delete: Mapping[str, str]
    look_at: datetime | None


def plan(pool: Standing, now: datetime) -> Plan:
    """What a pool does now."""
    delete, due = _deletions(pool, now)
    existing = len(pool.instances)
    creating = sum(one.state is ResourceState.CREATING for one in pool.instances)
    lost = sum(one.name in delete and one.spare for one in pool.instances)
    # What is deleted still exists, and those who wait may have been counting on it.
    missing = pool.wanted + max(0, pool.min_free - max(0, pool.left - lost))
    if pool.closing or not pool.growing:
        missing = 0
    possible = min(pool.size.max_creating - creating, room(pool.size, existing, creating, pool.attempts, now))
    number = max(0, min(missing, possible))
    if number:
        not_before = _not_before(pool)
        if not_before is not None and not_before > now:
            number = 0
            due.append(not_before)
        elif pool.size.create_delay is not None:
            number = 1
            due.append(now + pool.size.create_delay)
    elif pool.attempts.is_open and pool.attempts.retry_at is not None:
        # Whoever waits for it is not counted as long as it is not counted on.
        due.append(pool.attempts.retry_at)
    later = [at for at in due if at > now]
    return Plan(create=number, delete=delete, look_at=min(later, default=None))


def _not_before(pool: Standing) -> datetime | None:
    """When the next creation may begin."""
    attempts, delay = pool.attempts, pool.size.create_delay
    begun = attempts.last_start_at
    waits = [attempts.retry_at, begun + delay if begun and delay else None]
    return max((at for at in waits if at is not None), default=None)


def _deletions(pool: Standing, now: datetime) -> tuple[dict[str, str], list[datetime]]:
    """What to delete, with why, and when something else will be due."""
    size, due = pool.size, list[datetime]()
    delete: dict[str, str] = {}
    spare = sorted((one for one in pool.instances if one.spare), key=lambda one: (one.created_at, one.name))
    for one in pool.instances:
        if one.untouchable:
            continue
        if one.state is ResourceState.FREE and (one.unwanted or pool.closing):
            delete[one.name] = "its pool has it no longer"
            continue
        ends = {
            "nobody came for it again": one.kept_until,
            "it was used for long enough": one.granted_until if one.spare else None,
            "it is too old": one.created_at + size.age if one.spare and size.age is not None else None,
        }
        for why, until in ends.items():
            if until is None:
                continue
            if until <= now:
                delete.setdefault(one.name, why)
            else:
                due.append(until)
    # What is broken goes first: what is free need not make room then.
    _delete_broken(pool, now, delete, due)
    _delete_surplus(pool, [one for one in spare if one.name not in delete], now, delete, due)
    return delete, due


def _delete_surplus(
    pool: Standing, spare: Sequence[Instance], now: datetime, delete: dict[str, str], due: list[datetime]
) -> None:
    """Delete what is free beyond what is wanted: at once what is too much, the rest once it was so for long enough."""
    if not pool.growing and not pool.closing:
        return
    size = pool.size
    going = sum(one.state is ResourceState.DELETING or one.name in delete for one in pool.instances)
    too_many = max(0, len(pool.instances) - going - size.max)
    for one in spare[:too_many]:
        delete[one.name] = f"there are more than {size.max}"
    rest = spare[too_many:]
    left = pool.left - sum(one.spare and one.name in delete for one in pool.instances)
    # What is being created may fail yet: nothing that is ready goes for it.
    coming = sum(one.state is ResourceState.CREATING and not one.unwanted for one in pool.instances)
    surplus = max(0, min(len(rest), left - coming) - pool.min_free)
    if not surplus:
        return
    for one in sorted(rest, key=lambda one: (one.since, one.created_at, one.name))[:surplus]:
        until = one.since + (size.idle or timedelta(0))
        if until <= now:
            delete[one.name] = "nobody needs it"
        else:
            due.append(until)


def _delete_broken(pool: Standing, now: datetime, delete: dict[str, str], due: list[datetime]) -> None:
    """Delete what failed, but for as many as are kept to be looked at, for a while: those that failed last."""
    broken = [one for one in pool.instances if one.state is ResourceState.BROKEN and not one.untouchable]
    going = sum(one.state is ResourceState.DELETING or one.name in delete for one in pool.instances)
    # Nobody waits for what is just looked at.
    short = max(0, pool.wanted - max(0, pool.size.max - len(pool.instances) + going)) if pool.growing else 0
    kept = 0 if pool.closing else max(0, min(pool.size.keep_broken, len(broken) - short))
    last_first = sorted(broken, key=lambda one: (not one.unwanted, one.since, one.name), reverse=True)
    for index, one in enumerate(last_first):
        until = one.since + pool.size.keep_broken_for
        if index >= kept or one.unwanted or until <= now:
            delete[one.name] = "it is broken"
        else:
            due.append(until)
