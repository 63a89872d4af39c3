"""How many resources a dynamic pool has: those who wait get them, what nobody needs goes, and failures slow it down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import sizing
from leasehold.model import ResourceState, Size
from leasehold.sizing import Attempts, Instance, Plan, Source, Standing, Wish

NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
FREE, LEASED, CREATING = ResourceState.FREE, ResourceState.LEASED, ResourceState.CREATING
BROKEN, DELETING, RECYCLING = ResourceState.BROKEN, ResourceState.DELETING, ResourceState.RECYCLING
CHEAP, DEAR, OTHER = 1, 2, 3
"""The kinds of three pools."""


# Where what is missing is created


def source(
    pool: str, kind: int, room: int = 9, *, cost: int = 0, on_demand: Collection[str] = (), **tags: int
) -> Source:
    return Source(pool=pool, kind=kind, room=room, cost=cost, tags=tags, on_demand=on_demand)


def created(wishes: Sequence[Wish], *sources: Source, supply: Mapping[int, int] | None = None) -> dict[str, int]:
    """How many are created in which pool."""
    create = sizing.spread(wishes, supply or {}, sources).create
    return {pool: many for pool, many in create.items() if many}


def wish(count: int = 1, *kinds: int, tags: Collection[str] = (), pool: str | None = None) -> Wish:
    return Wish(count=count, kinds=kinds or (CHEAP, DEAR), tags=tags, pool=pool)


def test_as_many_are_created_as_those_who_wait_want() -> None:
    assert created([wish(2), wish(1), wish(3)], source("cheap", CHEAP)) == {"cheap": 6}


def test_nobody_waits_and_nothing_is_created() -> None:
    assert created([], source("cheap", CHEAP), supply={CHEAP: 2}) == {}


def test_what_is_free_or_on_its_way_serves_before_anything_is_created() -> None:
    spread = sizing.spread([wish(3)], {CHEAP: 1, DEAR: 1}, [source("cheap", CHEAP)])
    assert spread.create["cheap"] == 1
    assert spread.left == {CHEAP: 0, DEAR: 0}


def test_what_is_preferred_is_used_first_and_the_rest_is_left() -> None:
    assert sizing.spread([wish(2, DEAR, CHEAP)], {CHEAP: 2, DEAR: 1}, []).left == {CHEAP: 1, DEAR: 0}


def test_who_has_waited_longest_is_served_first() -> None:
    # The one free resource suits both; what the second wants instead can be created in no pool.
    first, second = wish(1, CHEAP), wish(1, CHEAP, OTHER)
    assert created([first, second], source("other", OTHER), supply={CHEAP: 1}) == {"other": 1}
    assert created([second, first], source("other", OTHER), supply={CHEAP: 1}) == {}
    # The last place in a pool is for the first too.
    assert created([wish(2, CHEAP), wish(2)], source("cheap", CHEAP, 2), source("dear", DEAR)) == {
        "cheap": 2,
        "dear": 2,
    }


def test_what_is_free_is_counted_on_by_one_of_those_who_wait() -> None:
    assert created([wish(1, CHEAP), wish(1, CHEAP)], source("cheap", CHEAP), supply={CHEAP: 1}) == {"cheap": 1}


def test_what_is_being_created_for_somebody_is_not_created_again() -> None:
    waiting = [wish(2), wish(1, DEAR)]
    pools = [source("cheap", CHEAP, 1, cost=1), source("dear", DEAR, 5, cost=2)]
    assert created(waiting, *pools) == {"cheap": 1, "dear": 2}
    begun = [source("cheap", CHEAP, 0, cost=1), source("dear", DEAR, 3, cost=2)]
    assert created(waiting, *begun, supply={CHEAP: 1, DEAR: 2}) == {}


def test_the_cheapest_pool_creates_and_the_next_one_what_it_has_no_room_for() -> None:
    pools = [source("aws", DEAR, cost=2), source("lab", CHEAP, 3, cost=1)]
    assert created([wish(2)], *pools) == {"lab": 2}
    assert created([wish(5)], *pools) == {"lab": 3, "aws": 2}


def test_a_pool_of_what_does_not_suit_creates_nothing() -> None:
    assert created([wish(2, DEAR)], source("cheap", CHEAP)) == {}


def test_what_no_pool_has_room_for_is_not_created() -> None:
    assert created([wish(9)], source("cheap", CHEAP, 2), source("dear", DEAR, 3)) == {"cheap": 2, "dear": 3}


@pytest.mark.parametrize(
    ("size", "existing", "creating", "attempts", "room"),
    [
        (Size(max=4), 1, 0, Attempts(), 3),
        (Size(max=4), 4, 0, Attempts(), 0),
        (Size(max=4), 6, 0, Attempts(), 0),
        # The rest comes once these are done: who waits need not be sent to a dear pool.
        (Size(max=9, max_creating=2), 2, 2, Attempts(), 7),
        (Size(max=9, create_delay=MINUTE), 1, 1, Attempts(last_start_at=NOW), 8),
        # It pauses after a failure, and is counted on yet.
        (Size(max=4), 1, 0, Attempts(failures=2, retry_at=NOW + MINUTE), 3),
        # It has failed too often: not before it is time, and then a single one.
        (Size(max=4), 1, 0, Attempts(failures=3, retry_at=NOW + SECOND), 0),
        (Size(max=4), 1, 0, Attempts(failures=3, retry_at=NOW), 1),
        (Size(max=4), 1, 1, Attempts(failures=3, retry_at=NOW), 0),
        (Size(max=1), 1, 0, Attempts(failures=3, retry_at=NOW), 0),
    ],
)
def test_a_pool_is_counted_on_until_it_is_full_or_keeps_failing(
    size: Size, existing: int, creating: int, attempts: Attempts, room: int
) -> None:
    assert sizing.room(size, existing, creating, attempts, NOW) == room


def test_who_asks_for_a_tag_is_served_from_where_it_counts_most() -> None:
    pools = [source("cheap", CHEAP, cost=1), source("dear", DEAR, 1, cost=2, fast=5, x86=1)]
    assert created([wish(1)], *pools) == {"cheap": 1}
    assert created([wish(2, tags=["fast"])], *pools) == {"dear": 1, "cheap": 1}
    # Priorities of all the tags together, and what counts less than nothing comes last.
    slow = source("slow", OTHER, cost=0, fast=6, x86=-1)
    assert created([wish(1, CHEAP, DEAR, OTHER, tags=["fast"])], *pools, slow) == {"slow": 1}
    assert created([wish(1, CHEAP, DEAR, OTHER, tags=["fast", "x86"])], *pools, slow) == {"dear": 1}


def test_a_pool_on_demand_creates_for_who_asks_for_its_tag_or_its_name_alone() -> None:
    gpu = source("gpu", DEAR, on_demand=["gpu", "fpga"])
    assert created([wish(1)], gpu) == {}
    assert created([wish(1, tags=["x86"])], gpu) == {}
    assert created([wish(1, pool="other")], gpu) == {}
    assert created([wish(1, tags=["x86", "gpu"])], gpu) == {"gpu": 1}
    assert created([wish(1, pool="gpu")], gpu) == {"gpu": 1}
    # What it has already made is there for anybody.
    assert sizing.spread([wish(1, DEAR)], {DEAR: 1}, [gpu]).left == {DEAR: 0}


KINDS = st.integers(0, 3)
WISHES = st.lists(
    st.builds(
        Wish,
        count=st.integers(0, 4),
        kinds=st.lists(KINDS, max_size=4, unique=True),
        tags=st.sets(st.sampled_from("ab")),
        pool=st.sampled_from([None, "0", "1"]),
    ),
    max_size=6,
)
SUPPLY = st.dictionaries(KINDS, st.integers(0, 4))
SOURCES = st.lists(
    st.builds(
        Source,
        pool=st.integers(0, 9).map(str),
        kind=KINDS,
        room=st.integers(0, 5),
        cost=st.integers(0, 2),
        tags=st.dictionaries(st.sampled_from("ab"), st.integers(-2, 2)),
        on_demand=st.sets(st.sampled_from("ab"), max_size=1),
    ),
    max_size=4,
    unique_by=lambda source: source.pool,
)


@given(WISHES, SUPPLY, SOURCES)
def test_nothing_is_used_twice_and_no_more_is_created_than_is_wanted(
    wishes: list[Wish], supply: dict[int, int], sources: list[Source]
) -> None:
    spread = sizing.spread(wishes, supply, sources)
    rooms = {source.pool: source.room for source in sources}
    assert all(0 <= many <= rooms[pool] for pool, many in spread.create.items())
    assert all(0 <= spread.left.get(kind, 0) <= many for kind, many in supply.items())
    used = sum(supply.values()) - sum(spread.left.values())
    assert used + sum(spread.create.values()) <= sum(one.count for one in wishes)


@given(WISHES, SUPPLY, SOURCES)
def test_who_waits_gets_what_those_before_have_left(
    wishes: list[Wish], supply: dict[int, int], sources: list[Source]
) -> None:
    before = sizing.spread(wishes[:-1], supply, sources)
    after = sizing.spread(wishes, supply, sources)
    if not wishes:
        return
    last = wishes[-1]
    # Those before get what they get whoever comes after.
    used = {kind: before.left.get(kind, 0) - after.left.get(kind, 0) for kind in {*supply, *last.kinds}}
    more = Counter(after.create)
    more.subtract(before.create)
    got = sum(used.values()) + sum(more.values())
    able = [source for source in sources if source.suits(last)]
    assert all(many == 0 or kind in last.kinds for kind, many in used.items())
    assert all(many == 0 or pool in {source.pool for source in able} for pool, many in more.items())
    # It goes without only where nothing is left that could serve it.
    if got < last.count:
        assert all(after.left.get(kind, 0) == 0 for kind in last.kinds)
        assert all(after.create.get(source.pool, 0) == source.room for source in able)
    # Nothing is created for whom there is enough.
    assert sum(more.values()) == 0 or all(after.left.get(kind, 0) == 0 for kind in last.kinds)


# What a pool does now


def some(
    many: int, state: ResourceState = FREE, *, name: str = "vm", ago: timedelta = MINUTE, **more: object
) -> list[Instance]:
    """So many of a pool's resources, which were created and are in their state for so long."""
    known: dict[str, object] = {"spare": state is FREE, "created_at": NOW - ago, "since": NOW - ago, **more}
    return [Instance(name=f"{name}{n}", state=state, **known) for n in range(many)]  # type: ignore[arg-type]


