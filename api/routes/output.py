"""The output of leased commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Header, Query, Response

from api import output
from api.access import READ_LOG, Found, allow, guarded
from api.output import Wanted
from api.routes.leases import Service
from api.routes.story import LastEventId, event_id
from api.streaming import Streamed
from leasehold.errors import NoCommand

router = guarded("/v1/leases", "commands")

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes as they were printed; as `text/event-stream` each piece with its stream and time",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}


@router.get("/{ref}/output", response_class=Response, responses=_ANSWER)
@allow(READ_LOG)
async def show_output(
    found: Found,
    service: Service,
    follow: Annotated[bool, Query(description="Go on until the command has ended")] = False,
    stream: Annotated[Literal["stdout", "stderr", "service"] | None, Query(description="Only this one")] = None,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only so many of the last lines")] = None,
    attempt: Annotated[int | None, Query(ge=1, le=1000)] = None,
    events: Annotated[bool, Query(description="The same as Accept: text/event-stream")] = False,
    last_event_id: LastEventId = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """Show what a lease's command printed: stdout and stderr in the order in which they came.

    Of `service`, where that is asked for, what Leasehold itself says of it: that a bound was reached, for instance.

    As server-sent events each piece tells its stream and time, and what Leasehold itself says of the output; the last
    event, `end`, tells how the command ended. Whoever loses the connection goes on with `Last-Event-ID`.
    """
    if found.known.command is None:
        raise NoCommand("nothing is run with this lease")
    wanted = Wanted(lease=found.id, attempt=attempt, stream=stream, tail=tail, follow=follow)
    if events or "text/event-stream" in accept:
        if last_event_id is not None:
            wanted = replace(wanted, after=event_id(last_event_id), tail=None)
        return Streamed(output.events(replace(wanted, follow=True), service))
    return Streamed(output.raw(wanted, service), "application/octet-stream")
