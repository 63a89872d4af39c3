"""Which call needs what: each route says it in one line, and it is asked before anything of the body is read.

    router = guarded("/v1/leases", "leases")

    @router.post("/{ref}/heartbeat", response_model=LeaseAnswer)
    @allow(STEER)
    async def heartbeat(found: Found, caller: Caller, service: Service) -> Response: ...

A route of such a router that does not say it cannot be made. What of the body needs a right, the pools that a request
names, the route checks itself: `check_pools`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.auth import BEARER, Principal, Tokens, authenticate, check_account, missing
from api.credentials import FRESH_S
from api.schemas import PROBLEMS
from api.services import Services
from leasehold.access import Role
from leasehold.errors import Fault, LeaseUnknown, Refused, Unauthenticated
from leasehold.messages import SubmitLease
from leasehold.model import CcMay, Lease

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_LEASE_ID = re.compile(r"l[a-z2-7]{25}")
_RIGHT = "leasehold_right"


# Rights


@dataclass(frozen=True, kw_only=True)
class Right:
    """What a call needs: at least `role`, unless the token is that of a lease and `lease_tokens` have it.

    `changes`: a token that may only read does not have it. `pool` names the parameter of the address that says which
    pool it is about; `everywhere`: it is about all of them.
    """

    name: str
    role: Role
    changes: bool = False
    pool: str | None = None
    everywhere: bool = False
    lease_tokens: bool = False
    open: bool = False
    """Whether the route itself says what somebody may who does not say who they are."""

    async def check(self, request: Request, caller: Principal) -> None:
        """Raise `Refused` unless the caller has it."""
        if caller.lease is not None:
            if not self.lease_tokens:
                raise _refused("other_lease", "the token of a lease is good for that lease alone")
            return
        if caller.anonymous:
            if not self.open:
                _check_may_look(caller, self)
            return
        if self.pool is not None:
            check_role(caller, self.role, [request.path_params[self.pool]])
        elif self.everywhere:
            check_role(caller, self.role, None)
        else:
            check_role(caller, self.role, ())
        check_changes(caller, self.changes)


@dataclass(frozen=True, kw_only=True)
class LeaseRight(Right):
    """What a call about a lease needs: `role` for anybody's, `owner` for one's own, `cc` where one is in its cc.

    `cc_may` is what the policy of all its pools must give those in its cc for it to be as much theirs as the owner's.
    The token of a lease has nearly all of these, for its own lease. The lease is looked up first, see `Found`.
    """

    owner: Role
    cc: Role | None
    cc_may: CcMay | None = None
    lease_tokens: bool = True

    async def check(self, request: Request, caller: Principal) -> None:
        """Raise `Refused` unless the caller has it for this lease, `LeaseUnknown` if there is none."""
        services: Services = request.app.state.services
        if caller.anonymous:
            _check_may_look(caller, self)
        found = request.state.found = await _find(request.path_params["ref"], caller, services)
        await self.check_found(found, caller, services)

    async def check_found(self, found: FoundLease, caller: Principal, services: Services) -> None:
        """Raise `Refused` unless the caller, no other lease's token, has it for this lease."""
        if caller.lease is not None:
            if not self.lease_tokens:
                raise _refused("role_too_small", f"this needs the role {self.role}, and not the token of a lease")
            return
        least = await self._least(found, caller, services)
        check_role(caller, least, found.pools, f"a lease of {found.known.owner}: ")
        check_changes(caller, self.changes)

    async def _least(self, found: FoundLease, caller: Principal, services: Services) -> Role:
        if found.known.owner == caller.name:
            return self.owner
        if caller.name not in found.known.cc:
            return self.role
        if self.cc_may is not None and await _lets_cc(self.cc_may, found, services):
            return self.owner
        return self.role if self.cc is None else self.cc


KNOWN = Right(name="known", role=Role.VIEWER, lease_tokens=True)
READ = Right(name="read", role=Role.VIEWER)
REQUEST = Right(name="request", role=Role.USER, changes=True, open=True)
REQUEST_KNOWN = replace(REQUEST, name="request-known", open=False)
OPERATE = Right(name="operate", role=Role.OPERATOR, changes=True, pool="pool")
READ_POOL_LOG = Right(name="read-pool-log", role=Role.OPERATOR, pool="pool")
OPERATE_ALL = Right(name="operate-all", role=Role.OPERATOR, changes=True, everywhere=True)
CONFIGURE = Right(name="configure", role=Role.ADMIN, changes=True, pool="name")
ADMINISTER = Right(name="administer", role=Role.ADMIN, changes=True, everywhere=True)
RUN = Right(name="run", role=Role.RUNNER, changes=True)
READ_TOKENS = Right(name="read-tokens", role=Role.USER)
CHANGE_TOKENS = Right(name="change-tokens", role=Role.USER, changes=True)

