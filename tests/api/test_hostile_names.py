"""Names and filters that no database should see, on both databases: an answer, never a failure."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from temporalio.client import Client

from api.app import create_app
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from tests.api.stack import caller, fail, wire
from tests.conftest import NewDatabase

HOSTILE = ["%00", "%ff", "%ed%a0%80", "'", "%27%3b--", "9" * 25, "9" * 5000, "%F0%9F%9A%80", "a" * 3000, "%25", "*"]


@pytest_asyncio.fixture(loop_scope="package")
async def http(new_database: NewDatabase, temporal_client: Client) -> AsyncIterator[httpx.AsyncClient]:
    """An API on each kind of database, with one pool; there is no worker."""
    store, logs = SqlStore(new_database("main")), SqlLogStore(new_database("logs"))
    async with caller(create_app(wire(store, logs, temporal_client, "nobody"))) as http:
        body = {"name": "p", "resources": [{"name": "r0", "properties": {"n": 1}}]}
        assert (await http.put("/v1/pools/p", json=body)).status_code == 200
        yield http
    store.close()
    logs.close()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_that_nothing_has_is_not_found(http: httpx.AsyncClient, name: str) -> None:
    for address in (
        f"/v1/leases/{name}",
        f"/v1/leases/{name}/log",
        f"/v1/pools/{name}",
        f"/v1/pools/{name}/queue",
        f"/v1/pools/p/resources/{name}",
        f"/v1/available?pool={name}",
        f"/v1/tokens/{name}",
    ):
        answer = await http.get(address)
        assert answer.status_code in {404, 422}, fail(answer)
    answer = await http.post(f"/v1/pools/p/resources/{name}/offline", json={"reason": "x"})
    assert answer.status_code in {404, 422}, fail(answer)


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_filter_that_nothing_satisfies_finds_nothing(http: httpx.AsyncClient, value: str) -> None:
    for address in (
        f"/v1/leases?owner={value}",
        f"/v1/tokens?user={value}",
        f"/v1/tokens?cursor={value}",
        f"/v1/leases?pool={value}",
        f"/v1/resources?pool={value}",
        f"/v1/resources?tags={value}",
        f"/v1/resources?x={value}",
        f"/v1/resources?cursor={value}/{value}",
        f"/v1/pools/{value}/resources/{value}/events",
    ):
        answer = await http.get(address)
        assert answer.status_code in {200, 400, 404, 422}, fail(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tokens?cursor=999999999999999999",
        "/v1/leases?cursor=999999999999999999",
        "/v1/leases/1/events?cursor=4611686018427387904",
    ],
)
async def test_a_cursor_far_beyond_the_end_is_the_end(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code in {200, 404}
