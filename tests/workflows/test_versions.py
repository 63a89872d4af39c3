"""Workers of two versions run side by side; what the how-to tells people to type brings one in, and takes it back."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHandle

from leasehold.messages import ExtendLease, Steer, SubmitLease
from leasehold.model import Inventory, Item, PoolSpec, ResourceSpec
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from tests.conftest import NewDatabase
from tests.workflows.lab import ScriptedDriver
from worker.wiring import build_worker
from workflows.lease import LeaseWorkflow

ROOT = Path(__file__).parents[2]
HOW_TO = (ROOT / "docs" / "how-to" / "change-a-workflow.md").read_text()
PATIENCE_S = 30
OLD, NEW = "0.1.0", "0.2.0"

Handle = WorkflowHandle[LeaseWorkflow, str]


def shown(words: str) -> list[list[str]]:
    """The commands in the how-to's `sh` blocks that begin with these words, in order."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", HOW_TO, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip().startswith(words)]


class Versions:
    """A server, a store, and workers of several builds on one task queue."""

    def __init__(self, client: Client, address: str, store: SqlStore, logs: SqlLogStore) -> None:
        self._client, self._address, self._store, self._logs = client, address, store, logs
        self._task_queue = f"versions-{uuid.uuid4().hex}"
        self.workers = AsyncExitStack()

    async def start(self, build: str | None) -> None:
        """Start a worker."""
        worker = build_worker(
            self._client,
            self._store,
            self._logs,
            {"command": ScriptedDriver()},
            build=build,
            task_queue=self._task_queue,
        )
        await self.workers.enter_async_context(worker)

    async def lease(self) -> Handle:
        """Take a lease, which is active at once."""
        request = SubmitLease(
            lease=f"l{uuid.uuid4().hex}", principal="t", owner="t", digest="", items=(Item(pool="p"),)
        )
        handle = await self._client.start_workflow(
            LeaseWorkflow.run, request, id=request.lease, task_queue=self._task_queue
        )
        async with asyncio.timeout(PATIENCE_S):
            await handle.execute_update(LeaseWorkflow.admit)
        return handle

    async def build_of(self, handle: Handle) -> str:
        """The build that answers for a lease now."""
        extension = ExtendLease(by="1m", actor="me", request=uuid.uuid4().hex)
        async with asyncio.timeout(PATIENCE_S):
            held = await handle.execute_update(LeaseWorkflow.extend, extension)
        assert held.refusal is None
        info = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
        return info.deployment_version.build_id

    async def come_to(self, build: str, *leases: Handle) -> None:
        """Wait until a build answers for these leases: Temporal's task queues learn of a new one a moment later."""
        async with asyncio.timeout(PATIENCE_S):
            for lease in leases:
                while await self.build_of(lease) != build:
                    await asyncio.sleep(0.1)

    async def run(self, command: list[str]) -> str:
        """Run a command of Temporal's, until it succeeds: a worker is known a moment after it started."""
        program = [str(ROOT / ".tools" / "temporal"), *command[1:]]
        environment = {**os.environ, "TEMPORAL_ADDRESS": self._address}
        done = None
        for _ in range(PATIENCE_S):
            done = await asyncio.to_thread(
                subprocess.run, program, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            if done.returncode == 0:
                return done.stdout
            await asyncio.sleep(1)
        raise AssertionError((command, done))

    async def pinned(self, handle: Handle) -> bool:
        """Whether a lease is kept with one build."""
        info = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
        return info.versioning_override.HasField("pinned")


@pytest.fixture
async def versions(temporal_address: str, new_sqlite: NewDatabase) -> AsyncIterator[Versions]:
    store, logs = SqlStore(new_sqlite("main")), SqlLogStore(new_sqlite("logs"))
    resources = tuple(ResourceSpec(name=f"r{n}") for n in range(9))
    await store.apply(Inventory(name="p", pools=((PoolSpec(name="p"), resources),)), "test")
    made = Versions(await Client.connect(temporal_address), temporal_address, store, logs)
    yield made
    await made.workers.aclose()
    store.close()
    logs.close()


async def test_a_version_is_brought_in_and_taken_back_as_the_how_to_says(versions: Versions) -> None:
    first, second, back = shown("temporal worker deployment set-current-version")
    describe, *_ = shown("temporal worker deployment describe")
    pin, unpin = shown("temporal workflow update-options")
    assert [c[c.index("--build-id") + 1] for c in (first, second, back)] == [OLD, NEW, OLD]

    # Given a lease from before any worker knew of versions, and an old and a new version beside each other.
    await versions.start(None)
    eldest = await versions.lease()
    await versions.start(OLD)
    await versions.run(first)
    begun = await versions.lease()
    await versions.come_to(OLD, eldest, begun)
    await versions.start(NEW)
    assert await versions.build_of(begun) == OLD, "it gets nothing yet"

    # When the new one is made current, then every lease goes on with it.
    await versions.run(second)
    assert NEW in await versions.run(describe)
    late = await versions.lease()
    await versions.come_to(NEW, eldest, begun, late)

    # When it is taken back, then those that are kept stay with it until they are let go.
    await versions.run(of(late, pin))
    await until_pinned(versions, late, True)
    await versions.run(back)
    await versions.come_to(OLD, eldest, begun)
    assert await versions.build_of(late) == NEW
    await versions.run(of(late, unpin))
    await until_pinned(versions, late, False)
    await versions.come_to(OLD, late)
    for lease in (eldest, begun, late):
        await lease.execute_update(LeaseWorkflow.release, Steer(actor="me"))
        assert await lease.result() == "released"


def of(lease: Handle, command: list[str]) -> list[str]:
    """The command for this lease alone: here no lease has come to any patch."""
    at = command.index("--query") + 1
    assert command[at].startswith("TemporalChangeVersion = ")
    return [*command[:at], f'WorkflowId = "{lease.id}"', *command[at + 1 :]]


async def until_pinned(versions: Versions, lease: Handle, wanted: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await versions.pinned(lease) is not wanted:
            await asyncio.sleep(0.1)


async def test_the_query_for_old_leases_works(versions: Versions) -> None:
    (command,) = shown("temporal workflow list")
    await versions.run(command)


def test_recording_adds_nothing_that_is_there() -> None:
    (command,) = shown("python -m tests.workflows.record")
    folder = ROOT / "tests" / "histories"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run([sys.executable, *command[1:]], cwd=ROOT, check=True, timeout=100)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
