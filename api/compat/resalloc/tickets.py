"""resalloc's tickets: each is a lease of one resource that has certain tags, and is called by the lease's number."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception, stop_never, wait_exponential

from api import errors
from api.routes.leases import lease_id, submit
from api.schemas import LeaseBody
from api.services import Services
from leasehold import durations
from leasehold.config import as_invalid
from leasehold.errors import (
    Fault,
    Invalid,
    LeaseNotActive,
    LeaseUnknown,
    NotDelivered,
    Unavailable,
    Unsatisfiable,
)
from leasehold.messages import Steer, SubmitLease
from leasehold.model import LONGEST, OVER, Lease, LeaseState
from leasehold.store.holding import longest

OWNER = "resalloc"
"""Whose all tickets are, as principal and as owner: nobody says who they are."""

LOOK_AGAIN_S = 20.0
"""So often one that waits looks for itself, whatever it was told meanwhile."""

_LONGEST_KEY = 255
_LONGEST_SHARE_KEY = 128
_LONGEST_DESCRIPTION = 1000
_NEWEST = 2**62
_ENDINGS = frozenset({"lease_releasing", "lease_ended"})

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How long a ticket is kept: `lifetime`, or as long as the pools allow.

    With `heartbeat` it is lost when nobody has asked for it for so long.
    """

    lifetime: timedelta | None = None
    heartbeat: timedelta | None = None


