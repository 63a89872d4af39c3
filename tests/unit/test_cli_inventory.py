"""`apply`, `available`, `pool …` and `resource …`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi, lease, pool, problem, resource

CHANGES = {
    "changes": [
        {"action": "add", "kind": "pool", "pool": "lab", "name": "lab", "diff": {}},
        {
            "action": "change",
            "kind": "resource",
            "pool": "lab",
            "name": "r1",
            "diff": {"tags": [["a"], ["b"]], "description": [None, "new"]},
        },
        {"action": "drain", "kind": "resource", "pool": "lab", "name": "r2", "diff": {}},
    ]
}


def test_apply_sends_the_file_with_its_folder_and_prints_what_changes(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_bytes(b"pools: [\xff]\n")
    api.answers["POST /v1/apply"] = [Answer(200, CHANGES)]

    outcome = cli("apply", "-f", str(tmp_path / "pools.yaml"), "--dry-run")

    assert api.requests[0].body == b"pools: [\xff]\n"
    assert dict(api.requests[0].query) == {"dry_run": "true", "folder": str(tmp_path)}
    assert outcome.out.splitlines() == [
        "+ add pool lab",
        "~ change resource lab/r1",
        "    tags: a -> b",
        "    description: new",
        "* drain resource lab/r2",
    ]
    assert "nothing has changed" in outcome.err


def test_apply_reads_standard_input(api: FakeApi, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"pools: []")))
    api.answers["POST /v1/apply"] = [Answer(200, {"changes": []})]

    outcome = cli("apply", "-f", "-")

    assert api.requests[0].body == b"pools: []"
    assert dict(api.requests[0].query) == {"dry_run": "false", "folder": str(tmp_path)}
    assert outcome.err == "Nothing to change.\n"


def test_a_mistake_in_the_file_is_told_with_its_place(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "pools.yaml"
    file.touch()
    fault = {"path": "3: pools[0].wip", "code": "unknown_key", "detail": "did you mean wipe?"}
    api.answers["POST /v1/apply"] = [problem(422, "invalid", "the pools file is wrong", fault)]

    outcome = cli("apply", "-f", str(file))

    assert outcome.status == 2
    assert "  3: pools[0].wip: did you mean wipe? (unknown_key)" in outcome.err


def test_a_file_that_is_not_there_is_a_usage_error(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("apply", "-f", str(tmp_path / "none.yaml"))

    assert outcome.status == 2
    assert "No such file" in outcome.err
    assert not api.requests


def test_available_lists_what_is_free(api: FakeApi, cli: Cli) -> None:
    answer = {"open": True, "reason": None, "free": 1, "total": 3, "next_free_at": None, "resources": [resource("r1")]}
    promise = {
        "lease": 7,
        "pool": "lab",
        "name": "r2",
        "begins_at": "2026-01-05T12:00:00Z",
        "ends_at": "2026-01-05T13:00:00Z",
    }
    answer["promised"] = [promise]
    api.answers["GET /v1/available"] = [Answer(200, answer)] * 2

    outcome = cli("available", "lab", "-m", "ram__gte=32", "-t", "x86", "-n", "2", "--limit", "5")

    assert outcome.out == "lab/r1\tfree\t\tx86,metal\n"
    assert outcome.err == "1 of 3 free\nlab/r2 is promised to lease 7 from 2026-01-05T12:00:00Z\n"
    wanted = {"pool": "lab", "count": "2", "limit": "5", "tags": "x86", "properties.ram__gte": "32"}
    assert dict(api.requests[0].query) == wanted
    assert json.loads(cli("available", "--json").out) == answer


def test_available_says_why_there_is_nothing(api: FakeApi, cli: Cli) -> None:
    when = "2020-01-01T00:00:00Z"
    answer = {"open": False, "reason": "all leased", "free": 0, "total": 3, "next_free_at": when, "resources": []}
    answer["promised"] = []
    api.answers["GET /v1/available"] = [Answer(200, answer)]

    assert cli("available").err == f"0 of 3 free\nNot now: all leased; the next one at {when}\n"


def test_available_for_a_time_asks_for_that_long(api: FakeApi, cli: Cli) -> None:
    nothing: dict[str, Any] = {"reason": None, "next_free_at": None, "promised": []}
    answer = {**nothing, "open": True, "free": 1, "total": 1, "resources": [resource("r1")]}
    api.answers["GET /v1/available"] = [Answer(200, answer)]

    assert cli("available", "lab", "--for", "10h").out == "lab/r1\tfree\t\tx86,metal\n"
    assert dict(api.requests[0].query) == {"pool": "lab", "count": "1", "duration": "10h"}
    assert cli("available", "lab", "--for", "soon").status == 2


def test_pools_are_listed_and_shown(api: FakeApi, cli: Cli) -> None:
    hook = {"run": ["./wipe.sh", "-x"], "timeout": "30m", "attempts": 3, "scope": "resource", "limit": None}
    lab = pool(file="default", stages={"wipe": [hook]})
    api.answers["GET /v1/pools"] = [Answer(200, {"items": [lab], "next_cursor": None})] * 2
    api.answers["GET /v1/pools/lab"] = [Answer(200, lab)] * 2

    assert cli("pool", "ls").out == "lab\t1\t2\t0\t\t\t\tA lab\n"
    assert json.loads(cli("pool", "ls", "--json").out) == {"items": [lab], "next_cursor": None}
    assert cli("pool", "show", "lab").out.splitlines() == [
        "Pool lab: lending, 1 of 2 free, 0 waiting",
        "  description: A lab",
        "  file: default",
        "  resources: 1 free, 1 leased",
        "Hooks",
        "  wipe: ./wipe.sh -x (at most 30m, 3 attempts)",
        "Policy",
        "  default_duration: 1h",
    ]
    assert json.loads(cli("pool", "show", "lab", "--json").out) == lab


PAUSED = {"reason": "new\nswitch", "by": "bob", "since": "2026-01-05T09:00:00Z"}


def test_a_paused_pool_is_listed_with_its_reason(api: FakeApi, cli: Cli) -> None:
    lab = pool(free=0, waiting=3, paused=PAUSED)
    api.answers["GET /v1/pools"] = [Answer(200, {"items": [lab], "next_cursor": None})]

    assert cli("pool", "ls").out == "lab\t0\t2\t3\t\t\tnew switch\tA lab\n"


@pytest.mark.parametrize(
    ("argv", "call", "body", "standing", "said"),
    [
        (
            ["pause", "lab", "--reason", "new switch"],
            "POST /v1/pools/lab/pause",
            b'{"reason":"new switch"}',
            {"paused": PAUSED},
            "paused by bob: new switch",
        ),
        *(
            (
                [*command, "lab", "--reason", "new switch"],
                "POST /v1/pools/lab/pause",
                b'{"reason":"new switch","drain":true}',
                {"paused": PAUSED, "drain": True},
                "paused by bob: new switch, and what it has made is deleted",
            )
            for command in (["drain"], ["pause", "--drain"])
        ),
        (["resume", "lab"], "POST /v1/pools/lab/resume", b"", {}, "lending"),
    ],
)
def test_operators_pause_and_resume_a_pool(
    api: FakeApi, cli: Cli, argv: list[str], call: str, body: bytes, standing: dict[str, Any], said: str
) -> None:
    lab = pool(waiting=3, **standing)
    api.answers[call] = [Answer(200, lab)] * 2

    outcome = cli("pool", *argv)

    assert (outcome.status, outcome.out) == (0, f"lab: {said}, 1 of 2 free, 3 waiting\n")
    assert api.requests[0].body == body
    assert json.loads(cli("pool", *argv, "--json").out) == lab


@pytest.mark.parametrize("command", ["pause", "drain"])
def test_a_pool_is_not_paused_without_a_reason(api: FakeApi, cli: Cli, command: str) -> None:
    assert cli("pool", command, "lab").status == 2
    assert not api.requests


def test_a_pool_that_is_not_there_is_one_sentence(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/pools/nope/resume"] = [problem(404, "pool_unknown", "there is no pool nope")]

    outcome = cli("pool", "resume", "nope")

    assert (outcome.status, outcome.out, outcome.err) == (1, "", "there is no pool nope (pool_unknown)\n")


def test_a_long_queue_is_asked_for_page_by_page(api: FakeApi, cli: Cli) -> None:
    place = {"position": 1, "reason": "needs 1 of lab", "eta": None, "alternatives": None}
    pages = [{"items": [lease(n, queue=place)], "next_cursor": more} for n, more in ((1, "100"), (2, None))]
    api.answers["GET /v1/pools/lab/queue"] = [Answer(200, page) for page in pages]

    assert [line.split("\t")[1] for line in cli("pool", "queue", "lab").out.splitlines()] == ["1", "2"]
    assert [dict(one.query).get("cursor") for one in api.requests] == [None, "100"]


def test_a_pools_queue_is_listed_in_order(api: FakeApi, cli: Cli) -> None:
    waiting = [
        lease(ordinal, queue={"position": place, "reason": "needs 1 of lab", "eta": eta, "alternatives": None})
        for place, ordinal, eta in ((1, 4, "2026-01-05T12:00:00.5Z"), (2, 2, None), (0, 5, None))
    ]
    api.answers["GET /v1/pools/lab/queue"] = [Answer(200, {"items": waiting, "next_cursor": None})]

    assert cli("pool", "queue", "lab").out == (
        "1\t4\talice\tneeds 1 of lab\t2026-01-05T12:00:00Z\n"
        "2\t2\talice\tneeds 1 of lab\t\n"
        "-\t5\talice\tneeds 1 of lab\t\n"
    )


def test_resources_are_listed_with_what_is_wrong_with_them(api: FakeApi, cli: Cli) -> None:
    found = [
        resource("r1", state="leased", lease="lease-1"),
        resource("r2", state="broken", broken={"reason": "no\npower", "since": "x"}),
        resource("r3", state="recycling", stage="release", offline={"reason": "fan", "by": "bob", "since": "x"}),
    ]
    api.answers["GET /v1/resources"] = [Answer(200, {"items": found, "next_cursor": None})]

    outcome = cli("resource", "ls", "--pool", "lab", "--state", "broken", "-m", "state=x")

    assert [line.split("\t")[:3] for line in outcome.out.splitlines()] == [
        ["lab/r1", "leased", "lease-1"],
        ["lab/r2", "broken, broken: no power", ""],
        ["lab/r3", "recycling (release), offline: fan", ""],
    ]
    assert dict(api.requests[0].query) == {"pool": "lab", "state": "broken", "properties.state": "x"}


def test_a_resource_is_registered_with_tags_and_properties(api: FakeApi, cli: Cli) -> None:
    added = {"action": "add", "kind": "resource", "pool": "lab", "name": "r1", "diff": {}}
    api.answers["PUT /v1/pools/lab/resources/r1"] = [Answer(200, {"changes": [added]})]
    properties = ["--property", "model=R640", "--property", "ram=64", "--property", 'disks=[{"type": "nvme"}]']

    outcome = cli("resource", "add", "lab/r1", "-t", "metal", *properties)

    assert api.requests[0].json == {
        "tags": ["metal"],
        "properties": {"model": "R640", "ram": 64, "disks": [{"type": "nvme"}]},
    }
    assert outcome.out == "+ add resource lab/r1\n"


@pytest.mark.parametrize(
    ("argv", "call", "body"),
    [
        (["rm"], "DELETE /v1/pools/lab/resources/r1", b""),
        (["offline", "--reason", "fan"], "POST /v1/pools/lab/resources/r1/offline", b'{"reason":"fan"}'),
        (["online"], "POST /v1/pools/lab/resources/r1/online", b""),
        (["repair"], "POST /v1/pools/lab/resources/r1/repair", b""),
    ],
)
def test_operators_steer_a_resource(api: FakeApi, cli: Cli, argv: list[str], call: str, body: bytes) -> None:
    api.answers[call] = [Answer(200, {"changes": []} if argv == ["rm"] else resource("r1"))]

    outcome = cli("resource", *argv, "lab/r1")

    assert outcome.status == 0
    assert api.requests[0].body == body


@pytest.mark.parametrize(
    "argv",
    [
        ["show", "r1"],
        ["show", "lab/"],
        ["show", "lab/r1/x"],
        ["offline", "lab/r1"],
        ["add", "lab/r1", "--property", "x"],
    ],
)
def test_a_resource_that_is_not_well_named_is_a_usage_error(api: FakeApi, cli: Cli, argv: list[str]) -> None:
    assert cli("resource", *argv).status == 2
    assert not api.requests
