"""A lease: admitted, granted, prepared, held and given back.

The workflow decides where the lease is and what comes next; each decision is written to the record before it shows.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.allocate import Allocation
    from leasehold.commands import CommandEnding
    from leasehold.errors import LeaseholdError
    from leasehold.messages import (
        AddResources,
        AddToRecord,
        AdmitLease,
        Admitted,
        BrokenInLease,
        BrokenResource,
        Closed,
        CloseLease,
        ExtendLease,
        ExtendRecord,
        GiveBack,
        GiveBackRecord,
        Held,
        LeaseRef,
        LeaseView,
        Prepared,
        Refusal,
        Steer,
        SubmitLease,
        Tick,
        Transfer,
        Transferred,
    )
    from leasehold.model import OVER, LeaseState, Outcome
    from workflows import admitting, steps
    from workflows.commanding import Commanding
    from workflows.hooks import Hooks
    from workflows.preparing import Preparing

LEASE_STATE = SearchAttributeKey.for_keyword("LeaseState")
LEASE_OWNER = SearchAttributeKey.for_keyword("LeaseOwner")
LEASE_POOL = SearchAttributeKey.for_keyword("LeasePool")
LEASE_EXPIRES = SearchAttributeKey.for_datetime("LeaseExpires")

_EXTEND_WITHIN = timedelta(seconds=20)
_LONGEST_ACTOR, _LONGEST_REASON = 128, 1000
_SHORTEST_WAIT_S = 0.01


_TOO_LATE = Refusal(
    code="prepare_timeout",
    detail="not all of its resources were ready in time: see prepare_timeout of the pool's policy",
)


def _seconds(left: float | None) -> timedelta | None:
    """What is left until something is due, if anything is; never so little that looking again would be for nothing."""
    return None if left is None else timedelta(seconds=max(left, _SHORTEST_WAIT_S))


def _is_stale(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.type == "stale_epoch"


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
        self._state: str = "submitted"
        self._hooks = Hooks(request.lease)
        self._preparing = Preparing(self._hooks, self._details)
        self._growing: asyncio.Task[None] | None = None
        self._asking = False
        self._command = None if request.command is None else Commanding(request.lease, self._details)

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
        # Not `start_time`, which is that of the first workflow task: no worker may have been there for long.
        age = workflow.now() - workflow.info().workflow_start_time
        order = AdmitLease(request=self._request, age_s=age.total_seconds())
        admitted = await steps.step(Allocation.admit, order)
        if admitted.questions:
            self._asking = True
            agreed = await admitting.consent(
                self._request, admitted.questions, unwanted=lambda: self._ending is not None
            )
            age = workflow.now() - workflow.info().workflow_start_time
            order = AdmitLease(request=self._request, age_s=age.total_seconds(), consent=agreed)
            admitted = await steps.step(Allocation.admit, order)
        # The digest tells the API whether the request it brings is the one that is here already.
        self._admitted = replace(admitted, digest=self._request.digest, call=self._request.call)
        if admitted.refusal is not None:
            self._show("refused")
            await workflow.wait_condition(workflow.all_handlers_finished)
            return admitted.refusal.code
        standing = admitted if admitted.state is not LeaseState.QUEUED else await self._wait_for_grants(admitted)
        if standing.held is not None:
            self._held(standing.held)
            self._grow(standing)
        elif self._ending is None:
            await self._bring_up(standing)
        if self._ending is None:
            await self._hold()
        closed = await self._end()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return str(closed.outcome)

    # The steps

    async def _wait_for_grants(self, standing: Admitted) -> Admitted:
        """Wait, holding and polling nothing, until the record says that everything asked for is granted.

        Or that the lease has waited long enough. The record also says when to look unasked.
        """
        self._show("queued")
        while standing.state is LeaseState.QUEUED:
            look = Allocation.read_grants
            try:
                await workflow.wait_condition(
                    lambda: self._nudged or self._ending is not None, timeout=_seconds(standing.wait_s)
                )
            except TimeoutError:
                look = Allocation.wake
            if self._ending is not None:
                return Admitted()
            self._nudged = False
            standing = await steps.step(look, self._ref)
        return standing

    async def _bring_up(self, standing: Admitted) -> None:
        """Take all resources through their stages at once, and deliver them when every one is ready.

        The record says, each time it is asked, which resources these are, and how it goes on without one that failed.
        """
        deadline = workflow.now() + timedelta(seconds=standing.left_s)
        try:
            while self._ending is None:
                if standing.state in OVER:
                    self._adopt_end()
                    return
                self._preparing.follow(standing)
                if self._state != "active" and self._preparing.busy:
                    self._show("preparing")
                if not standing.missing and self._preparing.arrived:
                    if await self._deliver(standing, deadline):
                        return
                else:
                    await self._news(standing, deadline)
                standing = await self._look_again(standing)
        except (ActivityError, LeaseholdError) as error:
            await self._give_up(standing, Refusal(code="preparation_failed", detail=str(error.__cause__ or error)))

    async def _news(self, standing: Admitted, deadline: datetime) -> None:
        """Wait until there is something to do; at the deadline the lease fails."""
        try:
            await workflow.wait_condition(
                lambda: (
                    self._ending is not None
                    or self._nudged
                    or self._preparing.has_failed
                    or (not standing.missing and self._preparing.arrived)
                ),
                timeout=max(deadline - workflow.now(), timedelta(0)),
            )
        except TimeoutError:
            self._fail(_TOO_LATE)

    async def _look_again(self, standing: Admitted) -> Admitted:
        """Report what failed, and learn how the lease stands now, if there is anything new."""
        if self._ending is not None:
            return standing
        broken = self._preparing.broken()
        if broken:
            self._nudged = False
            return await self._report(standing, BrokenInLease(lease=self._request.lease, broken=broken))
        if self._nudged:
            self._nudged = False
            return await steps.step(Allocation.read_grants, self._ref)
        return standing

    async def _report(self, standing: Admitted, order: BrokenInLease) -> Admitted:
        now = await steps.step(Allocation.report_broken, order)
        if now.refusal is None:
            return now
        self._fail(now.refusal)
        return standing

    async def _deliver(self, standing: Admitted, deadline: datetime) -> bool:
        """Run what follows once all resources are ready, and deliver; return whether nothing is left to be done."""
        finishing = asyncio.create_task(self._preparing.finish(standing))
        finishing.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await workflow.wait_condition(
                lambda: self._ending is not None or finishing.done(),
                timeout=max(deadline - workflow.now(), timedelta(0)),
            )
        except TimeoutError:
            self._fail(_TOO_LATE)
        if self._ending is not None:
            finishing.cancel()
            return True
        try:
            failure = finishing.result()
        except ActivityError as error:
            if self._state != "active" or not _is_stale(error):
                raise
            # Something was given back under a stage for the whole lease, which begins anew with what is left.
            self._nudged = True
            return False
        if failure:
            if isinstance(failure, list):
                await self._report(standing, BrokenInLease(lease=self._request.lease, broken=tuple(failure)))
            else:
                await self._give_up(standing, Refusal(code="stage_failed", detail=failure))
            self._nudged = True
            return False
        prepared = Prepared(lease=self._request.lease, holds=tuple(claim.held for claim in standing.claims))
        async with self._extending:
            held = await steps.step(Allocation.activate, prepared)
        if held.state in OVER:
            self._adopt_end()
        else:
            self._held(held)
        # What was added meanwhile is looked for again, by whoever watches its time.
        return True

    async def _give_up(self, standing: Admitted, refusal: Refusal) -> None:
        """Fail the lease; an active one goes on, without what was to be added."""
        if self._state != "active":
            self._fail(refusal)
            return
        new = tuple(claim.held for claim in standing.claims if not claim.ready)
        order = BrokenInLease(lease=self._request.lease, dropped=new, reason=refusal.detail)
        self._preparing.follow(await self._report(standing, order))

    def _grow(self, standing: Admitted) -> None:
        """Let what an active lease has go through its stages, beside all else, as far as it has not yet."""
        self._preparing.follow(standing)
        if all(claim.ready for claim in standing.claims):
            return
        if self._growing is None or self._growing.done():
            self._growing = asyncio.create_task(self._bring_up(standing))
        else:
            self._nudged = True

    async def _hold(self) -> None:
        """Do what is due, when it is due, until the lease is over, or its command, or somebody ends it."""
        if self._command is not None:
            self._command.start()
        while self._ending is None:
            assert self._deadline is not None
            deadline, left = self._deadline, self._deadline - workflow.now()
            try:
                await workflow.wait_condition(
                    lambda deadline=deadline: (
                        self._ending is not None  # type: ignore[misc]
                        or self._deadline != deadline
                        or self._has_news
                        or self._has_result
                        or self._may_begin_anew
                    ),
                    timeout=max(left, timedelta(0)),
                )
            except TimeoutError:
                # An extension that is on its way is not beaten by the clock.
                async with self._extending:
                    # Nor is a command that has ended by now.
                    if self._deadline == deadline and self._ending is None and not self._has_result:
                        await self._tick()
            if self._ending is None and self._has_result:
                self._conclude()
            if self._ending is None and self._has_news:
                self._nudged = False
                standing = await steps.step(Allocation.read_grants, self._ref)
                if standing.state in OVER:
                    self._adopt_end()
                elif standing.doomed is not None:
                    self._fail(standing.doomed)
                else:
                    self._grow(standing)
            if self._ending is None and self._may_begin_anew:
                workflow.continue_as_new(self._request)

    async def _tick(self) -> None:
        commanded = self._command is not None
        order = Tick(lease=self._request.lease, stopped=not self._preparing.busy, commanded=commanded)
        held = await steps.step(Allocation.tick, order)
        if held.is_due:
            self._ask_to_end(Outcome.EXPIRED, Steer(actor="leasehold", reason="time is up"))
            return
        if held.state not in OVER:
            self._held(held)
            return
        self._ask_to_end(held.outcome or Outcome.EXPIRED, Steer(actor="leasehold", reason="time is up"))
        self._closed = Closed(state=held.state, outcome=held.outcome)
        self._show(held.state)

    @property
    def _has_news(self) -> bool:
        """Whether the record is to be looked at by whoever watches the lease's time."""
        return self._nudged and not self._is_growing

    @property
    def _may_begin_anew(self) -> bool:
        """Whether it should go on with an empty history, and nothing is in flight that a new run would not know of."""
        return (
            workflow.info().is_continue_as_new_suggested()
            and workflow.all_handlers_finished()
            and not self._is_growing
            and not self._preparing.busy
            and not self._is_commanding
        )

    @property
    def _is_commanding(self) -> bool:
        return self._command is not None and self._command.busy

    @property
    def _has_result(self) -> bool:
        return self._command is not None and self._command.is_over

    def _conclude(self) -> None:
        """End the lease as its command has ended."""
        assert self._command is not None
        report = self._command.result()
        if report is None:
            self._adopt_end()
            return
        steer = Steer(actor="leasehold", reason=f"its command {report.detail}"[:_LONGEST_REASON])
        refusal = Refusal(code=f"command_{report.ending}", detail=report.detail)
        match report.ending:
            case CommandEnding.EXITED | CommandEnding.SIGNALLED:
                self._ask_to_end(Outcome.RELEASED, steer)
            case CommandEnding.LOST:
                self._ask_to_end(Outcome.LOST, steer, refusal)
            case CommandEnding.CANCELLED:
                self._ask_to_end(Outcome.CANCELLED, steer)
            case _:
                self._ask_to_end(Outcome.FAILED, steer, refusal)

    async def _stop_command(self) -> None:
        """Stop what still runs on the lease's resources, before anybody else can have them."""
        assert self._ending is not None
        report = None if self._command is None else await self._command.stop(active=self._state == "active")
        if report is None:
            return
        if report.ending == CommandEnding.CANCELLED and self._ending.outcome is Outcome.EXPIRED:
            report = replace(report, ending=CommandEnding.TIMED_OUT, detail="its lease's time was up")
        self._ending = replace(self._ending, command=report)

    async def _end(self) -> Closed:
        """Close the record first: the holder is rid of the lease while hooks are still being stopped."""
        await self._stop_command()
        await self._close(stopped=not self._preparing.busy and not self._is_growing)
        await self._preparing.stop()
        if self._growing is not None:
            await self._growing
        return await self._close(stopped=True)

    async def _close(self, *, stopped: bool) -> Closed:
        """Close what the lease holds, once; with `stopped`, also end it."""
        assert self._ending is not None
        if self._closed is None:
            self._closed = await steps.step(Allocation.close_lease, self._closing(stopped))
            self._show(self._closed.state)
        if stopped and self._closed.state is not LeaseState.ENDED:
            self._closed = await steps.step(Allocation.end_lease, self._ref)
            self._show(self._closed.state)
        return self._closed

    def _closing(self, stopped: bool) -> CloseLease:
        """The order to close, with what broke just when something else ended the lease: it is quarantined too."""
        assert self._ending is not None
        broken: tuple[BrokenResource, ...] = ()
        with suppress(ActivityError, LeaseholdError):
            broken = self._preparing.broken()
        return replace(self._ending, stopped=stopped, broken=broken)

    @property
    def _is_growing(self) -> bool:
        return self._growing is not None and not self._growing.done()

    # Asking the lease to end

    def _ask_to_end(self, outcome: Outcome, steer: Steer, error: Refusal | None = None) -> None:
        """Note why the lease must end; the first reason stays."""
        if self._ending is None:
            # Signals come from anywhere, and no database may choke on what they say.
            actor = steer.actor.replace("\0", "")[:_LONGEST_ACTOR]
            reason = None if steer.reason is None else steer.reason.replace("\0", "")[:_LONGEST_REASON]
            if steer.forced:
                # The holder is to see who it was.
                error = Refusal(code="ended_by_operator", detail=": ".join(filter(None, (f"ended by {actor}", reason))))
            self._ending = CloseLease(
                lease=self._request.lease, outcome=outcome, actor=actor, stopped=False, reason=reason, error=error
            )

    def _adopt_end(self) -> None:
        """Follow a record that is closed already.

        A step that was committed runs again if its workflow task failed, and what had caused it, an update that was not
        accepted yet, may be lost by then.
        """
        self._ask_to_end(Outcome.CANCELLED, Steer(actor="leasehold", reason="the record is closed"))

    def _fail(self, refusal: Refusal) -> None:
        """End the lease with an error, unless it ends already."""
        self._ask_to_end(Outcome.FAILED, Steer(actor="leasehold"), refusal)

    async def _steer(self, outcome: Outcome, steer: Steer) -> LeaseView:
        # While hooks are asked about it, it can be called off.
        await workflow.wait_condition(lambda: self._admitted is not None or self._asking)
        self._ask_to_end(outcome, steer)
        await workflow.wait_condition(lambda: self._closed is not None or self._refused)
        return self.view()

    async def _extend(self, extension: ExtendLease) -> Held:
        await workflow.wait_condition(lambda: self._admitted is not None)
        async with self._extending:
            if self._ending is not None or self._refused:
                return Held(refusal=Refusal(code="lease_not_active", detail="the lease is over"))
            # Whether it is active the record knows first.
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

    async def _add(self, addition: AddResources) -> Admitted:
        await workflow.wait_condition(lambda: self._admitted is not None)
        if self._ending is not None:
            return Admitted(refusal=Refusal(code="lease_not_active", detail="the lease is over"))
        order = AddToRecord(lease=self._request.lease, addition=addition)
        standing = await steps.step(Allocation.add, order)
        if standing.refusal is None and self._ending is None:
            if addition.lasting and standing.held is not None:
                self._held(standing.held)
            self._grow(standing)
        return standing

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

    @workflow.update
    async def add(self, addition: AddResources) -> Admitted:
        """Give an active lease more resources, at once or not at all; they are prepared while it goes on."""
        return await self._add(addition)

    @workflow.update
    async def give_back(self, part: GiveBack) -> Admitted:
        """Take one resource out of an active lease."""
        await workflow.wait_condition(lambda: self._admitted is not None)
        order = GiveBackRecord(lease=self._request.lease, part=part)
        standing = await steps.step(Allocation.give_back, order)
        if standing.refusal is None:
            self._preparing.follow(standing)
            self._nudged = self._is_growing
        return standing

    @workflow.update
    async def transfer(self, order: Transfer) -> Transferred:
        """Give the lease to another owner; the record's answer carries the refusal if there is one."""
        await workflow.wait_condition(lambda: self._admitted is not None)
        if self._ending is not None or self._refused:
            return Transferred(refusal=Refusal(code="lease_not_active", detail="the lease is over"))
        done = await steps.step(Allocation.transfer, order)
        if done.refusal is None:
            workflow.upsert_search_attributes([LEASE_OWNER.value_set(order.owner)])
        return done

    @extend.validator
    def _check_extension(self, extension: ExtendLease) -> None:
        if self._closed is not None or self._ending is not None:
            raise ApplicationError("the lease is over", type="lease_not_active", non_retryable=True)

    @workflow.signal(name="granted")
    def on_granted(self) -> None:
        """Look at the grants, and at the limiters, again."""
        self._nudged = True
        self._hooks.signalled()
        if self._command is not None:
            self._command.signalled()

    @workflow.signal(name="overdue")
    async def on_overdue(self) -> None:
        """No heartbeat came in time; the record says whether that is still so."""
        await workflow.wait_condition(lambda: self._admitted is not None)
        if self._ending is None and await steps.step(Allocation.give_up, self._ref):
            self._ask_to_end(Outcome.LOST, Steer(actor="leasehold", reason="no heartbeat came in time"))

    @workflow.signal(name="extend")
    async def on_extend_signal(self, extension: ExtendLease | None = None) -> None:
        """The same as the update, for Temporal's UI and command line; one that says nothing changes nothing."""
        if extension is not None:
            # A step that runs twice must be recognised, and who signals names no request.
            named = extension.request or str(workflow.uuid4())
            await self._extend(replace(extension, request=named))

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
        return LeaseView(
            state=self._state, expires_at=self._expires_at, resources=tuple(self._preparing.views.values())
        )

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
        for view in self._preparing.views.values():
            doing = "ready" if view.ready else f"{view.stage}, attempt {view.attempt}" if view.stage else "granted"
            lines.append(f"- {view.pool}/{view.resource}: {doing}")
        if self._command is not None and self._command.doing is not None:
            lines.append(f"- command: {self._command.doing}")
        workflow.set_current_details("\n".join(lines))
