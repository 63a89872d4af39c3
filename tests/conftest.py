"""What all tests may ask for: databases of their own, on SQLite and on a real PostgreSQL; Temporal; MUNGE."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from leasehold.store import migrate
from tests import munge, temporal
from tests import postgres as installed
from tests.engines import share_what_is_compiled
from tests.munge import Munged
from tests.patience import keep_what_is_loaded, wait_for_workflows
from tests.postgres import Missing, Postgres

# Machines differ, so no example has a deadline; a test that hangs meets pytest's.
settings.register_profile("leasehold", deadline=None, max_examples=60)
settings.load_profile("leasehold")

NewDatabase = Callable[[str], str]


def pytest_collection_finish() -> None:
    """All tests are there."""
    keep_what_is_loaded()


@pytest.fixture(scope="session", autouse=True)
def _as_in_all_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        share_what_is_compiled(patch)
        wait_for_workflows(patch)
        yield


@pytest.fixture(scope="session")
def _postgres_or_reason() -> Iterator[Postgres | Missing]:
    try:
        with installed.running() as server:
            yield server
    except Missing as error:
        yield error


@pytest.fixture
def postgres(_postgres_or_reason: Postgres | Missing) -> Postgres:
    """A PostgreSQL server; without one the test is skipped, or fails where one is required."""
    if isinstance(_postgres_or_reason, Missing):
        installed.complain(_postgres_or_reason)
    return _postgres_or_reason


@pytest.fixture(scope="session")
def _munged_or_reason() -> Iterator[Munged | munge.Missing]:
    try:
        with munge.running() as daemon:
            yield daemon
    except munge.Missing as error:
        yield error


@pytest.fixture
def munged(_munged_or_reason: Munged | munge.Missing) -> Munged:
    """A `munged` with a key of its own; without one the test is skipped, or fails where one is required."""
    if isinstance(_munged_or_reason, munge.Missing):
        munge.complain(_munged_or_reason)
    return _munged_or_reason


@pytest.fixture(scope="session")
def temporal_address() -> Iterator[str]:
    """One real Temporal server for all tests that do not stop it."""
    with temporal.server() as address:
        yield address


@pytest.fixture(scope="session")
def _sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("templates")

    def template(kind: str) -> Path:
        path = folder / f"{kind}.db"
        if not path.exists():
            migrate.upgrade(f"sqlite:///{path}", kind)
        return path

    return template


@pytest.fixture
def new_sqlite(tmp_path: Path, _sqlite_templates: Callable[[str], Path]) -> NewDatabase:
    """Makes SQLite databases with all tables of a kind (`main`, `logs`), and returns their URLs."""

    def new(kind: str) -> str:
        path = tmp_path / f"{kind}.db"
        shutil.copy(_sqlite_templates(kind), path)
        return f"sqlite:///{path}"

    return new


@pytest.fixture
def new_postgres(postgres: Postgres) -> Iterator[NewDatabase]:
    """Makes PostgreSQL databases with all tables of a kind, and returns their URLs."""
    made: list[tuple[str, str]] = []

    def new(kind: str) -> str:
        made.append((kind, postgres.migrated(kind)))
        return made[-1][1]

    yield new
    for kind, url in made:
        postgres.give_back(kind, url)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Makes databases with all tables of a kind; the test runs on SQLite and on PostgreSQL."""
    made: NewDatabase = request.getfixturevalue("new_sqlite" if request.param == "sqlite" else "new_postgres")
    return made
