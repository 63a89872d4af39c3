"""Leases: requesting, watching, steering."""

from __future__ import annotations

import hashlib
import json
import uuid
from base64 import b32encode
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api import errors, render, requesting
from api.access import (
    CONNECT,
    END,
    EXTEND,
    READ,
    REQUEST,
    SEE,
    STEER,
    TRANSFER,
    Caller,
    Found,
    allow,
    check_pools,
    guarded,
)
from api.auth import Principal, Tokens, missing
from api.names import split_resource
from api.requesting import is_self_service
from api.schemas import (
    AddBody,
    DeliveryAnswer,
    EndBody,
    ExtendBody,
    LeaseAnswer,
    LeaseBody,
    ListAnswer,
    NewLeaseAnswer,
    Plain,
    TransferBody,
)
from api.services import Services, services
from leasehold import durations
from leasehold.access import Role
from leasehold.commands import DUPLICATE_OF, CommandSpec, home_of
from leasehold.errors import (
    Duplicate,
    Fault,
    KeyReused,
    LeaseNotActive,
    LeaseUnknown,
    Malformed,
    NotDelivered,
    from_code,
)
from leasehold.messages import (
    AddResources,
    AdmitLease,
    Admitted,
    ExtendLease,
    GiveBack,
    Held,
    Steer,
    SubmitLease,
    Transfer,
)
from leasehold.model import OVER, LeaseState
from leasehold.ports import Answer, CommandFilter, LeaseFilter, Sealed

router = guarded("/v1/leases", "leases")

