"""The schema: made from nothing by the migrations, by whoever comes first, and checked before anything is served."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, text

from leasehold.store import migrate
from leasehold.store.engine import Database
from leasehold.store.migrate import SchemaMismatch
from leasehold.store.tables import logs_metadata, metadata

METADATA = {"main": metadata, "logs": logs_metadata}
TIMEOUT_S = 60


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/leasehold.db"
    made: str = request.getfixturevalue("postgres").empty()
    return made


def look(url: str, what: Callable[[Connection], Any]) -> Any:
    database = Database(url)
    try:
        with database.writer.begin() as connection:
            return what(connection)
    finally:
        database.close()


def differences(url: str, wanted: MetaData) -> list[Any]:
    """What would have to be migrated yet."""

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found: list[Any] = compare_metadata(context, wanted)
        return found

    found: list[Any] = look(url, compare)
    return found


@pytest.mark.parametrize("kind", ["main", "logs"])
def test_the_migrations_make_exactly_the_tables_of_this_version(empty: str, kind: str) -> None:
    migrate.upgrade(empty, kind)
    assert differences(empty, METADATA[kind]) == []
    migrate.check(empty, kind)


def test_the_rules_that_the_database_keeps_itself_are_there(empty: str) -> None:
    # What Alembic does not compare: conditions of partial indexes, and checks.
    migrate.upgrade(empty, "main")
    indexes = look(empty, lambda c: {i["name"]: i for i in inspect(c).get_indexes("grants")})
    checks = look(empty, lambda c: {i["name"] for i in inspect(c).get_check_constraints("leases")})
    (where,) = [v for k, v in indexes["uq_grants_open"]["dialect_options"].items() if k.endswith("_where")]
    assert (bool(indexes["uq_grants_open"]["unique"]), "closed_at IS NULL" in str(where)) == (True, True)
    assert checks == {"ck_leases_ended_at", "ck_leases_outcome"}


def test_upgrading_twice_keeps_what_is_there(empty: str) -> None:
    migrate.upgrade(empty, "main")
    look(empty, lambda c: c.execute(text("UPDATE counters SET value = 41")))
    migrate.upgrade(empty, "main")
    assert look(empty, lambda c: c.execute(text("SELECT name, value FROM counters")).all()) == [
        ("lease", 41),
        ("instance", 41),
    ]


def test_a_lab_that_lends_is_upgraded_with_all_that_it_has(empty: str) -> None:
    """From every earlier schema that a service may have run with."""
    for revision in ("0005", "0006", "0007"):
        _upgrade_to(empty, revision)
        if revision == "0005":
            look(empty, _lend)
    migrate.upgrade(empty, "main")
    assert look(empty, lambda c: c.execute(text("SELECT lease, pool FROM grants")).all()) == [("a", "r640")]
    rows = look(empty, lambda c: c.execute(text("SELECT self_service, unverified, transfers FROM leases")).all())
    assert [tuple(map(int, row)) for row in rows] == [(0, 0, 0)]
    assert differences(empty, metadata) == []
    if empty.startswith("sqlite"):
        made = look(
            empty, lambda c: c.execute(text("SELECT sql FROM sqlite_master WHERE name = 'outbox'")).scalar_one()
        )
        assert "AUTOINCREMENT" in made


def _upgrade_to(url: str, revision: str) -> None:
    database = Database(url)
    try:
        with database.writer.begin() as connection:
            command.upgrade(migrate.config("main", connection), revision)
    finally:
        database.close()


def _lend(connection: Connection) -> None:
    for statement in (
        "INSERT INTO specs (id, pool, digest, spec) VALUES (1, 'r640', 'x', '{}')",
        "INSERT INTO leases (id, number, state, principal, owner, cc, wanted, priority, duration_s, run_id, waiting,"
        " replaced, warned, created_at) VALUES ('a', 1, 'active', 'p', 'alice', '[]', '[]', 0, 60, 'r', false, 0, 0,"
        " '2026-01-05 09:00:00')",
        "INSERT INTO grants (lease, owner, pool, resource, epoch, spec, item, due, granted_at)"
        " VALUES ('a', 'alice', 'r640', 'h', 1, 1, 0, '[]', '2026-01-05 09:00:00')",
    ):
        connection.execute(text(statement))


def test_processes_that_start_at_once_all_find_the_schema(empty: str) -> None:
    program = "import sys; from leasehold.store import migrate; migrate.upgrade(sys.argv[1], 'main')"

    def upgrade(_: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, empty],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        return "" if done.returncode == 0 else done.stdout

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(upgrade, range(2))) == [""] * 2
    migrate.check(empty, "main")


def test_threads_that_start_at_once_all_find_the_schema(empty: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate.upgrade(empty, "main"), range(8)))
    assert differences(empty, metadata) == []


def test_a_file_that_another_process_is_making_right_now_is_waited_for(tmp_path: Path) -> None:
    # SQLite's own patience does not cover the switch to WAL, which the first process to open a file makes.
    other = sqlite3.connect(tmp_path / "new.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.3, other.execute, ["COMMIT"])
    done.start()
    migrate.upgrade(f"sqlite:///{tmp_path}/new.db", "main")
    done.join()
    other.close()
    migrate.check(f"sqlite:///{tmp_path}/new.db", "main")


@pytest.mark.parametrize("kind", ["main", "logs"])
def test_an_empty_database_is_not_served(empty: str, kind: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"python -m leasehold\.store upgrade"):
        migrate.check(empty, kind)


@pytest.mark.parametrize("revision", ["0000", "9999"])
def test_an_older_or_a_newer_schema_is_not_served(empty: str, revision: str) -> None:
    migrate.upgrade(empty, "main")
    look(empty, lambda c: c.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'")))
    with pytest.raises(SchemaMismatch, match=revision):
        migrate.check(empty, "main")


def test_looking_does_not_make_a_schema(empty: str) -> None:
    with pytest.raises(SchemaMismatch):
        migrate.check(empty, "main")
    assert look(empty, lambda c: inspect(c).get_table_names()) == []


def test_a_failed_upgrade_leaves_nothing_half_done(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = command.upgrade

    def fail(*arguments: Any, **more: Any) -> None:
        upgrade(*arguments, **more)
        raise OSError("the disk is full")

    monkeypatch.setattr(command, "upgrade", fail)
    with pytest.raises(OSError, match="full"):
        migrate.upgrade(empty, "main")
    assert look(empty, lambda c: inspect(c).get_table_names()) == []
    monkeypatch.undo()
    migrate.upgrade(empty, "main")
    migrate.check(empty, "main")
