"""Whether this process lives, and whether it can serve."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from temporalio.service import RPCError

from api.services import Services, services
from leasehold.errors import Unavailable

router = APIRouter(tags=["health"])
Service = Annotated[Services, Depends(services)]


@router.get("/healthz")
async def healthz() -> Response:
    """Answer, as long as this process can."""
    return JSONResponse({"ok": True})


@router.get("/readyz")
async def readyz(service: Service) -> Response:
    """200 once the database and Temporal answer and a worker has shown up; what is missing otherwise."""
    checks = {"database": True, "temporal": True, "worker": True}
    try:
        await service.store.ping()
    except Unavailable:
        checks["database"] = False
    try:
        checks["worker"] = await service.gateway.has_worker()
    except RPCError:
        checks["temporal"] = checks["worker"] = False
    return JSONResponse({"ready": all(checks.values()), **checks}, 200 if all(checks.values()) else 503)
