"""Names that a pool gives to what it makes, and what is taken for one of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leasehold import naming
from leasehold.model import DEFAULT_NAME_PATTERN, NAME_PATTERN

NOW = datetime(2026, 1, 5, 9, 30, 1, tzinfo=UTC)
POOLS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", re.ASCII), fullmatch=True)
FIELDS = st.sampled_from(["{pool_name}", "{id}", "{id_in_pool}", "{datetime}"])
BESIDES = st.text("a01._-", max_size=10)
LITERALS = st.text("aZ09._-", max_size=3)
PATTERNS = st.lists(st.one_of(FIELDS, LITERALS), min_size=1, max_size=6).map("".join)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
NUMBERS, PLACES = st.integers(1, 99_999_999), st.integers(0, 99_999)
PAIRS_OF_NUMBERS = st.lists(NUMBERS, min_size=2, max_size=2, unique=True)
PAIRS_OF_PLACES = st.lists(PLACES, min_size=2, max_size=2, unique=True)
SET_OFF = st.sampled_from(
    # No digit beside the pool's name: vm11 would be vm's eleventh, or vm1's first.
    [
        DEFAULT_NAME_PATTERN,
        "{pool_name}-{id_in_pool}",
        "ci-{pool_name}_{id}",
        "{id_in_pool}.{pool_name}",
        "x{pool_name}-{id}",
    ]
)


def made(pattern: str, pool: str = "vm", *, number: int = 7, place: int = 3, now: datetime = NOW) -> str:
    """The name of one resource."""
    return naming.name(pattern, pool=pool, number=number, place=place, now=now)


def is_known(name: str, pattern: str = DEFAULT_NAME_PATTERN, pool: str = "vm") -> bool:
    """Whether a pool takes a name for one of its own."""
    return naming.fitting(pattern, pool).match(name) is not None


def refusal(pattern: str, pool: str = "p") -> str | None:
    """Why a pattern is refused, if it is."""
    try:
        naming.check(pattern, pool)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (DEFAULT_NAME_PATTERN, "vm_00000007_20260105_093001"),
        ("{pool_name}-{id_in_pool}", "vm-3"),
        ("ci.{id}", "ci.00000007"),
        ("{id_in_pool}", "3"),
    ],
)
def test_a_pattern_says_what_names_look_like(pattern: str, name: str) -> None:
    naming.check(pattern)
    assert made(pattern) == name
    assert is_known(name, pattern)


def test_a_number_that_outgrows_its_zeros_is_a_name_too() -> None:
    assert made("{id}", number=123_456_789) == "123456789"
    assert is_known("123456789", "{id}")


@pytest.mark.parametrize("pattern", ["vm", "", "{pool_name}", "{pool_name}_{datetime}"])
def test_a_pattern_that_would_give_two_resources_the_same_name_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"needs \{id\} or \{id_in_pool\}: two resources would have the same name"):
        naming.check(pattern)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{colour}-{id}", "has {colour}"),
        ("{}-{id}", "has {}"),
        ("{0}-{id}", "has {0}"),
        ("{ID}", "has {ID}"),
        ("{id }", "has {id }"),
        ("{id:>9}", "has {id:>9}"),
        ("{id!r}", "has {id!r}"),
        ("{id!s:8}", "has {id!s:8}"),
        ("{id:{id_in_pool}}", "has {id:{id_in_pool}}"),
        ("{id}-{pool_name.__class__}", "has {pool_name.__class__}"),
        ("{id[0]}", "has {id[0]}"),
    ],
)
def test_what_is_not_known_in_braces_is_refused_as_it_was_written(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{said}: there are only {{pool_name}}, {{id}}, {{id_in_pool}}")):
        naming.check(pattern)


@pytest.mark.parametrize("pattern", ["{id", "id}", "{id}}", "{id!}", "{{id}", "{id!rr}", "{id[}"])
def test_braces_that_do_not_match_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no pattern"):
        naming.check(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "_{id}",
        "-{pool_name}-{id}",
        "{id} {datetime}",
        "{id}/{pool_name}",
        "{{{id}}}",
        "ü{id}",
        "{id}\0",
        "{id}\n",
        "\n{id}",
        "{id}" * 17,
    ],
)
def test_a_pattern_whose_names_are_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="makes no names"):
        naming.check(pattern)


def test_names_are_not_too_long_once_the_numbers_are_long() -> None:
    # With the first resources, 0 to 9, it would be 100 characters.
    with pytest.raises(ValueError, match="makes no names"):
        naming.check("x" * 90 + "{id_in_pool}" * 10)


def test_names_with_a_long_pool_in_them_are_refused_for_that_pool() -> None:
    naming.check(DEFAULT_NAME_PATTERN, "vm")
    naming.check(DEFAULT_NAME_PATTERN, "p" * 103)
    with pytest.raises(ValueError, match="makes no names"):
        naming.check(DEFAULT_NAME_PATTERN, "p" * 104)
    naming.check("{id}", "p" * 128)


@given(PATTERNS, POOLS, NUMBERS, PLACES, TIMES)
def test_every_name_that_is_given_is_one_and_is_known_again(
    pattern: str, pool: str, number: int, place: int, now: datetime
) -> None:
    assume(refusal(pattern, pool) is None)
    name = made(pattern, pool, number=number, place=place, now=now)
    assert re.fullmatch(NAME_PATTERN, name)
    assert is_known(name, pattern, pool)


@given(PATTERNS, POOLS, PAIRS_OF_NUMBERS, PAIRS_OF_PLACES, TIMES)
def test_two_resources_of_a_pool_never_have_the_same_name(
    pattern: str, pool: str, numbers: list[int], places: list[int], now: datetime
) -> None:
    assume(refusal(pattern, pool) is None)
    one, other = [
        made(pattern, pool, number=number, place=place, now=now) for number, place in zip(numbers, places, strict=True)
    ]
    assert one != other


@given(st.text())
def test_any_text_is_a_pattern_or_refused_with_a_reason(pattern: str) -> None:
    reason = refusal(pattern)
    if reason is None:
        assert is_known(made(pattern), pattern)
    else:
        assert reason.startswith(("has {", "is no pattern: ", "needs {id}", "makes no names: "))


@given(SET_OFF, POOLS, BESIDES, BESIDES, NUMBERS, PLACES, TIMES)
def test_what_another_pool_has_made_is_not_taken_for_ones_own(
    pattern: str, mine: str, before: str, after: str, number: int, place: int, now: datetime
) -> None:
    theirs = before + mine + after
    assume(theirs != mine)
    for maker, other in ((mine, theirs), (theirs, mine)):
        assert not is_known(made(pattern, maker, number=number, place=place, now=now), pattern, other)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("vm", "vm-1"),
        ("vm", "vm1"),
        ("vm", "my-vm"),
        ("vm", "1-vm"),
        ("vm", "VM"),
        ("a.b", "a-b"),
        ("a.b", "axb"),
        ("vm", "vm_00000001"),
        ("vm", "vm_00000001_20260105_093001"),
        ("1", "11"),
    ],
)
@pytest.mark.parametrize(
    "pattern", [DEFAULT_NAME_PATTERN, "{pool_name}-{id_in_pool}", "{id_in_pool}-{pool_name}", "{id}.{pool_name}.{id}"]
)
def test_a_pool_whose_name_is_part_of_anothers_knows_its_own(mine: str, theirs: str, pattern: str) -> None:
    assert not is_known(made(pattern, theirs), pattern, mine)
    assert not is_known(made(pattern, mine), pattern, theirs)


@pytest.mark.parametrize("pool", ["a.*", ".", "a|b", "(a", "[a-z]", "a\\", "{id}", "{0}", "^a$", "a\nb", "ä", ""])
def test_a_pools_name_is_only_ever_itself_whatever_it_looks_like(pool: str) -> None:
    assert made("{pool_name}-{id_in_pool}", pool) == f"{pool}-3"
    assert is_known(f"{pool}-3", "{pool_name}-{id_in_pool}", pool)
    assert not is_known("ab-3", "{pool_name}-{id_in_pool}", pool)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "vm",
        "vm_7_20260105_093001",
        "vm_0000007_20260105_093001",
        "vm_000000007_20260105_093001",
        "vm_00000007_20260105",
        "vm_00000007_20260105_0930011",
        "vm_00000007_20260105_093001\n",
        " vm_00000007_20260105_093001",
        "vm_00000007_20260105_093001-disk",
        "backup-of-vm_00000007_20260105_093001",
        "vm_\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0667_20260105_093001",
    ],
)
def test_what_only_looks_similar_is_not_taken_for_a_pools_own(name: str) -> None:
    assert not is_known(name)


@pytest.mark.parametrize("name", ["vm-03", "vm-00", "vm--3", "vm-", "vm-3.0"])
def test_a_number_that_no_pool_would_write_so_is_somebody_elses(name: str) -> None:
    assert is_known("vm-0", "{pool_name}-{id_in_pool}")
    assert not is_known(name, "{pool_name}-{id_in_pool}")
