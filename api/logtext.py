"""A lease's log as lines of text, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from leasehold.model import LogChunk


class LogText:
    """Turns pieces of output into whole lines; what has no line's end yet waits for the rest."""

    def __init__(self) -> None:
        self._begun: dict[str, bytes] = {}

    def lines(self, chunks: Iterable[LogChunk]) -> Iterator[str]:
        """The lines that these pieces complete, bytes that are no UTF-8 replaced."""
        for chunk in chunks:
            place = f"[{chunk.pool}/{chunk.resource} {chunk.stage}#{chunk.attempt} {chunk.stream}]"
            *whole, rest = (self._begun.pop(place, b"") + chunk.data).split(b"\n")
            for line in whole:
                yield f"{place} {line.decode(errors='replace')}\n"
            if rest:
                self._begun[place] = rest

    def rest(self) -> Iterator[str]:
        """The lines that never ended."""
        for place, line in self._begun.items():
            yield f"{place} {line.decode(errors='replace')}\n"
        self._begun.clear()
