"""Rebuilding the records from what runs, after a database was restored."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

from fastapi import Depends, Query, Response
from fastapi.responses import JSONResponse

from api.access import ADMINISTER, Caller, allow, guarded
from api.schemas import ReconcileAnswer, ReconcileBody
from api.services import Services, services
from leasehold.errors import NotFound
from leasehold.healing import Reconciled, ReconcileOrder

router = guarded("/v1", "reconcile")
Service = Annotated[Services, Depends(services)]
Timeout = Annotated[float, Query(alias="timeout", ge=0, le=60, description="How long to hold the answer, in seconds")]

_RUN = re.compile(r"[0-9a-f]{32}")


@router.post("/reconcile", response_model=ReconcileAnswer)
@allow(ADMINISTER)
async def reconcile(
    caller: Caller, service: Service, body: ReconcileBody | None = None, dry_run: bool = False, within: Timeout = 30
) -> Response:
    """Rebuild records and grants from the leases that run, and grant again; `dry_run` only says what it would write.

    Run again, it writes nothing more. 202 means that it is not done yet: ask for its `run`.
    """
    told = body or ReconcileBody()
    order = ReconcileOrder(
        actor=caller.name,
        dry_run=dry_run,
        accept_identity=told.accept_identity,
        accept_lost=told.accept_lost,
    )
    run = await service.gateway.reconcile(order)
    return _answer(run, await service.gateway.reconciled(run, within))


@router.get("/reconcile/{run}", response_model=ReconcileAnswer)
@allow(ADMINISTER)
async def show_reconciliation(run: str, caller: Caller, service: Service, within: Timeout = 30) -> Response:
    """Show what a reconciliation did, once it is done."""
    if not _RUN.fullmatch(run):
        raise NotFound("there is no such reconciliation")
    return _answer(run, await service.gateway.reconciled(run, within))


def _answer(run: str, done: Reconciled | None) -> Response:
    if done is None:
        nothing = dict.fromkeys(("dry_run", "leases", "recyclings", "more", "suspended"))
        return JSONResponse({"run": run, "done": False, **nothing, "steps": [], "problems": []}, 202)
    return JSONResponse({"run": run, "done": True, **asdict(done)})
