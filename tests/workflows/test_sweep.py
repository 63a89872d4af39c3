"""The sweep puts right what nobody else can: workflows that are gone, and records that nobody stands behind."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from leasehold.healing import AlertKey, PassReport, SweepOrder
from leasehold.messages import AdmitLease, CloseLease, Steer, SubmitLease, recycle_id
from leasehold.model import Item, LeaseState, Outcome
from leasehold.ports import ResourceFilter
from leasehold.store import closing
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from tests.workflows.lab import Lab
from workflows.lease import LeaseWorkflow
from workflows.sweep import SweepWorkflow

Handle = WorkflowHandle[LeaseWorkflow, str]
AT_ONCE = SweepOrder(grace_s=0, lingers_s=0)
"""Nothing has to be closed for long. A message that is on its way is late only after a minute, as ever."""
IMPATIENT = replace(AT_ONCE, patience_s=0)


async def sweep(lab: Lab, order: SweepOrder = AT_ONCE) -> PassReport:
    """Make one pass."""
    report: PassReport = await lab.env.client.execute_workflow(
        SweepWorkflow.run, order, id=f"sweep-{uuid.uuid4().hex}", task_queue=lab.task_queue
    )
    return report


async def listed(lab: Lab, what: str, count: int) -> None:
    """Wait until Temporal's lists, which are late, show so many workflows."""
    query = f"TaskQueue = '{lab.task_queue}' AND {what}"
    while (await lab.env.client.count_workflows(query)).count != count:
        await asyncio.sleep(0.02)


async def terminate(lab: Lab, handle: Handle) -> None:
    await handle.terminate("by a test")
    await listed(lab, f"WorkflowId = '{handle.id}' AND ExecutionStatus = 'Terminated'", 1)


async def write(lab: Lab, statement: Any) -> None:
    def work(tx: Tx) -> None:
        tx.execute(statement)

    await lab.store.database.write(work)


async def unknown(lab: Lab, count: int, pool: str = "p") -> list[str]:
    """Leases with records, of which Temporal does not know."""
    made = []
    for _ in range(count):
        lease = f"l{uuid.uuid4().hex}"
        request = SubmitLease(lease=lease, principal="t", owner="t", digest="", items=(Item(pool=pool),))
        await lab.store.admit(AdmitLease(request=request, age_s=0), "")
        made.append(lease)
    return made


async def alerts(lab: Lab) -> dict[str, str]:
    return {alert.key: alert.detail for alert in await lab.store.healing.alerts()}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    while not await true():
        await asyncio.sleep(0.02)


async def preparing(lab: Lab) -> Handle:
    await lab.pool(2, wipe=1, release=1)
    lab.driver.script = lambda call: None if call.env["LEASEHOLD_STAGE"] == "wipe" else 0
    handle = await lab.submit()
    await lab.driver.until_started("wipe")
    return handle


async def active(lab: Lab) -> Handle:
    await lab.pool(2, wipe=1, release=1)
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    return handle


async def queued(lab: Lab) -> Handle:
    await lab.pool(2, wipe=1, release=1)
    first = await lab.submit(count=2)
    await lab.until(first, LeaseState.ACTIVE)
    return await lab.submit(count=2)


async def releasing(lab: Lab) -> Handle:
    """Its hook is stopping for ever."""
    handle = await preparing(lab)
    lab.driver.may_stop.clear()
    await handle.signal(LeaseWorkflow.on_cancel_signal, Steer(actor="me"))
    await lab.until(handle, LeaseState.RELEASING)
    return handle


@pytest.mark.parametrize("state", [preparing, active, queued, releasing])
async def test_a_lease_whose_workflow_was_terminated_is_ended(
    lab: Lab, state: Callable[[Lab], Awaitable[Handle]]
) -> None:
    handle = await state(lab)
    before = await lab.record(handle)
    assert before.state == state.__name__
    await terminate(lab, handle)

    report = await sweep(lab)

    after = await lab.record(handle)
    assert (after.state, report.healed, report.alerts) == (LeaseState.ENDED, 1, ())
    if state is not releasing:
        assert after.outcome is Outcome.FAILED
        assert after.error is not None
        assert (after.error.code, after.error.detail) == ("workflow_gone", "its workflow was terminated")
    lab.driver.may_stop.set()


async def test_what_it_held_is_cleaned_and_lent_to_the_next(lab: Lab) -> None:
    await lab.pool(1, wipe=1, release=1)
    first = await lab.submit()
    await lab.until(first, LeaseState.ACTIVE)
    second = await lab.submit()
    await terminate(lab, first)

    await sweep(lab)
    await lab.until(second, LeaseState.ACTIVE)

    assert [stage for stage, _ in lab.driver.started] == ["wipe", "release", "wipe"]


async def test_a_lease_is_not_ended_before_its_hooks_can_be_gone(lab: Lab) -> None:
    handle = await active(lab)
    await terminate(lab, handle)

    await sweep(lab, SweepOrder())

    assert (await lab.record(handle)).state is LeaseState.ACTIVE


