"""`kill -9` at every commit that the service makes: no lease is lost, doubled or leaked, whoever is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import campaign, scenarios
from tests.faults.campaign import Order
from tests.faults.lane import Lane, Scene, Violation
from tests.faults.nursery import Nursery
from tests.faults.points import writing_methods

LANES = 6
"""Stacks side by side: mostly they wait for the death of a process to be noticed."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery(preload=True) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def orders(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> list[Order]:
    """Every kill, found by playing every scenario once without one."""
    with Lane(tmp_path_factory.mktemp("kills") / "lane", nursery) as lane:
        found = campaign.orders(lane, scenarios.ALL, scenarios.NOT_REACHED)
        assert lane.strays() == [], "these transactions are in no method of a port: no kill can be ordered there"
        return found


def test_every_method_that_writes_is_reached_or_listed(orders: list[Order]) -> None:
    reached = {order.point.call.method for order in orders}
    left = {name for _, name in writing_methods()} - reached
    assert left == set(scenarios.NOT_REACHED), "play it in tests/faults/scenarios.py, or list it there with a reason"


def test_a_process_that_outlives_its_hook_would_be_noticed(nursery: Nursery, tmp_path: Path) -> None:
    """A test of the tests: what they check is not true by itself."""

    def lives_on(scene: Scene) -> None:
        # The hook must not end, and its session be killed, before the process has left it.
        left = "setsid sh -c 'touch left; exec sleep 20' & while ! test -e left; do sleep 0.02; done"
        pool = scene.pool(stages={"wipe": left, "release": ":"})
        lease = scene.take(pool, "one", wait=True)
        scene.client.release(lease)
        scene.all_free(pool)

    with Lane(tmp_path / "lane", nursery) as lane, pytest.raises(Violation, match="while processes of an earlier"):
        lane.play(lives_on)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_kill_at_any_commit_breaks_a_lease(orders: list[Order], nursery: Nursery, tmp_path: Path) -> None:
    """After each one, every lease has ended as its story says, and everything that was lent has come back.

    Each hook found nothing alive of the one before it, and none of a newer epoch before it.
    """
    report = campaign.run(tmp_path, nursery, orders, LANES)
    assert not report.violations, "\n\n".join(report.violations)
    assert not report.missed, f"these were not come to: {[str(order) for order in report.missed]}"
    assert sum(report.done.values()) == len(orders)
