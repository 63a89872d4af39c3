"""Pools, resources, and what is available of them."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from api import filters, render, render_pools
from api.access import ADMINISTER, CONFIGURE, OPERATE, OPERATE_ALL, READ, Caller, allow, guarded
from api.auth import Principal
from api.requesting import is_self_service
from api.schemas import (
    AvailableAnswer,
    ChangesAnswer,
    ListAnswer,
    OfflineBody,
    PauseBody,
    Plain,
    ResourceAnswer,
    ResourceBody,
    SelfServiceAnswer,
    SelfServiceBody,
)
from api.services import Services, services
from leasehold import config, durations
from leasehold.config import PoolFile, PoolsFile
from leasehold.errors import Fault, Invalid, Malformed
from leasehold.model import NAME_PATTERN, Change, ResourceSpec, ResourceState
from leasehold.ports import ResourceFilter

router = guarded("/v1", "inventory")
Service = Annotated[Services, Depends(services)]
Limit = Annotated[int, Query(ge=1, le=1000)]


def _changes(changes: list[Change]) -> JSONResponse:
    return JSONResponse({"changes": [render.change(c) for c in changes]})


_POOLS_EXAMPLE = "pools:\n- name: names\n  resources:\n  - name: a\n  - name: b\n"
_POOLS_BODY = {
    "required": True,
    "content": {
        "application/yaml": {"schema": {"type": "string"}, "example": _POOLS_EXAMPLE},
        "application/json": {"schema": {"$ref": "#/components/schemas/PoolsFile"}},
    },
}


@router.post("/apply", response_model=ChangesAnswer, openapi_extra={"requestBody": _POOLS_BODY})
@allow(ADMINISTER)
async def apply(
    request: Request, caller: Caller, service: Service, dry_run: bool = False, folder: Plain | None = None
) -> Response:
    """Apply a pools file, YAML or JSON, as a whole or not at all; `dry_run` only says what it would change.

    `folder` is where hooks start, unless the file says it; absolute, on the workers.
    """
    _check_folder(folder)
    body = await request.body()
    json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    file = config.load_json(body, folder) if json else config.load_yaml(body, folder)
    return _changes(await service.store.apply(file, caller.name, dry_run=dry_run))


def _check_folder(folder: str | None) -> None:
    if folder is not None and not folder.startswith("/"):
        raise Invalid("folder must be absolute", [Fault(path="folder", code="relative", detail="must be absolute")])


@router.get("/pools", response_model=ListAnswer)
@allow(READ)
async def list_pools(service: Service) -> Response:
    """List the pools and how many of their resources are in which state."""
    return JSONResponse({"items": [render_pools.pool(p) for p in await service.store.pools()], "next_cursor": None})


@router.get("/pools/{name}")
@allow(READ)
async def show_pool(name: str, service: Service) -> Response:
    """Show a pool."""
    return JSONResponse(render_pools.pool((await service.store.pools(name))[0]))


@router.put("/pools/{name}", response_model=ChangesAnswer)
@allow(CONFIGURE)
async def put_pool(
    name: str, body: PoolFile, caller: Caller, service: Service, folder: Plain | None = None
) -> Response:
    """Make or change a pool by hand; the resources given are added, others stay."""
    if body.name != name:
        fault = Fault(path="name", code="mismatch", detail=f"must be {name}, as in the address")
        raise Invalid(fault.detail, [fault])
    _check_folder(folder)
    file = config.inventory(PoolsFile(pools=[body]), folder)
    ((spec, resources),) = file.pools
    return _changes(await service.store.put_pool(spec, resources, caller.name))


@router.delete("/pools/{name}", response_model=ChangesAnswer)
@allow(CONFIGURE)
async def delete_pool(name: str, caller: Caller, service: Service) -> Response:
    """Delete a pool that was made by hand: it lends nothing more, and is gone with its last resource."""
    return _changes(await service.store.delete_pool(name, caller.name))


@router.get("/pools/{name}/queue", response_model=ListAnswer)
@allow(READ)
async def show_queue(name: str, service: Service, limit: Limit = 100, cursor: Plain | None = None) -> Response:
    """List the leases that wait for a pool, in the order of service; last those who have reserved of it."""
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
        raise Malformed(f"cursor={cursor}: this is not a cursor that was given out")
    after = int(cursor or 0)
    waiting = await service.store.queue(name, after, limit + 1)
    more = str(after + limit) if len(waiting) > limit else None
    return JSONResponse({"items": [service.leases.lease(x) for x in waiting[:limit]], "next_cursor": more})


@router.post("/pools/{pool}/pause")
@allow(OPERATE)
async def pause_pool(pool: str, body: PauseBody, caller: Caller, service: Service) -> Response:
    """Let a pool lend nothing for now: holders keep what they have, and whoever names the pool waits.

    With `drain` what the pool has made is deleted as soon as nobody has it, and nothing is made until it is resumed.
    """
    await service.store.pause(pool, body.reason, caller.name, drain=body.drain)
    return JSONResponse(render_pools.pool((await service.store.pools(pool))[0]))


@router.post("/pools/{pool}/resume")
@allow(OPERATE)
async def resume_pool(pool: str, caller: Caller, service: Service) -> Response:
    """Let a paused pool lend again."""
    await service.store.resume(pool, caller.name)
    return JSONResponse(render_pools.pool((await service.store.pools(pool))[0]))


@router.get("/self-service", response_model=ListAnswer)
@allow(READ)
async def show_self_service(service: Service) -> Response:
    """Show how self-service stands, of the lab first (`pool` null), then of each pool, and who forced it."""
    states = await service.store.self_service()
    return JSONResponse({"items": [render.self_service(one) for one in states], "next_cursor": None})


@router.post("/self-service", response_model=SelfServiceAnswer)
@allow(OPERATE_ALL)
async def force_self_service(body: SelfServiceBody, caller: Caller, service: Service) -> Response:
    """Open or close self-service in the whole lab, or leave it to its rules; holders keep what they have."""
    return await _force(None, body, caller, service)


@router.post("/pools/{pool}/self-service", response_model=SelfServiceAnswer)
@allow(OPERATE)
async def force_self_service_of_pool(pool: str, body: SelfServiceBody, caller: Caller, service: Service) -> Response:
    """Open or close self-service of a pool, or leave it to its rules; holders keep what they have."""
    return await _force(pool, body, caller, service)


async def _force(pool: str | None, body: SelfServiceBody, caller: Principal, service: Services) -> Response:
    await service.store.force_self_service(pool, body.opening, body.reason, caller.name)
    states = await service.store.self_service()
    return JSONResponse(next(render.self_service(one) for one in states if one.pool == pool))


@router.get("/resources", response_model=ListAnswer)
@allow(READ)
async def list_resources(
    request: Request,
    service: Service,
    pool: Plain | None = None,
    state: Plain | None = None,
    tags: Plain | None = None,
    cursor: Plain | None = None,
    limit: Limit = 100,
) -> Response:
    """List resources; any other parameter is a filter on properties."""
    if state is not None and state not in set(ResourceState):
        raise Malformed(f"state={state}: there is no such state of a resource")
    wanted = ResourceFilter(
        pool=pool,
        state=state,
        tags=filters.tags(tags),
        conditions=filters.conditions(request),
        after=_after(cursor),
        limit=limit + 1,
    )
    found = await service.store.resources(wanted)
    more = f"{found[limit - 1].pool}/{found[limit - 1].name}" if len(found) > limit else None
    return JSONResponse({"items": [render.resource(r) for r in found[:limit]], "next_cursor": more})


def _after(cursor: str | None) -> tuple[str, str] | None:
    if cursor is None:
        return None
    pool, slash, name = cursor.partition("/")
    if not slash:
        raise Malformed(f"cursor={cursor}: this is not a cursor that was given out")
    return (pool, name)


@router.get("/available", response_model=AvailableAnswer)
@allow(READ)
async def show_available(
    request: Request,
    caller: Caller,
    service: Service,
    pool: Plain | None = None,
    count: Annotated[int, Query(ge=1, le=1000)] = 1,
    tags: Plain | None = None,
    limit: Limit = 100,
    duration: Annotated[Plain | None, Query(description="For how long; by default as long as pools lend")] = None,
) -> Response:
    """Say what a new request of the caller could get now; any other parameter is a filter on properties.

    To whoever is no operator it shows what self-service leaves, or why that is closed.
    """
    conditions = filters.conditions(request, "duration")
    wanted = ResourceFilter(pool=pool, tags=filters.tags(tags), conditions=conditions, limit=limit)
    lasts = None if duration is None else durations.parse(duration)
    bound = is_self_service(caller, [pool])
    return JSONResponse(render.available(await service.store.available(wanted, lasts, self_service=bound), count))


@router.put("/pools/{pool}/resources/{name}", response_model=ChangesAnswer)
@allow(OPERATE)
async def put_resource(pool: str, name: str, body: ResourceBody, caller: Caller, service: Service) -> Response:
    """Make or change a resource by hand."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise Invalid("this is no name", [Fault(path="name", code="bad_name", detail=f"must match {NAME_PATTERN}")])
    spec = ResourceSpec(name=name, tags=tuple(body.tags), properties=body.properties)
    return _changes(await service.store.put_resource(pool, spec, caller.name))


