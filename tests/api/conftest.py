"""One service for all tests of the API, in one event loop; each test makes pools of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from shutil import copy

import pytest
import pytest_asyncio
from temporalio.client import Client

from tests.api import queue_lab
from tests.api import stack as service
from tests.api.port import Port
from tests.api.stack import Stack

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have these tests share the event loop in which the service runs."""
    for item in items:
        if _HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def temporal_client(temporal_address: str) -> Client:
    return await Client.connect(temporal_address)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def stack(
    temporal_client: Client, _sqlite_templates: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("service")

    def new(kind: str) -> str:
        return f"sqlite:///{copy(_sqlite_templates(kind), folder / f'{kind}.db')}"

    async with service.running(temporal_client, new, folder) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def queue_port(stack: Stack) -> AsyncIterator[Port]:
    """Where the commands of those who queue find the service; a runner in a process of its own runs what they queue."""
    async with queue_lab.serving(stack) as port:
        yield port
