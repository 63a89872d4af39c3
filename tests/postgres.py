"""A real PostgreSQL for tests: the one that `LEASEHOLD_TEST_POSTGRES` names, or one started from what is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from sqlalchemy import URL, make_url

from leasehold.store import migrate
from tests import servers, skipping

_START_S = 60
_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; it then runs as one of these."""

_SETTINGS = {"listen_addresses": "", "max_connections": "300"}
# Nothing here outlives the run, so nothing need survive a crash.
_FORGETFUL = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "jit": "off",
}


class Missing(Exception):
    """There is no PostgreSQL here; the message says what was looked for."""


class Postgres:
    """A server, on which each test gets a database of its own.

    To copy a database is to copy 300 files, and to truncate its tables is to make as many. From one that a test gave
    back the rows are deleted, which is ten times as fast.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._mark = f"leasehold_test_{uuid.uuid4().hex[:12]}"
        self._made: list[str] = []
        self._idle: dict[str, list[str]] = {"main": [], "logs": []}
        self._emptied = 0
        self._admin = psycopg.connect(_libpq(url), autocommit=True)

    def empty(self) -> str:
        """The URL of a new, empty database."""
        name = f"{self._mark}_{len(self._made)}"
        self._admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
        self._made.append(name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def migrated(self, kind: str) -> str:
        """The URL of a database that has all tables of this kind (`main`, `logs`), as they are after the migrations."""
        if self._idle[kind]:
            return self._idle[kind].pop()
        url = self.empty()
        migrate.upgrade(url, kind)
        with psycopg.connect(_libpq(make_url(url))) as connection:
            connection.execute(_KEEP_FIRST_ROWS)
        return url

    def give_back(self, kind: str, url: str) -> None:
        """Have a database that `migrated` returned used again by another test, once it is as it was."""
        name = make_url(url).database
        self._admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        with psycopg.connect(_libpq(make_url(url)), autocommit=True) as connection:
            connection.execute(_emptying(kind))
            self._emptied += 1
            if self._emptied % _VACUUM_EVERY == 0:
                connection.execute("VACUUM")
        self._idle[kind].append(url)

    def close(self, *, drop: bool) -> None:
        """Let go of the server; `drop` removes what was made there."""
        for name in self._made if drop else ():
            self._admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
        self._admin.close()


_KEEP_FIRST_ROWS = """
CREATE SCHEMA first_rows;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('CREATE TABLE first_rows.%I AS TABLE public.%I', name, name);
  END LOOP;
END $$
"""
_VACUUM_EVERY = 100
"""Databases that were emptied: nobody else takes away what was deleted."""


@cache
def _emptying(kind: str) -> bytes:
    """What makes a database as the migrations left it: those that refer to others first, and last the others way."""
    tables = migrate.METADATA[kind].sorted_tables
    statements = [
        *(f'DELETE FROM "{table.name}"' for table in reversed(tables)),
        *(f'INSERT INTO "{table.name}" TABLE first_rows."{table.name}"' for table in tables),
        "SELECT setval(format('public.%I', sequencename), 1, false) FROM pg_sequences WHERE schemaname = 'public'",
    ]
    return "; ".join(statements).encode()


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def running(*, durable: bool = False) -> Iterator[Postgres]:
    """A server until the block ends; raise `Missing` where there is none.

    A `durable` one, which is of use to the benchmark alone, is always started here.
    """
    with ExitStack() as stack:
        named = None if durable else os.environ.get("LEASEHOLD_TEST_POSTGRES")
        # Who names a server means it: one that does not answer is a failure.
        server = Postgres(make_url(named) if named else stack.enter_context(installed(durable=durable)))
        stack.callback(server.close, drop=named is not None)
        yield server


def needed() -> bool:
    """Whether a test fails, rather than being skipped, where there is no PostgreSQL."""
    return os.environ.get("LEASEHOLD_REQUIRE_POSTGRES") == "1"


def complain(error: Missing) -> NoReturn:
    """Fail or skip the test that asked for PostgreSQL."""
    if needed():
        pytest.fail(f"PostgreSQL is required (LEASEHOLD_REQUIRE_POSTGRES=1): {error}", pytrace=False)
    skipping.without_postgres(error)


@contextmanager
def installed(superuser: str = "leasehold", *, durable: bool = False) -> Iterator[URL]:
    """Start a server from the installed programs, in a folder of its own, reachable by a socket in it alone.

    A `durable` one has PostgreSQL's own settings: what it has committed survives a crash.
    """
    bin_folder = programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="leasehold-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        _initialise(bin_folder / "initdb", folder / "data", user, superuser)
        settings = {**_SETTINGS, **({} if durable else _FORGETFUL), "unix_socket_directories": str(folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(bin_folder / "postgres"), "-D", str(folder / "data"), *options]
        with servers.running(command, folder=folder, stop="QUIT", user=user) as server:
            url = URL.create("postgresql", superuser, database="postgres", query={"host": str(folder), "port": "5432"})
            _wait(url, server)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(installed, key=lambda path: path.parent.name.zfill(4), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise Missing("neither LEASEHOLD_TEST_POSTGRES is set, nor is initdb on PATH or in /usr/lib/postgresql/*/bin")


def _user() -> str | None:
    """Whom to run the server as; None is the user of the test run."""
    if os.getuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Missing(f"PostgreSQL does not run as root, and there is no user {' or '.join(_USERS)}")


def _initialise(initdb: Path, data: Path, user: str | None, superuser: str) -> None:
    command = [str(initdb), "-D", str(data), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    servers.finish(command, user=user)


def _wait(url: URL, server: servers.Server) -> None:
    """Return when the server answers."""
    give_up = time.monotonic() + _START_S
    while True:
        try:
            psycopg.connect(_libpq(url), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            server.check()
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