class Tickets:
    """What resalloc's clients ask for.

    Their client repeats for ever what fails. So an unknown ticket is no error, and while the database or Temporal is
    away a call waits, for as long as its caller does.
    """

    def __init__(self, services: Services, terms: Terms) -> None:
        self._services = services
        self._store = services.store
        self._terms = terms
        self._look_again_s = LOOK_AGAIN_S
        if terms.heartbeat is not None:
            self._look_again_s = min(LOOK_AGAIN_S, terms.heartbeat.total_seconds() / 3)
        self._unwatched: set[asyncio.Task[Any]] = set()
        """What goes on though nobody waits for it."""

    @asynccontextmanager
    async def taken(self, tags: object, sandbox: object = None, key: object = None) -> AsyncIterator[int]:
        """A new ticket's number, or that of the ticket that was taken with this key.

        Where the block is left by a cancellation nobody learnt of the number, and the ticket is withdrawn; not so with
        a key, by which it is asked for again.
        """
        request = await _patiently(lambda: self._request(tags, sandbox, key))
        attempts: list[asyncio.Task[bool]] = []

        async def start() -> None:
            # Made to its end: of one that was broken off it is not known what it has started.
            attempts[:] = [self._go_on(submit(request, self._services, repeatable=bool(key)))]
            await asyncio.shield(attempts[0])

        try:
            await _patiently(start)
            yield await _patiently(lambda: self._number(request))
        except asyncio.CancelledError:
            if not key:
                self._go_on(self._withdraw(request.lease, attempts))
            raise

    async def collect(self, ticket: object) -> dict[str, Any]:
        """How a ticket stands, with what was delivered; `ready` is None where there is no such ticket."""
        return await _patiently(lambda: self._collect(ticket))

    async def wait(self, ticket: object) -> bytes:
        """What was delivered, as soon as it is; nothing where there is no such ticket, or it has ended before."""
        return await _patiently(lambda: self._wait(ticket))

    async def close(self, ticket: object) -> None:
        """Give a ticket back, or call it off; one that is over, or unknown, stays so."""
        await _patiently(lambda: self._close(ticket))

    async def finish(self, within_s: float) -> None:
        """Wait until tickets that nobody learnt of are withdrawn, for so long at most."""
        if self._unwatched:
            await asyncio.wait(self._unwatched, timeout=within_s)

    # Taking one

    async def _request(self, tags: object, sandbox: object, key: object) -> SubmitLease:
        if key and not (isinstance(key, str) and len(key) <= _LONGEST_KEY):
            detail = f"a key is a text of at most {_LONGEST_KEY} characters"
            raise Invalid(detail, [Fault(path="key", code="not_a_key", detail=detail)])
        body = _asked(tags, sandbox)
        items = tuple(item.item() for item in body.items)
        policies = await self._store.policies(items)
        if not policies:
            # Said before anything is recorded: their client will ask again and again.
            raise Unsatisfiable("there is no pool yet")
        duration = min(longest(list(policies.values())), self._terms.lifetime or LONGEST)
        heartbeat = self._terms.heartbeat
        return SubmitLease(
            lease=lease_id(OWNER, str(key) if key else uuid.uuid4().hex),
            principal=OWNER,
            owner=OWNER,
            digest=hashlib.sha256(json.dumps([body.items[0].tags, sandbox or None]).encode()).hexdigest(),
            items=items,
            duration=durations.render(duration),
            description=f"sandbox {sandbox}"[:_LONGEST_DESCRIPTION] if sandbox else None,
            heartbeat=durations.render(heartbeat) if heartbeat else None,
            wait_for_supply=True,
            notify=None,
            share_key=body.share_key,
            call=uuid.uuid4().hex,
        )

    async def _number(self, request: SubmitLease) -> int:
        """The number of a request's lease, once a worker has admitted it; raise what refuses it."""
        lease = request.lease

        async def decided() -> bool:
            return await self._store.state(lease) is not None

        while (known := await self._store.request(lease)) is None:
            if request.heartbeat:
                await self._store.heartbeat(lease, durations.parse(request.heartbeat))
            await self._services.news.until(lease, decided, self._look_again_s)
            if await self._services.gateway.submission(lease) is None and await self._store.request(lease) is None:
                raise LeaseNotActive("the request was ended before it was admitted")
        if known.refusal is not None:
            raise errors.refusal(known.refusal)
        number = (await self._store.lease(lease, explained=False)).number
        assert number is not None
        return number

    def _go_on(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something to its end, whoever goes away meanwhile."""

        def forget(task: asyncio.Task[T]) -> None:
            self._unwatched.discard(task)
            # Or it would be reported as one that nobody has looked at.
            _ = task.cancelled() or task.exception()

        task = asyncio.create_task(work)
        self._unwatched.add(task)
        task.add_done_callback(forget)
        return task

    async def _withdraw(self, lease: str, attempts: list[asyncio.Task[bool]]) -> None:
        """Cancel the lease of a ticket that nobody learnt of."""
        try:
            await asyncio.gather(*attempts, return_exceptions=True)
            steer = Steer(actor=OWNER, reason="its client went away before it was told the ticket")
            await _patiently(lambda: self._services.gateway.cancel(lease, steer))
        except Exception:
            log.exception("lease %s, of which nobody knows, could not be cancelled", lease)

    # A ticket that there is

    async def _find(self, ticket: object) -> Lease | None:
        """The lease behind a ticket, which may be a number or a text of digits.

        Leases that were not taken here are none of its callers' business: nobody asks who they are.
        """
        if isinstance(ticket, bool) or not isinstance(ticket, int | str):
            return None
        ref = str(ticket).strip()
        if not (ref.isascii() and ref.isdecimal()):
            return None
        try:
            lease = await self._store.lease(ref, explained=False)
        except LeaseUnknown:
            return None
        return lease if lease.principal == OWNER else None

    async def _collect(self, ticket: object) -> dict[str, Any]:
        lease = await self._find(ticket)
        if lease is None:
            return dict.fromkeys(("ready", "output", "closed", "failed"))
        await self._beat(lease)
        ready, over = lease.active_at is not None, lease.state in OVER
        closed = over and await self._was_closed(lease)
        output = await self._data(lease) if ready else None
        return {"ready": ready, "output": output, "closed": closed, "failed": over and not closed}

    async def _wait(self, ticket: object) -> bytes:
        while (lease := await self._find(ticket)) is not None:
            if lease.active_at is not None or lease.state in OVER:
                return await self._data(lease)
            await self._beat(lease)
            await self._services.news.until(lease.id, self._is_decided(lease.id), self._look_again_s)
        return b""

    def _is_decided(self, lease: str) -> Callable[[], Awaitable[bool]]:
        async def is_decided() -> bool:
            return await self._store.state(lease) in {LeaseState.ACTIVE, *OVER}

        return is_decided

    async def _close(self, ticket: object) -> None:
        lease = await self._find(ticket)
        if lease is not None and lease.state not in OVER:
            await self._services.gateway.release(lease.id, Steer(actor=OWNER))

    async def _beat(self, lease: Lease) -> None:
        """Asking for a ticket is the heartbeat of one that needs some."""
        if lease.heartbeat_by is not None and lease.state not in OVER:
            with suppress(LeaseNotActive):
                await self._store.heartbeat(lease.id)

    async def _data(self, lease: Lease) -> bytes:
        """What was delivered of a ticket's resource, the last one that it had, and by the pool for the whole lease."""
        try:
            delivered = await self._store.delivery(lease.id)
        except NotDelivered:
            return b""
        mine = [one for one in delivered if one.name][-1:]
        shared = [one for one in delivered if not one.name and one.pool in {own.pool for own in mine}]
        return b"".join(one.data for one in mine + shared)

    async def _was_closed(self, lease: Lease) -> bool:
        """Whether a lease that is over was ended by its client, and not by its failure, its time or somebody else."""
        happened = await self._store.events(lease=lease.id, before=_NEWEST)
        return any(event.kind in _ENDINGS and event.actor == OWNER for event in happened)


def _asked(tags: object, sandbox: object) -> LeaseBody:
    """The request for a ticket, checked as every other; raise `Invalid`."""
    wanted = [tags] if isinstance(tags, str) else tags or []
    body = {"items": [{"tags": wanted}], "wait_for_supply": True, "share_key": _share_key(sandbox)}
    try:
        return LeaseBody.model_validate(body)
    except ValidationError as error:
        raise as_invalid(error.errors()) from None


def _share_key(sandbox: object) -> object:
    """A sandbox as a key to what was given back: none where it is empty, a digest where it is too long for one."""
    if isinstance(sandbox, str) and len(sandbox) > _LONGEST_SHARE_KEY:
        return hashlib.sha256(sandbox.encode()).hexdigest()
    return sandbox or None


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What a call returns, made again and again while the database or Temporal is away."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_passes), wait=wait_exponential(0.1, max=2), stop=stop_never, reraise=True
    ):
        with attempt:
            return await call()
    raise AssertionError("it is made until it is answered")


def _passes(error: BaseException) -> bool:
    return isinstance(error, Unavailable) or (isinstance(error, RuntimeError) and errors.is_unconnected(error))
