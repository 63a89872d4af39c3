"""The `admit` hooks of pools: asked about a request before anything is decided of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from temporalio import activity

from activities.allocate import as_failure
from activities.heartbeat import heartbeats
from activities.looking import look
from leasehold.errors import Duplicate, LeaseholdError, RequestRefused
from leasehold.messages import AskHook, Consent, HookConsent, Refusal
from leasehold.model import ADMIT
from leasehold.ports import Driver, LogStore, Store

_LONGEST_URL, _LONGEST_REASON = 2000, 1000
_LARGEST_PRIORITY = 1_000_000
_URLS = ("https://", "http://")


class Admitting:
    """Asks hooks through their drivers."""

    def __init__(self, store: Store, logs: LogStore, drivers: Mapping[str, Driver]) -> None:
        self._store = store
        self._logs = logs
        self._drivers = drivers

    @activity.defn
    async def ask(self, question: AskHook) -> HookConsent:
        """Ask one hook once; that it fails is a result, not an error."""
        try:
            async with heartbeats():
                return await self._ask(question)
        except LeaseholdError as error:
            raise as_failure(error) from None

    async def _ask(self, question: AskHook) -> HookConsent:
        briefing = await self._store.brief_question(question)
        result = await look(
            briefing,
            self._drivers,
            self._logs,
            lock=f"{ADMIT}/{question.request.lease}",
            stage=ADMIT,
            pool=question.pool,
            lease=question.request.lease,
            attempt=question.attempt,
        )
        assert result is not None
        if not result.ok:
            return HookConsent(trouble=result.detail)
        return understood(result.stdout)


def understood(answer: bytes) -> HookConsent:
    """What a hook's answer means: nothing, which is consent, or a JSON object.

    `ticket` is the URL of a ticket, `refuse` says why the request is refused, `duplicate_of` which one it repeats. Of a
    command `merge_into` names the lease with one that does for both, and `priority` changes its own.
    """
    if not answer.strip():
        return HookConsent()
    try:
        told: Any = json.loads(answer)
    except ValueError:
        return HookConsent(trouble="its answer is no JSON")
    priority = told.pop("priority", None) if isinstance(told, dict) else None
    if priority is not None and (type(priority) is not int or abs(priority) > _LARGEST_PRIORITY):
        return HookConsent(trouble=f"its priority is no whole number up to {_LARGEST_PRIORITY}")
    known = {"ticket", "refuse", "duplicate_of", "merge_into"}
    if not isinstance(told, dict) or not told.keys() <= known or not all(isinstance(v, str) for v in told.values()):
        return HookConsent(trouble="its answer is no object with texts for ticket, refuse, duplicate_of or merge_into")
    if any("\0" in value for value in told.values()):
        return HookConsent(trouble="its answer has a NUL character")
    if "refuse" in told:
        detail = told["refuse"][:_LONGEST_REASON] or "no reason was given"
        return HookConsent(consent=Consent(refusal=Refusal(code=RequestRefused.code, detail=detail)))
    if "duplicate_of" in told:
        detail = f"the same as {told['duplicate_of'][:_LONGEST_REASON]}"
        return HookConsent(consent=Consent(refusal=Refusal(code=Duplicate.code, detail=detail)))
    ticket = told.get("ticket")
    if ticket is not None and not (ticket.startswith(_URLS) and ticket.isprintable() and len(ticket) <= _LONGEST_URL):
        return HookConsent(trouble="its ticket is no URL")
    return HookConsent(consent=Consent(ticket=ticket, priority=priority, merge_into=told.get("merge_into")))
