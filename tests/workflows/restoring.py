"""Restoring a lab's database from an older copy, under everything that runs."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from temporalio.service import RPCError

from tests.workflows.lab import Lab


class Copy:
    """A copy of the lab's database, made now."""

    def __init__(self, lab: Lab) -> None:
        name = lab.store.database.url.database
        assert name is not None
        self._original = Path(name)
        self._copy = self._original.with_name(f"copy-{uuid.uuid4().hex}.db")
        _copy(self._original, self._copy)

    def restore(self) -> None:
        """Put it in the place of the database."""
        _copy(self._copy, self._original)


@asynccontextmanager
async def restorable(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """What is on the move is looked at again sooner than in a lab, and nothing is left that waits for its record.

    A step that is tried again and again keeps its worker from stopping.
    """
    monkeypatch.setattr("activities.reconcile._SECOND_LOOK_S", 0.2)
    yield
    running = f"TaskQueue = '{lab.task_queue}' AND ExecutionStatus = 'Running'"
    listed = {found.id async for found in lab.env.client.list_workflows(running)}
    for left in listed | {handle.id for handle in lab.handles}:
        with suppress(RPCError):
            await lab.env.client.get_workflow_handle(left).terminate()
    lab.handles.clear()


def _copy(source: Path, target: Path) -> None:
    before, after = sqlite3.connect(source), sqlite3.connect(target, timeout=20)
    with before, after:
        before.backup(after)
    before.close()
    after.close()
