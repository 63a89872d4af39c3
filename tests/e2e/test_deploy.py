"""What `docker-compose.yml` has run once, here on the real programs: it sets up all that is missing, and no more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML
from sqlalchemy import URL, make_url
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from leasehold.store import migrate
from tests import postgres, servers
from tests.stack import ROOT, TEMPORAL

DATABASES = ("leasehold", "leasehold_logs", "temporal", "temporal_visibility")
TYPES = {
    "LeaseState": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "LeaseOwner": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "LeasePool": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "LeaseExpires": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
}
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")


def set_up(address: str) -> None:
    """Run the command of the service `temporal-set-up`."""
    service = COMPOSE["services"]["temporal-set-up"]
    words = [word.replace("$$", "$") for word in (*service["entrypoint"], *service["command"])]
    environment = {"PATH": f"{TEMPORAL.parent}:{os.environ['PATH']}", "TEMPORAL_ADDRESS": address, "HOME": "/nowhere"}
    subprocess.run(words, env=environment, check=True, timeout=60, capture_output=True)


async def test_a_new_temporal_server_is_set_up_once(tmp_path: Path) -> None:
    port = servers.free_port()
    program = [str(TEMPORAL), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port), "--headless"]
    with servers.running(program, folder=tmp_path, stop="KILL"):
        for _ in range(2):
            set_up(f"127.0.0.1:{port}")
        client = await Client.connect(f"127.0.0.1:{port}")
        known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
    assert {name: known.custom_attributes[name] for name in TYPES} == TYPES


@pytest.fixture
def new_server() -> Iterator[URL]:
    """A PostgreSQL server that nothing was made on yet."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres.installed("postgres"))
        except postgres.Missing as error:
            postgres.complain(error)
        yield url


def test_leasehold_and_temporal_have_databases_that_the_other_cannot_use(new_server: URL, tmp_path: Path) -> None:
    secrets, host = tmp_path / "secrets", str(new_server.query["host"])
    subprocess.run([ROOT / "deploy" / "make-secrets", secrets], check=True)
    environment = {
        "PATH": f"{postgres.programs()}:{os.environ['PATH']}",
        "POSTGRES_USER": "postgres",
        "SECRETS": str(secrets),
        "PGHOST": host,
    }

    subprocess.run([ROOT / "deploy" / "databases.sh"], env=environment, check=True, timeout=60)

    want_passwords(new_server)
    for role in ("leasehold", "temporal"):
        known = new_server.set(username=role, password=(secrets / f"{role}_password").read_text().strip())
        for database in DATABASES:
            assert can_make_tables(known.set(database=database)) is database.startswith(role), (role, database)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            can_make_tables(known.set(password="wrong", database=role))
    for kind, file in (("main", "leasehold_database_url"), ("logs", "leasehold_logs_url")):
        url = make_url((secrets / file).read_text().strip()).set(host="", query=new_server.query)
        migrate.upgrade(url.render_as_string(hide_password=False), kind)


def want_passwords(server: URL) -> None:
    """Have the server ask for passwords, as it does in its image."""
    rules = Path(str(server.query["host"])) / "data" / "pg_hba.conf"
    rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    with psycopg.connect(server.render_as_string()) as connection:
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("SELECT pg_sleep(0.2)")


def can_make_tables(url: URL) -> bool:
    """Whether a role may use a database."""
    try:
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            connection.execute("CREATE TABLE mine (id integer)")
            connection.rollback()
    except psycopg.OperationalError as error:
        if "permission denied for database" not in str(error):
            raise
        return False
    return True
