"""Server-sent events: whole ones, however they are cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from leasehold import sse
from leasehold.sse import Event

BODY = (
    "retry: 2000\n\n: alive\n\nid: 1\nevent: output\ndata: {}\n\ndata:a\ndata: b\r\n\r\n"
    "event: nothing\n\nid: 3\ndata: \u2028\xe4\x85\n\ndata: cut"
).encode()
EVENTS = [
    Event(id="1", kind="output", data="{}"),
    Event(id="1", kind="message", data="a\nb"),
    Event(id="3", kind="message", data="\u2028\xe4\x85"),
]


def test_each_event_with_the_id_that_it_has_last() -> None:
    assert list(sse.read([BODY])) == EVENTS


@given(st.lists(st.integers(0, len(BODY))))
def test_wherever_it_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(BODY)]
    pieces = [BODY[a:b] for a, b in itertools.pairwise(places)]
    assert list(sse.read(pieces)) == EVENTS


def test_an_event_is_there_as_soon_as_it_is_whole() -> None:
    def body() -> Iterator[bytes]:
        yield b"data: x\n\n"
        raise AssertionError("more was asked for than is needed")

    assert next(sse.read(body())).data == "x"
