"""What a pass of the sweep may do, judged by what it found as a whole."""

from __future__ import annotations

import pytest

from leasehold import healing
from leasehold.healing import AlertKey, DeadLease, DeadRecycling, Findings, Identity, Mark, Opened, judge

OPENED = Opened(passes=7)


def lost(count: int) -> tuple[DeadLease, ...]:
    return tuple(DeadLease(lease=f"l{n}", number=n) for n in range(count))


def lost_recyclings(count: int) -> tuple[DeadRecycling, ...]:
    return tuple(DeadRecycling(pool="p", resource=f"r{n}", epoch=n) for n in range(count))


TERMINATED = tuple(DeadLease(lease=f"t{n}", number=n, how="terminated") for n in range(100))


@pytest.mark.parametrize(
    ("found", "heals"),
    [
        (Findings(), True),
        (Findings(dead=TERMINATED), True),
        (Findings(dead=lost(5)), True),
        (Findings(dead=lost(6)), False),
        (Findings(dead=(*lost(6), *TERMINATED)), False),
        (Findings(recyclings=lost_recyclings(5)), True),
        (Findings(recyclings=lost_recyclings(6)), False),
        (Findings(dead=lost(3), recyclings=lost_recyclings(3)), False),
        (Findings(dead=lost(1), older=("lease 1 runs, and is not recorded",)), False),
    ],
)
def test_too_much_that_is_unknown_means_that_nothing_is_freed(found: Findings, heals: bool) -> None:
    assert judge(OPENED, found).heal is heals


def test_what_is_unknown_is_told_with_how_to_go_on() -> None:
    told = judge(OPENED, Findings(dead=lost(4), recyclings=lost_recyclings(3))).alerts[AlertKey.WORKFLOWS_LOST]
    assert told is not None
    assert "4 leases and 3 recyclings (lease 0; lease 1; lease 2; and 4 more)" in told
    assert "leasehold reconcile --accept-lost" in told


def test_one_sign_of_an_older_database_suspends_matching() -> None:
    verdict = judge(OPENED, Findings(dead=TERMINATED, older=("lease 1 runs, and is not recorded",)))
    assert verdict.suspend == "the database is older than what runs: lease 1 runs, and is not recorded"


def test_what_was_not_looked_at_clears_no_alert() -> None:
    verdict = judge(Opened(passes=7, changed="it is another one"), None)
    assert verdict.alerts == {AlertKey.TEMPORAL_CHANGED: "it is another one"}
    assert (verdict.heal, verdict.suspend) == (False, None)
    assert judge(OPENED, None).alerts == {AlertKey.TEMPORAL_CHANGED: None}


def test_what_was_looked_at_and_found_well_clears_its_alerts() -> None:
    assert set(judge(OPENED, Findings()).alerts.values()) == {None}
    assert set(judge(OPENED, Findings()).alerts) == {
        AlertKey.TEMPORAL_CHANGED,
        AlertKey.WORKFLOWS_LOST,
        AlertKey.LEASES_LINGER,
    }


@pytest.mark.parametrize(
    ("now", "known", "differs"),
    [
        (("c", "n"), ("c", "n"), False),
        (("c", "m"), ("c", "n"), True),
        (("d", "n"), ("c", "n"), True),
        (("", "n"), ("c", "n"), False),
        (("c", "n"), ("", ""), False),
        (("", "m"), ("c", "n"), True),
    ],
)
def test_what_temporal_does_not_tell_is_no_difference(
    now: tuple[str, str], known: tuple[str, str], differs: bool
) -> None:
    this, that = (Identity(cluster=cluster, namespace=namespace) for cluster, namespace in (now, known))
    assert this.differs(that) is differs


@pytest.mark.parametrize(
    ("database", "temporal", "behind"), [(None, 1, True), (3, 4, True), (4, 4, False), (5, 4, False), (None, 0, False)]
)
def test_a_database_is_older_if_temporal_remembers_a_later_pass(
    database: int | None, temporal: int, behind: bool
) -> None:
    mine = None if database is None else Mark(passes=database, number=9)
    assert (healing.behind(mine, Mark(passes=temporal, number=9)) is not None) is behind


def test_everything_found_is_in_one_of_the_parts() -> None:
    found = Findings(
        dead=TERMINATED,
        recyclings=lost_recyclings(3),
        unaware=tuple("abc"),
        lingering=tuple(f"x{n}" for n in range(60)),
    )
    parts = list(healing.parts(found, size=50))
    assert [len(part.dead) for part in parts] == [50, 50]
    assert tuple(one for part in parts for one in part.dead) == found.dead
    assert tuple(one for part in parts for one in part.recyclings) == found.recyclings
    assert tuple(one for part in parts for one in part.unaware) == found.unaware
    assert tuple(one for part in parts for one in part.lingering) == found.lingering
    assert list(healing.parts(Findings())) == []


def test_a_pass_heals_so_much_at_most() -> None:
    dead = tuple(DeadLease(lease=f"t{n}", number=n, how="terminated") for n in range(healing.MOST_HEALED + 100))
    assert sum(len(part.dead) for part in healing.parts(Findings(dead=dead))) == healing.MOST_HEALED
