"""What happened stays to be told: followed over restarts, and read on the command line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from leasehold.answers import Lease
from tests.e2e.lab import PATIENCE_S, Gate, Lab, until
from tests.e2e.processes import Api
from tests.stack import Stack, marked


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    api = Api(stack)
    api.start()
    yield api
    api.stop()


def follow(api: Api, token: str, lease: Lease, seen: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Go on after what was seen, until the stream ends or the API goes away."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    if seen:
        headers["Last-Event-ID"] = seen[-1]["id"]
    address = f"{api.url}/v1/leases/{lease['id']}/events"
    with suppress(httpx.TransportError), httpx.stream("GET", address, headers=headers, timeout=PATIENCE_S) as answer:
        assert answer.status_code == 200
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, text = line.partition(": ")
            if name:
                fields[name] = text
            elif "data" in fields:
                seen.append(fields)
                yield fields
            if not line:
                fields = {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_who_follows_a_lease_misses_nothing_over_a_restart_of_the_api(
    stack: Stack, lab: Lab, api: Api, number: signal.Signals
) -> None:
    gate = Gate(lab)
    lease = lab.take(lab.pool(wipe=gate.hook, validate="true"), wait=None)
    seen: list[dict[str, str]] = []
    # Given a follower whose API goes away in the middle, while things go on happening.
    following = follow(api, stack.token, lease, seen)
    while next(following)["event"] != "stage_started":
        pass
    api.stop(number)
    assert list(following) == []
    gate.open()
    lab.comes_to(lease, "active")
    api.start()
    # When they come back, and the lease goes on to its end.
    for event in follow(api, stack.token, lease, seen):
        if event["event"] == "lease_active":
            lab.client.release(lease["id"])
    # Then they have seen each event once, up to the last.
    happened = [e for e in lab.client.events(lease["id"]) if e["id"] <= int(seen[-1]["id"])]
    assert [json.loads(event["data"]) for event in seen] == happened
    assert [(event["id"], event["event"]) for event in seen] == [(str(e["id"]), e["kind"]) for e in happened]
    assert seen[-1]["event"] == "lease_ended"


def test_show_tells_of_a_worker_that_died_and_of_each_attempt(stack: Stack, lab: Lab) -> None:
    gate = Gate(lab)
    failing = 'echo looking for disks; test "$LEASEHOLD_ATTEMPT" = 2 || { echo there are none >&2; exit 3; }'
    pool = lab.pool(wipe=gate.hook, provision={"run": failing, "attempts": 2})
    lease = lab.take(pool, wait=None)
    until(lambda: gate.runs == 1, "the stage runs")
    stack.kill("-m worker")
    stack.ended()
    until(lambda: not marked("LEASEHOLD_POOL", pool), "no hook runs")
    until(lambda: not stack.processes(), "nothing of the stack runs")
    stack.start()
    until(lambda: gate.runs == 2, "the stage runs again")
    gate.open()
    lab.comes_to(lease, "active")

    runs = list(lab.client.runs(lease["id"]))
    assert [(r["stage"], r["attempt"], r["ending"], r["ok"]) for r in runs] == [
        ("wipe", 1, "lost", False),
        ("wipe", 1, "exited", True),
        ("provision", 1, "exited", False),
        ("provision", 2, "exited", True),
    ]
    shown = stack.leasehold("show", lease["id"])
    lines = [line.partition("\t")[2] for line in shown.partition("What happened\n")[2].splitlines()]
    told = ["requested by admin", "wipe, attempt 1 lost on", "wipe ok", "provision, attempt 1 failed", "| looking"]
    for word, line in zip(told, lines, strict=False):
        assert line.removeprefix(f"{pool}/r0: ").startswith(word), lines
    assert "| there are none" in lines
    assert lines[-1].startswith("delivered after")
    printed = stack.leasehold("logs", lease["id"], "--run", str(runs[2]["id"]), "--tail", "1")
    assert printed == f"[{pool}/r0 provision#1 stderr] there are none\n"


def test_a_hosts_story_tells_who_had_it_what_failed_and_what_operators_did(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(validate="true", release="echo stuck; exit 1")
    lease = lab.take(pool)
    lab.client.release(lease["id"])
    until(lambda: lab.client.resource(pool, "r0")["state"] == "broken", "the host is broken")
    lab.client.offline(pool, "r0", "PSU replaced on Monday")

    shown = stack.leasehold("resource", "show", f"{pool}/r0")

    assert shown.startswith(f"Resource {pool}/r0: broken\n  offline: PSU replaced on Monday (by admin, since ")
    assert f"  {lease['number']}\tadmin\treleased\t" in shown
    for line in (
        f"\tleased to lease {lease['number']} of admin\n",
        "\trelease, attempt 1 failed after ",
        "\t| stuck\n",
        "\tbroken: release: exited with status 1\n",
        "\tmarked offline by admin: PSU replaced on Monday\n",
        "  1 of its last 2 runs of hooks went well\n",
    ):
        assert line in shown, shown
    everything = json.loads(stack.leasehold("resource", "show", f"{pool}/r0", "--json"))
    assert [run["output"] for run in everything["runs"]] == [None, ["stuck"]]
