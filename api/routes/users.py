"""Users with passwords: an admin makes, disables and forgets them. They log in where a compatible API has a login."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Response
from fastapi.responses import JSONResponse

from api import render
from api.access import ADMINISTER, Caller, allow, guarded
from api.schemas import ListAnswer, PasswordBody, Plain, UserAnswer, UserBody
from api.services import Services, services

router = guarded("/v1/users", "users")

Service = Annotated[Services, Depends(services)]


@router.get("", response_model=ListAnswer)
@allow(ADMINISTER)
async def list_users(
    service: Service, cursor: Plain = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Response:
    """List users by name."""
    page = await service.logins.store.users(after=cursor, limit=limit)
    return JSONResponse({"items": [render.user(user) for user in page.users], "next_cursor": page.next_cursor})


@router.post("", status_code=201, response_model=UserAnswer)
@allow(ADMINISTER)
async def create_user(body: UserBody, caller: Caller, service: Service) -> Response:
    """Make a user who logs in with a password."""
    made = await service.logins.create(body.name, body.role, body.password.get_secret_value(), caller)
    return JSONResponse(render.user(made), 201)


@router.get("/{name}", response_model=UserAnswer)
@allow(ADMINISTER)
async def show_user(name: str, service: Service) -> Response:
    """Show a user."""
    return JSONResponse(render.user(await service.logins.store.user(name)))


@router.post("/{name}/password", response_model=UserAnswer)
@allow(ADMINISTER)
async def set_password(name: str, body: PasswordBody, caller: Caller, service: Service) -> Response:
    """Change a user's password. The tokens that the old one opened are revoked."""
    return JSONResponse(render.user(await service.logins.set_password(name, body.password.get_secret_value(), caller)))


@router.post("/{name}/disable", response_model=UserAnswer)
@allow(ADMINISTER)
async def disable_user(name: str, caller: Caller, service: Service) -> Response:
    """Let a user log in no more, and revoke all tokens of this user."""
    return JSONResponse(render.user(await service.logins.disable(name, caller)))


@router.post("/{name}/enable", response_model=UserAnswer)
@allow(ADMINISTER)
async def enable_user(name: str, caller: Caller, service: Service) -> Response:
    """Let a user log in again."""
    return JSONResponse(render.user(await service.logins.enable(name, caller)))


@router.delete("/{name}", response_model=UserAnswer)
@allow(ADMINISTER)
async def remove_user(name: str, caller: Caller, service: Service) -> Response:
    """Forget a user, and revoke all tokens of this user. Leases stay with their owner's name."""
    return JSONResponse(render.user(await service.logins.remove(name, caller)))