@router.delete("/pools/{pool}/resources/{name}", response_model=ChangesAnswer)
@allow(OPERATE)
async def delete_resource(pool: str, name: str, caller: Caller, service: Service) -> Response:
    """Take a resource out of its pool, once it is free."""
    return _changes(await service.store.delete_resource(pool, name, caller.name))


@router.get("/pools/{pool}/resources/{name}", response_model=ResourceAnswer)
@allow(READ)
async def show_resource(pool: str, name: str, service: Service) -> Response:
    """Show a resource."""
    return JSONResponse(render.resource(await service.store.resource(pool, name)))


@router.post("/pools/{pool}/resources/{name}/offline", response_model=ResourceAnswer)
@allow(OPERATE)
async def offline(pool: str, name: str, body: OfflineBody, caller: Caller, service: Service) -> Response:
    """Mark a resource offline: its holder keeps it, and nobody gets it after."""
    await service.store.offline(pool, name, body.reason, caller.name)
    return JSONResponse(render.resource(await service.store.resource(pool, name)))


@router.post("/pools/{pool}/resources/{name}/online", response_model=ResourceAnswer)
@allow(OPERATE)
async def online(pool: str, name: str, caller: Caller, service: Service) -> Response:
    """Take the mark back."""
    await service.store.online(pool, name, caller.name)
    return JSONResponse(render.resource(await service.store.resource(pool, name)))


@router.post("/pools/{pool}/resources/{name}/repair", response_model=ResourceAnswer)
@allow(OPERATE)
async def repair(pool: str, name: str, caller: Caller, service: Service) -> Response:
    """Bring a broken resource back, through the stages that its pool runs after a lease."""
    await service.store.repair(pool, name, caller.name)
    return JSONResponse(render.resource(await service.store.resource(pool, name)))
