"""Runners: they say that they are there, take commands up, and hand over what these print."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse

from api import render
from api.access import READ, RUN, Caller, allow, guarded
from api.auth import Principal
from api.routes.leases import Service
from api.schemas import BeginBody, BegunAnswer, ListAnswer, OffsetAnswer, RegisteredAnswer, RunnerBody
from leasehold.commands import FENCE_AFTER, REGISTER_EVERY, Frame, RunnerHost, frames
from leasehold.errors import Fault, Invalid, Malformed, Refused

router = guarded("/v1/runners", "runners")

_TERMS = {"every_s": REGISTER_EVERY.total_seconds(), "silence_s": FENCE_AFTER.total_seconds()}
_LARGEST = 2**62
_OLDEST_US = 365 * 86_400 * 1_000_000


@router.get("", response_model=ListAnswer)
@allow(READ)
async def list_runners(service: Service) -> Response:
    """List the runners: how many commands they take and have, and on which hosts they are."""
    items = [render.runner(one) for one in await service.store.commands.runners()]
    return JSONResponse({"items": items, "next_cursor": None})


@router.put("/{name}", response_model=RegisteredAnswer)
@allow(RUN)
async def register_runner(name: str, body: RunnerBody, caller: Caller, service: Service) -> Response:
    """Say that a process of a runner takes commands; it is forgotten when it does not say so again in time.

    A process that is new has made sure that nothing lives of what earlier ones in its place ran.
    """
    _check_name(caller, name)
    await service.store.commands.register(name, RunnerHost(**{**body.model_dump(), "labels": tuple(body.labels)}))
    return JSONResponse({"name": name, **_TERMS})


@router.delete("/{name}/{instance}", response_model=RegisteredAnswer)
@allow(RUN)
async def leave_runner(name: str, instance: str, caller: Caller, service: Service) -> Response:
    """Say that a process of a runner takes no commands any more."""
    _check_name(caller, name)
    await service.store.commands.leave(name, instance)
    return JSONResponse({"name": name, **_TERMS})


@router.post("/{name}/commands/{lease}/begin", response_model=BegunAnswer)
@allow(RUN)
async def begin_command(name: str, lease: str, body: BeginBody, caller: Caller, service: Service) -> Response:
    """Take a lease's command up, and learn what it is; from now on it counts as started.

    409 `command_over`: it must not be started. 409 `command_begun`: somebody else has started it. Who asks again is
    told the same.
    """
    _check_name(caller, name)
    begun = await service.store.commands.begin(name, lease, body.instance, body.attempt)
    return JSONResponse({**asdict(begun), "env": dict(begun.env)}, headers={"Cache-Control": "no-store"})


@router.post("/{name}/commands/{lease}/output", response_model=OffsetAnswer)
@allow(RUN)
async def put_output(
    name: str,
    lease: str,
    request: Request,
    caller: Caller,
    service: Service,
    attempt: Annotated[int, Query(ge=1, le=_LARGEST)],
    offset: Annotated[int, Query(ge=0, le=_LARGEST, description="Where in the framed output the body begins")],
    now: Annotated[int, Query(ge=0, le=_LARGEST, description="The runner's clock, in microseconds since 1970")],
) -> Response:
    """Hand over framed output, from where the service has it; the answer says how far that is by now.

    A frame: 8 bytes of microseconds since 1970, one of the stream (1 stdout, 2 stderr, 3 the runner's own words, 0 the
    end), 4 of the length, and as many bytes, at most 32 KiB; numbers are big-endian. 409 `command_over`: it will
    never be taken. 404 `lease_unknown`: not yet.
    """
    _check_name(caller, name)
    about = await service.store.commands.output_of(name, lease, attempt)
    body = await request.body()
    try:
        pieces = frames(body)
    except ValueError as error:
        raise Malformed(f"the body is no framed output: {error}") from None
    if sum(one.size for one in pieces) != len(body):
        detail = "the last frame is not whole"
        raise Invalid(detail, [Fault(path="body", code="not_whole", detail=detail)])
    came = await service.logs.put_output(about, offset, _on_our_clock(pieces, now))
    return JSONResponse({"offset": came})


def _on_our_clock(pieces: list[Frame], theirs_us: int) -> list[Frame]:
    """The same frames at the times that our clock had then; none is in the future, or older than a year."""
    ours_us = time.time_ns() // 1000
    shift = ours_us - theirs_us
    return [replace(one, at_us=min(ours_us, max(ours_us - _OLDEST_US, one.at_us + shift))) for one in pieces]


def _check_name(caller: Principal, name: str) -> None:
    """Raise `Refused` where a token is that of another runner: it must not see what that one is told."""
    if caller.name != name:
        detail = f"this token is that of {caller.name}, and not of runner {name}"
        raise Refused(detail, [Fault(path="Authorization", code="other_runner", detail=detail)])