async def test_a_healthy_lab_is_left_alone(lab: Lab) -> None:
    handles = [await queued(lab), await lab.submit()]
    before = [await lab.record(handle) for handle in handles]
    await listed(lab, "WorkflowType = 'lease' AND ExecutionStatus = 'Running'", 3)

    report = await sweep(lab)

    assert [await lab.record(handle) for handle in handles] == before
    assert (report.leases, report.healed, report.alerts) == (3, 0, ())


async def test_resources_of_leases_that_temporal_does_not_know_are_quarantined(lab: Lab) -> None:
    await lab.pool(5, wipe=1, release=1)
    leases = await unknown(lab, 5)

    report = await sweep(lab)

    assert set((await lab.states()).values()) == {"broken"}
    ended = [await lab.store.lease(lease) for lease in leases]
    assert {(one.state, one.outcome, one.error and one.error.code) for one in ended} == {
        (LeaseState.ENDED, Outcome.FAILED, "workflow_lost")
    }
    reasons = {r.broken.reason for r in await lab.store.resources(ResourceFilter()) if r.broken}
    assert reasons == {"Temporal does not know its workflow"}
    assert (report.healed, report.alerts) == (5, ())


async def test_more_than_five_of_them_stop_the_pass_before_anything_is_freed(lab: Lab) -> None:
    await lab.pool(7, wipe=1, release=1)
    gone = await lab.submit()
    await lab.until(gone, LeaseState.ACTIVE)
    await terminate(lab, gone)
    leases = await unknown(lab, 6)
    states = await lab.states()

    report = await sweep(lab)

    # Not even the one that was surely terminated: the whole picture is wrong.
    assert await lab.states() == states
    assert {(await lab.store.lease(lease)).state for lease in [*leases, gone.id]} == {
        LeaseState.PREPARING,
        LeaseState.ACTIVE,
    }
    assert (report.healed, report.alerts) == (0, (AlertKey.WORKFLOWS_LOST,))
    assert "6 leases and 0 recyclings" in (await alerts(lab))[AlertKey.WORKFLOWS_LOST]


async def test_an_alert_goes_when_its_reason_goes(lab: Lab) -> None:
    await lab.pool(6)
    leases = await unknown(lab, 6)
    await sweep(lab)
    since = (await lab.store.healing.alerts())[0].since
    await sweep(lab)
    assert [(a.key, a.since) for a in await lab.store.healing.alerts()] == [(AlertKey.WORKFLOWS_LOST, since)]

    await lab.store.close_lease(_cancel(leases[0]))
    await sweep(lab)

    assert await alerts(lab) == {}
    kinds = [event.kind for event in await lab.store.events() if event.kind.startswith("alert_")]
    assert kinds == ["alert_raised", "alert_cleared"]


async def recycling(lab: Lab) -> tuple[Handle, str]:
    """A lease that is over, and the id of the recycling after it, whose hook hangs."""
    await lab.pool(1, release=1)
    lab.driver.script = lambda call: None
    handle = await lab.submit()
    await lab.until(handle, LeaseState.ACTIVE)
    await handle.execute_update(LeaseWorkflow.release, Steer(actor="me"))
    await lab.driver.until_started("release")
    (started,) = await lab.recyclings
    return handle, started


async def test_a_recycling_that_was_terminated_begins_again_under_a_new_epoch(lab: Lab) -> None:
    _, first = await recycling(lab)
    lab.driver.script = lambda call: 0
    await lab.env.client.get_workflow_handle(first).terminate()
    await listed(lab, f"WorkflowId = '{first}' AND ExecutionStatus = 'Terminated'", 1)

    assert (await sweep(lab)).healed == 1
    await until(lambda: _is(lab, "free"))

    again = (await lab.recyclings)[1]
    assert again != first
    assert await lab.env.client.get_workflow_handle(again).result() == "free"


async def test_a_recycling_that_never_comes_to_an_end_is_quarantined(lab: Lab) -> None:
    await recycling(lab)
    for round in range(4):
        started = (await lab.recyclings)[-1]
        handle = lab.env.client.get_workflow_handle(started)
        await until(lambda handle=handle: _exists(handle))  # type: ignore[misc]
        await handle.terminate()
        await listed(lab, "WorkflowType = 'recycle' AND ExecutionStatus = 'Terminated'", round + 1)
        await sweep(lab)

    (resource,) = await lab.store.resources(ResourceFilter())
    assert resource.broken is not None
    assert resource.broken.reason == "its recycling was terminated before it had come to an end, again and again"


async def test_a_recycling_that_temporal_does_not_know_is_quarantined(lab: Lab) -> None:
    await recycling(lab)
    await write(lab, update(t.resources).values(epoch=t.resources.c.epoch + 1))

    # The one that runs is at an older epoch, and of no interest.
    await sweep(lab)

    (resource,) = await lab.store.resources(ResourceFilter())
    assert resource.broken is not None
    assert resource.broken.reason == "Temporal does not know its recycling"


