"""What fails its stages: quarantined, and replaced, waited for or given up; asked twice, answered alike."""

from __future__ import annotations

from datetime import timedelta

from leasehold.messages import Admitted, Blocked
from leasehold.model import Item, LeaseState, OnFailure, Outcome, Policy, StageName
from tests.contract import ledger
from tests.contract.store_lab import FAILED, Lab, file, hosts, spec

HOLD = Policy(on_failure=OnFailure.HOLD)
FAIL = Policy(on_failure=OnFailure.FAIL)
REASON = "wipe: exit status 3"


async def failure(lab: Lab, now: Admitted) -> str:
    """Why the lease has failed, which it must have."""
    lease = await lab.lease("a")
    assert now.state == lease.state == "releasing"
    assert lease.error is not None
    assert lease.error.code == "stage_failed"
    assert (await lab.store.end_lease("a")).outcome is Outcome.FAILED
    return lease.error.detail


class TestReplace:
    """The default: the lease gets another one, at the place in the queue that it had."""

    async def test_the_other_one_is_granted_in_the_same_transaction(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        broken, kept = (await lab.submit("a", Item(pool="r640", count=2))).claims

        now = await lab.report("a", broken)

        assert (now.state, now.missing) == (LeaseState.PREPARING, 0)
        assert [c.resource for c in now.claims] == ["host02", "host03"]
        assert now.claims[0] == kept
        assert await lab.states() == {"host01": "broken", "host02": "leased", "host03": "leased"}
        assert await lab.signalled() == ["a"]
        assert "lease_replaced" in await lab.kinds("a")

    async def test_reported_twice_it_is_replaced_once(self, lab: Lab) -> None:
        await lab.pool("r640", 4)
        (broken, _) = (await lab.submit("a", Item(pool="r640", count=2))).claims

        first = await lab.report("a", broken)

        assert await lab.report("a", broken) == first
        assert (await lab.kinds("a")).count("lease_replaced") == 1
        assert list((await lab.states()).values()).count("leased") == 2

    async def test_where_none_is_free_it_waits_with_what_it_has_and_says_for_what(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        broken, kept = (await lab.submit("a", Item(pool="r640", count=2))).claims
        await lab.submit("b")

        now = await lab.report("a", broken)

        assert (now.state, now.claims, now.missing) == (LeaseState.PREPARING, (kept,), 1)
        assert await lab.report("a", broken) == now
        queue = (await lab.lease("a")).queue
        assert queue is not None
        assert (queue.position, queue.reason) == (
            1,
            "needs 1 of r640; 0 free; 2 held by leases 1 and 2 until 10:00 UTC; 1 broken",
        )
        assert [lease.id for lease in await lab.store.queue("r640")] == ["a"]

    async def test_it_is_served_before_those_that_came_after_it_and_after_those_before(self, lab: Lab) -> None:
        await lab.pool("r640", 3)
        await lab.submit("a")
        (broken,) = (await lab.submit("b")).claims
        await lab.submit("c")
        await lab.submit("d")
        await lab.report("b", broken)
        assert await lab.positions("b", "d") == [1, 2]

        await lab.close("a", Outcome.CANCELLED)

        assert await lab.held("b") == ["host01"]
        assert await lab.positions("b", "d") == [None, 1]

    async def test_who_may_have_it_by_priority_has_it(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.submit("a")
        (broken,) = (await lab.submit("b")).claims
        await lab.submit("urgent", priority=5)
        await lab.report("b", broken)

        await lab.close("a", Outcome.CANCELLED)

        assert (await lab.held("urgent"), await lab.held("b")) == (["host01"], [])

    async def test_it_is_replaced_by_what_its_own_item_asked_for(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.pool("vm", 3)
        claims = (await lab.submit("a", Item(pool="r640"), Item(pool="vm", count=2, role="worker"))).claims

        await lab.report("a", claims[2])

        lease = await lab.lease("a")
        assert [(r.pool, r.name, r.item, r.role, r.state) for r in lease.resources] == [
            ("r640", "host01", 0, None, "preparing"),
            ("vm", "host01", 1, "worker", "preparing"),
            ("vm", "host02", 1, "worker", "released"),
            ("vm", "host03", 1, "worker", "preparing"),
        ]

    async def test_several_at_once_each_count(self, lab: Lab) -> None:
        await lab.pool("r640", 6, policy=Policy(replacements=3))
        claims = (await lab.submit("a", Item(pool="r640", count=3))).claims
        now = await lab.report("a", *claims[:2])
        assert now.state is LeaseState.PREPARING

        last = await lab.report("a", *now.claims[:2])

        assert await failure(lab, last)

    async def test_beyond_its_replacements_the_lease_fails_and_answers_so_again(self, lab: Lab) -> None:
        await lab.pool("r640", 5, "wipe", policy=Policy(replacements=1))
        (first,) = (await lab.submit("a")).claims
        (second,) = (await lab.report("a", first)).claims

        now = await lab.report("a", second)

        # A worker that died before it could note the answer asks again: the lease must not seem complete.
        assert await lab.report("a", second) == now
        assert list((await lab.states()).values()) == ["broken", "broken", "free", "free", "free"]
        detail = f"r640/host02: {REASON}; 1 were replaced before, and no more than 1 are"
        assert await failure(lab, now) == detail

    async def test_where_no_other_could_ever_serve_it_fails_at_once(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        _, second = (await lab.submit("a", Item(pool="r640", count=2))).claims

        now = await lab.report("a", second)

        assert await lab.report("a", second) == now
        assert await lab.states() == {"host01": "free", "host02": "broken"}
        assert (await failure(lab, now)).endswith("; there is no other resource to take its place")

    async def test_one_that_is_offline_is_waited_for(self, lab: Lab) -> None:
        await lab.pool("r640", 2)
        await lab.store.offline("r640", "host02", "moved", "operator")
        (broken,) = (await lab.submit("a")).claims

        await lab.report("a", broken)
        assert (await lab.lease("a")).queue is not None
        await lab.store.online("r640", "host02", "operator")

        assert await lab.held("a") == ["host02"]

    async def test_cancelled_while_it_waits_it_gives_all_back(self, lab: Lab) -> None:
        await lab.pool("r640", 3, "wipe", "release")
        broken, kept = (await lab.submit("a", Item(pool="r640", count=2))).claims
        await lab.submit("b")
        await lab.run("a", kept)
        await lab.report("a", broken)

        await lab.close("a", Outcome.CANCELLED)

        assert await lab.states() == {"host01": "broken", "host02": "recycling", "host03": "leased"}
        assert await lab.store.queue("r640") == []
        await lab.close("b", Outcome.CANCELLED)
        assert await lab.held("a") == []

    async def test_what_left_its_file_is_not_waited_for(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("r640", "wipe"), hosts(2))), "operator")
        (broken,) = (await lab.submit("a")).claims
        await lab.store.apply(file((spec("r640", "wipe"), hosts(1, first=2))), "operator")

        now = await lab.report("a", broken)

        assert [c.resource for c in now.claims] == ["host02"]
        assert await lab.states() == {"host02": "leased"}


class TestHold:
    """The lease keeps its place, and waits for an operator."""

    async def test_it_waits_and_says_for_what(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", policy=HOLD)
        broken, kept = (await lab.submit("a", Item(pool="r640", count=2))).claims

        now = await lab.report("a", broken)

        assert (now.state, now.claims, now.missing) == (LeaseState.PREPARING, (kept,), 1)
        lease = await lab.lease("a")
        assert [r.state for r in lease.resources] == ["broken", "preparing"]
        assert lease.queue is not None
        assert (lease.queue.position, lease.queue.reason) == (0, f"r640/host01 waits for its repair: {REASON}")

    async def test_reported_twice_it_waits_as_before(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", policy=HOLD)
        (broken,) = (await lab.submit("a")).claims
        first = await lab.report("a", broken)
        before = await lab.lease("a"), await lab.kinds("a"), await lab.store.resource("r640", "host01")

        assert await lab.report("a", broken) == first
        assert (await lab.lease("a"), await lab.kinds("a"), await lab.store.resource("r640", "host01")) == before

    async def test_repaired_it_goes_to_the_lease_and_through_all_its_stages(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "release", policy=HOLD)
        (broken,) = (await lab.submit("a")).claims
        await lab.run("a", broken, report=FAILED)
        await lab.report("a", broken)
        await lab.submit("b")

        await lab.store.repair("r640", "host01", "operator")

        now = await lab.store.standing("a")
        assert (now.missing, [s.stage for s in now.claims[0].stages]) == (0, ["wipe"])
        assert now.claims[0].epoch > broken.epoch
        assert (await lab.lease("a")).queue is None
        assert await lab.signalled() == ["a"]
        # A report of the time before the repair is old news.
        assert await lab.report("a", broken) == now

    async def test_cancelled_it_leaves_the_resource_in_quarantine(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", "release", policy=HOLD)
        (broken,) = (await lab.submit("a")).claims
        await lab.report("a", broken)

        await lab.close("a", Outcome.CANCELLED)

        assert await lab.states() == {"host01": "broken"}
        await lab.store.repair("r640", "host01", "operator")
        assert await lab.states() == {"host01": "recycling"}

    async def test_one_that_left_its_file_meanwhile_is_gone_with_the_lease(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("r640", "wipe", policy=HOLD), hosts(1))), "operator")
        (broken,) = (await lab.submit("a")).claims
        await lab.report("a", broken)
        await lab.store.apply(file((spec("r640", "wipe", policy=HOLD), hosts(1, first=2))), "operator")
        assert await lab.states() == {"host01": "broken", "host02": "free"}

        await lab.close("a", Outcome.CANCELLED)

        assert await lab.states() == {"host02": "free"}

    async def test_one_that_had_left_its_file_is_replaced_because_nobody_repairs_it(self, lab: Lab) -> None:
        await lab.store.apply(file((spec("r640", "wipe", policy=HOLD), hosts(1))), "operator")
        (broken,) = (await lab.submit("a")).claims
        await lab.store.apply(file((spec("r640", "wipe", policy=HOLD), hosts(1, first=2))), "operator")

        await lab.report("a", broken)

        assert (await lab.held("a"), await lab.states()) == (["host02"], {"host02": "leased"})

    async def test_the_policy_of_each_pool_decides_over_its_own(self, lab: Lab) -> None:
        await lab.pool("held", 1, "wipe", policy=HOLD)
        await lab.pool("replaced", 2, "wipe")
        claims = (await lab.submit("a", Item(pool="held"), Item(pool="replaced"))).claims

        now = await lab.report("a", *claims)

        assert [(c.pool, c.resource) for c in now.claims] == [("replaced", "host02")]
        assert now.missing == 1


class TestFail:
    """The lease gives up at the first."""

    async def test_it_ends_with_the_reason_and_the_others_go_back(self, lab: Lab) -> None:
        await lab.pool("r640", 3, "wipe", "release", policy=FAIL)
        broken, other = (await lab.submit("a", Item(pool="r640", count=2))).claims
        await lab.run("a", broken, report=FAILED)
        await lab.run("a", other)

        now = await lab.report("a", broken)

        assert await lab.states() == {"host01": "broken", "host02": "recycling", "host03": "free"}
        assert await lab.report("a", broken) == now
        assert await lab.report("a", other) == now
        assert await failure(lab, now) == f"r640/host01: {REASON}"

    async def test_who_waits_is_served_in_the_same_transaction(self, lab: Lab) -> None:
        await lab.pool("r640", 2, "wipe", policy=FAIL)
        broken, _ = (await lab.submit("a", Item(pool="r640", count=2))).claims
        await lab.submit("b")

        await lab.report("a", broken)

        assert await lab.held("b") == ["host02"]
        assert await ledger.faults(lab.store) == []

    async def test_the_workflow_that_closes_it_then_changes_nothing(self, lab: Lab) -> None:
        await lab.pool("r640", 1, "wipe", policy=FAIL)
        (broken,) = (await lab.submit("a")).claims
        await lab.report("a", broken)

        closed = await lab.close("a", Outcome.CANCELLED, stopped=False)

        assert (closed.state, closed.outcome) == (LeaseState.RELEASING, Outcome.FAILED)
        assert (await lab.store.end_lease("a")).outcome is Outcome.FAILED


async def test_a_report_after_the_end_changes_nothing(lab: Lab) -> None:
    await lab.pool("r640", 2, "wipe")
    (broken,) = (await lab.submit("a")).claims
    await lab.close("a", Outcome.CANCELLED)
    before = await lab.kinds("a")

    now = await lab.report("a", broken)

    assert (now.state, now.refusal) == (LeaseState.ENDED, None)
    assert (await lab.states(), await lab.kinds("a")) == ({"host01": "free", "host02": "free"}, before)


async def test_a_report_of_another_epoch_quarantines_nothing(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe")
    (late,) = (await lab.submit("a")).claims
    await lab.close("a", Outcome.CANCELLED)
    await lab.submit("a2")

    await lab.report("a2", late)

    assert (await lab.states(), await lab.held("a2")) == ({"host01": "leased"}, ["host01"])


async def test_what_is_prepared_in_time_counts_from_the_first_grant(lab: Lab) -> None:
    await lab.pool("r640", 3, "wipe", policy=Policy(prepare_timeout=timedelta(hours=3)))
    await lab.pool("vm", 1, "wipe", policy=Policy(prepare_timeout=timedelta(hours=1)))
    admitted = await lab.submit("a", Item(pool="r640"), Item(pool="vm"))
    assert admitted.left_s == 3600, "the strictest pool decides"

    lab.clock.forward(minutes=50)

    assert (await lab.report("a", admitted.claims[0])).left_s == 600, "a replacement brings no more time"


async def test_why_a_lease_does_not_go_on_is_shown_once_and_until_it_does(lab: Lab) -> None:
    await lab.pool("r640", 1, "wipe")
    await lab.submit("a")
    nobody = Blocked(lease="a", pool="r640", resource="host01", reason="no worker for site lab2")

    for _ in range(2):
        await lab.store.show_blocked(nobody)
        queue = (await lab.lease("a")).queue
        assert queue is not None
        assert (queue.position, queue.reason) == (0, "no worker for site lab2")
    assert (await lab.kinds("a")).count("lease_blocked") == 1

    for _ in range(2):
        await lab.store.show_blocked(Blocked(lease="a", pool="r640", resource="host01", reason=None))
        assert (await lab.lease("a")).queue is None
    await lab.close("a")
    await lab.store.show_blocked(nobody)
    assert (await lab.lease("a")).queue is None


async def test_what_was_replaced_is_not_delivered_nor_shown_to_hooks(lab: Lab) -> None:
    await lab.pool("r640", 2, "deliver")
    (broken,) = (await lab.submit("a")).claims
    await lab.run("a", broken, report=FAILED, secret=b"half of a key")
    (sound,) = (await lab.report("a", broken)).claims
    await lab.run("a", sound, secret=b"key")
    await lab.store.activate("a")

    assert [(d.name, d.data) for d in await lab.store.delivery("a")] == [("host02", b"key")]
    await lab.close("a")
    assert [d.name for d in await lab.store.delivery("a")] == ["host02"]


async def test_skipped_stages_are_skipped_by_the_replacement_too(lab: Lab) -> None:
    await lab.pool("r640", 2, "wipe", "provision")
    item = Item(pool="r640", skip=(StageName.PROVISION,))
    (broken,) = (await lab.submit("a", item)).claims

    (other,) = (await lab.report("a", broken)).claims

    assert [stage.stage for stage in other.stages] == ["wipe"]
