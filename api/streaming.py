"""Answers that come piece by piece, each for as long as its reader is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Send

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Neither kept by a cache nor held back by a proxy."""


class Streamed(StreamingResponse):
    """What a generator yields; it is closed as soon as its reader is gone.

    Starlette leaves a generator that it was sending from to the garbage collector, and with it whatever it holds.
    """

    def __init__(
        self, source: AsyncGenerator[str, None] | AsyncGenerator[bytes, None], media_type: str = "text/event-stream"
    ) -> None:
        super().__init__(source, media_type=media_type, headers=_HEADERS)
        self._source = source

    async def stream_response(self, send: Send) -> None:
        """Send it all, or as much as there is a reader for."""
        async with aclosing(self._source):
            await super().stream_response(send)
