"""A database that was restored from an older copy lends nothing, until it knows again what all the workflows know."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import insert
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError

from leasehold.healing import AlertKey, PassReport, Reconciled, ReconcileOrder, SweepOrder
from leasehold.holdings import Holding
from leasehold.messages import AdmitLease, ExtendLease, Steer, SubmitLease
from leasehold.model import Cadence, Item, Lease, LeaseState, Outcome, Policy, Size
from leasehold.ports import ResourceFilter
from leasehold.store import healing
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from tests.contract import ledger
from tests.workflows.lab import Lab
from tests.workflows.restoring import Copy, restorable
from worker.census import TemporalWorkflows
from workflows.lease import LeaseWorkflow
from workflows.sweep import ReconcileWorkflow, SweepWorkflow

Handle = WorkflowHandle[LeaseWorkflow, str]
ME = Steer(actor="me")
ORDER = ReconcileOrder(actor="op")


@pytest_asyncio.fixture(autouse=True)
async def quick(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> AsyncIterator[None]:
    async with restorable(lab, monkeypatch):
        yield


async def sweep(lab: Lab) -> PassReport:
    """A pass that sees at once what Temporal's lists show."""
    await lists_are_true(lab)
    report: PassReport = await lab.env.client.execute_workflow(
        SweepWorkflow.run, SweepOrder(grace_s=0), id=f"sweep-{uuid.uuid4().hex}", task_queue=lab.task_queue
    )
    return report


async def reconcile(lab: Lab, order: ReconcileOrder = ORDER) -> Reconciled:
    await lists_are_true(lab)
    done: Reconciled = await lab.env.client.execute_workflow(
        ReconcileWorkflow.run, order, id=f"reconcile-{uuid.uuid4().hex}", task_queue=lab.task_queue
    )
    return done


async def lists_are_true(lab: Lab) -> None:
    """Wait until Temporal's lists, which are late, show each lease as it is."""
    for handle in lab.handles:
        status = (await handle.describe()).status
        assert status is not None
        shown = f"WorkflowId = '{handle.id}' AND ExecutionStatus = '{status.name.title()}'"
        if status.name == "RUNNING":
            state = (await handle.query(LeaseWorkflow.view)).state
            shown += f" AND LeaseState = '{state}'"
        while (await lab.env.client.count_workflows(shown)).count != 1:
            await asyncio.sleep(0.02)


async def consistent(lab: Lab) -> None:
    """Fail unless the database is whole, by the rules that the store's own tests use."""
    assert await ledger.faults(lab.store) == []
    for handle in lab.handles:
        if (await lab.record(handle)).state is LeaseState.ACTIVE:
            view = await handle.query(LeaseWorkflow.view)
            named = {(r.pool, r.resource, r.epoch) for r in view.resources}
            held = await lab.store.healing.holdings(handle.id)
            assert named == {(h.pool, h.resource, h.epoch) for h in held}
    assert await lab.store.healing.alerts() == []
    assert await lab.store.healing.suspension() is None


async def until_active(lab: Lab, handle: Handle) -> Lease:
    """Wait until the record says so, and the workflow knows."""
    lease = await lab.until(handle, LeaseState.ACTIVE)
    while (await handle.query(LeaseWorkflow.view)).state != LeaseState.ACTIVE:
        await asyncio.sleep(0.02)
    return lease


async def take(lab: Lab, count: int = 1, **more: Any) -> Handle:
    handle = await lab.submit(count, **more)
    await until_active(lab, handle)
    return handle


async def release(handle: Handle) -> None:
    await handle.execute_update(LeaseWorkflow.release, ME)
    await handle.result()


async def all_free(lab: Lab) -> None:
    while set((await lab.states()).values()) != {"free"}:
        await asyncio.sleep(0.02)


def actions(done: Reconciled) -> set[str]:
    return {step.action for step in done.steps}


# What shows that the database is older


async def forgotten(lab: Lab, copy: Callable[[], Copy]) -> str:
    made = copy()
    handle = await take(lab)
    made.restore()
    return f"lease {handle.id} runs, and is not recorded"


async def granted_since(lab: Lab, copy: Callable[[], Copy]) -> str:
    first, second = await take(lab, 2), await lab.submit()
    made = copy()
    await release(first)
    await until_active(lab, second)
    made.restore()
    return "lease 2 is recorded as queued, and its workflow is active"


async def released_since(lab: Lab, copy: Callable[[], Copy]) -> str:
    handle = await take(lab)
    made = copy()
    await release(handle)
    made.restore()
    return "lease 1 is recorded as active, and its workflow has completed"


