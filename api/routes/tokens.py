"""Users' tokens: making them, listing, revoking, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Response
from fastapi.responses import JSONResponse

from api import render
from api.access import CHANGE_TOKENS, KNOWN, READ_TOKENS, Caller, allow, guarded
from api.auth import Principal
from api.schemas import ListAnswer, NewTokenAnswer, Plain, TokenAnswer, TokenBody, WhoamiAnswer
from api.services import Services, services
from leasehold.access import Role, Scopes, Token
from leasehold.errors import Fault, Invalid, Malformed, Refused, TokenUnknown

router = guarded("/v1", "tokens")

Service = Annotated[Services, Depends(services)]


@router.get("/whoami", response_model=WhoamiAnswer)
@allow(KNOWN)
async def whoami(caller: Caller) -> Response:
    """Say who the caller is, and what its token is good for."""
    return JSONResponse(
        {
            "user": caller.name,
            "role": caller.role,
            "scopes": render.scopes(caller.scopes),
            "expires_at": render.time(caller.expires_at),
            "token": caller.token,
            "lease": caller.lease,
        }
    )


@router.post("/tokens", status_code=201, response_model=NewTokenAnswer)
@allow(CHANGE_TOKENS)
async def create_token(body: TokenBody, caller: Caller, service: Service) -> Response:
    """Make a token. An admin makes any; others make them for themselves, no stronger than the one that they use.

    `token` in the answer is shown nowhere else, and never again.
    """
    scopes, user = body.scopes.scopes(), body.user or caller.name
    if body.role is Role.RUNNER:
        _check_unlimited(scopes)
    if not caller.is_admin:
        _check_no_stronger(caller, user, body, scopes)
    made, text = await service.tokens.create(
        user=user, role=body.role, scopes=scopes, label=body.label, lasts=body.expires, maker=caller
    )
    return JSONResponse({**render.token(made), "token": text}, 201, {"Cache-Control": "no-store"})


def _check_unlimited(scopes: Scopes) -> None:
    """Raise `Invalid` with each scope of a runner's token: it would narrow nothing."""
    detail = "the token of a runner has no scopes: of which pools it runs commands its own policy says"
    given = {"scopes.pools": scopes.pools is not None, "scopes.read": scopes.read}
    faults = [Fault(path=path, code="not_for_runners", detail=detail) for path, is_given in given.items() if is_given]
    if faults:
        raise Invalid(detail, faults)


def _check_no_stronger(caller: Principal, user: str, body: TokenBody, scopes: Scopes) -> None:
    """Raise `Refused` with each place where a token would be for somebody else, or good for more than the caller's."""
    faults = []
    if user != caller.name:
        faults.append(Fault(path="user", code="other_user", detail=f"only an admin makes tokens for {user}"))
    if caller.role is None or not caller.role.reaches(body.role):
        faults.append(Fault(path="role", code="role_too_small", detail=f"the token in use has the role {caller.role}"))
    if not caller.scopes.cover(scopes.pools):
        limit = ", ".join(caller.scopes.pools or ())
        faults.append(Fault(path="scopes.pools", code="other_pool", detail=f"the token in use is limited to {limit}"))
    if faults:
        raise Refused(faults[0].detail, faults)


@router.get("/tokens", response_model=ListAnswer)
@allow(READ_TOKENS)
async def list_tokens(
    caller: Caller,
    service: Service,
    user: Plain | None = None,
    cursor: Plain | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List tokens, newest first, those that expired or were revoked too: an admin all of them, others their own."""
    if not caller.is_admin and user not in {None, caller.name}:
        detail = "only an admin sees the tokens of others"
        raise Refused(detail, [Fault(path="user", code="other_user", detail=detail)])
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise Malformed(f"cursor={cursor}: this is not a cursor that was given out")
    page = await service.tokens.store.tokens(
        user=user if caller.is_admin else caller.name, before=int(cursor) if cursor else None, limit=limit
    )
    more = None if page.next_cursor is None else str(page.next_cursor)
    return JSONResponse({"items": [render.token(t) for t in page.tokens], "next_cursor": more})


@router.get("/tokens/{token}", response_model=TokenAnswer)
@allow(READ_TOKENS)
async def show_token(token: str, caller: Caller, service: Service) -> Response:
    """Show a token, by its id: the part of it between `lh_` and the next `_`."""
    return JSONResponse(render.token(await _own(token, caller, service)))


@router.delete("/tokens/{token}", response_model=TokenAnswer)
@allow(CHANGE_TOKENS)
async def revoke_token(token: str, caller: Caller, service: Service) -> Response:
    """Revoke a token, and what was made with it, unless an admin made that; once revoked, nothing changes."""
    await _own(token, caller, service)
    return JSONResponse(render.token(await service.tokens.revoke(token, caller)))


async def _own(token: str, caller: Principal, service: Services) -> Token:
    """The token, if the caller may know of it; raise `TokenUnknown`."""
    found = await service.tokens.store.token(token)
    if not caller.is_admin and found.user != caller.name:
        raise TokenUnknown(f"there is no token {token[:64]}")
    return found
