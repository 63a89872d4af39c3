"""What happens to the requests that are being answered when the process has to stop."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer
from leasehold.errors import Unavailable


class Stopping:
    """Has callers whom the server cuts off try again, instead of believing that something failed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; if it is cancelled before anything was said, say that it can be repeated."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if begun or scope["type"] != "http":
                raise
            # What cancels is the server, once the time to stop in good order is over; it sends what is answered yet.
            await answer(Unavailable("the service is being restarted"))(scope, receive, send)
