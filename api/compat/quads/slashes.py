"""QUADS's addresses are the same with and without a slash at their end."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Slashes:
    """Takes the slash from the end of an address of `/api/v3`: clients follow no redirection with a POST."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["path"].startswith("/api/v3/"):
            scope["path"] = scope["path"].rstrip("/")
        await self._app(scope, receive, send)