SEE = LeaseRight(name="see", role=Role.VIEWER, owner=Role.VIEWER, cc=Role.VIEWER)
READ_LOG = LeaseRight(name="read-log", role=Role.OPERATOR, owner=Role.VIEWER, cc=Role.VIEWER)
CONNECT = LeaseRight(name="connect", role=Role.ADMIN, owner=Role.USER, cc=Role.USER)
STEER = LeaseRight(name="steer", role=Role.OPERATOR, owner=Role.USER, cc=None, changes=True)
EXTEND = replace(STEER, name="extend", cc_may=CcMay.EXTEND)
END = replace(STEER, name="end", cc_may=CcMay.RELEASE)
TRANSFER = LeaseRight(name="transfer", role=Role.ADMIN, owner=Role.ADMIN, cc=None, changes=True, lease_tokens=False)


def check_role(caller: Principal, least: Role, pools: Collection[str] | None, where: str = "") -> None:
    """Raise `Refused` unless the caller has a role where these pools are concerned, None being all there are."""
    role = caller.role_in(pools)
    if role is not None and role.reaches(least):
        return
    if caller.role is not None and caller.role.reaches(least):
        limit = ", ".join(caller.scopes.pools or ())
        raise _refused("other_pool", f"{where}this token is limited to the pools {limit}")
    raise _refused("role_too_small", f"{where}this needs the role {least}, and the token has {caller.role or 'none'}")


def _check_may_look(caller: Principal, right: Right) -> None:
    """Raise `Unauthenticated` unless who does not say who they are may look, and this is no more than that."""
    if caller.role is None or right.changes or not caller.role.reaches(right.role):
        raise missing()


async def _lets_cc(what: CcMay, found: FoundLease, services: Services) -> bool:
    """Whether all pools that a lease is about give those in its cc this."""
    policies = await services.store.policies()
    pools = policies.keys() if found.pools is None else found.pools
    return all(pool in policies and what in policies[pool].cc_may for pool in pools)


def check_changes(caller: Principal, changes: bool) -> None:
    """Raise `Refused` if the caller changes something with a token that may only read."""
    if changes and caller.scopes.read:
        raise _refused("read_only", "this token may only read")


def check_pools(
    caller: Principal, pools: Sequence[str | None], path: str = "items[{}].pool", lease: FoundLease | None = None
) -> None:
    """Raise `Refused` with the place of each pool that the caller's token is not good for; None is any pool.

    The token of a `lease` is good for the pools that its lease is about: it gives nobody more than its owner may have.
    """
    limit = caller.scopes.pools if caller.lease is None or lease is None else lease.pools
    if limit is None:
        return
    faults = [
        Fault(path=path.format(index), code="other_pool", detail=f"this token is limited to {', '.join(sorted(limit))}")
        for index, pool in enumerate(pools)
        if pool not in limit
    ]
    if faults:
        raise Refused(faults[0].detail, faults)


def _refused(code: str, detail: str) -> Refused:
    return Refused(detail, [Fault(path="Authorization", code=code, detail=detail)])


# Leases


@dataclass(frozen=True)
class FoundLease:
    """A lease by its reference: its record, or, before a worker admitted it, what was submitted."""

    known: Lease | SubmitLease

    @property
    def record(self) -> Lease | None:
        """The record, if there is one."""
        return self.known if isinstance(self.known, Lease) else None

    @property
    def id(self) -> str:
        """The lease's id."""
        return self.known.id if isinstance(self.known, Lease) else self.known.lease

    @property
    def pools(self) -> set[str] | None:
        """The pools that it is about; None if that may be any."""
        held = {resource.pool for resource in self.known.resources} if isinstance(self.known, Lease) else set()
        if not held and any(item.pool is None for item in self.known.items):
            return None
        return held | {item.pool for item in self.known.items if item.pool is not None}


