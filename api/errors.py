"""Errors as answers: problem details (RFC 9457) with a stable code, for every error there is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from temporalio.service import RPCError

from leasehold.config import as_invalid
from leasehold.errors import (
    Fault,
    Invalid,
    LeaseholdError,
    Malformed,
    NotFound,
    TooManyRequests,
    Unavailable,
    from_code,
)

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
A_MINUTE_S = 60
_PARSING = {"json_invalid", "json_type"}


class _MethodNotAllowed(LeaseholdError):
    code, title, status = "method_not_allowed", "There is no such call", 405


def problem(error: LeaseholdError) -> dict[str, Any]:
    """The body of an error's answer."""
    return {
        "type": f"urn:leasehold:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "errors": [{"path": f.path, "code": f.code, "detail": f.detail} for f in error.faults],
    }


def answer(error: LeaseholdError) -> JSONResponse:
    """The answer for an error."""
    headers = {}
    if error.status == Unavailable.status:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if error.status == TooManyRequests.status:
        headers["Retry-After"] = str(A_MINUTE_S)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem(error), error.status, headers, media_type="application/problem+json")


def from_validation(error: RequestValidationError, sent: str) -> LeaseholdError:
    """What FastAPI found wrong: unparsable is 400, a body or parameter that says the wrong thing 422.

    `sent` is the request's media type.
    """
    found = error.errors()
    if any(one["type"] in _PARSING for one in found):
        return Malformed(f"the body is no JSON: {_json_reason(found[0], error.body)}")
    if sent != "application/json" and any(tuple(one["loc"]) == ("body",) for one in found):
        return Invalid("send application/json", [Fault(path="", code="not_an_object", detail="send application/json")])
    return as_invalid(found, skip=1)


def _json_reason(found: Mapping[str, Any], body: object) -> str:
    reason, place = found.get("ctx", {}).get("error", found["msg"]), found["loc"][-1]
    if isinstance(body, str) and isinstance(place, int):
        reason = f"line {body.count(chr(10), 0, place) + 1}: {reason}"
    return str(reason)


def is_unconnected(error: RuntimeError) -> bool:
    """Whether Temporal's client says that it has never reached Temporal, for which it has no error of its own."""
    return str(error).startswith("Failed client connect")


def install(app: FastAPI) -> None:
    """Have every error answered in the one shape."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def _on_own(_request: Request, error: Any) -> JSONResponse:
    return answer(error)


async def _on_validation(request: Request, error: Any) -> JSONResponse:
    sent = request.headers.get("content-type", "").partition(";")[0].strip()
    return answer(from_validation(error, sent))


async def _on_http(_request: Request, error: Any) -> JSONResponse:
    own: LeaseholdError
    if error.status_code == 404:
        own = NotFound("there is nothing at this address")
    elif error.status_code == 405:
        own = _MethodNotAllowed("this address does not take this method")
    elif error.status_code == 400:
        own = Malformed("the body cannot be read as JSON in UTF-8")
    else:
        own = LeaseholdError(str(error.detail))
    return answer(own)


async def _on_temporal(_request: Request, error: Exception) -> JSONResponse:
    log.error("Temporal does not answer: %s", error)
    return answer(Unavailable("Temporal does not answer"))


async def _on_runtime(request: Request, error: Any) -> JSONResponse:
    return await (_on_temporal if is_unconnected(error) else _on_bug)(request, error)


async def _on_bug(_request: Request, error: Exception) -> JSONResponse:
    log.exception("a bug", exc_info=error)
    return answer(LeaseholdError("Leasehold failed; its log says why"))


_HANDLERS = {
    LeaseholdError: _on_own,
    RequestValidationError: _on_validation,
    HTTPException: _on_http,
    RPCError: _on_temporal,
    RuntimeError: _on_runtime,
    Exception: _on_bug,
}


def refusal(plain: dict[str, Any]) -> LeaseholdError:
    """The error that a stored refusal stands for."""
    return from_code(plain["code"], plain["detail"], [Fault(**fault) for fault in plain["faults"]])
