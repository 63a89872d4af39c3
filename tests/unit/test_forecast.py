"""What is foretold: everybody as early as it fits, in the order of service, and nothing twice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import allocation
from leasehold.allocation import Candidate, Want
from leasehold.forecast import Claimant, Diary, Outlook, Span
from leasehold.model import Item

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC)


def at(hour: float) -> datetime:
    """So many hours after nine."""
    return NINE + timedelta(hours=hour)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def diary(name: str, *taken: tuple[float, float], tags: Collection[str] = (), pool: str = "r640") -> Diary:
    """A resource that is taken for these hours."""
    candidate = Candidate(pool=pool, name=name, tags=frozenset(tags), properties={})
    return Diary(candidate=candidate, taken=sorted((at(start), at(end)) for start, end in taken))


def claimant(*items: Item, lasts: float = 1, after: float | None = None, barred: Sequence[str] = ()) -> Claimant:
    """Who wants these for so many hours."""
    return Claimant(
        lease="lease",
        shape=repr(items),
        wants=[Want(item=item, barred=barred) for item in items],
        lasts=hours(lasts),
        not_before=None if after is None else at(after),
    )


def settled(outlook: Outlook, *claimants: Claimant) -> list[tuple[float, list[list[str]]] | None]:
    """From when on, in hours after nine, and what each of them will have."""
    found = [outlook.settle(one) for one in claimants]
    return [
        None if one is None else ((one.start - NINE) / hours(1), [[c.name for c in group] for group in one.resources])
        for one in found
    ]


class TestDiary:
    @pytest.mark.parametrize(
        ("after", "length", "gap"),
        [
            (0, 1, 0),
            (0, 2, 0),
            # A gap that is too short is passed, and one that just fits is taken.
            (0, 2.5, 5),
            (1, 1, 1),
            (1, 1.5, 5),
            (2, 1, 5),
            (2.5, 1, 5),
            (5, 1, 5),
            (5, 3, 5),
            (5, 3.1, 9),
            (20, 100, 20),
        ],
    )
    def test_the_next_gap_is_long_enough(self, after: float, length: float, gap: float) -> None:
        one = diary("host", (2, 3), (3, 5), (8, 9))
        assert one.next_gap(at(after), hours(length)) == at(gap)

    def test_spans_that_overlap_are_one(self) -> None:
        # A holder who is late, and the one to whom it was promised.
        assert diary("host", (0, 6), (1, 2)).next_gap(at(0), hours(1)) == at(6)

    def test_it_is_free_up_to_a_span_and_from_its_end_on(self) -> None:
        one = diary("host", (2, 3))
        assert one.is_free(at(1), at(2))
        assert one.is_free(at(3), at(4))
        assert not one.is_free(at(1), at(2.1))
        assert not one.is_free(at(2.9), at(4))
        assert not one.is_free(at(0), at(9))

    def test_what_is_entered_keeps_its_order(self) -> None:
        one = diary("host", (2, 3))
        one.enter(at(0), at(1))
        one.enter(at(4), at(5))
        assert [start for start, _ in one.taken] == [at(0), at(2), at(4)]


class TestForetelling:
    def test_what_is_free_comes_at_once(self) -> None:
        assert settled(Outlook([diary("a")], NINE), claimant(Item())) == [(0, [["a"]])]

    def test_one_after_the_other_each_as_early_as_it_fits(self) -> None:
        outlook = Outlook([diary("a", (0, 1)), diary("b", (0, 3))], NINE)
        found = settled(outlook, *(claimant(Item(), lasts=lasts) for lasts in (1, 2, 1)))
        assert found == [(1, [["a"]]), (2, [["a"]]), (3, [["b"]])]

    def test_who_comes_later_goes_between_where_it_fits(self) -> None:
        outlook = Outlook([diary("a", (0, 4)), diary("b")], NINE)
        large, small, long = claimant(Item(count=2)), claimant(Item(), lasts=4), claimant(Item(), lasts=4.5)
        assert settled(outlook, large, small, long) == [(4, [["a", "b"]]), (0, [["b"]]), (5, [["a"]])]

    def test_several_items_wait_for_one_another(self) -> None:
        outlook = Outlook([diary("gpu", (0, 5), tags=["gpu"]), diary("plain", (0, 1))], NINE)
        assert settled(outlook, claimant(Item(tags=("gpu",)), Item())) == [(5, [["gpu"], ["plain"]])]

    def test_items_that_overlap_are_looked_at_as_a_whole(self) -> None:
        outlook = Outlook([diary("gpu", tags=["gpu"]), diary("plain")], NINE)
        assert settled(outlook, claimant(Item(), Item(tags=("gpu",)))) == [(0, [["plain"], ["gpu"]])]

    def test_enough_that_is_free_is_not_enough_where_it_does_not_suit(self) -> None:
        # Two are free from the first hour on, but both plain.
        outlook = Outlook([diary("a", (0, 1)), diary("b"), diary("gpu", (0, 3), tags=["gpu"])], NINE)
        assert settled(outlook, claimant(Item(), Item(tags=("gpu",)))) == [(3, [["a"], ["gpu"]])]

    def test_a_gap_that_is_too_short_is_left_to_others(self) -> None:
        outlook = Outlook([diary("a", (1, 2))], NINE)
        assert settled(outlook, claimant(Item(), lasts=2), claimant(Item())) == [(2, [["a"]]), (0, [["a"]])]

    def test_nothing_begins_before_it_may(self) -> None:
        outlook = Outlook([diary("a")], NINE)
        assert settled(outlook, claimant(Item(), after=2), claimant(Item(), after=-1)) == [(2, [["a"]]), (0, [["a"]])]

    def test_what_is_barred_is_not_foretold(self) -> None:
        outlook = Outlook([diary("a", pool="p"), diary("b", (0, 2), pool="q")], NINE)
        assert settled(outlook, claimant(Item(), barred=["p"])) == [(2, [["b"]])]

    @pytest.mark.parametrize("item", [Item(count=2), Item(tags=("gpu",)), Item(pool="vm"), Item(names=("b",))])
    def test_where_it_is_never_nothing_is_foretold_and_nothing_taken(self, item: Item) -> None:
        outlook = Outlook([diary("a", (0, 1))], NINE)
        assert settled(outlook, claimant(item), claimant(Item())) == [None, (1, [["a"]])]

    def test_what_lies_too_far_away_is_not_searched_for_ever(self) -> None:
        short = [(n, n + 0.5) for n in range(1, 300)]
        outlook = Outlook([diary("a", *short), diary("b", *((n + 0.5, n + 1.0) for n in range(300)))], NINE)
        assert outlook.earliest(claimant(Item(count=2), lasts=0.5, after=1)) is None

    def test_at_a_moment_it_is_there_or_not(self) -> None:
        outlook = Outlook([diary("a", (2, 3))], NINE)
        assert outlook.at(claimant(Item(), lasts=2), at(0)) is not None
        assert outlook.at(claimant(Item(), lasts=2), at(1)) is None
        assert outlook.at(claimant(Item(), lasts=2), at(3)) is not None


TAGS = ("a", "b")
DIARIES = st.lists(
    st.tuples(st.sets(st.sampled_from(TAGS)), st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=4)),
    max_size=4,
).map(lambda made: [diary(f"h{n}", *((s, s + d) for s, d in spans), tags=tags) for n, (tags, spans) in enumerate(made)])
ITEMS = st.lists(
    st.builds(Item, count=st.integers(1, 2), tags=st.sets(st.sampled_from(TAGS), max_size=1).map(tuple)),
    min_size=1,
    max_size=2,
)
CLAIMANTS = st.lists(
    st.builds(
        lambda items, lasts, after: claimant(*items, lasts=lasts, after=after),
        ITEMS,
        st.integers(1, 5),
        st.none() | st.integers(0, 8),
    ),
    max_size=4,
)


def overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


@given(DIARIES, CLAIMANTS)
def test_each_has_what_it_wants_as_early_as_can_be_and_nothing_is_taken_twice(
    diaries: list[Diary], claimants: list[Claimant]
) -> None:
    outlook = Outlook(diaries, NINE)
    by_key = {one.candidate.key: one for one in diaries}
    for one in claimants:
        before = deepcopy(diaries)
        earliest = max(NINE, one.not_before or NINE)
        moments = {earliest, *(end for each in before for _, end in each.taken)}
        found = outlook.settle(one)

        def fits(start: datetime, one: Claimant = one, before: list[Diary] = before) -> bool:
            free = [each.candidate for each in before if each.is_free(start, start + one.lasts)]
            return allocation.assign(one.wants, free) is not None

        if found is None:
            assert allocation.assign(one.wants, [each.candidate for each in diaries]) is None
            continue
        # Something can only become possible when it may begin, or where somebody gives back.
        assert found.start == min(moment for moment in moments if moment >= earliest and fits(moment))
        assert [len(group) for group in found.resources] == [want.item.count for want in one.wants]
        span = (found.start, found.start + one.lasts)
        keys = [candidate.key for group in found.resources for candidate in group]
        assert len(keys) == len(set(keys))
        was = {each.candidate.key: each.taken for each in before}
        for key in keys:
            assert not any(overlap(span, other) for other in was[key])
            assert sorted([*was[key], span]) == by_key[key].taken
