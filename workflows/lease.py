"""A lease: admitted, granted, prepared, held and given back.

The workflow decides where the lease is and what comes next; each decision is written to the record before it shows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.allocate import Allocation
    from leasehold.errors import LeaseholdError
    from leasehold.messages import (
        Admitted,
        BrokenResource,
        Claim,
        Closed,
        CloseLease,
        ExtendLease,
        ExtendRecord,
        Held,
        LeaseRef,
        LeaseView,
        Refusal,
        ResourceView,
        Steer,
        SubmitLease,
    )
    from leasehold.model import OVER, LeaseState, Outcome
    from workflows import steps

LEASE_STATE = SearchAttributeKey.for_keyword("LeaseState")
LEASE_OWNER = SearchAttributeKey.for_keyword("LeaseOwner")
LEASE_POOL = SearchAttributeKey.for_keyword("LeasePool")
LEASE_EXPIRES = SearchAttributeKey.for_datetime("LeaseExpires")

_EXTEND_WITHIN = timedelta(seconds=20)
_LONGEST_ACTOR, _LONGEST_REASON = 128, 1000

Preparation = asyncio.Task[BrokenResource | None]


@workflow.defn(name="lease", failure_exception_types=[LeaseholdError])
class LeaseWorkflow:
    """One lease from its submission to its end."""

    @workflow.init
    def __init__(self, request: SubmitLease) -> None:
        self._request = request
        self._admitted: Admitted | None = None
        self._nudged = False
        self._ending: CloseLease | None = None
        self._closed: Closed | None = None
        self._deadline: datetime | None = None
        self._expires_at: datetime | None = None
        self._extending = asyncio.Lock()
        self._stopping = False
        self._state: str = "submitted"
        self._resources: dict[tuple[str, str], ResourceView] = {}

    @workflow.run
    async def run(self, request: SubmitLease) -> str:
        """Live the lease; return its outcome, or the code of the error that refused it.

        Temporal's own cancellation is honoured as a cancel, whatever it hits on its way.
        """
        life = asyncio.create_task(self._live())
        try:
            return await asyncio.shield(life)
        except asyncio.CancelledError:
            self._ask_to_end(Outcome.CANCELLED, Steer(reason="cancelled in Temporal"))
            return await life

    async def _live(self) -> str:
        admitted = await steps.step(Allocation.admit, self._request)
        # The digest tells the API whether the request it brings is the one that is here already.
        self._admitted = replace(admitted, digest=self._request.digest)
        if admitted.refusal is not None:
            self._show("refused")
            await workflow.wait_condition(workflow.all_handlers_finished)
            return admitted.refusal.code
        granted = admitted if admitted.state is not LeaseState.QUEUED else await self._wait_for_grants()
        if granted.state in OVER:
            self._adopt_end()
        elif granted.held is not None:
            for claim in granted.claims:
                self._resources[claim.pool, claim.resource] = ResourceView(
                    pool=claim.pool, resource=claim.resource, epoch=claim.epoch, ready=True
                )
            self._held(granted.held)
        elif self._ending is None:
            await self._prepare(granted.claims)
        if self._ending is None:
            await self._hold()
        closed = await self._close(stopped=True)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return str(closed.outcome)

    # The steps

    async def _wait_for_grants(self) -> Admitted:
        """Wait, holding and polling nothing, until the record says that everything asked for is granted."""
        self._show("queued")
        while True:
            await workflow.wait_condition(lambda: self._nudged or self._ending is not None)
            if self._ending is not None:
                return Admitted()
            self._nudged = False
            standing = await steps.step(Allocation.read_grants, self._ref)
            if standing.state is not LeaseState.QUEUED:
                return standing

    async def _prepare(self, claims: tuple[Claim, ...]) -> None:
        """Take all resources through their stages at once; deliver when every one is ready, or end the lease."""
        for claim in claims:
            self._resources[claim.pool, claim.resource] = ResourceView(
                pool=claim.pool, resource=claim.resource, epoch=claim.epoch
            )
        tasks = [asyncio.create_task(self._prepare_one(claim)) for claim in claims if claim.stages]
        if tasks:
            self._show("preparing")
        await workflow.wait_condition(
            lambda: self._ending is not None or all(t.done() for t in tasks) or any(_failed(t) for t in tasks)
        )
        await self._stop(tasks)
        if self._ending is not None:
            return
        held = await steps.step(Allocation.activate, self._ref)
        if held.state in OVER:
            self._adopt_end()
        else:
            self._held(held)

    async def _stop(self, tasks: list[Preparation]) -> None:
        """Stop what still runs, if anything does, and note what broke.

        A hook may end by itself before it learns that it is cancelled, and the cancel be lost: no stage follows then.
        """
        self._stopping = any(not task.done() for task in tasks)
        if self._ending is not None:
            # The record first: the holder is rid of the lease while hooks are still being stopped.
            self._note_broken(tasks)
            await self._close(stopped=False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._closed is None:
            self._note_broken(tasks)

    async def _prepare_one(self, claim: Claim) -> BrokenResource | None:
        key = (claim.pool, claim.resource)

        def show(stage: str | None, attempt: int | None, ready: bool = False) -> None:
            self._resources[key] = ResourceView(
                pool=claim.pool, resource=claim.resource, epoch=claim.epoch, stage=stage, attempt=attempt, ready=ready
            )
            self._details()

        broken = await steps.run_stages(self._request.lease, claim, show, lambda: self._stopping)
        if broken is None and not self._stopping:
            show(None, None, ready=True)
        return broken

    async def _hold(self) -> None:
        """Wait until the lease's time is over, however often that is moved, or somebody ends it."""
        while self._ending is None:
            assert self._deadline is not None
            deadline, left = self._deadline, self._deadline - workflow.now()
            try:
                await workflow.wait_condition(
                    lambda deadline=deadline: self._ending is not None or self._deadline != deadline,  # type: ignore[misc]
                    timeout=max(left, timedelta(0)),
                )
                continue
            except TimeoutError:
                pass
            # An extension that is on its way is not beaten by the clock.
            async with self._extending:
                if self._deadline == deadline and self._ending is None:
                    await self._expire()

    async def _expire(self) -> None:
        order = CloseLease(
            lease=self._request.lease, outcome=Outcome.EXPIRED, actor="leasehold", stopped=True, reason="time is up"
        )
        closed = await steps.step(Allocation.close_lease, order)
        if closed.left_s is not None:
            # The database's clock, which decides, is a little behind the one of the timer.
            self._deadline = workflow.now() + timedelta(seconds=closed.left_s)
            return
        self._closed = closed
        self._ending = self._ending or order
        self._show(closed.state)

    async def _close(self, *, stopped: bool) -> Closed:
        """Close what the lease holds, once; with `stopped`, also end it."""
        assert self._ending is not None
        if self._closed is None:
            self._closed = await steps.step(Allocation.close_lease, replace(self._ending, stopped=stopped))
            self._show(self._closed.state)
        if stopped and self._closed.state is not LeaseState.ENDED:
            self._closed = await steps.step(Allocation.end_lease, self._ref)
            self._show(self._closed.state)
        return self._closed

    # Asking the lease to end

    def _ask_to_end(self, outcome: Outcome, steer: Steer) -> None:
        """Note why the lease must end; the first reason stays."""
        if self._ending is None:
            # Signals come from anywhere, and no database may choke on what they say.
            actor = steer.actor.replace("\0", "")[:_LONGEST_ACTOR]
            reason = None if steer.reason is None else steer.reason.replace("\0", "")[:_LONGEST_REASON]
            self._ending = CloseLease(
                lease=self._request.lease, outcome=outcome, actor=actor, stopped=False, reason=reason
            )

    def _adopt_end(self) -> None:
        """Follow a record that is closed already.

        A step that was committed runs again if its workflow task failed, and what had caused it, an update that was not
        accepted yet, may be lost by then.
        """
        self._ask_to_end(Outcome.CANCELLED, Steer(actor="leasehold", reason="the record is closed"))

    def _note_broken(self, tasks: list[Preparation]) -> None:
        """Fail the lease if a resource failed; whatever ends the lease, what broke is quarantined."""
        done = [task for task in tasks if task.done() and not task.cancelled()]
        errors = [error for task in done if (error := task.exception()) is not None]
        broken = tuple(r for task in done if task.exception() is None and (r := task.result()) is not None)
        if self._ending is None and (broken or errors):
            if broken:
                what = "; ".join(f"{b.pool}/{b.resource}: {b.reason}" for b in broken)
                refusal = Refusal(code="stage_failed", detail=what)
            else:
                refusal = Refusal(code="preparation_failed", detail=str(errors[0].__cause__ or errors[0]))
            self._ask_to_end(Outcome.FAILED, Steer(actor="leasehold"))
            assert self._ending is not None
            self._ending = replace(self._ending, error=refusal)
        if self._ending is not None:
            self._ending = replace(self._ending, broken=broken)

    async def _steer(self, outcome: Outcome, steer: Steer) -> LeaseView:
        await workflow.wait_condition(lambda: self._admitted is not None)
        self._ask_to_end(outcome, steer)
        await workflow.wait_condition(lambda: self._closed is not None or self._refused)
        return self.view()

    async def _extend(self, extension: ExtendLease) -> Held:
        async with self._extending:
            if self._ending is not None or self._deadline is None:
                refusal = Refusal(code="lease_not_active", detail="only an active lease can be extended")
                return Held(refusal=refusal)
            record = ExtendRecord(lease=self._request.lease, extension=extension)
            try:
                held = await steps.step(Allocation.extend, record, give_up=_EXTEND_WITHIN)
            except (ActivityError, ApplicationError):
                # The lease must not stop at a request that cannot be carried out.
                detail = "the extension could not be recorded in time"
                return Held(refusal=Refusal(code="unavailable", detail=detail))
            if held.refusal is None:
                self._held(held)
            return held

    # Updates, signals and the query

    @workflow.update
    async def admit(self) -> Admitted:
        """Answer what admission decided. `run` admits; a lost update loses nothing."""
        await workflow.wait_condition(lambda: self._admitted is not None)
        assert self._admitted is not None
        return self._admitted

    @workflow.update
    async def extend(self, extension: ExtendLease) -> Held:
        """Extend an active lease; the answer carries the refusal if there is one."""
        return await self._extend(extension)

    @workflow.update
    async def release(self, steer: Steer) -> LeaseView:
        """Give the lease back; before it is active, cancel it."""
        return await self._steer(Outcome.RELEASED, steer)

    @workflow.update
    async def cancel(self, steer: Steer) -> LeaseView:
        """End the lease, whatever state it is in."""
        return await self._steer(Outcome.CANCELLED, steer)

    @extend.validator
    def _check_extension(self, extension: ExtendLease) -> None:
        if self._closed is not None or self._ending is not None:
            raise ApplicationError("the lease is over", type="lease_not_active", non_retryable=True)

    @workflow.signal(name="granted")
    def on_granted(self) -> None:
        """Look at the grants again."""
        self._nudged = True

    @workflow.signal(name="extend")
    async def on_extend_signal(self, extension: ExtendLease | None = None) -> None:
        """The same as the update, for Temporal's UI and command line; one that says nothing changes nothing."""
        await workflow.wait_condition(lambda: self._admitted is not None)
        if extension is not None:
            await self._extend(extension)

    @workflow.signal(name="release")
    async def on_release_signal(self, steer: Steer | None = None) -> None:
        """The same as the update."""
        await self._steer(Outcome.RELEASED, steer or Steer())

    @workflow.signal(name="cancel")
    async def on_cancel_signal(self, steer: Steer | None = None) -> None:
        """The same as the update."""
        await self._steer(Outcome.CANCELLED, steer or Steer())

    @workflow.query(name="view")
    def view(self) -> LeaseView:
        """Where the workflow itself believes the lease to be."""
        return LeaseView(state=self._state, expires_at=self._expires_at, resources=tuple(self._resources.values()))

    # What it knows and shows

    @property
    def _ref(self) -> LeaseRef:
        return LeaseRef(lease=self._request.lease)

    @property
    def _refused(self) -> bool:
        return self._admitted is not None and self._admitted.refusal is not None

    def _held(self, held: Held) -> None:
        """Set the timer by the time left, so that the clocks of database and Temporal need not agree."""
        self._deadline = workflow.now() + timedelta(seconds=held.left_s)
        self._expires_at = held.expires_at
        self._show("active", LEASE_EXPIRES.value_set(held.expires_at) if held.expires_at else None)

    def _show(self, state: str, *more: SearchAttributeUpdate[Any] | None) -> None:
        """Let Temporal's UI show the state. Each call is an event, so states that pass at once are left out."""
        self._state = state
        workflow.upsert_search_attributes([LEASE_STATE.value_set(state), *(m for m in more if m is not None)])
        self._details()

    def _details(self) -> None:
        lines = [f"**{self._state}**", ""]
        for view in self._resources.values():
            doing = "ready" if view.ready else f"{view.stage}, attempt {view.attempt}" if view.stage else "granted"
            lines.append(f"- {view.pool}/{view.resource}: {doing}")
        workflow.set_current_details("\n".join(lines))


def _failed(task: Preparation) -> bool:
    """Whether a resource's preparation ended in vain."""
    return task.done() and not task.cancelled() and (task.exception() is not None or task.result() is not None)
