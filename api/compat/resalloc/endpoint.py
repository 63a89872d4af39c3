"""The endpoint of resalloc's clients: XML-RPC over HTTP, without a thread for each call that waits."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api.compat.resalloc import wire
from api.compat.resalloc.tickets import Terms, Tickets
from api.compat.resalloc.wire import Called
from api.services import Services
from api.serving import Server, listen
from api.stopping import Stopping
from leasehold.errors import LeaseholdError, TooLarge

log = logging.getLogger(__name__)

_XML = frozenset({"text/xml", "application/xml"})


class Endpoint:
    """The application, and the calls that it answers now.

    There is no authentication, as resalloc has none. A page in a browser can reach it all the same from the machine
    that it is shown on, but cannot send XML to it without asking first, and is never allowed.
    """

    def __init__(self, services: Services, terms: Terms) -> None:
        self._tickets = Tickets(services, terms)
        self._waiting: set[asyncio.Task[bytes]] = set()
        self._stopping = False
        self._methods: dict[str, Callable[..., Awaitable[object]]] = {
            "collectTicket": self._tickets.collect,
            "closeTicket": self._tickets.close,
            "waitTicket": self._tickets.wait,
            "system.listMethods": self._list_methods,
        }
        """All but `takeTicket`."""
        routes = [Route(path, self._answer, methods=["POST"]) for path in ("/", "/RPC2")]
        self.app = Starlette(routes=routes, middleware=[Middleware(Stopping)])

    def server(self, host: str, port: int) -> Server:
        """A server of it; raises `LeaseholdError` where nobody can listen there."""
        return Server(self.app, host, port, listening=listen(host, port), on_stop=self.stop)

    def stop(self) -> None:
        """Have all who wait try again elsewhere, or later: the process is about to end."""
        self._stopping = True
        for call in self._waiting:
            call.cancel()

    async def finish(self, within_s: float) -> None:
        """Do what is left to be done for callers who went away, within this time."""
        await self._tickets.finish(within_s)

    async def _answer(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _XML:
            return Response("send text/xml", 415)
        try:
            called = wire.read(await _body(request))
        except ClientDisconnect:
            return Response()
        except LeaseholdError as error:
            return _xml(wire.fault(wire.UNREADABLE, f"{error.detail} ({error.code})"))
        return await self._while_there(request, asyncio.create_task(self._answered(called, request)), called)

    async def _while_there(self, request: Request, call: asyncio.Task[bytes], called: Called) -> Response:
        """The answer of a call, which ends with its caller, and where it waits at the latest with the process."""
        gone = asyncio.create_task(_left(request))
        if called.method == "waitTicket":
            self._waiting.add(call)
            call.add_done_callback(self._waiting.discard)
            if self._stopping:
                call.cancel()
        try:
            await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
            # Cancelled by `stop`, this is what `Stopping` tells the caller of.
            return Response() if not call.done() else _xml(await call)
        finally:
            gone.cancel()
            call.cancel()

    async def _answered(self, called: Called, request: Request) -> bytes:
        try:
            return wire.answer(await self._called(called, request))
        except _BadCall as error:
            return wire.fault(error.code, error.detail)
        except LeaseholdError as error:
            return wire.fault(wire.FAILED, f"{error.detail} ({error.code})")
        except Exception:
            log.exception("a bug")
            return wire.fault(wire.FAILED, "Leasehold failed; its log says why")

    async def _called(self, called: Called, request: Request) -> object:
        if called.method == "takeTicket":
            _check(self._tickets.taken, called)
            async with self._tickets.taken(*called.params) as number:
                if await request.is_disconnected():
                    raise asyncio.CancelledError
                return number
        method = self._methods.get(called.method)
        if method is None:
            raise _BadCall(wire.NO_SUCH_METHOD, f"there is no method {called.method[:64]}")
        _check(method, called)
        return await method(*called.params)

    async def _list_methods(self) -> list[str]:
        return sorted([*self._methods, "takeTicket"])


class _BadCall(Exception):
    """A call that says the wrong thing, with its code."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def _check(method: Callable[..., Any], called: Called) -> None:
    """Raise `_BadCall` where a method does not take so many parameters."""
    try:
        inspect.signature(method).bind(*called.params)
    except TypeError as error:
        raise _BadCall(wire.BAD_PARAMS, f"{called.method}: {error}") from None


async def _body(request: Request) -> bytes:
    """The body of a request; raise `TooLarge`, before anything is read where it says so itself."""
    error = TooLarge(f"the body has more than {wire.MOST_BYTES} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 9 or int(declared) > wire.MOST_BYTES):
        raise error
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > wire.MOST_BYTES:
            raise error
    return bytes(body)


async def _left(request: Request) -> None:
    """Return when the caller has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _xml(document: bytes) -> Response:
    return Response(document, media_type="text/xml")
