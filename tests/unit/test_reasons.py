"""Why a lease waits, as people read it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from leasehold import reasons
from leasehold.model import Item
from leasehold.reasons import Holder, Promised, Supply

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC)
R640 = Item(pool="r640", count=3)


def holder(number: int, count: int = 1, hours: float | None = 1) -> Holder:
    """A lease that has something, for so many hours from nine on."""
    return Holder(number=number, count=count, until=None if hours is None else NINE + timedelta(hours=hours))


def said(supply: Supply, item: Item = R640) -> str:
    """What is said after what is needed."""
    needs, _, rest = reasons.shortage(item, supply, NINE).partition("; ")
    assert needs == f"needs {reasons.wish(item)}"
    return rest


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Item(), "1 of any pool"),
        (Item(pool="r640", count=3), "3 of r640"),
        (Item(pool="r640", match=("model=R640",)), "1 of r640 with model=R640"),
        (Item(pool="r640", match=("model=R640", "ram__gte=64")), "1 of r640 with model=R640 and ram__gte=64"),
        (Item(tags=("metal", "x86")), "1 of any pool tagged metal, x86"),
        (Item(pool="r640", names=("a",)), "1 of r640 named a"),
        (Item(pool="r640", names=("a", "b", "c"), count=2), "2 of r640 named a, b or c"),
        (
            Item(pool="r640", count=2, match=("a=b",), tags=("t",), names=("n",)),
            "2 of r640 with a=b tagged t named n",
        ),
    ],
)
def test_a_wish_in_words(item: Item, words: str) -> None:
    assert reasons.wish(item) == words


@pytest.mark.parametrize(
    ("supply", "words"),
    [
        (Supply(free=3), "3 free"),
        (Supply(), "there are just 0; 0 free"),
        (Supply(free=1), "there is just 1; 1 free"),
        (Supply(free=2), "there are just 2; 2 free"),
        (
            Supply(free=1, others={"recycling": 1, "broken": 2, "offline": 3}),
            "1 free; 2 broken; 3 offline; 1 recycling",
        ),
    ],
)
def test_what_there_is_in_words(supply: Supply, words: str) -> None:
    assert said(supply) == words


@pytest.mark.parametrize(
    ("free", "holders", "words"),
    [
        # All of them are named where they are few, with the end of the last.
        (1, [holder(41), holder(43)], "2 held by leases 41 and 43 until 10:00 UTC"),
        (1, [holder(41, count=2, hours=5)], "2 held by lease 41 until 14:00 UTC"),
        (0, [holder(41), holder(43, hours=2), holder(44, hours=3)], "3 held by leases 41, 43 and 44 until 12:00 UTC"),
        (1, [holder(41, hours=48), holder(43, hours=48)], "2 held by leases 41 and 43 until 2026-01-07 09:00 UTC"),
        # Of whom nobody knows until when, nothing is said.
        (1, [holder(41), holder(43, hours=None)], "2 held by leases 41 and 43"),
        # Of many those that give back first, as many as it takes.
        (2, [holder(n, hours=n) for n in range(1, 6)], "5 held, first to end lease 1 at 10:00 UTC"),
        (1, [holder(n, hours=n) for n in range(1, 6)], "5 held, first to end leases 1 and 2 at 11:00 UTC"),
        # Who ends at the same time is named too, but no more than three.
        (2, [holder(n) for n in range(1, 4)], "3 held by leases 1, 2 and 3 until 10:00 UTC"),
        (2, [holder(n) for n in range(1, 9)], "8 held, first to end leases 1, 2 and 3 at 10:00 UTC"),
        (2, [holder(n, hours=None) for n in range(1, 9)], "8 held, first to end leases 1, 2 and 3"),
        (2, [], "2 held"),
    ],
)
def test_who_has_the_rest_in_words(free: int, holders: list[Holder], words: str) -> None:
    held = sum(one.count for one in holders) or 2
    assert said(Supply(free=free, held=held, holders=holders)) == f"{free} free; {words}"


def test_what_is_promised_is_said_after_what_is_free() -> None:
    tonight, tomorrow = NINE + timedelta(hours=13), NINE + timedelta(hours=24)
    promised = [Promised(number=7, count=2, begins=tonight), Promised(number=8, count=1, begins=tomorrow)]
    assert said(Supply(free=3, promised=promised)) == (
        "3 free; 2 promised to lease 7 from 22:00 UTC; 1 promised to lease 8 from 2026-01-06 09:00 UTC"
    )


@pytest.mark.parametrize(("count", "words"), [(1, "1 lease before it"), (2, "2 leases before it")])
def test_how_many_go_before_in_words(count: int, words: str) -> None:
    assert reasons.before(count) == words


@pytest.mark.parametrize(("words", "line"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_a_list_in_words(words: list[str], line: str) -> None:
    assert reasons.listed(words) == line
    assert reasons.listed(words, "or") == line.replace("and", "or")


@pytest.mark.parametrize(
    ("item", "most", "unknown", "words"),
    [
        (R640, 2, [], "3 wanted, and the most that exist in pool r640 is 2"),
        (Item(count=3), 2, [], "3 wanted, and the most that exist in any pool is 2"),
        (R640, 0, [("model=R999", ["R640", "R740"])], "no model=R999 in pool r640 (there is R640 or R740)"),
        (R640, 0, [("model=R999", ["R640"])], "no model=R999 in pool r640 (there is R640)"),
        (
            Item(),
            0,
            [("model=R999", []), ("tag gpu", ["metal"])],
            "no model=R999 in any pool; no tag gpu in any pool (there is metal)",
        ),
        (
            Item(pool="r640", match=("a=b",), tags=("t",)),
            0,
            [],
            "no resource in pool r640 is all that at once: 1 of r640 with a=b tagged t",
        ),
    ],
)
def test_why_it_can_never_be_in_words(item: Item, most: int, unknown: list[tuple[str, list[str]]], words: str) -> None:
    assert reasons.no_such(item, most, unknown) == words
