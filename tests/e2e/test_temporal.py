"""Temporal's own command line and UI: they show a lease legibly, and can steer it."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from leasehold.answers import Lease
from leasehold.errors import DurationRefused
from tests.e2e.lab import Gate, Lab, until
from tests.stack import Stack, marked


def signal(stack: Stack, lease: Lease, name: str, message: dict[str, Any] | None = None) -> None:
    """Signal a lease as people do it, with or without an input."""
    given = [] if message is None else ["--input", json.dumps(message)]
    stack.temporal("workflow", "signal", "--workflow-id", lease["id"], "--name", name, *given)


def history(stack: Stack, workflow: str) -> list[dict[str, Any]]:
    """The events of a workflow."""
    shown = json.loads(stack.temporal("workflow", "show", "--workflow-id", workflow, "--output", "json"))
    events: list[dict[str, Any]] = shown["events"]
    return events


def status(stack: Stack, lease: Lease) -> str:
    """How Temporal shows the workflow: `COMPLETED`, say."""
    shown = json.loads(stack.temporal("workflow", "describe", "--workflow-id", lease["id"], "--output", "json"))
    return str(shown["workflowExecutionInfo"]["status"]).removeprefix("WORKFLOW_EXECUTION_STATUS_")


def expires(lease: Lease) -> datetime:
    assert lease["expires_at"] is not None
    return datetime.fromisoformat(lease["expires_at"])


@pytest.mark.parametrize("message", [None, {"actor": "carol", "reason": "lunch"}], ids=["bare", "with a reason"])
@pytest.mark.parametrize(("name", "outcome"), [("release", "released"), ("cancel", "cancelled")])
def test_a_signal_ends_a_lease(stack: Stack, lab: Lab, name: str, outcome: str, message: dict[str, Any] | None) -> None:
    pool = lab.pool(release="true")
    lease = lab.take(pool)

    signal(stack, lease, name, message)

    assert lab.comes_to(lease, "ended")["outcome"] == outcome
    who, why = ("carol", "lunch") if message else ("temporal", None)
    (closed,) = [e for e in lab.client.events(lease["id"]) if e["kind"] == "lease_releasing"]
    assert (closed["actor"], closed["reason"]) == (who, why)
    lab.all_free(pool)
    assert status(stack, lease) == "COMPLETED"


def test_a_release_signal_takes_a_waiting_lease_out_of_the_queue(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    holder, waiter = lab.take(pool), lab.take(pool, wait=None)

    signal(stack, waiter, "release")

    assert lab.comes_to(waiter, "ended")["outcome"] == "cancelled"
    assert lab.look(holder)["state"] == "active"


def test_a_signal_extends_a_lease_as_far_as_the_update_would(stack: Stack, lab: Lab) -> None:
    lease = lab.take(lab.pool(policy={"max_duration": "30m"}), duration="10m")

    signal(stack, lease, "extend", {"by": "10m"})

    until(lambda: expires(lab.look(lease)) - expires(lease) == timedelta(minutes=10), "the lease is extended")
    signal(stack, lease, "extend", {"by": "3h"})
    with pytest.raises(DurationRefused):
        lab.client.extend(lease["id"], by="3h")
    assert expires(lab.look(lease)) - expires(lease) == timedelta(minutes=10)
    assert lab.story(lease).count("lease_extended") == 1


@pytest.mark.parametrize(
    "message",
    [
        None,
        {},
        {"by": "a while"},
        {"by": 5},
        {"until": "tomorrow"},
        {"until": "2035-01-01T00:00:00"},
        {"by": "5m", "surprise": 1},
    ],
    ids=str,
)
def test_a_signal_that_makes_no_sense_does_no_harm(stack: Stack, lab: Lab, message: dict[str, Any] | None) -> None:
    lease = lab.take(lab.pool())

    signal(stack, lease, "extend", message)

    later = lab.client.extend(lease["id"], by="10m")
    assert expires(later) - expires(lease) in (timedelta(minutes=10), timedelta(minutes=15))
    lab.client.release(lease["id"])
    assert lab.comes_to(lease, "ended")["outcome"] == "released"


def test_temporals_cancel_ends_an_active_lease(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(release="true")
    lease = lab.take(pool)

    stack.temporal("workflow", "cancel", "--workflow-id", lease["id"])

    ended = lab.comes_to(lease, "ended")
    assert (ended["outcome"], ended["error"]) == ("cancelled", None)
    lab.all_free(pool)
    assert lab.trace(pool) == ["release r0 1"]
    assert status(stack, lease) == "COMPLETED"


def test_temporals_cancel_stops_a_hook_that_runs(stack: Stack, lab: Lab) -> None:
    gate = Gate(lab)
    pool = lab.pool(wipe=gate.hook, release="true")
    lease = lab.take(pool, wait=None)
    until(lambda: gate.runs == 1, "the stage runs")

    stack.temporal("workflow", "cancel", "--workflow-id", lease["id"])

    assert lab.comes_to(lease, "ended")["outcome"] == "cancelled"
    assert marked("LEASEHOLD_LEASE", lease["id"]) == []
    lab.all_free(pool)
    assert lab.trace(pool) == ["wipe r0 1", "release r0 1"]


def test_temporals_cancel_takes_a_waiting_lease_out_of_the_queue(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    holder, waiter = lab.take(pool), lab.take(pool, wait=None)

    stack.temporal("workflow", "cancel", "--workflow-id", waiter["id"])

    assert lab.comes_to(waiter, "ended")["outcome"] == "cancelled"
    assert list(lab.client.pool_queue(pool)) == []
    assert lab.look(holder)["state"] == "active"


def test_leases_are_found_by_state_and_owner(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    lease = lab.take(pool)

    def found(query: str) -> set[str]:
        listed = json.loads(stack.temporal("workflow", "list", "--query", query, "--output", "json"))
        return {workflow["execution"]["workflowId"] for workflow in listed}

    mine = 'LeaseState="active" AND LeaseOwner="admin"'
    until(lambda: lease["id"] in found(mine), "the active lease is found")
    assert found(f'{mine} AND LeasePool="{pool}"') == {lease["id"]}
    assert lease["id"] in found('LeaseExpires > "2020-01-01T00:00:00Z"')
    assert lease["id"] not in found('LeaseOwner="somebody"')
    lab.client.release(lease["id"])
    until(lambda: lease["id"] not in found(mine), "the ended lease is not found as active")
    assert lease["id"] in found('LeaseState="ended"')


def test_a_history_names_stages_resources_and_attempts(stack: Stack, lab: Lab) -> None:
    once = "mkdir $LEASEHOLD_RESOURCE-failed"
    pool = lab.pool(2, wipe={"run": f"! {once}", "attempts": 2}, deliver="echo ok", release="true")
    lease = lab.take(pool, 2)
    lab.client.release(lease["id"])
    lab.all_free(pool)

    activities = [_activity(event) for event in history(stack, lease["id"]) if _ATTRIBUTES in event]

    expected = [
        step
        for box in ("r0", "r1")
        for step in (
            ("wipe", f"{pool}/{box} attempt 1 of 2"),
            ("wipe", f"{pool}/{box} attempt 2 of 2"),
            ("deliver", f"{pool}/{box} attempt 1 of 1"),
        )
    ]
    assert sorted(activities) == sorted(expected)
    for box in lease["resources"]:
        recycling = _recycling(stack, pool, box["name"])
        steps = [_activity(event) for event in history(stack, recycling) if _ATTRIBUTES in event]
        assert steps == [("release", f"{pool}/{box['name']} attempt 1 of 1")]


_ATTRIBUTES = "activityTaskScheduledEventAttributes"


def _activity(event: dict[str, Any]) -> tuple[str, str]:
    """The type and the summary of a scheduled activity."""
    summary = json.loads(base64.b64decode(event["userMetadata"]["summary"]["data"]))
    return event[_ATTRIBUTES]["activityType"]["name"], summary


def _recycling(stack: Stack, pool: str, resource: str) -> str:
    """The id of the only recycling of a resource."""
    query = f'WorkflowId STARTS_WITH "recycle:{pool}:{resource}:"'
    (found,) = json.loads(stack.temporal("workflow", "list", "--query", query, "--output", "json"))
    return str(found["execution"]["workflowId"])
