"""What happened: events, runs of hooks and what they printed, of a lease and of a resource."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from api import following, render
from api.access import READ, READ_LOG, READ_POOL_LOG, SEE, Found, allow, guarded
from api.names import split_resource
from api.routes.leases import Service
from api.schemas import ListAnswer, Plain
from api.streaming import Streamed
from leasehold.errors import Malformed, NotFound
from leasehold.model import StageName
from leasehold.ports import LogFilter, RunFilter

router = guarded("/v1", "story")

_LARGEST = 2**62


@dataclass(frozen=True)
class _Range:
    """Which part of a list to show: after an id, or, the latest first, before one."""

    after: int
    before: int | None
    limit: int

    def page(self, items: list[dict[str, Any]]) -> Response:
        """The answer with these; the last one's id is the cursor, in either order."""
        more = str(items[-1]["id"]) if len(items) == self.limit else None
        return JSONResponse({"items": items, "next_cursor": more})


def _range(
    cursor: Annotated[int | None, Query(ge=0, le=_LARGEST, description="The id to go on from")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: the latest first")] = "asc",
) -> _Range:
    if order == "desc":
        return _Range(after=0, before=_LARGEST if cursor is None else cursor, limit=limit)
    return _Range(after=cursor or 0, before=None, limit=limit)


Range = Annotated[_Range, Depends(_range)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="The event to go on after")]
Accept = Annotated[str, Header(include_in_schema=False)]

RunId = Annotated[int | None, Query(ge=1, le=_LARGEST, description="The id of a run: what that one printed")]
Attempt = Annotated[int | None, Query(ge=1, le=1000)]
Tail = Annotated[int | None, Query(ge=0, le=10_000, description="Only so many of the last lines")]

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events; asked for `text/event-stream`, each as it happens, up to the lease's last",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "To `text/event-stream` alone: the lease has ended, and there is nothing after that event"},
}


@router.get("/leases/{ref}/events", response_model=ListAnswer, responses=_EVENTS)
@allow(SEE)
async def list_events(
    found: Found,
    service: Service,
    part: Range,
    follow: Annotated[bool, Query(description="The same as Accept: text/event-stream")] = False,
    last_event_id: LastEventId = None,
    accept: Accept = "",
) -> Response:
    """List what happened to a lease, oldest first, or send it as it happens.

    With `Accept: text/event-stream`, or with `follow`, the answer is a stream of server-sent events. Whoever loses the
    connection goes on with `Last-Event-ID`, and gets each event once. It ends with the lease.
    """
    if follow or "text/event-stream" in accept:
        if part.before is not None:
            raise Malformed("order=desc: a stream goes forward alone")
        after = part.after if last_event_id is None else event_id(last_event_id)
        return await _stream(found.id, after, service)
    happened = await service.store.events(lease=found.id, after=part.after, before=part.before, limit=part.limit)
    return part.page([render.event(e) for e in happened])


def event_id(text: str) -> int:
    """The id that a client of server-sent events says it had last; raise `Malformed` where it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Malformed(f"Last-Event-ID: {text[:40]!r} is not the id of an event")
    return int(text)


async def _stream(lease: str, after: int, service: Service) -> Response:
    over = await following.is_over(lease, service)
    if over and not await service.store.events(lease=lease, after=after, limit=1):
        # A browser comes back when a stream ends, until it is told that there is no more.
        return Response(status_code=204)
    return Streamed(following.event_stream(lease, after, service))


@router.get("/leases/{ref}/runs", response_model=ListAnswer)
@allow(SEE)
async def list_runs(found: Found, service: Service, part: Range) -> Response:
    """List the runs of hooks for a lease, its resources' recycling too, in the order in which they began."""
    runs = await service.store.runs(RunFilter(lease=found.id, after=part.after, before=part.before, limit=part.limit))
    return part.page([render.run(r) for r in runs])


