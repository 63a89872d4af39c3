"""The time-skipping test server, a fresh one for each test: its clock is global."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from tests.workflows.lab import Lab, open_lab, start_server


@pytest_asyncio.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    """A fresh server."""
    async with start_server() as env:
        yield env


@pytest_asyncio.fixture
async def lab(env: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab of one test's own."""
    async with open_lab(env, tmp_path) as lab:
        yield lab