def planned(size: Size, instances: Sequence[Instance] = (), *, used: int = 0, **more: object) -> Plan:
    """What a pool does now; those who wait count on `used` of what is free or being created in it."""
    counted = sum(one.spare or (one.state is CREATING and not one.unwanted) for one in instances)
    standing = Standing(size=size, instances=instances, left=counted - used, **more)  # type: ignore[arg-type]
    return sizing.plan(standing, NOW)


def deleted(size: Size, instances: Sequence[Instance], **more: object) -> list[str]:
    """The names of what is deleted."""
    return sorted(planned(size, instances, **more).delete)  # type: ignore[arg-type]


NOTHING = Plan(create=0, delete={}, look_at=None)
ROOMY = Size(max=9, max_creating=9)


def test_a_pool_that_nobody_needs_stays_empty() -> None:
    assert planned(ROOMY) == NOTHING


@pytest.mark.parametrize(
    ("instances", "create"),
    [
        ([], 3),
        (some(1), 2),
        (some(1) + some(1, CREATING), 1),
        (some(3), 0),
        # What is leased, kept, offline or broken is none of them.
        (some(3, LEASED), 3),
        (some(2, FREE, spare=False), 3),
        (some(2, FREE, spare=False, kept_until=NOW + MINUTE), 3),
        (some(2, BROKEN), 3),
    ],
)
def test_a_pool_keeps_some_free_for_whoever_comes(instances: list[Instance], create: int) -> None:
    assert planned(Size(max=9, max_creating=9, min_free=3, keep_broken=9), instances).create == create