async def _find(ref: str, caller: Principal, services: Services) -> FoundLease:
    """The lease that `ref` names; raise `LeaseUnknown`, or `Refused` if the caller's token is that of another one."""
    try:
        record = await services.store.lease(ref, explained=False)
    except LeaseUnknown:
        if not _LEASE_ID.fullmatch(ref):
            raise
        _check_reaches(caller, ref)
        submission = await services.gateway.submission(ref)
        if submission is None:
            # Its workflow may have been admitted and closed in between.
            return FoundLease(await services.store.lease(ref, explained=False))
        return FoundLease(submission.request)
    _check_reaches(caller, record.id, record.transfers)
    return FoundLease(record)


def _check_reaches(caller: Principal, lease: str, transfers: int = 0) -> None:
    if caller.lease is None:
        return
    if caller.lease != lease:
        raise _refused("other_lease", "this token is good for another lease")
    if caller.transfers != transfers:
        detail = "the lease has another owner by now, and another token"
        raise Unauthenticated(detail, [Fault(path="Authorization", code="transferred", detail=detail)])


# Routes


def allow(right: Right) -> Callable[[Endpoint], Endpoint]:
    """Say what a call needs."""

    def declared(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _RIGHT, right)
        return endpoint

    return declared


class GuardedRoute(APIRoute):
    """A route that asks who is calling, and whether they may, before it reads the body."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:
        right = getattr(endpoint, _RIGHT, None)
        if not isinstance(right, Right):
            raise TypeError(f"{path}: say who may call it, @allow(…)")
        self.right = right
        # For the OpenAPI document; who is calling is known by then.
        more["dependencies"] = [*(more.get("dependencies") or ()), Depends(BEARER)]
        more["openapi_extra"] = {**(more.get("openapi_extra") or {}), "x-right": right.name}
        super().__init__(path, endpoint, **more)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's way to put something before all that a route does."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            begun = time.monotonic()
            caller = request.state.caller = await authenticate(request)
            await self.right.check(request, caller)
            response = await handle(request)
            tokens: Tokens = request.app.state.tokens
            if hasattr(response, "body_iterator"):
                return _WhileValid(response, tokens, caller, lambda: self._check_again(request, caller))
            if time.monotonic() - begun > FRESH_S:
                await _check_not_revoked(tokens, caller)
                await check_account(request, caller)
            return response

        return guarded

    async def _check_again(self, request: Request, caller: Principal) -> None:
        """Raise `Unauthenticated` or `Refused` where the caller would not be let in now."""
        await check_account(request, caller)
        await self.right.check(request, caller)


async def _check_not_revoked(tokens: Tokens, caller: Principal) -> None:
    """Raise `Unauthenticated` if the token was revoked while the answer was held.

    One that expired meanwhile gets its answer: what it asked for was done.
    """
    lost = await tokens.lost(caller)
    if lost is not None and any(fault.code != "expired" for fault in lost.faults):
        raise lost


class _Lost(Exception):
    """The caller would not be let in any more."""


class _WhileValid(Response):
    """An answer that goes on for as long as the caller's token is good, and then breaks off unfinished."""

    def __init__(
        self, response: Response, tokens: Tokens, caller: Principal, check: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """`check` raises once the caller would not be let in any more."""
        self._response = response
        self._tokens = tokens
        self._caller = caller
        self._check = check
        self._checked_at = time.monotonic()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the answer on, piece by piece."""

        async def checked(message: Message) -> None:
            if message.get("body") and await self._is_lost():
                raise _Lost
            await send(message)

        with suppress(_Lost):
            await self._response(scope, receive, checked)

    async def _is_lost(self) -> bool:
        if await self._tokens.lost(self._caller) is not None:
            return True
        if time.monotonic() - self._checked_at > FRESH_S:
            # The lease may have another owner by now.
            self._checked_at = time.monotonic()
            try:
                await self._check()
            except (Refused, Unauthenticated):
                return True
        return False


def guarded(
    prefix: str,
    tag: str,
    route: type[GuardedRoute] = GuardedRoute,
    responses: dict[int | str, dict[str, Any]] = PROBLEMS,
) -> APIRouter:
    """A router whose routes each say what they need; `responses` are how they fail."""
    return APIRouter(prefix=prefix, tags=[tag], responses=responses, route_class=route)


async def _caller(request: Request) -> Principal:
    caller: Principal = request.state.caller
    return caller


async def _found(ref: str, request: Request) -> FoundLease:
    found: FoundLease = request.state.found
    return found


Caller = Annotated[Principal, Depends(_caller)]
"""Who is calling."""
Found = Annotated[FoundLease, Depends(_found)]
"""The lease that `{ref}` names, in routes that need a `LeaseRight`."""
