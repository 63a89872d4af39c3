"""Errors as QUADS answers them, `{status_code, error, message}`, and the routes that do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api import errors
from api.access import GuardedRoute
from leasehold.errors import LeaseholdError, Malformed

_AS_THEY_ARE = frozenset({401, 403, 413, 429, 500, 503})
"""Statuses that QUADS's client takes, and tells apart; all other errors are 400 to it."""

FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "What is wrong",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["status_code", "error", "message", "code"],
                    "properties": {
                        "status_code": {"type": "integer"},
                        "error": {"type": "string"},
                        "message": {"type": "string"},
                        "code": {"type": "string"},
                    },
                }
            }
        },
    }
}
"""How any call may fail."""


def status(error: LeaseholdError) -> int:
    """The status that QUADS has for an error."""
    if error.code == "limit_reached":
        # Of leases, or of the hosts in them.
        return 403 if any(fault.code == "leases" for fault in error.faults) else 400
    return error.status if error.status in _AS_THEY_ARE else 400


def answer(error: LeaseholdError) -> JSONResponse:
    """The answer for an error; `code` is ours, and never changes."""
    code = status(error)
    body = {"status_code": code, "error": HTTPStatus(code).phrase, "message": error.detail, "code": error.code}
    headers = {"WWW-Authenticate": "Bearer"} if code == 401 else {}
    if code == 503:
        headers["Retry-After"] = str(errors.RETRY_AFTER_S)
    return JSONResponse(body, code, headers)


class QuadsRoute(GuardedRoute):
    """A guarded route that fails as QUADS does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Turn errors into answers, those of who is calling too."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except LeaseholdError as error:
                return answer(error)
            except RequestValidationError as error:
                sent = request.headers.get("content-type", "").partition(";")[0].strip()
                return answer(errors.from_validation(error, sent))
            except HTTPException:
                return answer(Malformed("the body cannot be read as JSON in UTF-8"))

        return answered
