"""A process killed anywhere between the commit of a grant and its lease's knowing of it: the lease is active, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from leasehold.errors import Conflict
from leasehold.store import tables as t
from tests.faults import campaign
from tests.faults.campaign import Order
from tests.faults.lane import Scene, again
from tests.faults.nursery import Nursery
from tests.faults.points import Call, Moment, Point, Victim

LANES = 4
PREPARED = {"wipe": ":", "deliver": "echo key"}
BEFORE, AFTER, UNTOLD = Moment.BEFORE, Moment.AFTER, Moment.UNTOLD


# How a lease is granted


def at_once(scene: Scene) -> None:
    """By its own admission."""
    is_active_once(scene, scene.take(scene.pool(stages=PREPARED), "one"))


def handed_on(scene: Scene) -> None:
    """By the one before it, whose closing frees the resource."""
    pool = scene.pool(stages=PREPARED)
    first, second = scene.take(pool, "first", wait=True), scene.take(pool, "second")
    scene.client.release(first)
    is_active_once(scene, second)


def cleaned(scene: Scene) -> None:
    """By the recycling after the one before it."""
    pool = scene.pool(stages={**PREPARED, "release": ":"})
    first, second = scene.take(pool, "first", wait=True), scene.take(pool, "second")
    scene.client.release(first)
    is_active_once(scene, second)


def brought_online(scene: Scene) -> None:
    """By an operator who marks the resource online."""
    pool = scene.pool(stages=PREPARED)
    scene.client.offline(pool, "r0", "moving")
    lease = scene.take(pool, "one")
    again(lambda: scene.client.online(pool, "r0"))
    is_active_once(scene, lease)


def added(scene: Scene) -> None:
    """By an operator who adds a resource."""
    pool = scene.pool(stages=PREPARED)
    scene.client.offline(pool, "r0", "moving")
    lease = scene.take(pool, "one")
    again(lambda: scene.client.put_resource(pool, "r1"))
    is_active_once(scene, lease)
    scene.client.online(pool, "r0")


def repaired(scene: Scene) -> None:
    """By an operator who repairs a resource."""
    pool = scene.pool(stages={"wipe": "test -e fixed || exit 1"}, on_failure="fail")
    scene.ends(scene.take(pool, "fails"), "failed")
    lease = scene.take(pool, "one")
    (scene.hooks.folder / "fixed").touch()
    again(lambda: scene.client.repair(pool, "r0"), done=Conflict)
    is_active_once(scene, lease)


def is_active_once(scene: Scene, lease: str) -> None:
    """The lease becomes active, got one resource under one grant, and each attempt of its stages has one result."""
    scene.comes_to(lease, "active")
    assert scene.happened(lease, "lease_active") == 1
    with scene.lane.database() as connection:
        grants = connection.execute(select(t.grants).where(t.grants.c.lease == lease)).all()
        runs = connection.execute(select(t.runs).where(t.runs.c.lease == lease)).all()
    assert len(grants) == 1
    results = Counter((run.stage, run.hook, run.attempt) for run in runs if run.ending == "exited")
    assert results
    assert set(results.values()) == {1}, results
    scene.client.release(lease)
    scene.ends(lease, "released")
    scene.all_free(scene.name)


# Who is killed, and where

RELEASED = Call(method="close_lease", about="released")
KILLS: list[tuple[Callable[[Scene], None], Call, int, tuple[Moment, ...]]] = [
    # The grant.
    (at_once, Call(method="admit"), 1, (AFTER,)),
    (handed_on, RELEASED, 1, (AFTER, UNTOLD)),
    (cleaned, Call(method="recycled"), 1, (AFTER, UNTOLD)),
    (brought_online, Call(method="online"), 1, (AFTER, UNTOLD)),
    (added, Call(method="put_resource"), 1, (AFTER, UNTOLD)),
    (repaired, Call(method="repair"), 1, (AFTER, UNTOLD)),
    # Its way through the relay.
    (handed_on, Call(method="outbox_due"), 1, (AFTER,)),
    (handed_on, Call(method="_signal"), 1, (BEFORE, AFTER)),
    (handed_on, Call(method="outbox_delivered"), 1, (BEFORE, AFTER)),
    # The lease looks at its grants, and is delivered.
    (handed_on, Call(method="standing"), 1, (BEFORE, AFTER)),
    (handed_on, Call(method="activate"), 2, (BEFORE, AFTER)),
    (at_once, Call(method="activate"), 1, (BEFORE, AFTER)),
]


@pytest.mark.timeout(300)
def test_a_kill_between_a_grant_and_its_lease_delays_it_and_changes_nothing(tmp_path: Path) -> None:
    orders = [
        Order(scenario, Point(call=call, moment=moment, victim=Victim.ITSELF, nth=nth))
        for scenario, call, nth, moments in KILLS
        for moment in moments
    ]
    with Nursery(preload=True) as nursery:
        report = campaign.run(tmp_path, nursery, orders, LANES)

    assert not report.violations, "\n\n".join(report.violations)
    assert not report.missed, f"these were not come to: {[str(order) for order in report.missed]}"
    assert sum(report.done.values()) == len(orders)