async def in_recycling_since(lab: Lab, copy: Callable[[], Copy]) -> str:
    lab.driver.script = lambda call: None
    made = copy()
    await release(await take(lab))
    await lab.driver.until_started("release")
    made.restore()
    return "and its recycling at"


@pytest.mark.parametrize("way", [forgotten, granted_since, released_since, in_recycling_since])
async def test_nothing_is_lent_once_the_sweep_finds_that_the_database_is_older(
    lab: Lab, way: Callable[[Lab, Callable[[], Copy]], Awaitable[str]]
) -> None:
    await lab.pool(2, release=1)
    sign = await way(lab, lambda: Copy(lab))

    report = await sweep(lab)

    assert report.alerts == (AlertKey.DATABASE_OLDER,)
    (alert,) = await lab.store.healing.alerts()
    assert sign in alert.detail
    assert "leasehold reconcile" in alert.detail
    waiting = await lab.record(await lab.submit())
    assert waiting.state is LeaseState.QUEUED
    assert waiting.queue is not None
    assert "until an operator has run leasehold reconcile" in waiting.queue.reason
    available = await lab.store.available(ResourceFilter(pool="p"))
    assert available.suspended is not None


# What reconciling brings back


async def test_a_lease_that_the_database_forgot_is_recorded_again(lab: Lab) -> None:
    await lab.pool(3, wipe=1, release=1)
    copy = Copy(lab)
    handle = await take(lab, 2, duration="2h")
    before = await lab.record(handle)
    copy.restore()
    await sweep(lab)
    waiting = await lab.submit()

    done = await reconcile(lab)

    after = await lab.record(handle)
    assert (after.owner, after.principal, after.items, after.expires_at, after.run_id) == (
        before.owner,
        before.principal,
        before.items,
        before.expires_at,
        before.run_id,
    )
    assert [(r.name, r.epoch, r.state) for r in after.resources] == [
        (r.name, r.epoch, r.state) for r in before.resources
    ]
    assert after.number is not None
    assert before.number is not None
    assert after.number > before.number + 500, "a number that was told to somebody is given to nobody else"
    assert actions(done) == {"record", "move", "grant"}
    assert (done.problems, done.suspended) == ((), None)
    await until_active(lab, waiting)
    await consistent(lab)
    await release(handle)
    await release(waiting)
    await all_free(lab)


async def test_a_reservation_that_the_database_forgot_is_promised_again_and_begins(lab: Lab) -> None:
    await lab.pool(2)
    copy = Copy(lab)
    start = lab.soon(seconds=4)
    reserved = await lab.submit(2, start_at=start, duration="1h")
    copy.restore()
    await sweep(lab)

    done = await reconcile(lab)

    assert "record" in actions(done)
    assert (done.problems, done.suspended) == ((), None)
    again = await lab.record(reserved)
    assert again.queue is not None
    assert (again.state, again.start_at) == (LeaseState.QUEUED, start)
    assert again.queue.reason.endswith("p/r0 and p/r1")
    lease = await until_active(lab, reserved)
    assert lease.active_at is not None
    assert lease.active_at >= start
    await consistent(lab)


async def test_its_items_and_roles_come_back(lab: Lab) -> None:
    await lab.pool(2, name="big")
    await lab.pool(2, name="small")
    copy = Copy(lab)
    request = SubmitLease(
        lease=f"l{uuid.uuid4().hex}",
        principal="t",
        owner="t",
        digest="d",
        items=(Item(pool="small", role="worker", count=2), Item(role="head", names=("r1",), pool="big")),
    )
    handle = await lab.env.client.start_workflow(
        LeaseWorkflow.run, request, id=request.lease, task_queue=lab.task_queue
    )
    lab.handles.append(handle)
    await handle.execute_update(LeaseWorkflow.admit)
    before = {(r.pool, r.name): (r.item, r.role) for r in (await lab.record(handle)).resources}
    copy.restore()

    await reconcile(lab)

    after = {(r.pool, r.name): (r.item, r.role) for r in (await lab.record(handle)).resources}
    assert after == before
    known = await lab.store.request(handle.id)
    assert known is not None
    assert known.digest == "d"
    await consistent(lab)


