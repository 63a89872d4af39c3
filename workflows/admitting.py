"""What the `admit` hooks of a request's pools say to it, one pool after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.admitting import Admitting
    from leasehold.messages import AskHook, Consent, HookConsent, PlannedHook, PlannedQuestion, Refusal, SubmitLease
    from workflows.hooks import as_hook

_CANCELLED = Refusal(code="cancelled", detail="cancelled before it was admitted")


async def consent(
    request: SubmitLease, questions: Sequence[PlannedQuestion], *, unwanted: Callable[[], bool]
) -> Consent:
    """Ask all hooks until one refuses; the first ticket stays. Of a lease that is `unwanted` nobody is asked."""
    asking = asyncio.create_task(_ask(request, questions))
    await workflow.wait_condition(lambda: asking.done() or unwanted())
    if not asking.done():
        asking.cancel()
        await asyncio.wait([asking])
    return Consent(refusal=_CANCELLED) if asking.cancelled() or unwanted() else asking.result()


async def _ask(request: SubmitLease, questions: Sequence[PlannedQuestion]) -> Consent:
    ticket = priority = None
    for question in questions:
        for hook in question.hooks:
            answered = await _ask_hook(request, question, hook)
            if answered.trouble is not None:
                detail = f"the admit hook of {question.pool} failed: {answered.trouble}"
                return Consent(refusal=Refusal(code="request_refused", detail=detail))
            if answered.consent.refusal is not None:
                return answered.consent
            ticket = ticket or answered.consent.ticket
            priority = answered.consent.priority if priority is None else priority
            if answered.consent.merge_into is not None:
                return answered.consent
    return Consent(ticket=ticket, priority=priority)


async def _ask_hook(request: SubmitLease, question: PlannedQuestion, hook: PlannedHook) -> HookConsent:
    """Ask one hook up to its attempts. A worker that dies in the middle consumes none."""
    answered = HookConsent(trouble="no attempt is allowed")
    for attempt in range(1, hook.attempts + 1):
        order = AskHook(request=request, pool=question.pool, spec=question.spec, hook=hook.index, attempt=attempt)
        answered = await workflow.execute_activity_method(
            Admitting.ask,
            order,
            **as_hook(hook.timeout_s, question.site),
            summary=f"{question.pool}, attempt {attempt} of {hook.attempts}",
        )
        if answered.trouble is None:
            break
    return answered
