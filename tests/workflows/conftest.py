"""Where workflow tests run: on Temporal's own server, and where days must pass on the one whose clock skips."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from tests import temporal
from tests.workflows.lab import SHORT_HISTORIES, Lab, open_lab, start_skipping_server


@pytest_asyncio.fixture
async def lab(temporal_address: str, tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab of one test's own, on a task queue of its own."""
    env = WorkflowEnvironment.from_client(await Client.connect(temporal_address))
    async with open_lab(env, tmp_path, f"test-{uuid.uuid4().hex}") as lab:
        yield lab


@pytest.fixture(scope="session")
def impatient_address() -> Iterator[str]:
    """A server that soon wants a workflow to go on in a new run."""
    with temporal.server(**SHORT_HISTORIES) as address:
        yield address


@pytest_asyncio.fixture
async def impatient_lab(impatient_address: str, tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab in which a lease soon goes on in a new run."""
    env = WorkflowEnvironment.from_client(await Client.connect(impatient_address))
    async with open_lab(env, tmp_path, f"test-{uuid.uuid4().hex}") as lab:
        yield lab


@pytest_asyncio.fixture
async def skipping_lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab in which days pass in no time. Its server is its own: the clock is global."""
    async with start_skipping_server() as env, open_lab(env, tmp_path, "test") as lab:
        yield lab
