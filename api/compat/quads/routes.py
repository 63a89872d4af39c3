"""`/api/v3`: the calls of QUADS's self-scheduling, and what its users read beside them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from api.access import END, READ, REQUEST_KNOWN, Caller, Found, allow, guarded
from api.compat.quads import acting, filters, records
from api.compat.quads.acting import NewSchedule, SelfAssignment
from api.compat.quads.answers import FAILURES, QuadsRoute
from api.compat.quads.lab import Lab
from api.compat.quads.records import Assignment
from api.schemas import Plain
from api.services import Services, services
from leasehold import __version__
from leasehold.errors import BadFilter, LeaseUnknown, Malformed, ResourceUnknown
from leasehold.messages import Steer
from leasehold.model import OVER
from leasehold.quads import DESCRIBED

router = guarded("/api/v3", "QUADS", QuadsRoute, FAILURES)

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]

LIKE = "2.2"
"""The version of QUADS whose self-scheduling this is like."""


async def _lab(service: Annotated[Services, Depends(services)]) -> Lab:
    return Lab(service.store, service.quads)


Service = Annotated[Services, Depends(services)]
There = Annotated[Lab, Depends(_lab)]


@router.get("/version")
@allow(READ)
async def version() -> Response:
    """Say which version of QUADS this is like, and which of Leasehold it is."""
    return JSONResponse(f"QUADS version {LIKE} Leasehold {__version__}")


# Hosts


@router.get("/hosts")
@allow(READ)
async def list_hosts(request: Request, lab: There, group_by: Plain | None = None) -> Response:
    """List hosts; all parameters are filters, but for `group_by`, which counts instead."""
    wanted = filters.conditions(_query(request, "group_by"), filters.HOST)
    await _check_clouds(request, lab)
    shown = lab.shown(await lab.hosts(), await lab.active())
    found = [one for one in shown if filters.satisfies(wanted, one)]
    if group_by is None:
        return JSONResponse(found)
    if group_by not in filters.HOST.flags | set(DESCRIBED):
        raise BadFilter(f"{group_by} is not a valid field.")
    return JSONResponse([list(pair) for pair in Counter(one[group_by] for one in found).items()])


@router.get("/hosts/{hostname}")
@allow(READ)
async def show_host(hostname: str, lab: There) -> Response:
    """Show a host."""
    host = await lab.host(hostname)
    holder = await lab.holder(host)
    return JSONResponse(records.host(host, holder if holder and holder.active else None, lab.naming))


@router.get("/available")
@allow(READ)
async def list_available(
    request: Request, caller: Caller, lab: There, start: Plain | None = None, end: Plain | None = None
) -> Response:
    """List the names of the hosts that could be had now, and kept until `end`; the other parameters are filters."""
    lasts = _span(start, end)
    wanted = filters.conditions(_query(request, "start", "end"), filters.HOST)
    await _check_clouds(request, lab)
    shown = lab.shown(await lab.free(caller, lasts=lasts, wanted=wanted), ())
    return JSONResponse([one["name"] for one in shown if filters.satisfies(wanted, one)])


@router.get("/available/{hostname}")
@allow(READ)
async def show_available(
    hostname: str, caller: Caller, lab: There, start: Plain | None = None, end: Plain | None = None
) -> Response:
    """Say whether a host could be had now, and kept until `end`: `"True"` or `"False"`, as a text."""
    free = {host.name for host in await lab.free(caller, lasts=_span(start, end))}
    return JSONResponse({hostname: str(hostname in free)})


def _query(request: Request, *own: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in request.query_params.multi_items() if key not in own]


async def _check_clouds(request: Request, lab: Lab) -> None:
    """Raise `ResourceUnknown` where a filter names an environment that there is not."""
    for key in ("cloud", "default_cloud"):
        name = request.query_params.get(key)
        if name is not None and name not in {"null", lab.naming.spare}:
            await lab.cloud(name)


def _span(start: str | None, end: str | None) -> timedelta | None:
    """For how long from now on; None if it is not said. What begins later must be free until then too."""
    _moment("start", start)
    until = _moment("end", end)
    return None if until is None else max(until - datetime.now(UTC), timedelta(minutes=1))


def _moment(name: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
    except ValueError:
        raise Malformed(f"Invalid date format for {name}, correct format: 'YYYY-MM-DDTHH:MM'") from None


# Environments and VLANs


@router.get("/clouds")
@allow(READ)
async def list_clouds(request: Request, lab: There) -> Response:
    """List environments; all parameters are filters."""
    wanted = filters.conditions(_query(request), filters.CLOUD)
    shown = [records.cloud(lab.naming.spare, None)]
    shown += [records.cloud(one.name, one.epoch) for one in await lab.clouds() if one.name != lab.naming.spare]
    found = [one for one in shown if filters.satisfies(wanted, one)]
    if wanted and not found:
        raise ResourceUnknown("No clouds found with the given filters")
    return JSONResponse(sorted(found, key=lambda one: str(one["name"])))


@router.get("/clouds/free")
@allow(READ)
async def list_free_clouds(caller: Caller, lab: There) -> Response:
    """List the environments that could be had now."""
    free = await lab.free(caller, lab.naming.clouds)
    return JSONResponse([records.cloud(one.name, one.epoch) for one in free if one.name != lab.naming.spare])


@router.get("/clouds/summary")
@allow(READ)
async def summarize_clouds(caller: Caller, lab: There) -> Response:
    """List environments with who has them, and how many hosts are in them."""
    holders = {one.cloud.name: one for one in await lab.active()}
    rows = [records.summary(lab.naming.spare, None, len(await lab.free(caller)))]
    for cloud in await lab.clouds():
        if cloud.name != lab.naming.spare:
            holder = holders.get(cloud.name)
            rows.append(records.summary(cloud.name, holder, len(holder.hosts) if holder else 0))
    return JSONResponse(rows)


@router.get("/vlans")
@allow(READ)
async def list_vlans(lab: There) -> Response:
    """List VLANs."""
    return JSONResponse([records.vlan(one.name, one.properties) for one in await lab.vlans()])


@router.get("/vlans/free")
@allow(READ)
async def list_free_vlans(caller: Caller, lab: There) -> Response:
    """List the VLANs that could be had now."""
    return JSONResponse([records.vlan(one.name, one.properties) for one in await lab.free(caller, lab.naming.vlans)])


@router.get("/vlans/{vlan}")
@allow(READ)
async def show_vlan(vlan: str, lab: There) -> Response:
    """Show a VLAN."""
    found = await lab.vlan(vlan)
    return JSONResponse(records.vlan(found.name, found.properties))


# Assignments


@router.get("/assignments")
@allow(READ)
async def list_assignments(request: Request, lab: There) -> Response:
    """List the assignments that there are and were; all parameters are filters."""
    wanted = filters.conditions(_query(request), filters.ASSIGNMENT)
    await _check_clouds(request, lab)
    shown = [records.assignment(one) for one in await lab.assignments()]
    return JSONResponse([one for one in shown if filters.satisfies(wanted, one)])


@router.get("/assignments/active")
@allow(READ)
async def list_active_assignments(lab: There) -> Response:
    """List the assignments that there are."""
    return JSONResponse([records.assignment(one) for one in await lab.active()])


@router.get("/assignments/active/{cloud}")
@allow(READ)
async def show_active_assignment(cloud: str, lab: There) -> Response:
    """Show the assignment that has an environment; `{}` if none has it."""
    holder = await lab.holder(await lab.cloud(cloud))
    return JSONResponse({} if holder is None else records.assignment(holder))


@router.get("/assignments/{assignment}")
@allow(READ)
async def show_assignment(assignment: str, lab: There) -> Response:
    """Show an assignment, by its number."""
    return JSONResponse(records.assignment(await _assignment(assignment, lab)))


async def _assignment(ref: str, lab: Lab) -> Assignment:
    try:
        found = await lab.assignment(ref)
    except LeaseUnknown:
        found = None
    if found is None:
        raise LeaseUnknown(f"Assignment not found: {ref[:64]}")
    return found


@router.post("/assignments/self", status_code=201)
@allow(REQUEST_KNOWN)
async def request_assignment(body: SelfAssignment, caller: Caller, service: Service, key: Key = None) -> Response:
    """Lend an environment, the one that is named or any that is free; its hosts are added one by one.

    With an `Idempotency-Key` a repetition gets the assignment that the first call got.
    """
    return JSONResponse(records.assignment(await acting.request(body, caller, service, key)), 201)


@router.post("/assignments/terminate/{ref}")
@allow(END)
async def terminate_assignment(found: Found, caller: Caller, lab: There, service: Service) -> Response:
    """Give an assignment back, with all its hosts; one that is over stays so."""
    mine = None if found.record is None else Assignment.of(found.record, lab.naming)
    if mine is None:
        raise LeaseUnknown(f"Assignment not found: {found.id}")
    if mine.lease.state not in OVER:
        forced = caller.lease is None and caller.name != mine.lease.owner
        await service.gateway.release(mine.lease.id, Steer(actor=caller.name, forced=forced))
    return JSONResponse({"message": "Assignment terminated", "status_code": 200})


# Schedules and moves


@router.post("/schedules", status_code=201)
@allow(REQUEST_KNOWN)
async def add_schedule(body: NewSchedule, caller: Caller, service: Service, key: Key = None) -> Response:
    """Give an environment a host, at once or not at all; it is prepared while the others go on."""
    grown, host = await acting.add_host(body, caller, service, key)
    place, held = next(
        (place, one) for place, one in reversed(grown.hosts) if (one.pool, one.name) == (host.pool, host.name)
    )
    shown = records.host(host, grown, service.quads)
    return JSONResponse(records.schedule(grown, place, held, shown), 201)


@router.get("/schedules/current")
@allow(READ)
async def list_schedules(
    lab: There, host: Plain | None = None, cloud: Plain | None = None, date: Plain | None = None
) -> Response:
    """List the hosts that assignments have now, or will have at a `date`."""
    at = _moment("date", date) or datetime.now(UTC)
    shown = {(one.pool, one.name): one for one in await lab.hosts()}
    found = []
    for assignment in await lab.active():
        ends = assignment.lease.expires_at
        for place, held in assignment.hosts:
            there = shown.get((held.pool, held.name))
            named = host in {None, held.name} and cloud in {None, assignment.cloud.name}
            if there is not None and named and records.since(held.epoch) <= at and (ends is None or at <= ends):
                found.append(records.schedule(assignment, place, held, records.host(there, assignment, lab.naming)))
    return JSONResponse(found)


@router.get("/schedules/{schedule}")
@allow(READ)
async def show_schedule(schedule: int, lab: There) -> Response:
    """Show one host of an assignment, by the schedule's number."""
    number, place = records.parts_of_schedule(schedule)
    try:
        assignment = await _assignment(str(number), lab)
    except LeaseUnknown:
        raise ResourceUnknown(f"Schedule not found: {schedule}") from None
    for at, held in assignment.hosts:
        if at == place:
            host = await lab.store.resource(held.pool, held.name)
            holder = assignment if assignment.active else None
            return JSONResponse(records.schedule(assignment, at, held, records.host(host, holder, lab.naming)))
    raise ResourceUnknown(f"Schedule not found: {schedule}")


@router.get("/moves/progress")
@allow(READ)
async def list_moves(
    lab: There, cloud: Plain | None = None, status: Annotated[Plain | None, Query()] = None
) -> Response:
    """List the hosts that are on their way into an environment, and those that failed on it."""
    found = [
        records.move(one, place, held, lab.naming)
        for one in await lab.active()
        for place, held in one.hosts
        if held.state != "ready" and cloud in {None, one.cloud.name}
    ]
    return JSONResponse([one for one in found if status in {None, one["status"]}])


@router.get("/moves/progress/{hostname}")
@allow(READ)
async def show_move(hostname: str, lab: There) -> Response:
    """Show how far a host is on its way; 404, the only one of this API, where it is on none."""
    for one in await lab.active():
        for place, held in one.hosts:
            if held.name == hostname and held.state != "ready":
                return JSONResponse(records.move(one, place, held, lab.naming))
    message = f"No active move for {hostname[:128]}"
    return JSONResponse({"status_code": 404, "error": "Not Found", "message": message, "code": "not_found"}, 404)
