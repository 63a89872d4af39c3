"""Whether this process lives, and whether it can serve."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from temporalio.service import RPCError

from api import render
from api.errors import is_unconnected
from api.services import Services, services
from leasehold.errors import Unavailable
from leasehold.model import Alert

router = APIRouter(tags=["health"])
Service = Annotated[Services, Depends(services)]


@router.get("/healthz")
async def healthz() -> Response:
    """Answer, as long as this process can."""
    return JSONResponse({"ok": True})


@router.get("/readyz")
async def readyz(service: Service) -> Response:
    """200 once the database and Temporal answer and a worker has shown up; what is missing otherwise.

    `alerts` stand until somebody has seen to them; with them the service works, though maybe not as a whole.
    """
    alerts: list[Alert] = []
    checks = {"database": True, "temporal": True, "worker": True}
    try:
        await service.store.ping()
        alerts = await service.store.healing.alerts()
    except Unavailable:
        checks["database"] = False
    try:
        checks["worker"] = await service.gateway.has_worker()
    except (RPCError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_unconnected(error):
            raise
        checks["temporal"] = checks["worker"] = False
    ready = all(checks.values())
    body = {"ready": ready, **checks, "alerts": [render.alert(alert) for alert in alerts]}
    return JSONResponse(body, 200 if ready else 503)
