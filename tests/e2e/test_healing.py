"""What was broken from outside is put right, or left alone and told. Real processes; each test has its own stack."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from leasehold.answers import Lease
from leasehold.client import Client
from leasehold.errors import TemporalChanged
from tests.e2e.lab import Gate, Lab, until
from tests.stack import Stack

PROMISED_S = 120.0
"""A lease whose workflow is gone is over two minutes later, at the usual settings."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of one test's own, whose sweep passes each second."""
    stack = Stack(tmp_path)
    stack.settings |= {"LEASEHOLD_SWEEP_EVERY": "1s", "LEASEHOLD_SWEEP_GRACE": "1s"}
    with stack:
        yield stack


@pytest.fixture
def lab(stack: Stack, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(stack, tmp_path)
    yield lab
    lab.close()


def alerts(stack: Stack) -> dict[str, str]:
    """What stands, by its key."""
    told = httpx.get(f"{stack.url}/readyz", timeout=5, verify=False, trust_env=False).json()
    return {alert["key"]: alert["detail"] for alert in told["alerts"]}


def passes(stack: Stack) -> int:
    """How many passes the sweep has written down."""
    with sqlite3.connect(f"file:{stack.data / 'leasehold.db'}?mode=ro", uri=True) as database:
        found = database.execute("SELECT json_extract(value, '$.passes') FROM facts WHERE key = 'sweep'").fetchone()
    return int(found[0]) if found else 0


def some_passes(stack: Stack) -> None:
    """Wait until the sweep has seen everything as it is now."""
    seen = passes(stack)
    until(lambda: passes(stack) >= seen + 2, "the sweep passes")


def held(client: Client, lease: Lease) -> dict[str, int]:
    """What a lease has now, by its epochs."""
    return {r["name"]: r["epoch"] for r in client.lease(lease["id"])["resources"] if r["state"] != "released"}


def states(client: Client, pool: str) -> dict[str, str]:
    return {r["name"]: r["state"] for r in client.resources(pool=pool)}


def test_a_lease_terminated_in_temporal_is_over_and_its_resource_is_cleaned(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(wipe="true", release="true")
    lease = lab.take(pool)
    waiting = lab.take(pool, wait=None)
    began = time.monotonic()

    stack.temporal("workflow", "terminate", "--workflow-id", lease["id"], "--reason", "by mistake")

    ended = lab.comes_to(lease, "ended")
    assert time.monotonic() - began < PROMISED_S
    assert ended["outcome"] == "failed"
    assert ended["error"] == {"code": "workflow_gone", "detail": "its workflow was terminated"}
    lab.comes_to(waiting, "active")
    assert lab.trace(pool) == ["wipe r0 1", "release r0 1", "wipe r0 1"]
    assert alerts(stack) == {}


def test_a_lease_terminated_while_a_hook_runs_is_cleaned_after_the_hook_is_gone(stack: Stack, lab: Lab) -> None:
    gate = Gate(lab)
    pool = lab.pool(provision=gate.hook, release=gate.hook)
    lease = lab.take(pool, wait=None)
    until(lambda: gate.runs == 1, "the stage runs")

    stack.temporal("workflow", "terminate", "--workflow-id", lease["id"])

    lab.comes_to(lease, "ended")
    until(lambda: gate.runs == 2, "the resource is cleaned")
    gate.open()
    lab.all_free(pool)
    gate.check_one_at_a_time()


def test_in_an_empty_namespace_nothing_is_freed(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(7, release="true")
    leases = [lab.take(pool) for _ in range(7)]
    some_passes(stack)
    before = [lab.look(lease) for lease in leases]
    stack.temporal("operator", "namespace", "create", "--namespace", "empty")
    kinds = {"LeaseState": "Keyword", "LeaseOwner": "Keyword", "LeasePool": "Keyword", "LeaseExpires": "Datetime"}
    for name, kind in kinds.items():
        stack.temporal("operator", "search-attribute", "create", "--namespace", "empty", "--name", name, "--type", kind)
    stack.stop()

    stack.settings["TEMPORAL_NAMESPACE"] = "empty"
    stack.start()
    until(lambda: "temporal_changed" in alerts(stack), "the alert stands")
    time.sleep(5)

    assert [lab.look(lease) | {"temporal_url": ""} for lease in leases] == [
        lease | {"temporal_url": ""} for lease in before
    ]
    assert set(states(lab.client, pool).values()) == {"leased"}
    with pytest.raises(TemporalChanged):
        lab.client.reconcile()
    stack.stop()
    del stack.settings["TEMPORAL_NAMESPACE"]
    stack.start()
    until(lambda: alerts(stack) == {}, "the alert goes")
    lab.client.release(leases[0]["id"])
    lab.comes_to(leases[0], "ended")
    until(lambda: list(states(lab.client, pool).values()).count("free") == 1, "its resource is free")


def test_a_database_restored_from_an_older_copy_lends_nothing_twice(stack: Stack, lab: Lab, tmp_path: Path) -> None:
    gate = Gate(lab)
    names, hosts = lab.pool(4), lab.pool(2, provision=gate.hook, release="true")
    given_back, extended = lab.take(names), lab.take(names)
    waiting = lab.take(names, 3, wait=None)
    some_passes(stack)
    copy = tmp_path / "copy.db"
    with sqlite3.connect(stack.data / "leasehold.db") as database, sqlite3.connect(copy) as target:
        database.backup(target)

    # All of this the copy does not know.
    some_passes(stack)
    until_after = lab.client.extend(extended["id"], by="5m")["expires_at"]
    lab.client.release(given_back["id"])
    lab.comes_to(waiting, "active")
    preparing = lab.take(hosts, wait=None)
    until(lambda: gate.runs == 1, "the stage runs")
    living = [extended, waiting, preparing]
    before = {lease["id"]: held(lab.client, lease) for lease in living}
    stack.stop()
    for left in stack.data.glob("leasehold.db*"):
        left.unlink()
    copy.rename(stack.data / "leasehold.db")
    stack.start()

    # From the first moment on, nobody gets what is in somebody's hands.
    asked = lab.take(names, wait=None)
    assert (asked["state"], "leasehold reconcile" in str(asked["queue"])) == ("queued", True)
    until(lambda: "database_older" in alerts(stack), "the alert stands")
    some_time = lab.look(asked)
    assert some_time["state"] == "queued"
    dry = lab.client.reconcile(dry_run=True)
    assert lab.look(asked) == some_time

    done = lab.client.reconcile()

    assert (done["problems"], done["suspended"]) == ([], None)
    assert [step["action"] for step in dry["steps"]] == [step["action"] for step in done["steps"]]
    assert {lease["id"]: held(lab.client, lease) for lease in living} == before
    assert lab.look(extended)["expires_at"] == until_after
    assert lab.look(given_back)["outcome"] == "released"
    assert lab.look(preparing)["state"] == "preparing"
    until(lambda: alerts(stack) == {}, "the alert goes")
    assert lab.client.reconcile()["steps"] == []
    # Everybody goes on: the hook that was cut off, who waits, who gives back.
    gate.open()
    lab.comes_to(preparing, "active")
    gate.check_one_at_a_time()
    lab.client.release(extended["id"])
    lab.comes_to(asked, "active")
    for lease in [asked, waiting, preparing]:
        lab.client.release(lease["id"])
        lab.comes_to(lease, "ended")
    lab.all_free(names)
    lab.all_free(hosts)
    some_passes(stack)
    assert alerts(stack) == {}
    check_nobody_shared(stack)


def check_nobody_shared(stack: Stack) -> None:
    """No resource was in two hands at once, by the database as it is now."""
    with sqlite3.connect(f"file:{stack.data / 'leasehold.db'}?mode=ro", uri=True) as database:
        query = "SELECT pool, resource, granted_at, closed_at, lease FROM grants ORDER BY pool, resource, granted_at"
        grants: list[tuple[str, str, str, str, str]] = database.execute(query).fetchall()
    assert len(grants) > len({(pool, resource) for pool, resource, *_ in grants}), "some were lent more than once"
    for earlier, later in itertools.pairwise(grants):
        assert earlier[:2] != later[:2] or earlier[3] <= later[2], f"lent twice: {earlier}, {later}"


def test_when_temporal_has_lost_everything_nothing_is_freed_until_somebody_says_so(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(6, release="true")
    leases = [lab.take(pool) for _ in range(6)]
    stack.stop()
    for left in stack.data.glob("temporal.db*"):
        left.unlink()
    stack.start()

    until(lambda: "temporal_changed" in alerts(stack), "another Temporal is noticed")
    done = lab.client.reconcile(accept_identity=True)
    assert "6 leases and 0 recyclings" in done["problems"][0]
    until(lambda: set(alerts(stack)) == {"workflows_lost"}, "the sweep stops at them")
    assert "ERROR activities.sweep: alert workflows_lost" in stack.log.read_text()
    some_passes(stack)
    assert set(states(lab.client, pool).values()) == {"leased"}
    assert {lab.look(lease)["state"] for lease in leases} == {"active"}

    lab.client.reconcile(accept_lost=True)

    errors = [lab.look(lease)["error"] for lease in leases]
    assert {error and error["code"] for error in errors} == {"workflow_lost"}
    assert set(states(lab.client, pool).values()) == {"broken"}
    until(lambda: alerts(stack) == {}, "the alert goes")
    lab.client.repair(pool, "r0")
    until(lambda: states(lab.client, pool)["r0"] == "free", "it can be lent again")


def test_the_schedule_is_as_the_settings_say_after_each_start(stack: Stack) -> None:
    def every() -> str:
        return stack.temporal("schedule", "describe", "--schedule-id", "leasehold-sweep", "--output", "json")

    until(lambda: '"interval": "1s"' in every(), "it is there")
    stack.stop()
    stack.settings["LEASEHOLD_SWEEP_EVERY"] = "2s"
    stack.start()
    until(lambda: '"interval": "2s"' in every(), "it was changed")