async def test_a_lease_in_preparation_goes_on(lab: Lab) -> None:
    await lab.pool(1, wipe=1, validate=1, release=1)
    hold = asyncio.Event()
    lab.driver.pause_s = lambda call: 0.0 if hold.is_set() else 0.5
    copy = Copy(lab)
    handle = await lab.submit()
    await lab.driver.until_started("wipe")
    copy.restore()

    # Its next stage waits for the record, and does not fail.
    await asyncio.sleep(1)
    assert ("validate", "r0") not in lab.driver.started
    done = await reconcile(lab)
    hold.set()

    assert "record" in actions(done)
    await until_active(lab, handle)
    await consistent(lab)
    await release(handle)
    await all_free(lab)


async def test_what_was_only_being_prepared_is_cleaned_all_the_same(lab: Lab) -> None:
    await lab.pool(1, wipe=1, release=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    copy = Copy(lab)
    handle = await lab.submit()
    await lab.driver.until_started("wipe")
    copy.restore()
    await reconcile(lab)

    await handle.execute_update(LeaseWorkflow.cancel, ME)

    await lab.driver.until_started("release")
    await all_free(lab)


async def test_a_lease_that_waited_is_queued_again(lab: Lab) -> None:
    await lab.pool(1)
    first = await take(lab)
    copy = Copy(lab)
    second = await lab.submit()
    copy.restore()

    await reconcile(lab)

    assert (await lab.record(second)).state is LeaseState.QUEUED
    await consistent(lab)
    await release(first)
    await until_active(lab, second)


async def test_a_lease_that_was_granted_since_has_what_it_has(lab: Lab) -> None:
    await lab.pool(1, wipe=1, release=1)
    first, second = await take(lab), await lab.submit(duration="3h")
    copy = Copy(lab)
    await release(first)
    before = await until_active(lab, second)
    copy.restore()
    await sweep(lab)
    started = len(lab.driver.started)

    done = await reconcile(lab)

    after = await lab.record(second)
    assert (after.state, after.expires_at) == (LeaseState.ACTIVE, before.expires_at)
    assert [(r.name, r.epoch) for r in after.resources] == [(r.name, r.epoch) for r in before.resources]
    # The one that gave it back has ended as it did, and takes nothing away from the one that has it now.
    gone = await lab.record(first)
    assert (gone.state, gone.outcome, gone.error) == (LeaseState.ENDED, Outcome.RELEASED, None)
    assert actions(done) == {"close_grant", "grant", "move", "end"}
    assert len(lab.driver.started) == started
    await consistent(lab)
    await release(second)
    await all_free(lab)


async def test_an_extension_is_remembered(lab: Lab) -> None:
    await lab.pool(1, policy=Policy(max_duration=timedelta(days=8)))
    handle = await take(lab, duration="1h")
    copy = Copy(lab)
    held = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1d", actor="me", request="one"))
    copy.restore()

    await reconcile(lab)

    assert (await lab.record(handle)).expires_at == held.expires_at
    await consistent(lab)


async def test_what_was_used_and_given_back_since_is_cleaned_before_it_is_lent(lab: Lab) -> None:
    await lab.pool(1, wipe=1, release=1)
    copy = Copy(lab)
    handle = await take(lab)
    await release(handle)
    await all_free(lab)
    copy.restore()
    await suspend(lab)

    done = await reconcile(lab)

    ended = await lab.record(handle)
    assert (ended.state, ended.outcome, [r.name for r in ended.resources]) == (
        LeaseState.ENDED,
        Outcome.RELEASED,
        ["r0"],
    )
    assert actions(done) == {"record", "past_grant", "move", "recycle"}
    await all_free(lab)
    assert [stage for stage, _ in lab.driver.started].count("release") == 2
    await consistent(lab)


async def test_a_recycling_that_runs_is_left_to_end(lab: Lab) -> None:
    await lab.pool(1, release=1)
    copy = Copy(lab)
    go = asyncio.Event()
    lab.driver.pause_s = lambda call: 0.0 if go.is_set() else 1.0
    handle = await take(lab)
    await release(handle)
    await lab.driver.until_started("release")
    (before,) = await lab.store.resources(ResourceFilter())
    copy.restore()
    await suspend(lab)

    await reconcile(lab)

    (after,) = await lab.store.resources(ResourceFilter())
    assert (after.epoch, after.state) in {(before.epoch, "recycling"), (after.epoch, "free")}
    await all_free(lab)
    assert lab.driver.started == [("release", "r0")]
    await consistent(lab)


async def test_a_recycling_that_comes_to_its_end_before_its_record_is_back_waits_for_it(lab: Lab) -> None:
    await lab.pool(1, release=1)
    copy = Copy(lab)
    lab.driver.script = lambda call: None
    await release(await take(lab))
    await lab.driver.until_started("release")
    (recycling,) = await lab.recyclings
    copy.restore()
    await suspend(lab)
    lab.driver.hanging["release", "r0"].set_result(0)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(lab.env.client.get_workflow_handle(recycling).result(), 1)
    done = await reconcile(lab)

    assert "adopt_recycling" in actions(done)
    assert await lab.env.client.get_workflow_handle(recycling).result() == "free"
    await all_free(lab)
    assert lab.driver.started == [("release", "r0")]
    await consistent(lab)


async def test_a_recycling_that_has_just_ended_is_not_begun_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.pool(1, release=1)
    await release(await take(lab))
    await all_free(lab)
    _, pool, resource, epoch = (await lab.recyclings)[0].split(":")

    async def late(_: TemporalWorkflows) -> AsyncIterator[list[Holding]]:
        """As Temporal lists what has just ended: it runs."""
        yield [Holding(pool=pool, resource=resource, epoch=int(epoch))]

    monkeypatch.setattr(TemporalWorkflows, "running_recyclings", late)

    done = await reconcile(lab)

    assert (done.steps, done.problems) == ((), ())
    assert await lab.states() == {"r0": "free"}


async def test_a_lease_that_is_asked_to_end_waits_for_its_record_and_says_so(lab: Lab) -> None:
    await lab.pool(1)
    copy = Copy(lab)
    handle = await take(lab)
    copy.restore()

    await handle.signal("release")
    while "leasehold reconcile" not in await details(handle):
        await asyncio.sleep(0.05)
    await reconcile(lab)

    assert await handle.result() == Outcome.RELEASED
    await consistent(lab)


async def test_an_extension_that_finds_no_record_is_refused_and_the_lease_goes_on(lab: Lab) -> None:
    await lab.pool(1)
    copy = Copy(lab)
    handle = await take(lab)
    copy.restore()

    held = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1h", actor="me", request="one"))
    await handle.signal("extend", ExtendLease(by="1h", actor="me", request="two"))

    assert held.refusal is not None
    assert held.refusal.code == "unavailable"
    await reconcile(lab)
    held = await handle.execute_update(LeaseWorkflow.extend, ExtendLease(by="1h", actor="me", request="three"))
    assert held.refusal is None
    await consistent(lab)


async def details(handle: Handle) -> str:
    """What Temporal's UI shows of where the workflow is."""
    return str(await handle.query("__temporal_workflow_metadata"))


async def test_of_two_that_were_lent_the_same_the_later_one_keeps_it(lab: Lab) -> None:
    await lab.pool(1, release=1)
    copy = Copy(lab)
    first = await take(lab)
    copy.restore()
    # Nobody has noticed yet.
    second = await take(lab)

    done = await reconcile(lab)

    assert await first.result() == Outcome.FAILED
    lost = await lab.record(first)
    assert lost.error is not None
    assert lost.error.code == "grant_lost"
    assert (await lab.record(second)).state is LeaseState.ACTIVE
    assert {"record", "end", "cancel"} <= actions(done)
    assert lab.driver.started == [], "nothing was done to it under the hands of its holder"
    await consistent(lab)


async def test_a_second_time_there_is_nothing_to_do(lab: Lab) -> None:
    await lab.pool(3, wipe=1, release=1)
    first, second = await take(lab, 3), await lab.submit()
    copy = Copy(lab)
    await release(first)
    await until_active(lab, second)
    await take(lab)
    while "recycling" in (await lab.states()).values():
        await asyncio.sleep(0.02)
    copy.restore()
    await suspend(lab)
    dry = await reconcile(lab, ReconcileOrder(actor="op", dry_run=True))
    assert (await lab.record(second)).state is LeaseState.QUEUED, "a dry run writes nothing"

    done = await reconcile(lab)
    # What it began may run still, end meanwhile, or have ended.
    again = await reconcile(lab)

    assert [step.action for step in dry.steps] == [step.action for step in done.steps]
    assert again.steps == ()
    await consistent(lab)


async def test_a_healthy_lab_is_left_alone(lab: Lab) -> None:
    await lab.pool(2, wipe=1, release=1)
    await take(lab, 2)
    await lab.submit()
    before = [await lab.record(handle) for handle in lab.handles]

    done = await reconcile(lab)

    assert (done.steps, done.problems, done.suspended, done.leases) == ((), (), None, 2)
    assert [await lab.record(handle) for handle in lab.handles] == before


async def test_a_pool_that_the_database_forgot_must_be_applied_first(lab: Lab) -> None:
    copy = Copy(lab)
    await lab.pool(1)
    handle = await take(lab)
    copy.restore()
    await sweep(lab)

    done = await reconcile(lab)

    assert done.suspended is not None
    assert "is in no pool: apply the pools file that has it" in " ".join(done.problems)
    await lab.pool(1)
    done = await reconcile(lab)
    assert (done.problems, done.suspended) == ((), None)
    assert (await lab.record(handle)).state is LeaseState.ACTIVE
    await consistent(lab)


async def test_leases_that_temporal_lost_are_ended_only_if_an_operator_says_so(lab: Lab) -> None:
    await lab.pool(6)
    leases = []
    for _ in range(6):
        lease = f"l{uuid.uuid4().hex}"
        request = SubmitLease(lease=lease, principal="t", owner="t", digest="", items=(Item(pool="p"),))
        await lab.store.admit(AdmitLease(request=request, age_s=0), "")
        leases.append(lease)

    done = await reconcile(lab)
    assert done.steps == ()
    assert "leasehold reconcile --accept-lost" in done.problems[0]

    done = await reconcile(lab, ReconcileOrder(actor="op", accept_lost=True))
    assert {step.action for step in done.steps} == {"end"}
    ended = [await lab.store.lease(lease) for lease in leases]
    assert {one.error and one.error.code for one in ended} == {"workflow_lost"}
    assert set((await lab.states()).values()) == {"broken"}
    assert await ledger.faults(lab.store) == []


async def test_another_temporal_must_be_accepted_first(lab: Lab) -> None:
    await lab.pool(1)

    def write(tx: Tx) -> None:
        tx.execute(insert(t.facts).values(key="temporal", value={"cluster": "another", "namespace": "one"}))

    await lab.store.database.write(write)
    assert (await sweep(lab)).alerts == (AlertKey.TEMPORAL_CHANGED,)
    with pytest.raises(WorkflowFailureError) as raised:
        await reconcile(lab)
    assert isinstance(raised.value.cause, ActivityError)
    assert isinstance(raised.value.cause.cause, ApplicationError)
    assert raised.value.cause.cause.type == "temporal_changed"

    done = await reconcile(lab, ReconcileOrder(actor="op", accept_identity=True))

    assert done.problems == ()
    assert (await sweep(lab)).alerts == ()


async def suspend(lab: Lab) -> None:
    """As the worker does at its start, where Temporal remembers a later pass than the database."""

    await lab.clock.sync()
    await lab.store.database.write(healing.suspend, "the database is older than what runs")


async def test_what_a_pool_has_made_since_is_its_holders_and_is_deleted_after_it(lab: Lab) -> None:
    pool = f"vm{uuid.uuid4().hex[:8]}"
    await lab.dynamic_pool(pool, Size(max=3), listing=Cadence(every=timedelta(seconds=1)))
    await sweep(lab)
    copy = Copy(lab)
    handle = await take(lab, pool=pool)
    (mine,) = await lab.holds(handle)
    await sweep(lab)
    copy.restore()
    await sweep(lab)
    assert await lab.store.healing.suspension() is not None

    done = await reconcile(lab)
    assert done.suspended is None, done
    assert await lab.holds(handle) == [mine]
    resource = await lab.store.resource(pool, mine)
    assert resource.instance is not None, "it is known as one that its pool has made"
    await consistent(lab)
    await release(handle)
    while await lab.store.resources(ResourceFilter(pool=pool)):
        await asyncio.sleep(0.05)
    assert ("delete", mine) in lab.driver.started


async def test_what_is_recorded_as_free_is_checked_before_anybody_gets_it(lab: Lab) -> None:
    pool = f"vm{uuid.uuid4().hex[:8]}"
    gone: set[str] = set()
    lab.driver.script = lambda call: int(
        call.env["LEASEHOLD_STAGE"] == "livecheck" and call.env["LEASEHOLD_RESOURCE"] in gone
    )
    often = Cadence(every=timedelta(minutes=5), attempts=1)
    await lab.pool(1)
    await lab.dynamic_pool(pool, Size(max=2, min_free=1), livecheck=often)
    await lab.until_there(pool, free=1)
    (there,) = await lab.store.resources(ResourceFilter(pool=pool))
    await sweep(lab)
    copy = Copy(lab)
    await lab.store.delete_resource(pool, there.name, "operator")
    while there.name in {one.name for one in await lab.store.resources(ResourceFilter(pool=pool))}:
        await asyncio.sleep(0.05)
    gone.add(there.name)
    await take(lab)
    await sweep(lab)
    copy.restore()
    await sweep(lab)
    await reconcile(lab)
    handle = await take(lab, pool=pool)
    assert await lab.holds(handle) != [there.name]
