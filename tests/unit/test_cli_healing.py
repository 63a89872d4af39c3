"""`health` and `reconcile`."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi, problem

READY: dict[str, Any] = {"ready": True, "database": True, "temporal": True, "worker": True, "alerts": []}
ALERT = {"key": "outbox_stuck", "since": "2026-01-05T09:00:00.000000Z", "detail": "look\nat it"}
DONE: dict[str, Any] = {
    "run": "0" * 32,
    "done": True,
    "dry_run": False,
    "leases": 12,
    "recyclings": 0,
    "steps": [
        {"action": "record", "lease": "l1", "pool": None, "resource": None, "epoch": None, "detail": "now lease 9"},
        {"action": "grant", "lease": "l1", "pool": "lab", "resource": "r1", "epoch": 7, "detail": "it has it"},
    ],
    "more": 0,
    "problems": [],
    "suspended": None,
}


def test_a_healthy_service_is_ready(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /readyz"] = [Answer(200, READY)]
    outcome = cli("health")
    assert (outcome.status, outcome.out) == (0, "ready\n")


def test_an_alert_is_a_reason_to_look(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /readyz"] = [Answer(200, {**READY, "alerts": [ALERT]})]
    outcome = cli("health")
    assert outcome.status == 1
    assert outcome.out.splitlines() == ["ready", "outbox_stuck\t2026-01-05T09:00:00.000000Z\tlook at it"]


def test_a_service_that_cannot_work_says_what_is_missing(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /readyz"] = [Answer(503, {**READY, "ready": False, "worker": False, "temporal": False})]
    outcome = cli("health")
    assert (outcome.status, outcome.out) == (1, "not ready: no temporal, no worker\n")


def test_health_as_json_is_what_the_api_says(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /readyz"] = [Answer(503, {**READY, "ready": False, "database": False})]
    outcome = cli("health", "--json")
    assert (outcome.status, json.loads(outcome.out)["database"]) == (1, False)


def test_reconcile_prints_what_was_written(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/reconcile"] = [Answer(200, DONE)]
    outcome = cli("reconcile")
    assert outcome.status == 0
    assert outcome.out.splitlines() == ["record\tl1\t\tnow lease 9", "grant\tl1\tlab/r1\tit has it"]
    assert outcome.err == "2 things written; 12 leases were asked for.\n"
    (request,) = api.requests
    assert request.json == {"accept_identity": False, "accept_lost": False}
    assert request.query == [("dry_run", "false")]


def test_reconcile_waits_until_it_is_done(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/reconcile"] = [Answer(202, {**DONE, "done": False, "steps": []})]
    api.answers[f"GET /v1/reconcile/{'0' * 32}"] = [Answer(202, {**DONE, "done": False}), Answer(200, DONE)]
    outcome = cli("reconcile", "--json", "--dry-run", "--accept-identity", "--accept-lost")
    assert (outcome.status, json.loads(outcome.out)) == (0, DONE)
    assert api.requests[0].json == {"accept_identity": True, "accept_lost": True}
    assert api.requests[0].query == [("dry_run", "true")]


def test_reconcile_fails_where_something_is_left(api: FakeApi, cli: Cli) -> None:
    left = {**DONE, "problems": ["the workflow of lease 4 does not answer"], "suspended": "the database is older"}
    api.answers["POST /v1/reconcile"] = [Answer(200, left)]
    outcome = cli("reconcile")
    assert outcome.status == 1
    assert "the workflow of lease 4 does not answer" in outcome.err
    assert "Nothing is granted: the database is older" in outcome.err


def test_another_temporal_is_refused_with_its_code(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/reconcile"] = [problem(409, "temporal_changed", "this is another Temporal than before")]
    outcome = cli("reconcile")
    assert (outcome.status, outcome.err) == (3, "this is another Temporal than before (temporal_changed)\n")
