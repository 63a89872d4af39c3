"""Commands about leases that exist."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, PREPARING, QUEUED, Answer, FakeApi, lease, leased, problem


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
        kill_leftovers()


@pytest.fixture
def cli(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(api, monkeypatch, capfdbinary)


def have(api: FakeApi, *states: dict[str, Any]) -> None:
    """Let there be a lease in each of these states."""
    for ordinal, state in enumerate(states, start=1):
        api.add(lease(ordinal, **state))


ENDED = {"state": "ended", "outcome": "released", "ended_at": "2026-01-05T10:00:00Z"}
FAILED = {"state": "ended", "outcome": "failed", "error": {"code": "stage_failed", "detail": "no power"}}


def test_ls_shows_a_line_for_each_lease(api: FakeApi, cli: Cli) -> None:
    have(api, {**ACTIVE, "description": "a\tb\nc\x1b[31m"}, QUEUED)

    lines = [line.split("\t") for line in cli("ls").out.splitlines()]

    assert [line[0] for line in lines] == ["1", "2"]
    assert lines[0][1:5] == ["alice", lines[0][2], "lab/r1", "a b c [31m"]
    assert lines[0][2].startswith("active until 2999-01-05T10:00:00Z (in ")
    assert lines[1][2:4] == ["queued, position 2: needs 1 of lab, 0 free", "1 lab"]


def test_ls_shows_grace_the_next_heartbeat_and_only_what_a_lease_still_has(api: FakeApi, cli: Cli) -> None:
    replaced = {"resources": [leased("r1", "released"), leased("r2")]}
    have(
        api,
        {**ACTIVE, "in_grace": True, "expires_at": "2026-01-05T10:00:00Z"},
        {
            **PREPARING,
            **replaced,
            "queue": {"position": 1, "reason": "needs 1 of lab, 0 free", "eta": None, "alternatives": None},
        },
        {**ACTIVE, **replaced, "heartbeat_by": "2026-01-05T10:00:30Z"},
    )

    lines = [line.split("\t") for line in cli("ls").out.splitlines()]

    assert [line[3] for line in lines] == ["lab/r1", "lab/r2", "lab/r2"]
    assert lines[0][2] == "active, in grace since 2026-01-05T10:00:00Z"
    assert lines[1][2] == "preparing, position 1: needs 1 of lab, 0 free"
    assert lines[2][2].endswith(", heartbeat by 2026-01-05T10:00:30Z")


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ([], {"state": "queued,preparing,active,releasing"}),
        (["--all"], {}),
        (["--state", "ended"], {"state": "ended"}),
        (["--owner", "bob", "-p", "lab", "-a"], {"owner": "bob", "pool": "lab"}),
        (["--limit", "7", "--cursor", "c", "-a"], {"limit": "7", "cursor": "c"}),
    ],
)
def test_ls_asks_for_what_was_wanted(api: FakeApi, cli: Cli, options: list[str], query: dict[str, str]) -> None:
    cli("ls", *options)

    assert dict(api.requests[0].query) == {"limit": "100", **query}


def test_ls_says_that_there_are_more(api: FakeApi, cli: Cli) -> None:
    page = {"items": [lease(1)], "next_cursor": "c2"}
    api.answers["GET /v1/leases"] = [Answer(200, page)] * 2

    assert "--cursor c2" in cli("ls").err
    assert json.loads(cli("ls", "--json").out) == page


@pytest.mark.parametrize(
    ("options", "way", "status"),
    [
        ([], [QUEUED, PREPARING, ACTIVE], 0),
        (["--for", "active"], [ENDED], 5),
        (["--for", "ended"], [ACTIVE, ENDED], 0),
        (["--for", "ended"], [ACTIVE, FAILED], 5),
        (["--timeout", "1s"], [QUEUED], 4),
    ],
)
def test_wait_says_by_its_status_what_came(
    api: FakeApi, cli: Cli, options: list[str], way: list[dict[str, Any]], status: int
) -> None:
    api.add(lease(1, **way[0]), way[1:])
    assert cli("wait", "1", *options).status == status


def test_wait_prints_the_resources(api: FakeApi, cli: Cli) -> None:
    api.add(lease(1, **QUEUED), [ACTIVE])

    assert cli("wait", "1").out == "lab/r1\n"


def test_wait_prints_the_lease_as_json_however_it_ended(api: FakeApi, cli: Cli) -> None:
    have(api, FAILED)

    outcome = cli("wait", "1", "--json")

    assert (outcome.status, json.loads(outcome.out), outcome.err) == (5, api.leases["lease-1"], "")


def test_delivery_prints_what_is_needed_to_connect(api: FakeApi, cli: Cli) -> None:
    have(api, ACTIVE)
    api.delivered.append({**api.delivered[0], "name": "r2", "data": "b\n", "data_base64": "Ygo="})

    assert cli("delivery", "1").out == "lab/r1\n  url\n  key\nlab/r2\n  b\n"
    assert cli("delivery", "1", "lab/r2").out == "b\n"
    assert json.loads(cli("delivery", "1", "--json").out)["resources"] == api.delivered
    assert cli("delivery", "1", "lab/r3").status == 1


def test_delivery_prints_what_all_resources_share(api: FakeApi, cli: Cli) -> None:
    have(api, ACTIVE)
    api.shared.append({"pool": "lab", "data": "vlan 7\n", "data_base64": "dmxhbiA3Cg=="})

    assert cli("delivery", "1").out == "lab/r1\n  url\n  key\nlab, for the whole lease\n  vlan 7\n"
    assert cli("delivery", "1", "lab").out == "vlan 7\n"


def test_delivered_bytes_are_printed_exactly(api: FakeApi, cli: Cli) -> None:
    have(api, ACTIVE)
    api.delivered[0] |= {"data": None, "data_base64": "AP8K"}

    assert cli("delivery", "1", "lab/r1").out_bytes == b"\0\xff\n"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        (["--by", "2h"], {"by": "2h"}),
        (["--until", "2026-03-01T18:00:00+01:00"], {"until": "2026-03-01T17:00:00Z"}),
    ],
)
def test_extend_asks_for_more_time(api: FakeApi, cli: Cli, options: list[str], body: dict[str, str]) -> None:
    have(api, ACTIVE)

    outcome = cli("extend", "1", *options)

    (asked,) = api.calls("POST", "/v1/leases/1/extend")
    assert asked.json == body
    assert asked.headers["idempotency-key"]
    assert outcome.out.startswith("Lease 1: active until 2999")


def test_a_time_without_a_zone_is_local_time(api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    have(api, ACTIVE)
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        cli("extend", "1", "--until", "2026-03-01T18:00")
    finally:
        monkeypatch.undo()
        time.tzset()

    assert api.calls("POST", "/v1/leases/1/extend")[0].json == {"until": "2026-03-01T15:00:00Z"}


@pytest.mark.parametrize("options", [[], ["--by", "2h", "--until", "2026-03-01"], ["--by", "-2h"], ["--until", "soon"]])
def test_extend_needs_one_time(api: FakeApi, cli: Cli, options: list[str]) -> None:
    assert cli("extend", "1", *options).status == 2
    assert not api.requests


def test_release_and_cancel_take_several_leases(api: FakeApi, cli: Cli) -> None:
    have(api, ACTIVE, QUEUED)

    assert cli("release", "1", "2").out == "Lease 1: ended: released\nLease 2: ended: cancelled\n"
    assert cli("cancel", "1").out == "Lease 1: ended: released\n"


def test_one_lease_that_cannot_be_released_does_not_keep_the_others(api: FakeApi, cli: Cli) -> None:
    have(api, ACTIVE, ACTIVE)
    api.answers["POST /v1/leases/1/release"] = [problem(409, "conflict", "not now")]

    outcome = cli("release", "1", "9", "2")

    assert outcome.status == 3
    assert outcome.err == "not now (conflict)\nthere is no lease lease-9 (lease_unknown)\n"
    assert outcome.out == "Lease 2: ended: released\n"


@pytest.mark.parametrize("verb", ["release", "cancel"])
def test_a_reason_to_end_a_lease_is_sent_for_each_of_them(api: FakeApi, cli: Cli, verb: str) -> None:
    have(api, ACTIVE, ACTIVE)

    assert cli(verb, "1", "2", "--reason", "the rack is moved").status == 0
    assert [one.json for one in api.requests] == [{"reason": "the rack is moved"}] * 2


@pytest.mark.parametrize("verb", ["release", "cancel"])
def test_without_a_reason_nothing_is_sent(api: FakeApi, cli: Cli, verb: str) -> None:
    have(api, ACTIVE)

    cli(verb, "1")

    assert [one.body for one in api.requests] == [b""]


def test_a_holder_reads_by_whom_and_why_a_lease_was_ended(api: FakeApi, cli: Cli) -> None:
    error = {"code": "ended_by_operator", "detail": "ended by bob: the rack is moved"}
    have(api, {**ENDED, "error": error})

    assert cli("wait", "1", "--for", "ended").status == 0
    assert "ended: released (ended_by_operator): ended by bob: the rack is moved" in cli("ls", "--all").out


def test_a_release_that_no_worker_has_heard_of_yet_is_told(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/leases/1/release"] = [Answer(202, lease(1, **ACTIVE))]

    assert cli("release", "1").out == "Lease 1: will end as soon as a worker hears of it\n"


def test_release_prints_the_apis_json(api: FakeApi, cli: Cli) -> None:
    have(api, ACTIVE, ACTIVE)

    assert json.loads(cli("release", "1", "--json").out) == api.leases["lease-1"]
    both = json.loads(cli("release", "1", "2", "--json").out)
    assert both == {"items": list(api.leases.values()), "next_cursor": None}


@pytest.mark.parametrize(("options", "query"), [([], []), (["-f"], [("follow", "true")])])
def test_logs_come_as_they_are(api: FakeApi, cli: Cli, options: list[str], query: list[tuple[str, str]]) -> None:
    text = b"[lab/r1 wipe#1 stdout] one \xff\n[lab/r1 wipe#1 stderr] two\n"
    api.answers["GET /v1/leases/1/log"] = [Answer(200, text)]

    assert cli("logs", "1", *options).out_bytes == text
    assert api.requests[0].query == query


def test_logs_of_a_part_alone(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /v1/leases/1/log"] = [Answer(200, b"one\n")]

    part = ["--run", "7", "--stage", "wipe", "--resource", "lab/r1", "--attempt", "2", "--tail", "3"]
    assert cli("logs", "1", *part).out == "one\n"
    wanted = {"run": "7", "stage": "wipe", "resource": "lab/r1", "attempt": "2", "tail": "3"}
    assert dict(api.requests[0].query) == wanted


def test_a_lease_that_is_not_there_is_one_sentence(cli: Cli) -> None:
    for command in ("show", "wait", "delivery", "release", "cancel", "logs"):
        outcome = cli(command, "9")
        assert (outcome.status, outcome.out) == (1, "")
        assert "Traceback" not in outcome.err
        assert outcome.err.endswith("_unknown)\n") or "not_found" in outcome.err


def test_ctrl_c_while_waiting_for_somebodys_lease_leaves_it_alone(api: FakeApi, tmp_path: Path) -> None:
    have(api, QUEUED)
    process = start(api, "wait", "1")
    api.until(lambda: len(api.requests) > 0)

    process.send_signal(signal.SIGINT)
    outcome = finish(process)

    assert outcome.status == 130
    assert "Traceback" not in outcome.err
    assert api.leases["lease-1"]["state"] == "queued"
