"""How transactions run: synchronous SQLAlchemy on threads, alike on SQLite and PostgreSQL.

A process has one writer thread, and readers apart from it. SQLite's writing transactions are `BEGIN IMMEDIATE`; on
PostgreSQL each takes the one allocation lock first, and reads only after it, in READ COMMITTED (a snapshot taken before
the lock would be stale).
"""

from __future__ import annotations

import asyncio
import logging
import select
import sqlite3
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sql
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    NestedTransaction,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
)
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import StaticPool
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from leasehold.errors import Unavailable
from leasehold.ports import Clock

if TYPE_CHECKING:
    import psycopg

P = ParamSpec("P")
R = TypeVar("R")
Values = Mapping[str, Any] | Sequence[Mapping[str, Any]]

BUSY_TIMEOUT_S = 20
ALLOCATION_LOCK, LOG_LOCK = 0x1EA5E, 0x106
_READERS = 4
FAILED = "the database failed; the log of this process names the kind of error"

log = logging.getLogger(__name__)


class Undone(Exception):
    """Carries the result of a transaction that is rolled back on purpose."""

    def __init__(self, result: Any) -> None:
        self.result = result


class Tx:
    """One transaction: its connection, and the database's time at its start."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.posted = False
        """Whether it wrote to the outbox."""
        self.told: set[str] = set()
        """The leases that it tells others about when it is committed."""
        self._writes: list[tuple[Executable, Values]] = []
        self._later: dict[Executable, list[Mapping[str, Any]]] = {}

    def write(self, statement: Executable, values: Values) -> None:
        """Execute a statement that returns nothing, together with others, before anything is read or committed."""
        self._writes.append((statement, values))

    def later(self, statement: Executable, values: Mapping[str, Any]) -> None:
        """Execute a statement together with all others like it, in their order, before this is committed.

        For what is only written down here, and read by nobody before.
        """
        self._later.setdefault(statement, []).append(values)

    def flush(self) -> None:
        """Execute what is to be written before anything is read."""
        if self._writes:
            writes, self._writes = self._writes, []
            # A server's answers are waited for once, at the end.
            with _driver(self.connection).pipeline() if self.postgres else nullcontext():
                for statement, values in writes:
                    self.connection.execute(statement, values)

    def finish(self) -> None:
        """Execute all that was put off."""
        self._writes += self._later.items()
        self._later.clear()
        self.flush()

    @contextmanager
    def savepoint(self) -> Iterator[NestedTransaction]:
        """What is rolled back to here leaves nothing behind that was put off."""
        self.finish()
        try:
            with self.connection.begin_nested() as savepoint:
                yield savepoint
                if savepoint.is_active:
                    self.finish()
        finally:
            self._writes.clear()
            self._later.clear()
            # What was read may have been undone.
            self.connection.info[MEMO].clear()

    @property
    def execute(self) -> Callable[..., Any]:
        return self.connection.execute

    @property
    def postgres(self) -> bool:
        return self.connection.dialect.name == "postgresql"


_LOCK = sql.select(func.pg_advisory_xact_lock(bindparam("lock")))
_TIME = sql.select(func.clock_timestamp())
# The time is asked for only after there is a lock to show for it.
_LOCK_AND_TIME = "WITH held AS (SELECT pg_advisory_xact_lock(%s)) SELECT clock_timestamp() FROM held"

_TX = "tx"
"""Where, in its connection's `info`, a writing transaction is found."""
MEMO = "memo"
"""Where, in its connection's `info`, a writing transaction may keep what it has read and nobody changes."""


