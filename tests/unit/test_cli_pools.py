"""Pools that make their resources, and what they have made, on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi, pool, resource

LOG = "/v1/pools/vm/resources/vm-1/log"


def hook(does: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A command, or what another driver is told."""
    call = {"run": does} if isinstance(does, str) else does
    return {**call, "timeout": "10m", "attempts": 1, "scope": "resource", "limit": None, **fields}


def statistics(**fields: Any) -> dict[str, Any]:
    times = dict.fromkeys(("retry_at", "last_attempt_at", "last_success_at"))
    nothing = dict.fromkeys(("success_rate", "start_seconds", "trouble", "first_grant_seconds", "list_trouble"))
    known = {"starts": 0, "successes": 0, "failures": 0, "circuit": "closed", "strays": 0, "cost_per_hour": None}
    return {**times, **nothing, **known, **fields}


SIZE = {
    "max": 10,
    "max_creating": 3,
    "min_free": 2,
    "create_delay": None,
    "idle": None,
    "age": None,
    "keep_broken": 0,
    "keep_broken_for": "1d",
}


def dynamic(**fields: Any) -> dict[str, Any]:
    """A pool that makes its resources."""
    settings = {"name": "vm", "description": "", "dynamic": True, "size": SIZE, "name_pattern": "{pool_name}-{id}"}
    counted = {"free": 2, "total": 4, "waiting": 1, "states": {"free": 2, "creating": 1, "leased": 1}}
    return pool(**{**settings, **counted, "statistics": statistics(), **fields})


def shown(api: FakeApi, cli: Cli, **fields: Any) -> list[str]:
    """What is told of such a pool."""
    api.answers["GET /v1/pools/vm"] = [Answer(200, dynamic(**fields))]
    outcome = cli("pool", "show", "vm")
    assert outcome.status == 0
    return outcome.out.splitlines()


