"""Logs as text: whole lines, each with where it comes from, of whatever pieces they came in."""

from __future__ import annotations

from datetime import UTC, datetime

from api.logtext import LONGEST_LINE, LogText
from leasehold.model import LogChunk

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)


def printed(data: bytes, *, stage: str = "command") -> LogChunk:
    return LogChunk(
        id=1,
        at=AT,
        run=None,
        lease="l",
        pool="lab",
        resource="r1",
        epoch=1,
        stage=stage,
        attempt=1,
        stream="stdout",
        data=data,
    )


def test_a_line_is_shown_once_it_is_whole() -> None:
    text = LogText()
    shown = [list(text.lines([printed(data)])) for data in (b"on", b"e\ntwo\nthr", b"ee")]
    assert shown == [[], ["[lab/r1 command#1 stdout] one\n", "[lab/r1 command#1 stdout] two\n"], []]
    assert list(text.rest()) == ["[lab/r1 command#1 stdout] three\n"]


def test_what_has_no_lines_is_shown_in_parts_and_not_kept_for_ever() -> None:
    pieces = [printed(bytes(32 * 1024)) for _ in range(256)]
    shown = [len(line) for line in LogText().lines(pieces)]
    assert len(shown) == 8
    assert max(shown) < LONGEST_LINE + 100


def test_a_livecheck_ends_its_line_by_its_end() -> None:
    text = LogText()
    assert list(text.lines([printed(b"well", stage="livecheck")])) == ["[lab/r1 livecheck#1 stdout] well\n"]
    assert list(text.rest()) == []
