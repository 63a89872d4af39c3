"""75 hosts, three requests of 25 at once: the real service in virtual time, and how soon each is delivered."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from leasehold.model import LeaseState
from tests.simulation.bound import earliest, through_the_gate
from tests.simulation.chart import draw
from tests.simulation.lab import Delivered, simulate
from tests.simulation.plan import AS_ASKED, EACH, KICKSTART, KICKSTARTS, MINUTE, WITH_ROOM, Plan

DOCUMENTS = Path(__file__).parents[2] / "docs" / "why"
WANTED = 45 * MINUTE
SMALL = Plan(hosts=10, requests=2, each=5, slots=2, one_in_fails_once=5, one_in_fails_for_good=10)


def check(plan: Plan, delivered: list[Delivered]) -> None:
    """Everybody got all hosts, each through everything, and never more at the provisioner than it serves."""
    for one in delivered:
        assert one.lease.state is LeaseState.ACTIVE
        ready = [resource.name for resource in one.lease.resources if resource.state == "ready"]
        assert len(set(ready)) == plan.each
        passed = {(run.resource, plan.work(run)) for run in one.runs if run.ok}
        assert passed >= {(host, work) for host in ready for work in EACH}
        ends = [run.ended_at for run in one.runs]
        assert one.lease.active_at == max(end for end in ends if end is not None), "delivered when the last is ready"
    kickstarts = [run for one in delivered for run in one.runs if plan.work(run) == KICKSTART]
    for begun in kickstarts:
        at = begun.started_at
        busy = sum(run.started_at <= at and run.ended_at is not None and at < run.ended_at for run in kickstarts)
        assert busy <= plan.slots


def check_picture(plan: Plan, delivered: list[Delivered]) -> None:
    """The document shows this very simulation: after a change of either, `make simulate` draws it anew."""
    shown = ElementTree.fromstring((DOCUMENTS / f"delivery-with-{plan.slots}-slots.svg").read_text())
    words = " ".join("".join(shown.itertext()).split())
    told = (DOCUMENTS / "how-soon-hosts-are-delivered.md").read_text()
    for one, bound in zip(delivered, earliest(plan, delivered), strict=True):
        after, least = (span.total_seconds() / 60 for span in (one.after, bound))
        assert f"after {after:.0f} min" in words
        assert f"| lease {one.lease.number} | {after:.1f} min | {least:.1f} min |" in told


def ratios(plan: Plan, delivered: list[Delivered]) -> list[float]:
    """How much later each was delivered than it could have been at the earliest."""
    return [one.after / bound for one, bound in zip(delivered, earliest(plan, delivered), strict=True)]


@pytest.mark.timeout(300)
async def test_three_leases_of_25_are_delivered_as_soon_as_ten_slots_allow(
    temporal_address: str, tmp_path: Path
) -> None:
    delivered = await simulate(AS_ASKED, temporal_address, tmp_path)

    check(AS_ASKED, delivered)
    check_picture(AS_ASKED, delivered)
    assert max(ratios(AS_ASKED, delivered)) <= 1.1
    assert any(not run.ok for one in delivered for run in one.runs), "hosts failed, as planned"
    assert {e.resource for one in delivered for e in one.events if e.kind == "resource_repaired"}, "and were repaired"


@pytest.mark.timeout(300)
async def test_with_twice_the_slots_and_some_spare_hosts_all_three_are_delivered_within_45_minutes(
    temporal_address: str, tmp_path: Path
) -> None:
    delivered = await simulate(WITH_ROOM, temporal_address, tmp_path)

    check(WITH_ROOM, delivered)
    check_picture(WITH_ROOM, delivered)
    assert max(ratios(WITH_ROOM, delivered)) <= 1.1
    assert max(one.after for one in delivered) <= WANTED
    broken = [e.resource for one in delivered for e in one.events if e.kind == "resource_broken"]
    held = {r.name for one in delivered for r in one.lease.resources if r.state == "ready"}
    assert broken, "hosts failed for good, as planned"
    assert held.isdisjoint(broken), "and others took their places"


def test_ten_slots_cannot_bring_75_hosts_through_within_45_minutes_however_they_are_handed_out() -> None:
    fastest = [KICKSTARTS[0]] * 75

    assert through_the_gate(fastest, 10) == 40 * MINUTE
    assert 5 * MINUTE + through_the_gate(fastest, 10) + 10 * MINUTE > WANTED


@pytest.mark.parametrize(
    ("jobs", "slots", "least"),
    [
        ([8], 10, 8),
        ([5, 6, 7], 1, 18),
        ([5, 5, 5], 2, 10),
        ([4, 5, 6], 2, 9),
        ([5] * 20, 10, 10),
        ([5] * 21, 10, 15),
        ([1] * 10 + [9], 10, 9),
    ],
)
def test_the_bound_is_what_a_perfect_order_needs(jobs: list[int], slots: int, least: int) -> None:
    assert through_the_gate([job * MINUTE for job in jobs], slots) == least * MINUTE


async def test_the_same_plan_gives_the_same_times_and_the_same_picture(temporal_address: str, tmp_path: Path) -> None:
    told, pictures = [], []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        delivered = await simulate(SMALL, temporal_address, folder)
        check(SMALL, delivered)
        draw(SMALL, delivered, folder / "picture.svg")
        told.append(
            sorted(
                (run.resource, run.stage, run.attempt, run.started_at, run.ended_at)
                for d in delivered
                for run in d.runs
            )
        )
        pictures.append((folder / "picture.svg").read_text())

    assert told[0] == told[1]
    assert pictures[0] == pictures[1]
    shown = ElementTree.fromstring(pictures[0])
    assert "lease 2" in "".join(shown.itertext())