def test_a_list_says_how_many_are_being_created_and_how_many_there_may_be(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /v1/pools"] = [Answer(200, {"items": [pool(), dynamic()], "next_cursor": None})]

    assert cli("pool", "ls").out == "lab\t1\t2\t0\t\t\t\tA lab\nvm\t2\t4\t1\t1\t10\t\t\n"


def test_a_pool_that_has_made_nothing_yet(api: FakeApi, cli: Cli) -> None:
    assert shown(api, cli, stages={"create": [hook("./new")], "delete": [hook("./gone", attempts=3)]}) == [
        "Pool vm: lending, 2 of 4 free, 1 waiting",
        "  resources: 2 free, 1 creating, 1 leased",
        "  size: at most 10, 2 kept free, 3 created at once",
        "  free ones: those that nobody needs are deleted at once",
        "  broken ones: deleted at once",
        "  names: {pool_name}-{id}",
        "Creations",
        "  circuit: closed",
        "  so far: none has ended",
        "Hooks",
        "  create: ./new (at most 10m)",
        "  delete: ./gone (at most 10m, 3 attempts)",
        "Policy",
        "  default_duration: 1h",
    ]


def test_a_pool_with_all_that_can_be_said_of_one(api: FakeApi, cli: Cli) -> None:
    size = {**SIZE, "create_delay": "5s", "idle": "15m", "age": "12h", "keep_broken": 2}
    told = shown(
        api,
        cli,
        size=size,
        file="cloud",
        folder="/srv/cloud",
        site="berlin",
        priority=5,
        draining=True,
        drain=True,
        paused={"reason": "new\nnetwork", "by": "bob", "since": "2026-01-05T09:00:00Z"},
        tags=[{"name": "x86_64", "priority": 10}, {"name": "cloud", "priority": 0}],
        tags_on_demand=[{"name": "gpu", "priority": 0}],
        properties={"ram": 64},
        named_counters=["port"],
        livecheck={"every": "5m", "attempts": 3, "parallel": 10},
        list={"every": "15m"},
        cost_per_hour=0.05,
        stages={"create": [hook({"http": {"url": "http://cloud/"}}, limit="cloud")]},
        statistics=statistics(
            starts=12,
            successes=11,
            success_rate=0.917,
            start_seconds=63.2,
            failures=1,
            circuit="pausing",
            retry_at="2020-01-05T09:00:01.5Z",
            trouble="create: exited with status 1",
            last_attempt_at="2020-01-05T09:00:00.5Z",
            last_success_at="2020-01-05T08:00:00.5Z",
            first_grant_seconds=5.5,
            list_trouble="timed out",
            strays=2,
            cost_per_hour=0.2,
        ),
    )

    assert told[:32] == [
        "Pool vm: paused by bob: new network, and what it has made is deleted, 2 of 4 free, 1 waiting",
        "  file: cloud",
        "  leaves its file: once nobody has anything of it",
        "  folder: /srv/cloud",
        "  site: berlin",
        "  priority: 5",
        "  resources: 2 free, 1 creating, 1 leased",
        "  size: at most 10, 2 kept free, 3 created at once, 5s apart",
        "  free ones: those that nobody needs are deleted after 15m, and whatever is older than 12h",
        "  broken ones: the last 2 are kept for 1d",
        "  tags: x86_64 (10),cloud",
        "  tags on demand: gpu",
        "  properties:",
        "    ram: 64",
        "  names: {pool_name}-{id}",
        "  counters: port",
        "  livecheck: every 5m, dead after 3 failures in a row",
        "  listed: every 15m",
        "  cost: 0.05 an hour for each, 0.2 for all there is",
        "Creations",
        "  circuit: pausing: one failure, the next one is tried at 2020-01-05T09:00:01Z",
        "  so far: 11 of 12 went well (92%), 1m 3s each on average",
        "  last begun: 2020-01-05T09:00:00Z",
        "  last success: 2020-01-05T08:00:00Z",
        "  last failure: create: exited with status 1",
        "  first lease: 5.5s after it was made, on average",
        "  unknown: 2 that a listing found",
        "  listing fails: timed out",
        "Hooks",
        '  create: {"url": "http://cloud/"} (at most 10m, a slot of cloud)',
        "Policy",
        "  default_duration: 1h",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"suspect": True}, "free, its livecheck fails"),
        ({"kept_until": "2026-01-05T12:00:00.5Z"}, "free, kept until 2026-01-05T12:00:00Z"),
        ({"state": "creating", "stage": "create"}, "creating (create)"),
        (
            {"state": "deleting", "instance": {"trouble": "try 2: delete: exited with status 1"}},
            "deleting, try 2: delete: exited with status 1",
        ),
    ],
)
def test_a_resource_says_what_keeps_it_from_being_granted(
    api: FakeApi, cli: Cli, fields: dict[str, Any], said: str
) -> None:
    api.answers["GET /v1/resources"] = [Answer(200, {"items": [resource("r1", **fields)], "next_cursor": None})]

    assert cli("resource", "ls").out.split("\t")[1] == said


def test_what_was_printed_without_a_lease_comes_as_it_is(api: FakeApi, cli: Cli) -> None:
    text = b"[vm/vm-1 create#1 stderr] \xc3\xa9\xff\n"
    api.answers[f"GET {LOG}"] = [Answer(200, text)] * 2
    api.answers["GET /v1/pools/vm/log"] = [Answer(200, text)] * 2

    part = ["--run", "7", "--stage", "create", "--attempt", "1", "--tail", "20"]
    assert cli("resource", "logs", "vm/vm-1", *part).out_bytes == text
    assert cli("resource", "logs", "vm/vm-1", "-f").out_bytes == text
    assert cli("pool", "logs", "vm", "--stage", "list", "--tail", "3").out_bytes == text
    assert cli("pool", "logs", "vm", "--follow").out_bytes == text

    assert [dict(one.query) for one in api.requests] == [
        {"run": "7", "stage": "create", "attempt": "1", "tail": "20"},
        {"follow": "true"},
        {"stage": "list", "tail": "3"},
        {"follow": "true"},
    ]


def test_json_is_what_the_api_says(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /v1/pools/vm"] = [Answer(200, dynamic())]

    assert json.loads(cli("pool", "show", "vm", "--json").out) == dynamic()
