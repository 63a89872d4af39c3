"""The time-skipping test server, one for the whole run: its clock is global, so tests use it one after another."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from tests.workflows.lab import Lab, open_lab

_TEST_SERVER = Path(__file__).parents[2] / ".tools" / "temporal-test-server"


@pytest_asyncio.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    """A fresh server; Java's where it is there, the SDK's own download elsewhere."""
    existing = str(_TEST_SERVER) if _TEST_SERVER.exists() and shutil.which("java") else None
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=existing) as env:
        attributes = {
            name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD for name in ("LeaseState", "LeaseOwner", "LeasePool")
        }
        attributes["LeaseExpires"] = IndexedValueType.INDEXED_VALUE_TYPE_DATETIME
        await env.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace="default", search_attributes=attributes)
        )
        yield env


@pytest_asyncio.fixture
async def lab(env: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab of one test's own."""
    async with open_lab(env, tmp_path) as lab:
        yield lab