Service = Annotated[Services, Depends(services)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Wait = Annotated[Literal["active", "ended"] | None, Query(description="Hold the answer until then")]
Timeout = Annotated[float, Query(alias="timeout", ge=0, le=60, description="How long to hold it, in seconds")]

_FOLLOW_S = 0.2
_MAY_WAIT = {LeaseState.QUEUED, LeaseState.PREPARING}


def lease_id(principal: str, key: str) -> str:
    """The id that belongs to a caller's key; it starts with a letter, so that no number looks like it."""
    digest = hashlib.sha256(f"{principal}\0{key}".encode()).digest()
    return "l" + b32encode(digest).decode().lower()[:25]


def _digest(body: LeaseBody, tokens: Tokens) -> str:
    # What says no more than a later version's default is the same request to it.
    said = body.model_dump(mode="json", exclude_defaults=True)
    # There are secrets in it, and Temporal's history shows the rest of it beside the digest.
    return tokens.sealed(json.dumps(said, sort_keys=True))


def repetition(principal: str, key: str, body: BaseModel) -> str:
    """What tells a call from its repetition, and, after the point, from another one with the same key."""
    known = hashlib.sha256(f"{principal}\0{key}".encode()).hexdigest()[:32]
    return f"{known}.{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:32]}"


async def _shown(lease: str, service: Services, *, alternatives: bool = False) -> dict[str, Any]:
    """A lease as it is now, from its record, or from its workflow while nobody has admitted it.

    Asked for, one that waits says what could be had now instead.
    """
    try:
        return service.leases.lease(await service.store.lease(lease, alternatives=alternatives))
    except LeaseUnknown:
        submission = await service.gateway.submission(lease)
        if submission is None:
            # Its workflow may have been admitted and closed in between.
            return service.leases.lease(await service.store.lease(lease))
        return service.leases.submitted(submission.request, submission.run_id, submission.started_at)


async def _wait(lease: str, wait: str | None, timeout_s: float, service: Services) -> dict[str, Any]:
    """The lease once it has reached a state or ended, or at the timeout."""
    shown = await _shown(lease, service)
    if wait is None or shown["state"] in {wait, LeaseState.ENDED}:
        return shown

    async def reached() -> bool:
        return await service.store.state(lease) in {LeaseState.ENDED, LeaseState(wait)}

    await service.news.until(lease, reached, timeout_s)
    return await _shown(lease, service)


@router.post("", status_code=201, response_model=NewLeaseAnswer)
@allow(REQUEST)
async def request_lease(
    body: LeaseBody,
    http: Request,
    caller: Caller,
    service: Service,
    key: Key = None,
    wait: Wait = None,
    within: Timeout = 30,
    dry_run: Annotated[bool, Query(description="Only say what would happen")] = False,
) -> Response:
    """Request a lease.

    With an `Idempotency-Key` a repetition answers as the first time. 202 means that no worker has admitted the lease
    yet: it is kept, and will be. With `dry_run` the answer, 200, is the lease as it would be, without id and number.
    """
    check_pools(caller, [item.pool for item in body.items])
    body.check_filters()
    asking = await requesting.who(body, caller, http, service)
    request = SubmitLease(
        lease=lease_id(asking.principal, key or uuid.uuid4().hex),
        principal=asking.principal,
        owner=asking.owner,
        digest=_digest(body, service.tokens),
        self_service=asking.self_service,
        unverified=caller.anonymous,
        items=body.wanted,
        duration=body.duration_text,
        priority=body.priority,
        description=body.description,
        cc=tuple(body.cc),
        heartbeat=body.heartbeat_text,
        start_at=body.start_at,
        queue_timeout=body.queue_timeout_text,
        wait_for_supply=body.wait_for_supply,
        notify=None if body.notify is False else tuple(body.notify),
        share_key=body.share_key,
        command=_command(body, caller),
        on_end=body.on_end,
        on_end_reason=body.on_end_reason,
        call=uuid.uuid4().hex,
    )
    if dry_run:
        return JSONResponse(await _tried(request, service))
    sealed = Sealed(secrets=body.secrets, env=body.command.env if body.command else {})
    if sealed.secrets or sealed.env:
        # Nothing can come of it but by this request, which Temporal's history has without it.
        await service.store.seal(request.lease, request.digest, sealed)
    try:
        first = await submit(request, service, repeatable=key is not None)
    except Duplicate as error:
        twin = _twin(error)
        if twin is None:
            raise
        return JSONResponse({**await _wait(twin, wait, within, service), "token": None, "duplicate": True})
    shown = await _wait(request.lease, wait, within, service)
    if shown["state"] == LeaseState.ENDED and shown["number"] is None:
        # Refused by a worker that came late: the same answer as from one that was there.
        await _is_answered(request, service)
    status = 202 if shown["state"] == "submitted" else 201 if first else 200
    # Whoever else says the same name gets no token.
    token = None if caller.anonymous and not first else service.tokens.for_lease(request.lease)
    return JSONResponse({**shown, "token": token, "duplicate": False}, status)


def _command(body: LeaseBody, caller: Principal) -> CommandSpec | None:
    """The command of a request; raise what is wrong with where it is to run, or with who wants it."""
    if body.command is None:
        return None
    if caller.anonymous:
        raise missing()
    home = home_of(body.items[0].pool)
    role = caller.role_in([home]) or Role.VIEWER
    return body.command.spec(role, labels=body.labels, secrets=bool(body.secrets))


def _twin(error: Duplicate) -> str | None:
    """The lease that is there already with the command of a request, where that is why it is refused."""
    return next((fault.detail for fault in error.faults if fault.code == DUPLICATE_OF), None)


async def _tried(request: SubmitLease, service: Services) -> dict[str, Any]:
    """The lease that would come of a request; raise what would refuse it."""
    admitted, lease = await service.store.try_admission(AdmitLease(request=request, age_s=0))
    if admitted.refusal is not None:
        raise from_code(admitted.refusal.code, admitted.refusal.detail, admitted.refusal.faults)
    assert lease is not None
    shown = service.leases.lease(lease)
    resources = [{**resource, "epoch": None} for resource in shown["resources"]]
    return {
        **shown,
        "id": None,
        "number": None,
        "resources": resources,
        "temporal_url": None,
        "token": None,
        "duplicate": False,
    }


async def submit(request: SubmitLease, service: Services, *, repeatable: bool) -> bool:
    """Submit a request unless it came before, and return whether it is the first; raise what refused it."""
    if repeatable and await _is_answered(request, service):
        return False
    admitted = await service.gateway.submit(request)
    if admitted is None:
        if await _is_answered(request, service) or not repeatable:
            return True
        submission = await service.gateway.submission(request.lease)
        return submission is not None and submission.request.call == request.call
    _check_same(request, admitted.digest)
    if admitted.refusal is not None:
        raise from_code(admitted.refusal.code, admitted.refusal.detail, admitted.refusal.faults)
    # Another call may have started it, and waits for the same answer.
    return admitted.call == request.call


async def _is_answered(request: SubmitLease, service: Services) -> bool:
    """Whether the record has an answer to this request already; raise the refusal if that is what it was."""
    known = await service.store.request(request.lease)
    if known is None:
        return False
    _check_same(request, known.digest)
    if known.refusal is not None:
        raise errors.refusal(known.refusal)
    return True


def _check_same(request: SubmitLease, digest: str) -> None:
    if digest != request.digest:
        raise KeyReused(
            "this Idempotency-Key came with another request before",
            [Fault(path="Idempotency-Key", code="reused", detail="use a new key for a new request")],
        )


@router.get("", response_model=ListAnswer)
@allow(READ)
async def list_leases(
    service: Service,
    state: Plain | None = None,
    owner: Plain | None = None,
    pool: Plain | None = None,
    resource: Annotated[Plain | None, Query(description="POOL/NAME: leases that had it or have it")] = None,
    commands: Annotated[bool, Query(description="Only those with a command")] = False,
    command: Annotated[Plain | None, Query(description="Those with just this command, as a line")] = None,
    command_like: Annotated[Plain | None, Query(description="Those with this text in their command")] = None,
    folder: Annotated[Plain | None, Query(description="Those whose command runs in this folder")] = None,
    cursor: Plain | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List leases, newest first; `state` may be several, separated by commas."""
    states = tuple(state.split(",")) if state else ()
    unknown = set(states) - set(LeaseState)
    if unknown:
        raise Malformed(f"state={state}: there is no state {sorted(unknown)[0]!r}")
    if cursor is not None and not (cursor.isdecimal() and len(cursor) < 19):
        raise Malformed(f"cursor={cursor}: this is not a cursor that was given out")
    before = int(cursor) if cursor else None
    name = None
    if resource is not None:
        pool, name = split_resource(resource)
        if pool is None:
            raise Malformed(f"resource={resource}: name its pool too, as POOL/NAME")
    named = any(one is not None for one in (command, command_like, folder))
    found = await service.store.leases(
        LeaseFilter(
            states=states,
            owner=owner,
            pool=pool,
            resource=name,
            command=CommandFilter(line=command, like=command_like, folder=folder) if commands or named else None,
            before=before,
            limit=limit + 1,
        )
    )
    more = str(found[limit - 1].number) if len(found) > limit else None
    return JSONResponse({"items": [service.leases.lease(x) for x in found[:limit]], "next_cursor": more})


@router.get("/{ref}", response_model=LeaseAnswer)
@allow(SEE)
async def show_lease(found: Found, service: Service, wait: Wait = None, within: Timeout = 30) -> Response:
    """Show a lease, by id or number; hold the answer until it has reached a state, if asked to."""
    if wait is not None or found.record is None:
        return JSONResponse(await _wait(found.id, wait, within, service))
    if found.record.state in _MAY_WAIT:
        return JSONResponse(await _shown(found.id, service, alternatives=True))
    return JSONResponse(service.leases.lease(found.record))


@router.post("/{ref}/extend", response_model=LeaseAnswer)
@allow(EXTEND)
async def extend_lease(found: Found, body: ExtendBody, caller: Caller, service: Service, key: Key = None) -> Response:
    """Extend an active lease."""
    if found.record is None:
        raise LeaseNotActive("the lease has not been admitted yet")
    extension = ExtendLease(
        by=durations.render(body.by) if body.by else None,
        until=body.until,
        actor=caller.name,
        request=repetition(caller.id, key or uuid.uuid4().hex, body),
    )
    # The record's answer first: it is given even when the lease is over by now.
    answer: Answer | Held | None = None
    if key is not None:
        answer = await service.store.answered(found.id, extension.request)
    if answer is None:
        answer = await service.gateway.extend(found.id, extension)
    if answer is None:
        raise _over(found)
    if answer.refusal is not None:
        raise from_code(answer.refusal.code, answer.refusal.detail, answer.refusal.faults)
    return JSONResponse(await _shown(found.id, service))


@router.post("/{ref}/release", response_model=LeaseAnswer)
@allow(END)
async def release_lease(found: Found, caller: Caller, service: Service, body: EndBody | None = None) -> Response:
    """Give a lease back. Before it is active this cancels it; once it is over it changes nothing.

    A holder whose lease somebody else ends is told who did it and why, in the lease's `error`.
    """
    done = _is_over(found) or await service.gateway.release(found.id, _steer(found, caller, body))
    return JSONResponse(await _shown(found.id, service), 200 if done else 202)


@router.post("/{ref}/cancel", response_model=LeaseAnswer)
@allow(END)
async def cancel_lease(found: Found, caller: Caller, service: Service, body: EndBody | None = None) -> Response:
    """End a lease in whatever state it is; once it is over this changes nothing."""
    done = _is_over(found) or await service.gateway.cancel(found.id, _steer(found, caller, body))
    return JSONResponse(await _shown(found.id, service), 200 if done else 202)


@router.post("/{ref}/transfer", response_model=NewLeaseAnswer)
@allow(TRANSFER)
async def transfer_lease(found: Found, body: TransferBody, caller: Caller, service: Service) -> Response:
    """Give a lease to another owner, with all that it has, and its place in the queue.

    The token that it had is good no more; `token` in the answer is the new one.
    """
    if found.record is None:
        raise LeaseNotActive("the lease has not been admitted yet")
    order = Transfer(lease=found.id, owner=body.owner, actor=caller.name)
    done = await service.gateway.transfer(order)
    if done is None:
        raise _over(found)
    if done.refusal is not None:
        raise from_code(done.refusal.code, done.refusal.detail, done.refusal.faults)
    token = service.tokens.for_lease(found.id, done.transfers)
    return JSONResponse({**await _shown(found.id, service), "token": token}, headers={"Cache-Control": "no-store"})


def _steer(found: Found, caller: Caller, body: EndBody | None) -> Steer:
    forced = caller.lease is None and caller.name != found.known.owner
    return Steer(actor=caller.name, reason=body.reason if body else None, forced=forced)


def _is_over(found: Found) -> bool:
    return found.record is not None and found.record.state in OVER


def _over(found: Found) -> LeaseNotActive:
    # A refused request has no number.
    name = found.record.number if found.record is not None and found.record.number else found.id
    return LeaseNotActive(f"lease {name} is over")


@router.post("/{ref}/heartbeat", response_model=LeaseAnswer)
@allow(STEER)
async def beat(found: Found, service: Service) -> Response:
    """Say that the lease is still wanted. One that asked for heartbeats is lost when none comes in time."""
    if found.record is None:
        submission = await service.gateway.submission(found.id)
        every = submission.request.heartbeat if submission else None
        await service.store.heartbeat(found.id, durations.parse(every) if every else None)
    elif found.record.state in OVER:
        raise _over(found)
    else:
        await service.store.heartbeat(found.id)
    return JSONResponse(await _shown(found.id, service))


@router.post("/{ref}/resources", response_model=LeaseAnswer)
@allow(STEER)
async def add_resources(found: Found, body: AddBody, caller: Caller, service: Service, key: Key = None) -> Response:
    """Give an active lease more resources, at once or not at all: they are prepared while the lease goes on."""
    check_pools(caller, [item.pool for item in body.items], lease=found)
    body.check_filters()
    if found.record is None:
        raise LeaseNotActive("the lease has not been admitted yet")
    addition = AddResources(
        self_service=caller.lease is None and is_self_service(caller, [item.pool for item in body.items]),
        items=tuple(item.item() for item in body.items),
        actor=caller.name,
        request=repetition(caller.id, key or uuid.uuid4().hex, body),
    )
    # The workflow first: it may have lost what the record has, and has yet to prepare it.
    answer: Answer | Admitted | None = await service.gateway.add(found.id, addition)
    over = answer is None or (answer.refusal is not None and answer.refusal.code == LeaseNotActive.code)
    if over and key is not None:
        answer = await service.store.answered(found.id, addition.request) or answer
    return await _grown(found, answer, service)


@router.delete("/{ref}/resources/{pool}/{name}", response_model=LeaseAnswer)
@allow(STEER)
async def give_back_resource(found: Found, pool: str, name: str, caller: Caller, service: Service) -> Response:
    """Give one of an active lease's resources back; one that was given back before stays so."""
    if found.record is None:
        raise LeaseNotActive("the lease has not been admitted yet")
    part = GiveBack(pool=pool, resource=name, actor=caller.name)
    return await _grown(found, await service.gateway.give_back(found.id, part), service)


async def _grown(found: Found, answer: Answer | Admitted | None, service: Services) -> Response:
    """The lease after its resources were changed; raise what refused that."""
    if answer is None:
        raise _over(found)
    if answer.refusal is not None:
        raise from_code(answer.refusal.code, answer.refusal.detail, answer.refusal.faults)
    return JSONResponse(await _shown(found.id, service))


@router.get("/{ref}/delivery", response_model=DeliveryAnswer)
@allow(CONNECT)
async def show_delivery(found: Found, service: Service) -> Response:
    """Show what the holder needs to connect, once all resources are ready."""
    if found.record is None:
        raise NotDelivered("the lease has not been admitted yet")
    delivered = await service.store.delivery(found.id)
    headers = {"Cache-Control": "no-store"}
    return JSONResponse(render.delivery(found.id, delivered), headers=headers)