def test_what_is_kept_free_is_kept_beside_what_those_who_wait_will_get() -> None:
    # Two wait for what is free, and one more for what has yet to be created.
    assert planned(Size(max=9, max_creating=9, min_free=2), some(2), used=2, wanted=1).create == 3


def test_no_more_exist_than_the_size_allows_whatever_their_state() -> None:
    size = Size(max=5, max_creating=9, min_free=9, keep_broken=9)
    states = [LEASED, BROKEN, RECYCLING, DELETING]
    there = [one for state in states for one in some(1, state, name=state)]
    assert planned(size, there).create == 1
    assert planned(size, there + some(1)).create == 0
    # What is deleted now is there until it is gone.
    old = some(1, ago=2 * MINUTE)
    assert planned(Size(max=5, max_creating=9, min_free=9, keep_broken=9, age=MINUTE), there + old).create == 0


def test_what_goes_is_replaced_only_where_it_was_counted_on() -> None:
    size = Size(max=9, max_creating=9, min_free=1)
    assert planned(size, some(1) + some(2, name="kept", spare=False, kept_until=NOW)).create == 0
    assert planned(size, some(1) + some(2, BROKEN, name="broken")).create == 0


def test_no_more_are_created_at_once_than_the_size_allows() -> None:
    assert planned(Size(max=9, max_creating=2), wanted=5).create == 2
    assert planned(Size(max=9, max_creating=2), some(1, CREATING), used=1, wanted=5).create == 1
    assert planned(Size(max=9, max_creating=2), some(3, CREATING), used=3, wanted=5).create == 0


