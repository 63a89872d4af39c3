"""Who gets what: every choice that exists is found, nothing is given twice, and the order is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold import allocation
from leasehold.allocation import Candidate, Waiter, Want
from leasehold.errors import BadFilter
from leasehold.model import Item

KINDS = ("a", "b", "c")


class Shelf:
    """A stock that knows all there is."""

    def __init__(self, free: Sequence[Candidate]) -> None:
        self.left = list(free)

    def free_for(self, wants: Sequence[Want]) -> Sequence[Candidate]:
        return self.left

    def take(self, candidates: Iterable[Candidate]) -> None:
        gone = {candidate.key for candidate in candidates}
        self.left = [candidate for candidate in self.left if candidate.key not in gone]


def candidate(name: str, *tags: str, pool: str = "r640", **properties: object) -> Candidate:
    return Candidate(pool=pool, name=name, tags=frozenset(tags), properties=properties)


def names(chosen: Sequence[Sequence[Candidate]] | None) -> list[list[str]] | None:
    return None if chosen is None else [[c.name for c in group] for group in chosen]


@pytest.mark.parametrize(
    ("item", "suits"),
    [
        (Item(), True),
        (Item(pool="r640"), True),
        (Item(pool="vm"), False),
        (Item(names=("host01", "host02")), True),
        (Item(names=("host02",)), False),
        (Item(tags=("metal",)), True),
        (Item(tags=("metal", "x86")), True),
        (Item(tags=("metal", "gpu")), False),
        (Item(match=("model=R640",)), True),
        (Item(match=("model=R640", "disks.size__gt=5")), False),
        (Item(pool="r640", names=("host01",), tags=("x86",), match=("model__like=R%",)), True),
    ],
)
def test_all_that_an_item_says_must_hold(item: Item, suits: bool) -> None:
    host = candidate("host01", "metal", "x86", model="R640", disks=[{"size": 1}])
    assert allocation.suits(item, host) is suits


def test_a_malformed_filter_is_an_error_not_a_miss() -> None:
    with pytest.raises(BadFilter):
        allocation.suits(Item(match=("model",)), candidate("host01"))


def test_a_plain_request_gets_the_first_in_order_of_preference() -> None:
    free = [candidate("host02"), candidate("host01"), candidate("host03")]
    assert names(allocation.assign([Item(count=2)], free)) == [["host02", "host01"]]


def test_a_greedy_choice_is_taken_back_where_another_item_needs_it() -> None:
    free = [candidate("special", "gpu"), candidate("plain")]
    assert names(allocation.assign([Item(), Item(tags=("gpu",))], free)) == [["plain"], ["special"]]


def test_a_chain_of_choices_is_taken_back() -> None:
    # Each item could take the resource that the next one needs.
    free = [candidate(f"host{n}", f"t{n}", f"t{n + 1}") for n in range(30)]
    items = [Item(tags=(f"t{n + 1}",)) for n in range(29)] + [Item(tags=("t0",))]
    chosen = allocation.assign(items, free)
    assert names(chosen) == [[f"host{n + 1}"] for n in range(29)] + [["host0"]]


@pytest.mark.parametrize(("first", "second", "found"), [(500, 500, True), (501, 501, False), (1, 1000, False)])
def test_large_requests_over_one_large_pool_are_answered(first: int, second: int, found: bool) -> None:
    free = [candidate(f"host{n}") for n in range(1000)]
    chosen = allocation.assign([Item(count=first), Item(count=second)], free)
    assert (chosen is not None) is found


def test_no_items_need_nothing() -> None:
    assert allocation.assign([], []) == []


def choices(items: Sequence[Item], free: Sequence[Candidate]) -> Iterator[tuple[Candidate, ...]]:
    """Every way to fill all places of all items, by trying them all."""
    places = [item for item in items for _ in range(item.count)]
    for chosen in itertools.permutations(free, len(places)):
        if all(allocation.suits(item, c) for item, c in zip(places, chosen, strict=True)):
            yield chosen


ITEMS = st.lists(
    st.builds(
        Item,
        count=st.integers(1, 3),
        tags=st.sets(st.sampled_from(KINDS), max_size=2).map(tuple),
        pool=st.sampled_from([None, "p", "q"]),
    ),
    min_size=1,
    max_size=3,
)
FREE = st.lists(st.tuples(st.sampled_from("pq"), st.sets(st.sampled_from(KINDS))), max_size=5).map(
    lambda made: [candidate(f"host{n}", *tags, pool=pool) for n, (pool, tags) in enumerate(made)]
)


@given(ITEMS, FREE)
def test_a_choice_is_found_if_and_only_if_there_is_one(items: list[Item], free: list[Candidate]) -> None:
    chosen = allocation.assign(items, free)
    assert (chosen is not None) is any(True for _ in choices(items, free))
    if chosen is not None:
        check(items, free, chosen)


def check(items: Sequence[Item], free: Sequence[Candidate], chosen: Sequence[Sequence[Candidate]]) -> None:
    """What is given is free, suits, is as many as wanted, and is given once."""
    assert [len(group) for group in chosen] == [item.count for item in items]
    assert all(allocation.suits(item, c) for item, group in zip(items, chosen, strict=True) for c in group)
    given_ = [c.key for group in chosen for c in group]
    assert len(given_) == len(set(given_))
    assert set(given_) <= {c.key for c in free}


@given(st.lists(ITEMS, max_size=5), FREE)
def test_waiters_are_served_in_order_each_with_what_those_before_left(
    requests: list[list[Item]], free: list[Candidate]
) -> None:
    waiting = [Waiter(lease=f"lease{n}", items=items, passes=9) for n, items in enumerate(requests)]
    awards = list(allocation.serve(waiting, Shelf(free)))
    assert [a.lease for a in awards] == sorted(a.lease for a in awards)
    awarded = {award.lease: award.resources for award in awards}
    left = list(free)
    for waiter in waiting:
        # Nobody is passed over who could have been served when it was its turn.
        assert (waiter.lease in awarded) is (allocation.assign(waiter.items, left) is not None)
        if waiter.lease in awarded:
            check(waiter.items, left, awarded[waiter.lease])
            gone = {c.key for group in awarded[waiter.lease] for c in group}
            left = [c for c in left if c.key not in gone]


def served(passes: int, *, free: int = 10) -> list[str]:
    """Who is served of one that wants 8 of 10 hosts, of which 5 are free, and of six behind it that want one each."""
    shelf = Shelf([candidate(f"host{n}") for n in range(free)])
    large = Waiter(lease="large", items=[Item(count=8)], passes=passes)
    small = [Waiter(lease=f"small{n}", items=[Item()], passes=16) for n in range(6)]
    return [award.lease for award in allocation.serve([large, *small], shelf)]


def test_a_blocked_request_is_passed_as_often_as_it_lets_others_pass() -> None:
    assert served(passes=2, free=5) == ["small0", "small1"]


def test_one_that_lets_nobody_pass_keeps_what_it_needs_and_no_more() -> None:
    plain, special = [candidate(f"plain{n}") for n in range(3)], [candidate("gpu", "gpu"), candidate("gpu2", "gpu")]
    head = Waiter(lease="head", items=[Item(tags=("gpu",)), Item(tags=("fpga",))], passes=0)
    others = [Waiter(lease=name, items=[Item(tags=("gpu",))], passes=16) for name in ("first", "second")]
    assert [a.lease for a in allocation.serve([head, *others], Shelf([*plain, *special]))] == ["first"]


def test_what_is_held_is_so_much_and_not_just_these() -> None:
    # Any of three hosts will do for the head, and the one behind it wants just the one that would be taken first.
    head = Waiter(lease="head", items=[Item(), Item(tags=("fpga",))], passes=0)
    choosy = [Waiter(lease=name, items=[Item(names=(name,))], passes=16) for name in ("host0", "host1", "host2")]
    free = [candidate(f"host{n}") for n in range(3)]
    assert [a.lease for a in allocation.serve([head, *choosy], Shelf(free))] == ["host0", "host1"]


def test_who_wants_something_else_passes_without_being_counted() -> None:
    head = Waiter(lease="head", items=[Item(tags=("gpu",), count=2)], passes=1)
    others = [Waiter(lease=f"plain{n}", items=[Item(tags=("plain",))], passes=16) for n in range(3)]
    free = [candidate("gpu", "gpu"), *(candidate(f"host{n}", "plain") for n in range(3))]
    assert len(list(allocation.serve([head, *others], Shelf(free)))) == 3
    assert head.passes == 1


def wanting(item: Item, *barred: str | tuple[str, str]) -> list[list[str]] | None:
    """What serves one that may not have some of it, of one host in each of two pools."""
    free = [candidate("a", pool="p"), candidate("b", pool="q")]
    return names(allocation.assign([Want(item=item, barred=barred)], free))


def test_a_barred_pool_serves_nothing() -> None:
    assert wanting(Item()) == [["a"]]
    assert wanting(Item(), "p") == [["b"]]
    assert wanting(Item(pool="p"), "p") is None
    assert wanting(Item(count=2), "p") is None
    assert wanting(Item(), "p", "q") is None


def test_a_barred_resource_serves_nothing_and_its_pool_does() -> None:
    assert wanting(Item(), ("p", "a")) == [["b"]]
    assert wanting(Item(pool="p"), ("p", "a")) is None
    # A name means nothing without its pool.
    assert wanting(Item(pool="p"), ("q", "a")) == [["a"]]
    assert wanting(Item(count=2), ("p", "other")) == [["a", "b"]]


def test_what_is_barred_for_one_item_may_serve_another() -> None:
    free = [candidate("a"), candidate("b")]
    wants = [Want(item=Item(), barred=[("r640", "a")]), Want(item=Item())]
    assert names(allocation.assign(wants, free)) == [["b"], ["a"]]


def test_what_is_promised_to_others_bars_every_item_and_a_full_pool_those_of_any_pool() -> None:
    waiter = Waiter(lease="one", items=[Item(pool="p"), Item()], barred=["q"], promised=[("p", "a")])
    named, any_pool = waiter.wants
    assert set(named.barred) == {("p", "a")}
    assert set(any_pool.barred) == {"q", ("p", "a")}


def test_who_may_not_have_what_is_promised_lets_it_pass_without_being_counted() -> None:
    barred = Waiter(lease="barred", items=[Item()], passes=1, promised=[("r640", "a")])
    others = [Waiter(lease="other", items=[Item()], passes=16)]
    assert [award.lease for award in allocation.serve([barred, *others], Shelf([candidate("a")]))] == ["other"]
    assert barred.passes == 1


def held_back(*waiting: Waiter, free: Sequence[Candidate]) -> list[tuple[int, tuple[str, ...]]]:
    """How much is held, and with which tags."""
    return [(want.item.count, want.item.tags) for want in allocation.held_back(waiting, Shelf(free))]


def test_for_one_that_lets_others_pass_nothing_is_held() -> None:
    assert held_back(Waiter(lease="one", items=[Item(count=5)], passes=1), free=[candidate("a")]) == []


def test_as_much_is_held_as_there_is_of_what_is_wanted() -> None:
    free = [candidate("a"), candidate("b"), candidate("gpu", "gpu")]
    wants = [Item(count=2, tags=("gpu",)), Item(count=9)]
    assert held_back(Waiter(lease="one", items=wants), free=free) == [(1, ("gpu",)), (2, ())]
    assert held_back(Waiter(lease="one", items=[Item(tags=("fpga",))]), free=free) == []


BOTH = [Item(pool="host"), Item(pool="licence", count=2)]
HOST, LICENCES = candidate("host", pool="host"), [candidate(f"licence{n}", pool="licence") for n in range(2)]


@pytest.mark.parametrize(
    ("free", "held"),
    [([HOST], []), ([HOST, LICENCES[0]], [("licence", 1)]), (LICENCES, [("licence", 2)])],
    ids=["without a licence", "with one too few", "without a host"],
)
def test_no_host_is_held_for_one_that_waits_for_a_licence_too(
    free: list[Candidate], held: list[tuple[str, int]]
) -> None:
    waiting = [Waiter(lease="both", items=BOTH)]
    assert [(want.item.pool, want.item.count) for want in allocation.held_back(waiting, Shelf(free))] == held
    behind = [Waiter(lease="host", items=[Item(pool="host")]), Waiter(lease="licence", items=[Item(pool="licence")])]
    served = {award.lease for award in allocation.serve([*waiting, *behind], Shelf(free))}
    assert served == ({"host"} if HOST in free else set())


def test_it_comes_however_many_are_behind_it() -> None:
    # One host and one licence become free by turns, never both at once, and others want each of them.
    waiting = [Waiter(lease="both", items=[Item(pool="host"), Item(pool="licence")])]
    behind = [Waiter(lease=f"{pool}{n}", items=[Item(pool=pool)]) for n in range(3) for pool in ("host", "licence")]
    free: list[Candidate] = []
    served: list[str] = []
    for new in (HOST, LICENCES[0], HOST):
        shelf = Shelf([*free, new])
        served += [award.lease for award in allocation.serve([*waiting, *behind], shelf)]
        behind = [one for one in behind if one.lease not in served]
        free = list(shelf.free_for([Want(item=Item(count=9))]))
    assert served == ["host0", "both"]


def test_what_is_held_for_one_is_not_held_for_the_next() -> None:
    free = [candidate("a"), candidate("b"), candidate("c")]
    waiting = [Waiter(lease=name, items=[Item(count=2)]) for name in ("first", "second", "third")]
    assert held_back(*waiting, free=free) == [(2, ()), (1, ())]


def test_what_is_barred_is_not_held() -> None:
    free = [candidate("a"), candidate("b")]
    assert held_back(Waiter(lease="one", items=[Item(count=2)], promised=[("r640", "a")]), free=free) == [(1, ())]


def test_what_is_held_keeps_its_bars() -> None:
    waiter = Waiter(lease="one", items=[Item(count=2)], promised=[("r640", "a")])
    (want,) = allocation.held_back([waiter], Shelf([candidate("a"), candidate("b")]))
    assert set(want.barred) == {("r640", "a")}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (Item(match=("model=R999",)), [("model=R999", ["R640", "R740"])]),
        (Item(match=("model=R999", "model=R640")), [("model=R999", ["R640", "R740"])]),
        (Item(match=("ram=1",)), [("ram=1", [])]),
        (Item(tags=("gpu", "metal")), [("tag gpu", ["metal", "x86"])]),
        (Item(names=("a", "c")), [("resource c", [])]),
        # Each of these there is, though not together.
        (Item(match=("model=R740",), tags=("x86",), names=("a",)), []),
    ],
)
def test_what_there_is_not_is_told_with_what_there_is(item: Item, said: list[tuple[str, list[str]]]) -> None:
    there = [candidate("a", "metal", "x86", model="R640"), candidate("b", "metal", model="R740")]
    assert allocation.unknown(item, there, {"a", "b"}) == said


def test_of_much_that_there_is_only_some_is_told() -> None:
    there = [candidate(f"host{n}", f"tag{n}", serial=n) for n in range(9)]
    assert [len(some) for _, some in allocation.unknown(Item(match=("serial=x",), tags=("y",)), there, set())] == [5, 5]


def test_the_least_capable_comes_first() -> None:
    plain = candidate("plain", cores=8)
    better = [candidate("large", cores=64), candidate("disks", cores=8, disks=[{"size": 1}]), candidate("gpu", "gpu")]
    assert min([*better, plain], key=allocation.capability) is plain
    assert allocation.capability(plain) < allocation.capability(better[0]) < allocation.capability(better[1])
