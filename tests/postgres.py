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
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from sqlalchemy import URL, make_url

from leasehold.store import migrate
from tests import servers

missing = ""
"""Why there was no PostgreSQL for a test that wanted it."""

_START_S = 60
_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; it then runs as one of these."""

# Nothing here outlives the run, so nothing need survive a crash.
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "300",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "jit": "off",
}


class Missing(Exception):
    """There is no PostgreSQL here; the message says what was looked for."""


class Postgres:
    """A server, on which each test gets a database of its own."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._mark = f"leasehold_test_{uuid.uuid4().hex[:12]}"
        self._made: list[str] = []
        self._templates: dict[str, str] = {}
        self._admin = psycopg.connect(_libpq(url), autocommit=True)

    def empty(self) -> str:
        """The URL of a new, empty database."""
        return self._text(self._create("template1"))

    def migrated(self, kind: str) -> str:
        """The URL of a new database with all tables of this kind (`main`, `logs`); a copy, so that it is there soon."""
        if kind not in self._templates:
            self._templates[kind] = self._create("template1")
            migrate.upgrade(self._text(self._templates[kind]), kind)
        return self._text(self._create(self._templates[kind]))

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        name = make_url(url).database
        assert name in self._made
        self._made.remove(name)
        self._admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    def close(self) -> None:
        """Remove every database that was made here."""
        for name in [*self._made]:
            self.drop(self._text(name))
        self._admin.close()

    def _create(self, template: str) -> str:
        name = f"{self._mark}_{len(self._made)}_{uuid.uuid4().hex[:6]}"
        self._admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        self._made.append(name)
        return name

    def _text(self, database: str) -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def running() -> Iterator[Postgres]:
    """A server until the block ends; raise `Missing` where there is none."""
    with ExitStack() as stack:
        named = os.environ.get("LEASEHOLD_TEST_POSTGRES")
        url = make_url(named) if named else stack.enter_context(_installed())
        try:
            server = Postgres(url)
        except psycopg.OperationalError as error:
            raise Missing(f"LEASEHOLD_TEST_POSTGRES cannot be reached: {error}") from error
        stack.callback(server.close)
        yield server


def needed() -> bool:
    """Whether a test fails, rather than being skipped, where there is no PostgreSQL."""
    return os.environ.get("LEASEHOLD_REQUIRE_POSTGRES") == "1"


def complain(error: Missing) -> NoReturn:
    """Fail or skip the test that asked for PostgreSQL, and remember why."""
    global missing
    missing = str(error)
    if needed():
        pytest.fail(f"PostgreSQL is required (LEASEHOLD_REQUIRE_POSTGRES=1): {error}", pytrace=False)
    pytest.skip(f"no PostgreSQL: {error}")


@contextmanager
def _installed() -> Iterator[URL]:
    """Start a server from the installed programs, in a folder of its own, reachable by a socket in it alone."""
    programs = _programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="leasehold-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        _initialise(programs / "initdb", folder / "data", user)
        settings = {**_SETTINGS, "unix_socket_directories": str(folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(folder / "data"), *options]
        with servers.running(command, folder=folder, stop="QUIT", user=user) as server:
            url = URL.create(
                "postgresql", "leasehold", database="postgres", query={"host": str(folder), "port": "5432"}
            )
            _wait(url, server)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
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


def _initialise(initdb: Path, data: Path, user: str | None) -> None:
    command = [str(initdb), "-D", str(data), "-U", "leasehold", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
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