def test_with_a_delay_creations_begin_one_after_the_other() -> None:
    size = Size(max=9, max_creating=9, create_delay=MINUTE)
    first = planned(size, wanted=3)
    assert (first.create, first.look_at) == (1, NOW + MINUTE)
    begun = Attempts(last_start_at=NOW - 20 * SECOND)
    waits = planned(size, some(1, CREATING), used=1, wanted=2, attempts=begun)
    assert (waits.create, waits.look_at) == (0, NOW + 40 * SECOND)
    later = planned(size, some(1, CREATING), used=1, wanted=2, attempts=Attempts(last_start_at=NOW - MINUTE))
    assert later.create == 1
    # Where nothing is missing there is nothing to look at.
    assert planned(size, attempts=begun) == NOTHING


def test_after_each_failure_a_pool_pauses_for_twice_as_long_but_not_for_ever() -> None:
    pauses = [sizing.pause_after(failures).total_seconds() for failures in range(12)]
    assert pauses == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert sizing.pause_after(10**9) == 5 * MINUTE


def test_a_pool_that_pauses_creates_nothing_until_it_is_time() -> None:
    failed = Attempts(last_start_at=NOW - MINUTE, failures=1, retry_at=NOW + SECOND)
    assert planned(ROOMY, wanted=2, attempts=failed) == Plan(create=0, delete={}, look_at=NOW + SECOND)
    assert planned(ROOMY, wanted=2, attempts=Attempts(failures=1, retry_at=NOW)).create == 2
    # A delay that ends later counts too.
    delayed = Size(max=9, create_delay=2 * MINUTE)
    assert planned(delayed, wanted=2, attempts=failed).look_at == NOW + MINUTE


def test_a_pool_that_keeps_failing_tries_one_once_it_is_time() -> None:
    size = Size(max=9, max_creating=9, min_free=4)
    assert planned(size, attempts=Attempts(failures=3, retry_at=NOW + SECOND)) == Plan(
        create=0, delete={}, look_at=NOW + SECOND
    )
    assert planned(size, attempts=Attempts(failures=3, retry_at=NOW)).create == 1
    assert planned(size, some(1, CREATING), attempts=Attempts(failures=3, retry_at=NOW)).create == 0
    assert planned(size, some(1), attempts=Attempts(failures=0)).create == 3


def test_a_pool_that_keeps_failing_is_looked_at_when_it_is_time_though_nobody_is_counted_as_waiting_for_it() -> None:
    # It has no room until then, so that those who wait are wanted of it no more.
    failed = Attempts(failures=sizing.OPENS_AFTER, retry_at=NOW + 4 * SECOND)
    assert planned(ROOMY, wanted=0, attempts=failed).look_at == NOW + 4 * SECOND
    assert planned(ROOMY, wanted=0, attempts=Attempts(failures=3, retry_at=NOW)) == NOTHING


def test_what_nobody_needs_goes_at_once_or_after_it_was_idle_for_long_enough() -> None:
    assert planned(Size(), some(2)).delete == {"vm0": "nobody needs it", "vm1": "nobody needs it"}
    idle = planned(Size(idle=3 * MINUTE), some(1, ago=MINUTE) + some(1, name="old", ago=3 * MINUTE))
    assert idle == Plan(create=0, delete={"old0": "nobody needs it"}, look_at=NOW + 2 * MINUTE)