async def test_a_recycling_that_was_not_started_yet_is_left_to_the_relay(lab: Lab) -> None:
    _, started = await recycling(lab)
    (resource,) = await lab.store.resources(ResourceFilter())
    claim = {"pool": "p", "resource": "r0", "epoch": resource.epoch + 1, "spec": 1, "stages": []}
    await write(lab, update(t.resources).values(epoch=t.resources.c.epoch + 1))
    await write(
        lab, insert(t.outbox).values(kind="recycle", lease="x", message={"lease": "x", "claim": claim}, at=lab.clock())
    )

    assert started == recycle_id("p", "r0", resource.epoch)
    assert {one.epoch for one in await lab.store.healing.recyclings()} == set()


def as_delivered(lab: Lab) -> Any:
    return update(t.outbox).where(t.outbox.c.kind == "granted").values(delivered_at=lab.clock())


def dropped(lab: Lab) -> Any:
    return delete(t.outbox).where(t.outbox.c.kind == "granted")


@pytest.mark.parametrize("lose", [dropped, as_delivered])
async def test_a_grant_that_the_workflow_was_not_told_of_is_told_again_and_begins_once(
    lab: Lab, lose: Callable[[Lab], Any]
) -> None:
    await lab.pool(1, wipe=1)
    first = await lab.submit()
    await lab.until(first, LeaseState.ACTIVE)
    handle = await lab.submit()
    await listed(lab, f"WorkflowId = '{handle.id}' AND LeaseState = 'queued'", 1)

    def hand_over(tx: Tx) -> None:
        closing.close(tx, _cancel(first.id))
        tx.execute(lose(lab))

    await lab.store.database.write(hand_over)
    assert (await lab.record(handle)).state is LeaseState.PREPARING
    assert (await handle.query(LeaseWorkflow.view)).state == "queued"

    # Temporal's lists are late: the second pass may tell it once more.
    await sweep(lab, IMPATIENT)
    await sweep(lab, IMPATIENT)

    await lab.until(handle, LeaseState.ACTIVE)
    await sweep(lab, IMPATIENT)
    assert lab.driver.started == [("wipe", "r0")] * 2, "once for each of the two leases"
    kinds = await lab.kinds(handle)
    assert [kinds.count(kind) for kind in ("lease_preparing", "resource_leased", "lease_active")] == [1, 1, 1]


async def test_a_workflow_that_outlives_its_record_is_told(lab: Lab) -> None:
    handle = await active(lab)
    await lab.store.close_lease(_cancel(handle.id))

    await sweep(lab)

    assert await handle.result() == Outcome.CANCELLED


async def test_a_message_that_is_not_delivered_raises_an_alert_with_the_reason(lab: Lab) -> None:
    await lab.pool(1)
    lease = (await unknown(lab, 2))[1]
    await write(lab, insert(t.outbox).values(kind="granted", lease=lease, at=lab.clock() - timedelta(minutes=2)))
    await until(lambda: _in_trouble(lab))
    # It may be the wrong Temporal: by itself a lost message ends no lease.
    assert (await lab.store.lease(lease)).state is LeaseState.QUEUED

    await sweep(lab, SweepOrder())

    assert "Temporal does not know the workflow of lease" in (await alerts(lab))[AlertKey.OUTBOX_STUCK]
    # What the pass has ended needs no message any more.
    await until(lambda: _all_delivered(lab))
    await sweep(lab, SweepOrder())

    assert await alerts(lab) == {}


async def test_a_resource_that_is_leased_and_held_by_nobody_raises_an_alert(lab: Lab) -> None:
    handle = await active(lab)
    await write(lab, update(t.grants).where(t.grants.c.lease == handle.id).values(closed_at=lab.clock()))

    await sweep(lab)

    assert "p/r0 is leased, and nobody holds it" in (await alerts(lab))[AlertKey.RECORDS_DISAGREE]


async def test_another_temporal_than_before_raises_an_alert_and_nothing_is_freed(lab: Lab) -> None:
    handle = await active(lab)
    await write(lab, insert(t.facts).values(key="temporal", value={"cluster": "another", "namespace": "one"}))
    await terminate(lab, handle)

    report = await sweep(lab)

    assert (report.leases, report.healed, report.alerts) == (0, 0, (AlertKey.TEMPORAL_CHANGED,))
    assert (await lab.record(handle)).state is LeaseState.ACTIVE


async def _is(lab: Lab, state: str) -> bool:
    return set((await lab.states()).values()) == {state}


async def _exists(handle: WorkflowHandle[Any, Any]) -> bool:
    try:
        await handle.describe()
    except RPCError:
        return False
    return True


async def _in_trouble(lab: Lab) -> bool:
    query = select(t.outbox.c.trouble)
    return any(await lab.store.database.read(lambda c: c.execute(query).scalars().all()))


async def _all_delivered(lab: Lab) -> bool:
    return await lab.store.outbox_due() == []


def _cancel(lease: str) -> CloseLease:
    return CloseLease(lease=lease, outcome=Outcome.CANCELLED, actor="me", stopped=True)
