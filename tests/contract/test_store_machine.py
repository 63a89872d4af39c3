"""Anything that may happen, in any order: never lent twice, never beyond a quota, nobody passed over or too often.

`make machine` plays it for longer.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from leasehold import allocation
from leasehold.allocation import Candidate
from leasehold.errors import Conflict
from leasehold.messages import Claim
from leasehold.model import Item, Outcome, Policy, Quota, ResourceSpec
from leasehold.store import specs, stock
from leasehold.store import tables as t
from tests.contract import ledger
from tests.contract.store_lab import Lab, file, spec
from tests.postgres import Postgres

FEW_RUNS = 40
RUNS, STEPS = int(os.environ.get("LEASEHOLD_MACHINE_RUNS", FEW_RUNS)), 50
OVERTAKES = 1
PER_OWNER, AT_ONCE = Quota(leases=3, resources=4), Quota(resources=5)
OWNERS = ("alice", "bob", "carol")
WISHES = (
    (Item(pool="plain"),),
    (Item(pool="plain"),),
    (Item(pool="plain", count=3),),
    (Item(pool="plain", count=4),),
    (Item(pool="plain"),),
    (Item(pool="plain", count=3),),
    (Item(pool="plain", tags=("fast",)),),
    (Item(pool="plain", names=("plain1",)), Item(pool="plain")),
    (Item(pool="plain", match=("serial=S2",)),),
    (Item(pool="plain"), Item(pool="limited", count=2)),
    (Item(pool="limited"),),
    (Item(pool="limited", count=3),),
    (Item(pool="fair"),),
    (Item(pool="fair", count=2),),
    (Item(),),
    (Item(tags=("fast",), count=2),),
)
DURATIONS = ("2m", "5m", "1h")
NewUrl = Callable[[], Any]


class Anything(RuleBasedStateMachine):
    """Requests, releases, failures, operators; what must hold is looked at after each of them."""

    new_url: NewUrl

    def __init__(self) -> None:
        super().__init__()
        self._database = self.new_url()
        self._lab = Lab(self._database.__enter__())
        self._runner = asyncio.Runner()
        self._asked = 0
        self._passed: Counter[str] = Counter()
        self._waiting: list[Any] = []
        self._promises: list[Any] = []
        self._last_grant = 0

    def run(self, doing: Any) -> Any:
        """Do something of the lab's."""
        return self._runner.run(doing)

    @initialize()
    def pools(self) -> None:
        policies = {
            "plain": Policy(overtakes=OVERTAKES),
            "limited": Policy(overtakes=OVERTAKES, per_owner=PER_OWNER, at_once=AT_ONCE),
            "fair": Policy(overtakes=OVERTAKES, fair_share=True),
        }
        made = [
            (
                spec(name, "validate", "release", policy=policy),
                [
                    ResourceSpec(
                        name=f"{name}{n}",
                        tags=("fast",) if n == 0 else (),
                        properties={"serial": f"S{n}", "cores": n % 2},
                    )
                    for n in range(4 if name != "limited" else 7)
                ],
            )
            for name, policy in policies.items()
        ]
        self.run(self._lab.store.apply(file(*made), "operator"))

    @rule(
        wish=st.sampled_from(WISHES),
        owner=st.sampled_from(OWNERS),
        priority=st.sampled_from((0, 0, 0, 1)),
        lasts=st.sampled_from(DURATIONS),
        patience=st.sampled_from((None, None, None, "3m")),
    )
    def ask(self, wish: tuple[Item, ...], owner: str, priority: int, lasts: str, patience: str | None) -> None:
        self.submit(*wish, owner=owner, priority=priority, duration=lasts, queue_timeout=patience)

    @rule(
        wish=st.sampled_from(WISHES),
        owner=st.sampled_from(OWNERS),
        lasts=st.sampled_from(DURATIONS),
        minutes=st.integers(1, 9),
    )
    def reserve(self, wish: tuple[Item, ...], owner: str, lasts: str, minutes: int) -> None:
        at = self._lab.clock.now + timedelta(minutes=minutes)
        self.submit(*wish, owner=owner, duration=lasts, start_at=at)

    def submit(self, *wish: Item, **asked: Any) -> None:
        """Ask for something."""
        # One that is refused keeps its name: asked again, it would be answered alike.
        self._asked += 1
        self.run(self._lab.submit(f"lease{self._asked}", *wish, **asked))

    @precondition(lambda self: self.standing("active"))
    @rule(data=st.data(), by=st.sampled_from(DURATIONS))
    def extend(self, data: st.DataObject, by: str) -> None:
        self.run(self._lab.extend(data.draw(st.sampled_from(self.standing("active"))), by))

    @precondition(lambda self: self.standing("preparing"))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.standing("preparing")))
        if not self.run(self._lab.store.standing(name)).missing:
            self.run(self._lab.store.activate(name))

    @precondition(lambda self: self.standing("queued", "preparing", "active"))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.standing("queued", "preparing", "active")))
        self.run(self._lab.close(name, Outcome.RELEASED))

    @precondition(lambda self: self.standing("preparing"))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.standing("preparing")))
        claims: tuple[Claim, ...] = self.run(self._lab.store.standing(name)).claims
        if claims:
            self.run(self._lab.report(name, data.draw(st.sampled_from(claims))))

    @rule()
    def clean(self) -> None:
        """End every recycling."""
        for resource in self.rows(select(t.resources).where(t.resources.c.state == "recycling")):
            claim = self.run(self._lab.recycling_of(resource.name))[-1]
            self.run(self._lab.recycled_claim(claim))

    @rule(pool=st.sampled_from(("plain", "limited", "fair")), paused=st.booleans())
    def pause(self, pool: str, paused: bool) -> None:
        store = self._lab.store
        self.run(store.pause(pool, "new switch", "op") if paused else store.resume(pool, "op"))

    @rule(pool=st.sampled_from(("plain", "fair")), n=st.integers(0, 3), off=st.booleans())
    def operate(self, pool: str, n: int, off: bool) -> None:
        store = self._lab.store
        self.run(store.offline(pool, f"{pool}{n}", "moved", "op") if off else store.online(pool, f"{pool}{n}", "op"))

    @rule()
    def repair(self) -> None:
        for resource in self.rows(select(t.resources).where(t.resources.c.state == "broken")):
            try:
                self.run(self._lab.store.repair(resource.pool, resource.name, "op"))
            except Conflict:
                pass

    @rule(minutes=st.integers(1, 3))
    def let_time_pass(self, minutes: int) -> None:
        """Their workflows look after each lease for which something is due."""
        self._lab.clock.forward(minutes=minutes)
        for name in self.standing("active"):
            self.run(self._lab.tick(name))
        for name in self.standing("queued"):
            self.run(self._lab.store.wake(name))

    @invariant()
    def nothing_is_wrong(self) -> None:
        faults = self.run(ledger.faults(self._lab.store))
        assert not faults, faults

    @invariant()
    def nobody_waits_for_longer_than_it_would(self) -> None:
        late = t.leases.c.waiting & (t.leases.c.state == "queued") & (t.leases.c.wait_until <= self._lab.clock.now)
        assert self.rows(select(t.leases.c.id).where(late)) == []

    @invariant()
    def what_happened_since_the_last_step_was_right(self) -> None:
        self.who_was_granted_something_gives_it_back_before_it_is_promised()
        self.nobody_is_overtaken_too_often()
        self._promises = self.rows(select(t.promises))

    def who_was_granted_something_gives_it_back_before_it_is_promised(self) -> None:
        """Looked at for what was granted since the last step, beside what was promised then to who still waits."""
        waiting = self.standing("queued")
        for grant in self.rows(
            select(t.grants, t.leases.c.duration_s)
            .join(t.leases, t.leases.c.id == t.grants.c.lease)
            .where(t.grants.c.closed_at.is_(None), t.grants.c.id > self._last_grant)
            .order_by(t.grants.c.id)
        ):
            self._last_grant = grant.id
            end = grant.granted_at + timedelta(seconds=grant.duration_s)
            theirs = [
                promise
                for promise in self._promises
                if (promise.pool, promise.resource) == (grant.pool, grant.resource)
                and (promise.lease in waiting or promise.lease == grant.lease)
            ]
            # Its own promise goes before that of others, though it be late.
            if any(promise.lease == grant.lease for promise in theirs):
                continue
            assert all(promise.begins >= end for promise in theirs), f"{grant} has what is promised: {self._promises}"

    @invariant()
    def a_reservation_begins_when_its_time_has_come_and_what_it_wants_is_free(self) -> None:
        due = t.queue.c.start_at <= self._lab.clock.now
        first = self.rows(
            select(t.leases, t.queue.c.start_at)
            .join(t.queue, t.queue.c.lease == t.leases.c.id)
            .where(due)
            .order_by(t.leases.c.priority.desc(), t.leases.c.number)
            .limit(1)
        )
        for row in first:
            items = specs.items_from_json(row.wanted)
            if {item.pool for item in items} == {"plain"} and not self.rows(
                select(t.pools.c.name).where(t.pools.c.paused_since.is_not(None))
            ):
                free = self.rows(select(t.resources).where(*stock.GRANTABLE))
                others = {(p.pool, p.resource) for p in self.rows(select(t.promises)) if p.lease != row.id}
                mine = [stock.as_candidate(r) for r in free if (r.pool, r.name) not in others]
                assert allocation.assign(items, mine) is None, f"{row.id} is due, and could begin"

    @invariant()
    def no_quota_is_exceeded(self) -> None:
        held: Counter[str] = Counter()
        leases: dict[str, set[str]] = {}
        for grant in self.rows(select(t.grants).where(t.grants.c.closed_at.is_(None), t.grants.c.pool == "limited")):
            held[grant.owner] += 1
            leases.setdefault(grant.owner, set()).add(grant.lease)
        assert sum(held.values()) <= (AT_ONCE.resources or 0)
        assert all(many <= (PER_OWNER.resources or 0) for many in held.values()), held
        assert all(len(names) <= (PER_OWNER.leases or 0) for names in leases.values()), leases

    def nobody_is_overtaken_too_often(self) -> None:
        """Counted anew from what was granted since the last step."""
        now = self.rows(
            select(
                t.leases.c.id,
                t.leases.c.owner,
                t.leases.c.priority,
                t.leases.c.number,
                t.leases.c.wanted,
                t.leases.c.duration_s,
            )
            .join(t.queue, t.queue.c.lease == t.leases.c.id)
            .where(t.leases.c.state == "queued", t.queue.c.start_at.is_(None))
            .order_by(t.leases.c.priority.desc(), t.leases.c.number)
        )
        still = {row.id for row in now}
        new = {row.id for row in self.rows(select(t.leases.c.id).where(t.leases.c.state != "queued"))} - self._granted
        self._granted |= new
        for waiter in _first_of_lanes(self._waiting):
            if waiter.id in still:
                self._passed[waiter.id] += sum(self._overtook(one, waiter) for one in new)
        for row in now:
            items = specs.items_from_json(row.wanted)
            # Others may pass who is over a quota, or behind in fairness, or has enough for one of several items.
            if len(items) == 1 and items[0].pool == "plain":
                assert self._passed[row.id] <= OVERTAKES, f"{row.id} was overtaken {self._passed[row.id]} times"
        self._waiting = now

    _granted: frozenset[str] | set[str] = frozenset()

    def _overtook(self, lease: str, waiter: Any) -> bool:
        """Whether a lease that came later, at no higher priority, was given what a waiter could have used."""
        (row,) = self.rows(select(t.leases).where(t.leases.c.id == lease))
        # A reservation is served when it was promised to be.
        if (-row.priority, row.number) < (-waiter.priority, waiter.number) or row.start_at is not None:
            return False
        end = self._lab.clock.now + timedelta(seconds=waiter.duration_s)
        promised = {(p.pool, p.resource) for p in self._promises if p.begins < end}
        given = self.rows(
            select(t.resources)
            .join(t.grants, (t.grants.c.pool == t.resources.c.pool) & (t.grants.c.resource == t.resources.c.name))
            .where(t.grants.c.lease == lease)
        )
        candidates = [
            Candidate(pool=r.pool, name=r.name, tags=frozenset(r.tags), properties=r.properties)
            for r in given
            if (r.pool, r.name) not in promised
        ]
        wanted = specs.items_from_json(waiter.wanted)
        return any(allocation.suits(item, candidate) for item in wanted for candidate in candidates)

    def standing(self, *states: str) -> list[str]:
        """The leases in these states."""
        found = self.rows(select(t.leases.c.id).where(t.leases.c.state.in_(states)).order_by(t.leases.c.number))
        return [row.id for row in found]

    def rows(self, query: Any) -> list[Any]:
        """What a query finds."""
        with self._lab.store.database.reader.connect() as connection:
            return list(connection.execute(query).all())

    def teardown(self) -> None:
        self._lab.store.close()
        self._runner.close()
        self._database.__exit__(None, None, None)


def _first_of_lanes(waiting: list[Any]) -> list[Any]:
    """Of those of one owner who want the same, the first: only that one is counted for."""
    firsts: dict[str, Any] = {}
    for row in waiting:
        firsts.setdefault(f"{row.owner} {row.wanted}", row)
    return list(firsts.values())


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path, _sqlite_templates: Callable[[str], Path]) -> NewUrl:
    """Makes databases, each for one run."""

    @contextmanager
    def sqlite() -> Iterator[str]:
        path = tmp_path / "main.db"
        shutil.copy(_sqlite_templates("main"), path)
        yield f"sqlite:///{path}"

    @contextmanager
    def postgresql() -> Iterator[str]:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.migrated("main")
        yield url
        server.give_back("main", url)

    return sqlite if request.param == "sqlite" else postgresql


@pytest.mark.timeout(1800 * max(1, RUNS // FEW_RUNS))
def test_whatever_happens_in_whatever_order(new_url: NewUrl) -> None:
    machine = type("Machine", (Anything,), {"new_url": staticmethod(new_url)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # The same runs each time, unless they are many: what is found then is found by all.
            derandomize=RUNS <= FEW_RUNS,
        ),
    )
