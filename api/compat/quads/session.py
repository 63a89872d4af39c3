"""Logging in to `/api/v3` and out of it, as QUADS's client does: HTTP basic, and then a bearer token."""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from api.access import READ, Caller, allow, guarded
from api.compat.quads.answers import FAILURES, QuadsRoute, answer
from api.services import Services, services
from leasehold.errors import LeaseholdError, Unauthenticated

login = APIRouter(prefix="/api/v3", tags=["QUADS"], responses=FAILURES)
logout = guarded("/api/v3", "QUADS", QuadsRoute, FAILURES)

Service = Annotated[Services, Depends(services)]


@login.post("/login")
async def log_in(request: Request, service: Service) -> Response:
    """Open a token with a user's name and password, sent as HTTP basic.

    The status is 200, and `status_code` in the answer 201: QUADS's client looks for that one.
    """
    try:
        name, password = _credentials(request.headers.get("authorization", ""))
        address = request.client.host if request.client else ""
        _, text = await service.logins.login(name, password, address)
    except LeaseholdError as error:
        return answer(error)
    # The token first: there are scripts that cut it out of the text.
    body = {"auth_token": text, "message": "Successful login", "status": "success", "status_code": 201}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


def _credentials(header: str) -> tuple[str, str]:
    """Name and password of HTTP basic, in UTF-8, or as older clients send it; raise `Unauthenticated`."""
    scheme, _, coded = header.partition(" ")
    try:
        sent = b64decode(coded.strip(), validate=True)
    except ValueError:
        sent = b""
    if scheme.lower() != "basic" or b":" not in sent:
        raise Unauthenticated("send a name and a password: Authorization: Basic …")
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        text = sent.decode("latin-1")
    name, _, password = text.partition(":")
    return name, password


@logout.post("/logout")
@allow(READ)
async def log_out(caller: Caller, service: Service) -> Response:
    """Revoke the token of a login. One that was made otherwise stays: it is not for one session."""
    if caller.token is not None:
        token = await service.tokens.store.token(caller.token)
        if token.of_login:
            await service.tokens.revoke(token.id, caller)
    return JSONResponse({"message": "Successfully logged out.", "status": "success", "status_code": 200})
