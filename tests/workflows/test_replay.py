"""Leases that began with an earlier version go on with this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from worker.wiring import WORKFLOWS

HISTORIES = sorted((Path(__file__).parents[1] / "histories").glob("*.json"))


def test_there_are_histories_of_every_kind() -> None:
    assert {path.name.split("-")[0] for path in HISTORIES} == {
        "lease",
        "recycle",
        "notice",
        "sweep",
        "reconcile",
        "pool",
        "create",
        "delete",
        "checks",
        "list",
    }


@pytest.fixture(params=HISTORIES, ids=lambda path: path.stem)
def history(request: pytest.FixtureRequest) -> WorkflowHistory:
    """A history that an earlier version wrote."""
    return WorkflowHistory.from_json(request.param.stem, request.param.read_text())


async def test_a_running_workflow_survives_the_change(history: WorkflowHistory) -> None:
    await Replayer(workflows=WORKFLOWS).replay_workflow(history)