class Database:
    """An engine for writing, one for reading, and the threads that use them."""

    def __init__(self, url: str, clock: Clock | None = None, lock: int = ALLOCATION_LOCK) -> None:
        """`clock` replaces the database's own (tests); `lock` is the one that writing takes on PostgreSQL."""
        self.url = make_url(url)
        self._clock = clock
        self._lock = lock
        if self.url.get_backend_name() == "sqlite":
            self.writer, self.reader = _sqlite(self.url, read_only=False), _sqlite(self.url, read_only=True)
        else:
            self.writer = create_engine(
                self.url.set(drivername="postgresql+psycopg"),
                pool_size=_READERS + 1,
                isolation_level="READ COMMITTED",
                # An error's text must not tell what a hook delivered.
                hide_parameters=True,
            )
            event.listen(self.writer, "connect", _prefer_indexes)
            event.listen(self.writer, "checkout", _check_open)
            # What one reader reads belongs together, as it does on SQLite.
            self.reader = self.writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        event.listen(self.writer, "before_execute", _flush)
        # One at a time, who on PostgreSQL would only wait for one another's lock.
        self._writing = ThreadPoolExecutor(1, "store-write")
        self._reading = ThreadPoolExecutor(_READERS, "store-read")

    async def read(self, what: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `what(connection, …)` in a read transaction. Raises `Unavailable` where the database fails."""

        def work() -> R:
            with self._nothing_quoted(), self.reader.connect() as connection:
                return what(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def write(self, what: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, Tx]:
        """Run `what(tx, …)` in a transaction that is committed when this returns, and undone if it raises.

        Cancelling the caller does not undo it: the transaction runs to its end on its thread. Raises `Unavailable`
        where the database fails.
        """

        def work() -> tuple[R, Tx]:
            with self._nothing_quoted(), self.writer.connect() as connection, connection.begin():
                tx = Tx(connection, self._begin(connection))
                # Taken now: it cannot be asked for once the server is gone.
                info = connection.info
                info.update({_TX: tx, MEMO: {}})
                try:
                    result = what(tx, *args, **kwargs)
                    tx.finish()
                finally:
                    for key in (_TX, MEMO):
                        info.pop(key, None)
                return result, tx

        return await asyncio.get_running_loop().run_in_executor(self._writing, work)

    def _begin(self, connection: Connection) -> datetime:
        """Take the lock where the database needs to be told, and ask it for the time."""
        if self._clock is None and connection.dialect.name == "postgresql":
            driver = _driver(connection)
            with driver.pipeline():
                # The driver begins the transaction by itself.
                answer = driver.execute(_LOCK_AND_TIME, (self._lock,))
            row = answer.fetchone()
            assert row is not None
            now: datetime = row[0]
            return now.astimezone(UTC)
        self.lock(connection)
        return self.now(connection)

    def lock(self, connection: Connection) -> None:
        """Wait for the lock, which lasts to the transaction's end; on SQLite, to write is to have it."""
        if connection.dialect.name == "postgresql":
            connection.execute(_LOCK, {"lock": self._lock})

    def now(self, connection: Connection) -> datetime:
        """The database's time; SQLite's is this machine's."""
        if self._clock is None and connection.dialect.name == "postgresql":
            now: datetime = connection.execute(_TIME).scalar_one()
            return now.astimezone(UTC)
        return self._clock() if self._clock else datetime.now(UTC)

    @contextmanager
    def _nothing_quoted(self) -> Iterator[None]:
        """Replace a database's error by one that quotes nothing, and log no more than its kind and where it arose.

        PostgreSQL's quote the row that it refused: a secret that a hook delivered, perhaps, on its way into Temporal's
        history and every log.
        """
        try:
            yield
        except (SQLAlchemyError, self.writer.dialect.loaded_dbapi.Error) as error:
            log.error("the database failed %s: %s", _place(error), _kind(error))
            raise Unavailable(FAILED) from None

    def close(self) -> None:
        """Wait for what runs, then close every connection."""
        self._writing.shutdown()
        self._reading.shutdown()
        self.writer.dispose()
        self.reader.dispose()


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    return driver


def _flush(connection: Connection, *_: Any) -> None:
    """Have a transaction's own writes seen by what it reads."""
    tx = connection.info.get(_TX)
    if tx is not None:
        tx.flush()


def _prefer_indexes(connection: psycopg.Connection[Any], _record: Any) -> None:
    """Have the planner know that an index is worth it: what is asked for here is a few rows, and in memory.

    With PostgreSQL's own setting, made for spinning disks, it reads all of the queue to find the first of each lane.
    """
    connection.execute("SET random_page_cost = 1.1")
    connection.commit()


def _check_open(connection: psycopg.Connection[Any], _record: Any, _proxy: Any) -> None:
    """Have a connection replaced that the server has closed: what else would it say to one that asks nothing?

    So a restarted server is noticed without a question before each transaction.
    """
    news = select.poll()
    news.register(connection.fileno(), select.POLLIN)
    if news.poll(0):
        raise DisconnectionError


def _kind(error: Exception) -> str:
    drivers = error.orig if isinstance(error, DBAPIError) else None
    return ", ".join(dict.fromkeys(type(one).__name__ for one in (error, drivers) if one is not None))


def _place(error: Exception) -> str:
    package = Path(__file__).parents[1]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if package in Path(frame.filename).parents]
    return f"in {own[-1].name} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else "outside of the store"


def _sqlite(url: Any, *, read_only: bool) -> Engine:
    if url.database:
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        # What hooks deliver is a secret. SQLite gives its other files the mode of this one.
        path.touch(mode=0o600)
    options: dict[str, Any] = {} if read_only else {"poolclass": StaticPool}
    # An error's text must not tell what a hook delivered.
    options["hide_parameters"] = True
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}, **options)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # SQLAlchemy, not the driver, says when a transaction begins.
        connection.isolation_level = None
        _switch_to_wal(connection)
        # A checkpoint, which keeps a commit waiting, each 16 MB of log rather than each 4.
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-32000", "wal_autocheckpoint=4000"):
            connection.execute(f"PRAGMA {pragma}")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


@retry(
    retry=retry_if_exception_type(sqlite3.OperationalError),
    wait=wait_fixed(0.05),
    stop=stop_after_delay(BUSY_TIMEOUT_S),
    reraise=True,
)
def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite's own patience does not cover this switch, which whoever opens a new file first makes.
    connection.execute("PRAGMA journal_mode=WAL")
