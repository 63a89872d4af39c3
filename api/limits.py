"""Bounds on what a caller may send."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer
from leasehold.errors import TooLarge

MOST_BYTES = 1024 * 1024
MOST_BYTES_OF_POOLS = 8 * 1024 * 1024


class Limits:
    """Refuses bodies that are too large, those that say so before anything of them is read.

    Only whoever reads a body is told: a caller who may not send it learns nothing of it.
    """

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
        left = most if declared.isdigit() and int(declared) <= most else -1
        refused = answered = False

        async def counted() -> Message:
            nonlocal left, refused
            message = await receive() if left >= 0 else None
            left -= len(message.get("body", b"")) if message else 0
            if message is None or left < 0:
                refused = True
                raise error
            return message

        async def checked(message: Message) -> None:
            # Whoever read the body may have made an answer of its own of our error.
            nonlocal answered
            if not refused:
                await send(message)
            elif not answered:
                answered = True
                await answer(error)(scope, receive, send)

        await self._app(scope, counted, checked)
