"""The output of commands in the log store: every byte of it once and in order, however often it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta

import pytest

from leasehold.commands import STAGE, Frame, Stream
from leasehold.model import LONGEST, Policy
from leasehold.ports import LogFilter, OutputOf
from leasehold.pruning import prune
from leasehold.store.logs import SqlLogStore
from tests.conftest import NewDatabase
from tests.contract.store_lab import NINE, Lab

PATIENCE_S = 30
NINE_US = int(NINE.timestamp() * 1_000_000)
ABOUT = OutputOf(lease="a", attempt=1, pool="r640", resource="host01", epoch=7)


@pytest.fixture
async def logs(new_database: NewDatabase, lab: Lab) -> AsyncIterator[SqlLogStore]:
    """Logs by the clock of the lab."""
    logs = SqlLogStore(new_database("logs"), lab.clock)
    yield logs
    logs.close()


def frame(text: str, stream: int = Stream.STDOUT, *, at_us: int = NINE_US) -> Frame:
    return Frame(at_us=at_us, stream=stream, data=text.encode())


def end() -> Frame:
    return Frame(at_us=NINE_US, stream=Stream.END, data=b"")


def size(frames: Sequence[Frame]) -> int:
    return sum(one.size for one in frames)


async def printed(logs: SqlLogStore, *, lease: str = "a", attempt: int | None = None) -> list[tuple[str, str]]:
    found = await logs.read(lease, 0, 1000, LogFilter(stage=STAGE, attempt=attempt))
    return [(chunk.stream, chunk.data.decode()) for chunk in found]


async def test_what_came_in_several_streams_stays_in_its_order_and_with_its_times(logs: SqlLogStore) -> None:
    frames = [
        frame("one\n"),
        frame("two\n", Stream.STDERR, at_us=NINE_US + 1),
        frame("three\n", at_us=NINE_US + 2_500_000),
        frame("7 bytes dropped", Stream.SERVICE, at_us=NINE_US + 2),
    ]

    assert await logs.put_output(ABOUT, 0, frames) == size(frames)

    chunks = await logs.read("a")
    assert [(chunk.stream, chunk.data) for chunk in chunks] == [
        ("stdout", b"one\n"),
        ("stderr", b"two\n"),
        ("stdout", b"three\n"),
        ("service", b"7 bytes dropped"),
    ]
    assert [chunk.at - NINE for chunk in chunks] == [timedelta(microseconds=after) for after in (0, 1, 2_500_000, 2)]
    (where,) = {(c.lease, c.pool, c.resource, c.epoch, c.stage, c.attempt, c.run) for c in chunks}
    assert where == ("a", "r640", "host01", 7, STAGE, 1, None)


async def test_bytes_that_are_no_text_come_back_as_they_were(logs: SqlLogStore) -> None:
    data = bytes(range(256)) * 128
    await logs.put_output(ABOUT, 0, [Frame(at_us=NINE_US, stream=Stream.STDOUT, data=data)])
    assert [chunk.data for chunk in await logs.read("a")] == [data]


async def test_sent_twice_it_is_there_once(logs: SqlLogStore) -> None:
    first, second = [frame("one")], [frame("two")]
    for _ in range(2):
        after = await logs.put_output(ABOUT, 0, first)
    assert after == size(first)
    for _ in range(2):
        after = await logs.put_output(ABOUT, size(first), second)
    assert after == size([*first, *second])
    # One that was thought to be lost comes late.
    assert await logs.put_output(ABOUT, 0, first) == after
    assert await printed(logs) == [("stdout", "one"), ("stdout", "two")]


async def test_after_a_gap_the_sender_learns_where_to_go_on(logs: SqlLogStore) -> None:
    first, second = [frame("one")], [frame("two")]
    assert await logs.put_output(ABOUT, size(first), second) == 0, "nothing is here yet"
    await logs.put_output(ABOUT, 0, first)
    assert await logs.put_output(ABOUT, size(first) + 1, second) == size(first)
    assert await logs.put_output(ABOUT, size(first), second) == size([*first, *second])
    assert await printed(logs) == [("stdout", "one"), ("stdout", "two")]


async def test_a_batch_that_begins_in_what_is_here_is_not_taken_in_part(logs: SqlLogStore) -> None:
    first, second = [frame("one")], [frame("two")]
    await logs.put_output(ABOUT, 0, first)
    assert await logs.put_output(ABOUT, 0, [*first, *second]) == size(first)
    assert await printed(logs) == [("stdout", "one")]


async def test_asked_with_nothing_it_only_says_how_far_it_has_come(logs: SqlLogStore) -> None:
    assert await logs.put_output(ABOUT, 0, []) == 0
    await logs.put_output(ABOUT, 0, [frame("one")])
    assert await logs.put_output(ABOUT, 0, []) == frame("one").size
    assert await printed(logs) == [("stdout", "one")]


async def test_the_end_of_it_is_no_output_and_comes_once_too(logs: SqlLogStore) -> None:
    frames = [frame("one"), end()]
    for _ in range(2):
        assert await logs.put_output(ABOUT, 0, frames) == size(frames)
    assert await printed(logs) == [("stdout", "one")]


async def test_after_the_end_nothing_is_taken_any_more(logs: SqlLogStore) -> None:
    frames = [frame("one"), end()]
    await logs.put_output(ABOUT, 0, frames)
    assert await logs.put_output(ABOUT, size(frames), []) == size(frames)
    for offset in (0, frames[0].size, size(frames)):
        assert await logs.put_output(ABOUT, offset, [frame("again")]) == size(frames)
    assert await printed(logs) == [("stdout", "one")]


async def test_a_command_that_printed_nothing_has_an_end_all_the_same(logs: SqlLogStore) -> None:
    assert await logs.put_output(ABOUT, 0, [end()]) == end().size
    assert await printed(logs) == []


async def test_attempts_and_leases_have_their_own(logs: SqlLogStore) -> None:
    second = OutputOf(lease="a", attempt=2, pool="r640", resource="host01", epoch=7)
    other = OutputOf(lease="b", attempt=1, pool="r640", resource="host02", epoch=3)
    for about, text in ((ABOUT, "first"), (second, "second"), (other, "other")):
        await logs.put_output(about, 0, [frame(text)])
    assert await printed(logs) == [("stdout", "first"), ("stdout", "second")]
    assert await printed(logs, attempt=2) == [("stdout", "second")]
    assert await printed(logs, lease="b") == [("stdout", "other")]


async def test_two_that_send_the_same_at_once_are_told_the_same_and_it_is_there_once(
    new_database: NewDatabase, logs: SqlLogStore
) -> None:
    batches = [[frame(f"{n}.")] for n in range(20)]
    offset = 0
    for batch in batches:
        told = await asyncio.gather(*(logs.put_output(ABOUT, offset, batch) for _ in range(3)))
        offset += size(batch)
        assert told == [offset] * 3
    assert [text for _, text in await printed(logs)] == [f"{n}." for n in range(20)]


async def test_who_follows_is_told_of_it(logs: SqlLogStore) -> None:
    async with aclosing(logs.changes()) as news, asyncio.timeout(PATIENCE_S):
        assert await anext(news) == []
        await logs.put_output(ABOUT, 0, [frame("one")])
        assert await anext(news) == ["a"]


async def test_it_goes_with_the_logs_of_its_pool_and_how_far_it_had_come_much_later(
    lab: Lab, logs: SqlLogStore
) -> None:
    await lab.pool("r640", policy=Policy(keep_logs=timedelta(days=2)))
    frames = [frame("one")]
    await logs.put_output(ABOUT, 0, frames)
    lab.clock.forward(days=2, seconds=1)

    await prune(lab.store, logs)

    assert await printed(logs) == []
    assert await logs.put_output(ABOUT, 0, frames) == size(frames), "what comes late is not taken for new"
    lab.clock.forward(days=LONGEST.days)
    await prune(lab.store, logs)
    assert await logs.put_output(ABOUT, 0, []) == 0
