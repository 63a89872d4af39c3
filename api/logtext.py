"""A log as lines of text, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from leasehold.commands import STAGE
from leasehold.model import LogChunk

_Source = tuple[int | None, str, str]
"""A run, where it ran, and which stream of it."""


LONGEST_LINE = 1024 * 1024
"""Bytes that are waited for until a line ends: longer ones, of what is no text say, are shown in parts of that size."""


class LogText:
    """Turns pieces of output into whole lines; what has no line's end yet waits for the rest."""

    def __init__(self) -> None:
        self._begun: dict[_Source, bytearray] = {}

    def lines(self, chunks: Iterable[LogChunk]) -> Iterator[str]:
        """The lines that these pieces complete, bytes that are no UTF-8 replaced."""
        for chunk in chunks:
            place = f"{chunk.pool}/{chunk.resource} {chunk.stage}#{chunk.attempt}"
            source = (chunk.run, place, chunk.stream)
            if chunk.stream == "service":
                # What the service says of a run, that its log was cut say, comes after what it is about.
                yield from self._ended([other for other in self._begun if other[:2] == source[:2]])
            *whole, rest = chunk.data.split(b"\n")
            for line in whole:
                yield _line(source, self._begun.pop(source, b"") + line)
            if rest:
                begun = self._begun.setdefault(source, bytearray())
                begun += rest
                # Of a livecheck, say, what comes next may be of the next one.
                if len(begun) >= LONGEST_LINE or (chunk.run is None and chunk.stage != STAGE):
                    yield _line(source, self._begun.pop(source))

    def rest(self) -> Iterator[str]:
        """The lines that never ended."""
        yield from self._ended(list(self._begun))

    def _ended(self, sources: Iterable[_Source]) -> Iterator[str]:
        for source in sources:
            yield _line(source, self._begun.pop(source))


def _line(source: _Source, line: bytes | bytearray) -> str:
    _, place, stream = source
    return f"[{place} {stream}] {line.decode(errors='replace')}\n"