@router.get("/leases/{ref}/log", response_class=PlainTextResponse)
@allow(READ_LOG)
async def show_log(
    found: Found,
    service: Service,
    follow: bool = False,
    run: RunId = None,
    stage: StageName | Literal["command"] | None = None,
    resource: Annotated[Plain | None, Query(description="NAME, or POOL/NAME")] = None,
    attempt: Attempt = None,
    tail: Tail = None,
) -> Response:
    """Show what the lease's stages printed, or a part of it; with `follow`, go on until that has ended."""
    if run is not None and not await service.store.runs(RunFilter(id=run, lease=found.id)):
        raise NotFound(f"the lease has no run {run}")
    pool, name = (None, None) if resource is None else split_resource(resource)
    only = LogFilter(run=run, pool=pool, resource=name, stage=stage, attempt=attempt)
    return _text(following.log_text(found.id, only, service, follow=follow, tail=tail))


def _text(lines: AsyncGenerator[str, None]) -> Response:
    return Streamed(lines, "text/plain; charset=utf-8")


@router.get("/pools/{pool}/log", response_class=PlainTextResponse)
@allow(READ_POOL_LOG)
async def show_pool_log(
    pool: str, service: Service, follow: bool = False, stage: StageName | None = None, tail: Tail = None
) -> Response:
    """Show what hooks printed in a pool while no lease was involved: creations, deletions, livechecks, listings.

    With `follow`, go on until the pool is gone.
    """
    only = LogFilter(stage=stage)
    return _text(following.log_without_lease(pool, only, service, follow=follow, tail=tail))


@router.get("/pools/{pool}/resources/{name}/log", response_class=PlainTextResponse)
@allow(READ_POOL_LOG)
async def show_resource_log(
    pool: str,
    name: str,
    service: Service,
    follow: bool = False,
    run: RunId = None,
    stage: StageName | None = None,
    attempt: Attempt = None,
    tail: Tail = None,
) -> Response:
    """Show what hooks printed on a resource while no lease was involved, also after the resource is gone.

    With `follow`, go on until the resource, or the run, is over. What they printed for a lease is in the lease's log.
    """
    wanted = RunFilter(id=run, lease=following.WITHOUT_LEASE, pool=pool, resource=name)
    if run is not None and not await service.store.runs(wanted):
        raise NotFound(f"there is no run {run} on {pool}/{name} without a lease")
    only = LogFilter(run=run, resource=name, stage=stage, attempt=attempt)
    return _text(following.log_without_lease(pool, only, service, follow=follow, tail=tail))


@router.get("/pools/{name}/events", response_model=ListAnswer)
@allow(READ)
async def list_pool_events(name: str, service: Service, part: Range) -> Response:
    """List what happened to a pool itself, who paused it and why say, oldest first; it stays after the pool is gone."""
    happened = await service.store.events(pool=name, after=part.after, before=part.before, limit=part.limit, alone=True)
    return part.page([render.event(e) for e in happened])


@router.get("/pools/{pool}/resources/{name}/events", response_model=ListAnswer)
@allow(READ)
async def list_resource_events(
    pool: str,
    name: str,
    service: Service,
    part: Range,
) -> Response:
    """List what happened to a resource, oldest first; it stays after the resource is gone."""
    happened = await service.store.events(
        pool=pool, resource=name, after=part.after, before=part.before, limit=part.limit
    )
    return part.page([render.event(e) for e in happened])


@router.get("/pools/{pool}/resources/{name}/runs", response_model=ListAnswer)
@allow(READ)
async def list_resource_runs(
    pool: str,
    name: str,
    service: Service,
    part: Range,
) -> Response:
    """List the runs of hooks on a resource, in the order in which they began."""
    runs = await service.store.runs(
        RunFilter(pool=pool, resource=name, after=part.after, before=part.before, limit=part.limit)
    )
    return part.page([render.run(r) for r in runs])