def test_idle_is_counted_from_when_it_became_free() -> None:
    assert deleted(Size(idle=3 * MINUTE), some(1, created_at=NOW - 60 * MINUTE)) == []


def test_of_what_is_too_much_that_goes_which_was_free_for_longest() -> None:
    there = some(1, name="new") + some(1, name="old", ago=9 * MINUTE) + some(1, name="older", ago=10 * MINUTE)
    assert deleted(Size(min_free=1), there) == ["old0", "older0"]
    # However old they are.
    used = some(1, name="used", created_at=NOW - 60 * MINUTE)
    assert deleted(Size(min_free=1), used + some(1, name="x", ago=9 * MINUTE)) == ["x0"]


def test_what_those_who_wait_count_on_is_not_too_much() -> None:
    assert deleted(Size(), some(3), used=2) == ["vm0"]
    assert deleted(Size(), some(3), used=3) == []
    # One of them goes in any case.
    assert deleted(Size(min_free=1, age=9 * MINUTE), some(2) + some(1, name="old", ago=9 * MINUTE), used=1) == ["old0"]


def test_what_is_ready_does_not_go_because_more_is_coming() -> None:
    # Somebody has waited for two more, and waits no more: they may fail to come.
    there = some(1) + some(2, CREATING, name="coming")
    assert planned(Size(min_free=1), there) == NOTHING
    assert deleted(Size(min_free=1), some(3)) == ["vm0", "vm1"]
    # Two are waited for, of which one is free.
    assert deleted(Size(), there, used=2) == []
    # What goes as soon as it is made is nobody's.
    assert deleted(Size(), some(2) + some(1, CREATING, name="coming", unwanted=True)) == ["vm0", "vm1"]


def test_what_is_too_old_goes_and_another_is_created_in_its_stead() -> None:
    size = Size(max=9, max_creating=9, min_free=2, age=5 * MINUTE)
    old, young = some(1, name="old", ago=5 * MINUTE), some(1, ago=4 * MINUTE)
    assert planned(size, old + young) == Plan(create=1, delete={"old0": "it is too old"}, look_at=NOW + MINUTE)


def test_its_age_is_counted_from_when_it_was_created() -> None:
    assert planned(Size(min_free=1, age=5 * MINUTE), some(1, since=NOW - 5 * MINUTE)).look_at == NOW + 4 * MINUTE
    assert deleted(Size(min_free=1, age=5 * MINUTE), some(1, created_at=NOW - 5 * MINUTE)) == ["vm0"]


@pytest.mark.parametrize("state", [LEASED, CREATING, RECYCLING, DELETING])
def test_what_is_not_free_is_never_too_old(state: ResourceState) -> None:
    assert deleted(Size(age=SECOND), some(3, state)) == []


def test_what_is_kept_for_a_key_stays_until_nobody_has_come_for_it() -> None:
    kept = some(1, spare=False, kept_until=NOW + MINUTE)
    late = some(1, name="late", spare=False, kept_until=NOW)
    size = Size(age=SECOND, idle=SECOND)
    assert planned(size, kept + late) == Plan(
        create=0, delete={"late0": "nobody came for it again"}, look_at=NOW + MINUTE
    )


def test_what_is_offline_or_suspect_is_left_alone() -> None:
    assert planned(Size(age=SECOND), some(2, spare=False)) == NOTHING


def test_what_failed_goes_but_for_those_that_failed_last() -> None:
    broken = [one for n in range(4) for one in some(1, BROKEN, name=f"n{n}-", ago=n * MINUTE)]
    assert deleted(Size(), broken) == ["n0-0", "n1-0", "n2-0", "n3-0"]
    kept = planned(Size(keep_broken=2, keep_broken_for=10 * MINUTE), broken)
    assert kept == Plan(create=0, delete={"n2-0": "it is broken", "n3-0": "it is broken"}, look_at=NOW + 9 * MINUTE)


def test_what_failed_is_not_kept_for_longer_than_it_may() -> None:
    broken = some(1, BROKEN, ago=MINUTE) + some(1, BROKEN, name="old", ago=2 * MINUTE)
    size = Size(keep_broken=9, keep_broken_for=2 * MINUTE)
    assert planned(size, broken) == Plan(create=0, delete={"old0": "it is broken"}, look_at=NOW + MINUTE)


