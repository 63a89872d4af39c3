"""Who requests a lease, for whom, and by which rules."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from api.auth import Principal, missing
from api.schemas import LeaseBody
from api.services import Services
from leasehold.access import Role
from leasehold.errors import Fault, Invalid, TooManyRequests

_pace = MovingWindowRateLimiter(MemoryStorage())


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Who asks: `principal` is what its keys are scoped to. One below the role operator is bound by self-service."""

    principal: str
    owner: str
    self_service: bool


async def who(body: LeaseBody, caller: Principal, request: Request, services: Services) -> Asking:
    """Who asks for a lease; raise what keeps them from it.

    A token says for whom it is. Who has none says a name, where all that is wanted may be requested so.
    """
    pools = {item.pool for item in body.items}
    if not caller.anonymous:
        if body.owner not in {None, caller.name}:
            detail = f"the owner is {caller.name}, as the token says"
            raise Invalid(detail, [Fault(path="owner", code="not_the_owner", detail=detail)])
        return Asking(principal=caller.id, owner=caller.name, self_service=is_self_service(caller, pools))
    lab, policies = await services.store.lab(), await services.store.policies()
    rules = [policies[pool].self_service if pool in policies else None for pool in pools if pool is not None]
    open_ = lab.self_service.open_requests
    if not open_ and (None in pools or not all(rule is not None and rule.open_requests for rule in rules)):
        raise missing()
    address = request.client.host if request.client else ""
    if not _pace.hit(RateLimitItemPerMinute(lab.open_requests_per_minute), address):
        raise TooManyRequests(f"{lab.open_requests_per_minute} requests a minute without a token, and no more")
    if body.priority > 0:
        detail = "who sends no token goes before nobody"
        raise Invalid(detail, [Fault(path="priority", code="too_high", detail=detail)])
    if body.owner is None:
        detail = "say for whom it is, or send a token"
        raise Invalid(detail, [Fault(path="owner", code="missing", detail=detail)])
    return Asking(principal=f"anonymous:{body.owner}"[:128], owner=body.owner, self_service=True)


def is_self_service(caller: Principal, pools: Collection[str | None]) -> bool:
    """Whether a caller is no operator of all of these pools, None being any: then the rules for self-service hold."""
    role = caller.role_in(None if None in pools else {pool for pool in pools if pool is not None})
    return role is None or not role.reaches(Role.OPERATOR)
