"""Bringing a database to the schema of this version, and refusing to serve one that is not.

Two databases, `main` and `logs`, each with a folder of revisions below `migrations`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from leasehold.errors import LeaseholdError
from leasehold.settings import Settings
from leasehold.store.engine import Database
from leasehold.store.tables import logs_metadata, metadata

_FOLDER = Path(__file__).parent / "migrations"
METADATA = {"main": metadata, "logs": logs_metadata}


class SchemaMismatch(LeaseholdError):
    """The database's schema is not that of this version."""

    code, title = "schema_mismatch", "The database's schema is not that of this version"


def config(kind: str, connection: Connection) -> Config:
    """Alembic's configuration for a database of this kind."""
    made = Config()
    made.set_main_option("script_location", str(_FOLDER))
    made.set_main_option("version_locations", str(_FOLDER / kind))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    made.attributes["metadata"] = METADATA[kind]
    return made


def upgrade(url: str, kind: str) -> None:
    """Bring a database up to date; do nothing where it is. Processes that do it at once wait for each other."""
    database = Database(url)
    try:
        with database.writer.begin() as connection:
            database.lock(connection)
            command.upgrade(config(kind, connection), "head")
    finally:
        database.close()


def checked(settings: Settings) -> Settings:
    """Settings whose databases are up to date; raise `SchemaMismatch` where one is not."""
    check(settings.main_url, "main")
    check(settings.log_url, "logs")
    return settings


def check(url: str, kind: str) -> None:
    """Raise `SchemaMismatch` unless the database is up to date."""
    database = Database(url)
    try:
        with database.writer.begin() as connection:
            head = ScriptDirectory.from_config(config(kind, connection)).get_current_head()
            found = MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()
    if found != head:
        raise SchemaMismatch(
            f"the {kind} database is at revision {found or 'none'}, not {head}: run python -m leasehold.store upgrade"
        )
