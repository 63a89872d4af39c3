"""What commands print, as long as they run: a part of the HTTP client."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import cast

from leasehold import sse, wire
from leasehold.answers import Output
from leasehold.errors import Unavailable

OUTAGE = timedelta(minutes=2)
"""A lease outlives a restart of the API; whoever waits for one does so too, this long."""

_SILENCE = timedelta(seconds=75)
"""Whoever prints nothing for so long is asked again, because a connection may be dead without anybody knowing it."""


class OutputOfCommands:
    """The calls about a command's output."""

    _wire: wire.Wire
    outage: timedelta = OUTAGE
    """For how long whoever waits for a lease sits out that the API is away."""

    def output(
        self,
        ref: str,
        *,
        follow: bool = False,
        stream: str | None = None,
        tail: int | None = None,
        attempt: int | None = None,
    ) -> Iterator[bytes]:
        """What a lease's command printed, every byte, in the order in which it came; with `follow` until its end.

        `stream` is `stdout`, `stderr`, both if None, or `service` for what Leasehold says of it; `tail` is how many of
        the last lines, all if None.
        """
        part: dict[str, object] = {"stream": stream, "tail": tail, "attempt": attempt}
        if follow:
            # With what keeps the connection alive, and tells where to go on after one that is lost.
            pieces = self.follow_output(ref, part)
            return (b64decode(one["data_base64"]) for one in pieces if stream or one["stream"] != "service")
        return self._wire.stream("leases", ref, "output", params=_params(part))

    def follow_output(self, ref: str, part: Mapping[str, object] | None = None) -> Iterator[Output]:
        """What a lease's command prints, or a `part` of it, piece by piece with the stream of each, until it has ended.

        A restart of the API is sat out; nothing is lost by it, and nothing comes twice.
        """
        params = _params({"follow": True, "events": True, **(part or {})})
        last, away_since = "", None

        def heard(pieces: Iterator[bytes]) -> Iterator[bytes]:
            # Also what only keeps a silent command's connection alive tells that the API is there.
            nonlocal away_since
            for piece in pieces:
                away_since = None
                yield piece

        while True:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            try:
                pieces = self._wire.stream("leases", ref, "output", params=params, held=_SILENCE, headers=headers)
                for event in sse.read(heard(pieces)):
                    if event.kind == "end":
                        return
                    last = event.id
                    if event.kind == "output":
                        yield cast(Output, json.loads(event.data))
            except Unavailable:
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if not self._wire.was_heard or now - away_since > self.outage.total_seconds():
                    raise
            time.sleep(1)


def _params(said: Mapping[str, object]) -> list[tuple[str, str]]:
    """What is said, as the API reads it."""
    present = {name: value for name, value in said.items() if value is not None}
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in present.items()]
