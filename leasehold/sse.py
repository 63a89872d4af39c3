"""Server-sent events, read piece by piece (HTML Living Standard, 9.2.6); comments and `retry` are passed over."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event; `id` is that of the last one that had any."""

    id: str
    kind: str
    data: str


def read(pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events of a body that comes in pieces, each as soon as it is whole."""
    ident, kind, data = "", "", list[str]()
    for line in _lines(pieces):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            ident = value
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield Event(id=ident, kind=kind or "message", data="\n".join(data))
            kind, data = "", []


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Whole lines; what comes after the last end of a line is none."""
    # Not `splitlines`: it takes U+2028 and others for ends, which JSON may have in it.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
