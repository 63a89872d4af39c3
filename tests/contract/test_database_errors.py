"""A database's error quotes what it was given: no word of it may reach Temporal, an answer or a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter
from temporalio.testing import ActivityEnvironment

from activities.allocate import Allocation
from activities.drivers.command import CommandDriver
from activities.stages import Stages
from leasehold.errors import Unavailable
from leasehold.messages import RunHook
from leasehold.model import Hook, Item, PoolSpec, StageName
from leasehold.store.engine import FAILED
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from tests.conftest import NewDatabase
from tests.contract.command_hooks import GRACE
from tests.contract.store_lab import Lab, admission, file, hosts, request, run_of

SECRET = "hunter2"
WRITTEN = (SECRET, SECRET.encode().hex())
"""As it is, and as PostgreSQL writes bytes."""

REFUSING = {
    "sqlite": (
        f"""
        CREATE TRIGGER refuse BEFORE UPDATE OF data ON grants WHEN NEW.data IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'there is no room for {SECRET}'); END
        """,
        "DROP TRIGGER refuse",
    ),
    "postgresql": (
        "ALTER TABLE grants ADD CONSTRAINT refuse CHECK (data IS NULL)",
        "ALTER TABLE grants DROP CONSTRAINT refuse",
    ),
}
"""What makes a database refuse a delivered secret, and say so; and what takes it back."""


@contextmanager
def changed(lab: Lab, there: str, back: str) -> Iterator[None]:
    """A database whose schema is another one for a while."""
    _change(lab, there)
    try:
        yield
    finally:
        _change(lab, back)


def _change(lab: Lab, statement: str) -> None:
    with lab.store.database.writer.begin() as connection:
        connection.execute(text(statement))


@pytest.fixture
def refusing(lab: Lab) -> Iterator[Lab]:
    """A database that refuses what hooks deliver."""
    with changed(lab, *REFUSING["postgresql" if lab.postgres else "sqlite"]):
        yield lab


@pytest.fixture
async def stages(refusing: Lab, new_database: NewDatabase, tmp_path: Path) -> AsyncIterator[Stages]:
    """The activities over it, with real hooks."""
    logs = SqlLogStore(new_database("logs"))
    async with CommandDriver(tmp_path / "locks", GRACE) as driver:
        yield Stages(refusing.store, logs, {"command": driver})
    logs.close()


async def delivering(lab: Lab) -> RunHook:
    """The order to run a hook that prints a secret."""
    hook = Hook(run=f"printf {SECRET}", timeout=timedelta(minutes=1))
    spec = PoolSpec(name="r640", stages={StageName.DELIVER: (hook,)})
    await lab.store.apply(file((spec, hosts(1)), name="r640"), "operator")
    (claim,) = (await lab.submit("a")).claims
    return run_of("a", claim, claim.stages[0])


async def in_history(error: BaseException) -> str:
    """A failure as Temporal keeps it: message, cause, details and stack trace."""
    failure = Failure()
    await DataConverter.default.encode_failure(error, failure)
    return str(failure)


async def test_the_databases_do_quote(refusing: Lab) -> None:
    """A test of the tests: without that there would be nothing to hide."""
    await delivering(refusing)
    with pytest.raises(DBAPIError) as caught, refusing.store.database.writer.begin() as connection:
        connection.execute(text("UPDATE grants SET data = :secret"), {"secret": SECRET.encode()})
    assert any(word in str(caught.value) for word in WRITTEN)


async def test_a_secret_that_the_database_refuses_is_in_no_failure_and_no_log(
    refusing: Lab, stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    order = await delivering(refusing)
    with pytest.raises(Exception, match="the database failed") as caught:
        await ActivityEnvironment().run(stages.deliver, order)
    told = await in_history(caught.value)
    assert "unavailable" in told
    assert FAILED in told
    assert not any(word in told for word in (*WRITTEN, "DETAIL", "violates", "no room"))
    assert "IntegrityError" in caplog.text
    assert "runs.py" in caplog.text
    assert not any(word in caplog.text for word in WRITTEN)


async def test_a_step_that_fails_in_the_database_is_told_as_unavailable(lab: Lab) -> None:
    await lab.pool("r640", 1)
    with (
        changed(lab, "ALTER TABLE leases RENAME TO gone", "ALTER TABLE gone RENAME TO leases"),
        pytest.raises(Unavailable) as caught,
    ):
        await ActivityEnvironment().run(Allocation(lab.store).admit, admission(request("a", Item(pool="r640"))))
    told = await in_history(caught.value)
    assert FAILED in told
    assert not any(word in told for word in ("no such table", "does not exist", "INSERT", "SELECT"))


async def test_a_database_that_is_not_there_is_told_without_its_address(caplog: pytest.LogCaptureFixture) -> None:
    store = SqlStore(f"postgresql://leasehold:{SECRET}@127.0.0.1:1/leasehold")
    with pytest.raises(Unavailable, match=f"^{FAILED}$"):
        await store.ping()
    store.close()
    assert "OperationalError" in caplog.text
    assert SECRET not in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_idle_connections_that_the_server_closed_are_replaced(lab: Lab) -> None:
    if not lab.postgres:
        pytest.skip("SQLite has no server")
    await lab.pool("r640", 1)
    await asyncio.gather(*(lab.store.ping() for _ in range(3)))
    other = SqlStore(lab.url)
    closing = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    mine = "datname = current_database() AND pid <> pg_backend_pid()"
    await other.database.read(lambda c: c.execute(text(f"{closing} WHERE {mine}")).all())
    other.close()
    await asyncio.gather(*(lab.store.ping() for _ in range(3)))
    assert (await lab.submit("a")).claims
