"""Many client processes want the same, of two workers on PostgreSQL: each gets it in turn, and nobody is forgotten."""

from __future__ import annotations

import fcntl
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, select

from leasehold.store import tables as t
from tests.conftest import NewDatabase
from tests.contract.spans import Span, most_at_once
from tests.e2e.lab import until
from tests.e2e.rivals import Served, Wish, hold, race
from tests.faults import audit
from tests.faults.nursery import Nursery
from tests.faults.parts import Parts

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Site:
    """A stack with two workers on PostgreSQL."""

    def __init__(self, parts: Parts, database: str, folder: Path) -> None:
        self._parts = parts
        self._database = database
        self._folder = folder

    def race(self, clients: int, *, hosts: int, each: int, **stages: dict[str, str]) -> list[Served]:
        """Have clients race for `each` of so many hosts."""
        pool = {"name": "r640", "resources": [{"name": f"host{n:02}"} for n in range(hosts)], **stages}
        with self._parts.client() as client:
            client.apply({"name": "race", "pools": [pool]}, folder=str(self._folder))
        wish = Wish(url=self._parts.url, token=self._parts.token, pool="r640", count=each, folder=self._folder / "held")
        wish.folder.mkdir()
        return race(wish, clients)

    def settles(self) -> None:
        """Wait until nothing is left open or amiss, in the whole history of every lease and every host."""
        engine = create_engine(self._database)

        def faults() -> list[str]:
            with engine.connect() as connection:
                return audit.faults(connection)

        until(lambda: not faults(), f"all is over: {faults()}")
        engine.dispose()

    def history(self) -> tuple[dict[str, list[Span]], list[Span]]:
        """When each host was lent, and when each lease was active."""
        engine = create_engine(self._database)
        with engine.connect() as connection:
            found = lent(connection), active(connection)
        engine.dispose()
        return found


def lent(connection: Connection) -> dict[str, list[Span]]:
    spans = defaultdict(list)
    for grant in connection.execute(select(t.grants)):
        spans[grant.resource].append((grant.granted_at, grant.closed_at))
    return dict(spans)


def active(connection: Connection) -> list[Span]:
    query = select(t.leases.c.active_at, t.grants.c.closed_at).join(t.grants, t.grants.c.lease == t.leases.c.id)
    return [(row.active_at, row.closed_at) for row in connection.execute(query.distinct())]


@pytest.fixture
def site(new_postgres: NewDatabase, tmp_path: Path) -> Iterator[Site]:
    main, logs = new_postgres("main"), new_postgres("logs")
    with (
        Nursery() as nursery,
        Parts(tmp_path, nursery, workers=2, LEASEHOLD_DATABASE_URL=main, LEASEHOLD_LOGS_URL=logs) as parts,
    ):
        until(lambda: all("working" in parts.log_of(w).read_text() for w in ("worker", "worker2")), "both work")
        yield Site(parts, main, tmp_path)


def test_one_host_goes_from_hand_to_hand_through_fifty_processes(site: Site) -> None:
    served = site.race(50, hosts=1, each=1, release={"run": "true"})

    site.settles()
    assert len({one.pid for one in served}) == 50
    assert [(one.outcome, one.shared) for one in served] == [("released", [])] * 50
    lent, _ = site.history()
    assert len(lent["host00"]) == 50
    assert most_at_once(lent["host00"]) == 1


def test_of_ten_leases_of_twenty_five_hosts_three_at_once_have_seventy_five(site: Site) -> None:
    served = site.race(10, hosts=75, each=25)

    site.settles()
    assert [(one.outcome, one.shared) for one in served] == [("released", [])] * 10
    lent, active = site.history()
    assert sum(map(len, lent.values())) == 250
    assert {most_at_once(spans) for spans in lent.values()} == {1}
    assert len(active) == 10, "each lease gave all of it back at once"
    assert most_at_once(active) <= 3


def at(begin: int, end: int | None) -> Span:
    return NOON + timedelta(minutes=begin), None if end is None else NOON + timedelta(minutes=end)


@pytest.mark.parametrize(
    ("spans", "most"),
    [
        ([], 0),
        ([at(0, 1), at(1, 2), at(2, None)], 1),
        ([at(0, 2), at(1, 3)], 2),
        ([at(0, None), at(5, 6)], 2),
        ([at(0, 9), at(1, 2), at(3, 4), at(3, 5)], 3),
    ],
)
def test_what_is_held_twice_at_once_would_be_noticed(spans: list[Span], most: int) -> None:
    """A test of the tests."""
    assert most_at_once(spans) == most


def test_what_another_client_has_locked_would_be_noticed(tmp_path: Path) -> None:
    """A test of the tests."""
    with (tmp_path / "host00").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert hold(["host00", "host01"], tmp_path) == ["host00"]
    assert hold(["host00", "host01"], tmp_path) == []
