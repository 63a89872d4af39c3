"""Bounds on what a caller may send."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer
from leasehold.errors import TooLarge

MOST_BYTES = 1024 * 1024
MOST_BYTES_OF_POOLS = 8 * 1024 * 1024


class Limits:
    """Refuses bodies that are too large before they are read, whether or not they say how long they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its bytes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Nothing is called by a name with NUL, and PostgreSQL cannot even be asked for one.
        scope["path"] = scope["path"].replace("\0", "\ufffd")
        most = MOST_BYTES_OF_POOLS if scope["path"] in {"/v1/apply"} else MOST_BYTES
        error = TooLarge(f"the body has more than {most} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await answer(error)(scope, receive, send)
            return
        left, answered = most, False

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise error
            return message

        async def checked(message: Message) -> None:
            # Whoever read the body may have made an answer of its own of our error.
            nonlocal answered
            if left >= 0:
                await send(message)
            elif not answered:
                answered = True
                await answer(error)(scope, receive, send)

        await self._app(scope, counted, checked)