def test_what_failed_and_is_to_go_takes_no_place_of_what_is_kept() -> None:
    broken = some(1, BROKEN, name="last", ago=SECOND, unwanted=True) + some(1, BROKEN)
    assert deleted(Size(keep_broken=1), broken) == ["last0"]


def test_a_pool_that_has_more_than_it_may_deletes_the_oldest_that_are_free() -> None:
    there = some(2, LEASED, name="leased") + some(2) + some(1, name="x", ago=9 * MINUTE)
    plan = planned(Size(max=3, min_free=3, idle=60 * MINUTE), there)
    assert plan == Plan(create=0, delete={"x0": "there are more than 3", "vm0": "there are more than 3"}, look_at=None)
    # Also if somebody waits for them, and only what is free.
    assert deleted(Size(max=1), there, used=3) == ["vm0", "vm1", "x0"]
    # What is left goes where nobody needs it.
    assert planned(Size(max=3), there).delete["vm1"] == "nobody needs it"


def test_what_goes_in_any_case_makes_room_for_what_is_free() -> None:
    size = Size(max=2, min_free=2, age=9 * MINUTE)
    for going in (some(1, DELETING, name="x"), some(1, BROKEN, name="x"), some(1, name="x", ago=9 * MINUTE)):
        assert "vm0" not in deleted(size, some(2) + going)


@pytest.mark.parametrize("state", [FREE, BROKEN])
def test_what_its_pool_is_to_have_no_longer_goes_once_nobody_has_it(state: ResourceState) -> None:
    size = Size(min_free=5, keep_broken=5)
    assert deleted(size, some(1, state, spare=False, unwanted=True)) == ["vm0"]
    assert deleted(size, some(1, LEASED, unwanted=True) + some(1, CREATING, name="x", unwanted=True)) == []


def test_a_drained_pool_deletes_all_that_nobody_has_and_creates_nothing() -> None:
    there = some(2) + some(1, name="offline", spare=False)
    there += some(1, name="kept", spare=False, kept_until=NOW + MINUTE)
    there += some(1, BROKEN, name="broken", ago=SECOND)
    held = [one for state in (LEASED, CREATING, RECYCLING, DELETING) for one in some(1, state, name=state)]
    size = Size(max=20, max_creating=9, min_free=9, keep_broken=9, idle=60 * MINUTE)
    standing = Standing(size=size, instances=there + held, closing=True)
    plan = sizing.plan(standing, NOW)
    assert sorted(plan.delete) == ["broken0", "kept0", "offline0", "vm0", "vm1"]
    assert (plan.create, plan.look_at) == (0, None)
    paused = sizing.plan(Standing(size=size, instances=there + held, closing=True, growing=False), NOW)
    assert paused == plan


def test_a_paused_pool_creates_nothing_and_deletes_nothing_that_is_too_much() -> None:
    assert planned(Size(max=9, max_creating=9, min_free=5), growing=False, wanted=3) == NOTHING
    assert planned(Size(max=1), some(4), growing=False) == NOTHING
    # What is broken, or too old, goes all the same.
    there = some(1, BROKEN, name="broken") + some(1)
    assert deleted(Size(age=MINUTE), there, growing=False) == ["broken0", "vm0"]


def test_a_pool_on_demand_keeps_nothing_free() -> None:
    size = Size(max=9, max_creating=9, min_free=5)
    assert planned(size, on_demand=True) == NOTHING
    assert planned(size, on_demand=True, wanted=2).create == 2
    assert deleted(size, some(2), on_demand=True, used=1) == ["vm0"]


def test_what_comes_first_is_looked_at_first() -> None:
    size = Size(max=9, min_free=3, create_delay=9 * MINUTE, age=10 * MINUTE, keep_broken=1, keep_broken_for=8 * MINUTE)
    there = some(1, spare=False, kept_until=NOW + 6 * MINUTE, name="kept")
    there += some(1, BROKEN, name="broken", ago=MINUTE)
    assert planned(size, there).look_at == NOW + 6 * MINUTE
    assert planned(size, there + some(1, ago=5 * MINUTE)).look_at == NOW + 5 * MINUTE
