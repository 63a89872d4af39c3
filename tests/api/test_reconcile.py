"""Rebuilding the records by call, and what an operator is told meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio
from pydantic import TypeAdapter

from api.app import create_app
from api.gateway import Gateway
from api.schemas import ReconcileAnswer
from leasehold.store import alerts, facts, healing
from leasehold.store.engine import Tx
from leasehold.store.store import SqlStore
from tests.api.stack import Json, Stack, as_shown, caller, fail


def database(stack: Stack) -> SqlStore:
    store = stack.services.store
    assert isinstance(store, SqlStore)
    return store


@pytest_asyncio.fixture(loop_scope="package")
async def suspended(stack: Stack) -> AsyncIterator[str]:
    """Why nothing is granted."""
    reason = "the database is older than what runs"
    await database(stack).database.write(healing.suspend, reason)
    yield reason

    def lift(tx: Tx) -> None:
        facts.drop(tx, facts.SUSPENSION)

    await database(stack).database.write(lift)


async def test_a_healthy_lab_has_nothing_to_rebuild(stack: Stack) -> None:
    pool = await stack.pool(1)
    lease = await stack.take(pool)
    answer = await stack.http.post("/v1/reconcile", params={"timeout": 60})
    assert answer.status_code == 200, fail(answer)
    done: Json = answer.json()
    TypeAdapter(ReconcileAnswer).validate_python(done, strict=True)
    assert set(done) == set(ReconcileAnswer.model_fields)
    assert (done["done"], done["dry_run"], done["steps"], done["suspended"]) == (True, False, [], None)
    assert done["leases"] > 0
    assert await stack.get(lease) == as_shown(lease)


async def test_what_is_not_done_in_time_can_be_asked_for(stack: Stack) -> None:
    answer = await stack.http.post("/v1/reconcile", json={"accept_lost": False}, params={"timeout": 0, "dry_run": True})
    assert answer.status_code == 202, fail(answer)
    begun = answer.json()
    TypeAdapter(ReconcileAnswer).validate_python(begun, strict=True)
    assert (begun["done"], begun["steps"], begun["leases"]) == (False, [], None)
    answer = await stack.http.get(f"/v1/reconcile/{begun['run']}", params={"timeout": 60})
    assert (answer.status_code, answer.json()["done"], answer.json()["dry_run"]) == (200, True, True)


async def test_what_is_unknown_is_refused(stack: Stack) -> None:
    for run in ("0" * 32, "x", "%00", "0" * 31):
        answer = await stack.http.get(f"/v1/reconcile/{run}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), fail(answer)
    answer = await stack.http.post("/v1/reconcile", json={"accept_everything": True})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), fail(answer)


async def test_the_holder_of_a_lease_may_not(stack: Stack) -> None:
    lease = await stack.take(await stack.pool(1))
    async with caller(stack.app, lease["token"]) as holder:
        assert (await holder.post("/v1/reconcile")).status_code == 403
        assert (await holder.get(f"/v1/reconcile/{'0' * 32}")).status_code == 403


async def test_while_nothing_is_granted_everybody_is_told_why(stack: Stack, suspended: str) -> None:
    pool = await stack.pool(2)
    lease = await stack.submit(pool)
    assert lease["state"] == "queued"
    assert lease["queue"]["reason"].startswith(
        f"nothing is granted until an operator has run leasehold reconcile: {suspended}"
    )
    available = (await stack.http.get("/v1/available", params={"pool": pool})).json()
    assert (available["open"], available["reason"], available["free"]) == (False, f"nothing is granted: {suspended}", 2)
    # Nor by anything that an operator does meanwhile.
    for call in ("offline", "online"):
        await stack.http.post(f"/v1/pools/{pool}/resources/r0/{call}", json={"reason": "test"})
    assert (await stack.get(lease))["state"] == "queued"
    await stack.steer(lease, "cancel")
    assert (await stack.ended(lease))["outcome"] == "cancelled"


async def test_after_it_everything_goes_on(stack: Stack) -> None:
    pool = await stack.pool(1)
    await database(stack).database.write(healing.suspend, "the database is older than what runs")
    lease = await stack.submit(pool)

    async with asyncio.timeout(60):
        while (await stack.http.post("/v1/reconcile", params={"timeout": 60})).json()["suspended"] is not None:
            await _forget_those_of_other_tests(stack)

    assert (await stack.get(lease, wait="active", timeout=30))["state"] == "active"


async def _forget_those_of_other_tests(stack: Stack) -> None:
    """Leases on task queues that nobody works on any more cannot be asked."""
    for state in ("queued", "preparing", "active"):
        for lease in (await stack.http.get("/v1/leases", params={"state": state, "limit": 1000})).json()["items"]:
            handle = stack.temporal.get_workflow_handle(lease["id"])
            if (await handle.describe()).task_queue != "leasehold":
                await handle.terminate()


async def test_an_alert_is_shown_to_whoever_asks_whether_the_service_is_ready(stack: Stack) -> None:
    def settle(tx: Tx, detail: str | None) -> None:
        alerts.settle(tx, "outbox_stuck", detail)

    await database(stack).database.write(settle, "look at it")
    answer = await stack.http.get("/readyz")
    await database(stack).database.write(settle, None)

    assert answer.status_code == 200, fail(answer)
    (alert,) = answer.json()["alerts"]
    assert (alert["key"], alert["detail"], alert["since"][-1]) == ("outbox_stuck", "look at it", "Z")
    assert (await stack.http.get("/readyz")).json()["alerts"] == []


async def test_without_a_worker_it_is_done_later(stack: Stack) -> None:
    services = replace(stack.services, gateway=Gateway(stack.temporal, "nobody-reconciles"))
    async with caller(create_app(services)) as http:
        answer = await http.post("/v1/reconcile", params={"timeout": 0.2})
    assert (answer.status_code, answer.json()["done"]) == (202, False), fail(answer)
