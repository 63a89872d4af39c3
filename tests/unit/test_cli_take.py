"""`leasehold take`: what is asked for, what is shown meanwhile, and what is printed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, Outcome, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, PREPARING, QUEUED, Answer, FakeApi, lease, leased, problem


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
        kill_leftovers()


@pytest.fixture
def cli(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(api, monkeypatch, capfdbinary)


def test_resources_and_their_access_data_are_printed(cli: Cli) -> None:
    outcome = cli("take", "lab")

    assert (outcome.status, outcome.out) == (0, "lab/r1\n  url\n  key\n")
    assert "leasehold release 1" in outcome.err


def test_access_data_that_is_no_text_is_printed_as_base64(api: FakeApi, cli: Cli) -> None:
    api.delivered[0] |= {"data": None, "data_base64": "/w=="}

    assert cli("take", "lab").out == "lab/r1\n  base64:/w==\n"


def test_waiting_shows_place_reason_stage_and_attempt(api: FakeApi, cli: Cli) -> None:
    again = {"state": "preparing", "resources": [leased("r1", "preparing", "wipe", 2)]}
    api.way = [QUEUED, PREPARING, again, ACTIVE]

    outcome = cli("take", "lab")

    assert outcome.err.splitlines()[:-2] == [
        "lease 1: queued, position 2: needs 1 of lab, 0 free",
        "lease 1: preparing",
        "lease 1: lab/r1: wipe, attempt 1",
        "lease 1: lab/r1: wipe, attempt 2",
    ]
    assert outcome.out.startswith("lab/r1\n")


def test_waiting_shows_what_a_lease_that_waits_in_no_queue_waits_for(api: FakeApi, cli: Cli) -> None:
    repair = {"position": 0, "reason": "lab/r1 waits for its repair: wipe: exit status 1", "eta": None}
    api.way = [{**PREPARING, "resources": [leased("r1", "broken")], "queue": repair}, ACTIVE]

    assert cli("take", "lab").err.splitlines()[:2] == [
        "lease 1: preparing: lab/r1 waits for its repair: wipe: exit status 1",
        "lease 1: lab/r1: broken",
    ]


def test_json_is_the_apis_lease_with_its_delivery_and_nothing_else_is_said(api: FakeApi, cli: Cli) -> None:
    api.way = [QUEUED, ACTIVE]

    outcome = cli("take", "lab", "--json")

    printed = json.loads(outcome.out)
    assert printed.pop("delivery") == {"lease": "lease-1", "resources": api.delivered, "shared": []}
    assert printed == {**api.leases["lease-1"], "token": "lease-token"}
    assert outcome.err == ""


ITEMS: list[tuple[list[str], list[dict[str, Any]]]] = [
    (["lab"], [{"pool": "lab", "count": 1}]),
    (["lab", "-n", "3"], [{"pool": "lab", "count": 3}]),
    (
        ["lab", "--match", "disks.disk_type=nvme", "-m", "ram__gte=64", "--tag", "x86", "-t", "metal"],
        [{"pool": "lab", "count": 1, "match": ["disks.disk_type=nvme", "ram__gte=64"], "tags": ["x86", "metal"]}],
    ),
    (["lab", "--name", "r0", "--name", "r1"], [{"pool": "lab", "count": 2, "names": ["r0", "r1"]}]),
    (["lab", "--name", "r0", "--name", "r1", "-n", "1"], [{"pool": "lab", "count": 1, "names": ["r0", "r1"]}]),
    (["--tag", "x86"], [{"count": 1, "tags": ["x86"]}]),
    (
        ["--item", "pool=lab,count=2,match=model=R640,match=ram__gt=1,role=worker", "-i", "tag=a,name=r1"],
        [
            {"pool": "lab", "count": 2, "match": ["model=R640", "ram__gt=1"], "role": "worker"},
            {"count": 1, "tags": ["a"], "names": ["r1"]},
        ],
    ),
    (["-i", '{"pool": "lab", "params": {"os": "a,b"}}'], [{"pool": "lab", "params": {"os": "a,b"}}]),
    (
        ["lab", "--role", "bastion", "--skip", "wipe", "--skip", "provision"],
        [{"pool": "lab", "count": 1, "role": "bastion", "skip": ["wipe", "provision"]}],
    ),
    (["-i", "pool=lab,skip=wipe,skip=validate"], [{"pool": "lab", "count": 1, "skip": ["wipe", "validate"]}]),
]


@pytest.mark.parametrize(("options", "items"), ITEMS)
def test_options_say_what_to_lease(api: FakeApi, cli: Cli, options: list[str], items: list[dict[str, Any]]) -> None:
    assert cli("take", *options).status == 0
    assert api.calls("POST", "/v1/leases")[0].json == {"items": items}


def test_options_say_how(api: FakeApi, cli: Cli) -> None:
    cli(*"take lab --for 4h --priority 5 --description upgrade --cc bob --cc eve --key K".split())

    (asked,) = api.calls("POST", "/v1/leases")
    assert {key: value for key, value in asked.json.items() if key != "items"} == {
        "duration": "4h",
        "priority": 5,
        "description": "upgrade",
        "cc": ["bob", "eve"],
    }
    assert asked.headers["idempotency-key"] == "K"


def test_secrets_are_sent_from_the_environment_and_files(
    api: FakeApi, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_KEY", "s3cret")
    (tmp_path / "pem").write_text("-----BEGIN\n-----END\n")

    outcome = cli("take", "lab", "--secret", "SITE_KEY", "--secret", f"PEM=@{tmp_path}/pem")

    (asked,) = api.calls("POST", "/v1/leases")
    assert asked.json["secrets"] == {"SITE_KEY": "s3cret", "PEM": "-----BEGIN\n-----END"}
    assert "s3cret" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("SITE_KEY=s3cret", "NAME=@FILE"),
        ("s3cret", "NAME=@FILE"),
        ("s3cret==", "NAME=@FILE"),
        ("PEM=@/nowhere", "/nowhere: No such file or directory"),
    ],
)
def test_a_secret_is_not_taken_from_the_command_line(api: FakeApi, cli: Cli, secret: str, said: str) -> None:
    outcome = cli("take", "lab", "--secret", secret)
    assert outcome.status == 2
    assert said in " ".join(outcome.err.replace("│", " ").split())
    assert "s3cret" not in outcome.err
    assert not api.requests


@pytest.mark.parametrize(
    ("options", "notify"),
    [("--notify bob --notify eve", ["bob", "eve"]), ("--no-notify", False)],
)
def test_options_say_who_is_told(api: FakeApi, cli: Cli, options: str, notify: list[str] | bool) -> None:
    assert cli("take", "lab", *options.split()).status == 0
    assert api.calls("POST", "/v1/leases")[0].json["notify"] == notify


def test_nobody_and_somebody_cannot_both_be_told(cli: Cli) -> None:
    assert cli("take", "lab", "--notify", "bob", "--no-notify").status == 2


def test_options_say_when_and_how_patiently(api: FakeApi, cli: Cli) -> None:
    options = "--start-at 2026-03-01T18:00:00+01:00 --queue-timeout 30m --wait-for-supply --share-key nightly"
    assert cli("take", "lab", *options.split()).status == 0

    (asked,) = api.calls("POST", "/v1/leases")
    assert {key: value for key, value in asked.json.items() if key != "items"} == {
        "start_at": "2026-03-01T17:00:00Z",
        "queue_timeout": "30m",
        "wait_for_supply": True,
        "share_key": "nightly",
    }


def test_a_lease_that_ran_out_of_patience_is_told(api: FakeApi, cli: Cli) -> None:
    error = {"code": "queue_timeout", "detail": "not granted by 2026-01-05T09:10:00Z, as long as it was to wait"}
    api.way = [QUEUED, {"state": "ended", "outcome": "failed", "error": error}]

    told = cli("take", "lab", "--queue-timeout", "10m")

    assert told.status == 5
    assert "(queue_timeout): not granted by 2026-01-05T09:10:00Z" in told.err


def test_a_reservation_that_cannot_be_kept_is_refused_with_the_earliest_time(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/leases"] = [problem(409, "not_reservable", "not then; the earliest is later")]

    outcome = cli("take", "lab", "--start-at", "2026-03-01T18:00:00Z")

    assert (outcome.status, outcome.err) == (3, "not then; the earliest is later (not_reservable)\n")


def try_(api: FakeApi, cli: Cli, answer: dict[str, Any], *options: str) -> Outcome:
    """Try a request whose outcome the API tells; nothing but that is asked."""
    api.answers["POST /v1/leases"] = [Answer(200, lease(1, **{"id": None, "number": None, **answer}))]
    outcome = cli("take", "lab", "--dry-run", *options)
    (asked,) = api.requests
    assert dict(asked.query) == {"dry_run": "true"}
    assert "idempotency-key" not in asked.headers
    return outcome


def test_a_dry_run_prints_what_would_be_granted(api: FakeApi, cli: Cli) -> None:
    outcome = try_(api, cli, {**ACTIVE, "resources": [leased("r1"), leased("r2")]}, "-n", "2")

    assert (outcome.status, outcome.out, outcome.err) == (0, "lab/r1\nlab/r2\n", "")
    assert api.requests[0].json == {"items": [{"pool": "lab", "count": 2}]}


def test_a_dry_run_says_why_not_when_and_what_instead(api: FakeApi, cli: Cli) -> None:
    place = {"position": 1, "reason": "needs 2 of\nlab; 1 free", "eta": "2026-01-05T12:00:00.5Z"}
    instead = [{"detail": "1 of lab, not 2", "items": [{"pool": "lab", "count": 1}]}]

    outcome = try_(api, cli, {"queue": {**place, "alternatives": instead}})

    assert outcome.status == 4
    assert outcome.out.splitlines() == [
        "needs 2 of lab; 1 free",
        "active about 2026-01-05T12:00:00Z",
        "free now instead: 1 of lab, not 2",
    ]


def test_a_dry_run_says_no_time_where_nobody_knows_it(api: FakeApi, cli: Cli) -> None:
    place = {"position": 1, "reason": "lab is paused: new switch", "eta": None, "alternatives": []}

    outcome = try_(api, cli, {"queue": place})

    assert (outcome.status, outcome.out) == (4, "lab is paused: new switch\n")


def test_a_dry_run_of_a_reservation_says_that_it_would_be_kept(api: FakeApi, cli: Cli) -> None:
    start = "2026-03-01T18:00:00Z"
    place = {"position": 0, "reason": "reserved from 18:00 UTC: lab/r1", "eta": start, "alternatives": None}

    outcome = try_(api, cli, {"start_at": start, "queue": place}, "--start-at", start)

    assert outcome.status == 0
    assert outcome.out.startswith(f"reserved from 18:00 UTC: lab/r1\nactive about {start}")


def test_a_dry_run_prints_the_apis_json(api: FakeApi, cli: Cli) -> None:
    outcome = try_(api, cli, QUEUED, "--json")

    assert (outcome.status, outcome.err) == (4, "")
    assert json.loads(outcome.out) == lease(1, id=None, number=None, **QUEUED)


def test_a_dry_run_is_refused_as_the_request_would_be(api: FakeApi, cli: Cli) -> None:
    api.answers["POST /v1/leases"] = [problem(422, "unsatisfiable", "no model=R999 in pool lab")]

    outcome = cli("take", "lab", "-m", "model=R999", "--dry-run")

    assert (outcome.status, outcome.out, outcome.err) == (3, "", "no model=R999 in pool lab (unsatisfiable)\n")
    assert not api.leases


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-n", "2"],
        ["--skip", "wipe"],
        ["--role", "bastion"],
        ["--skip", "wipe", "--item", "pool=vm"],
        ["lab", "-n", "0"],
        ["lab", "--for", "4 hours"],
        ["lab", "--timeout", "soon"],
        ["lab", "--queue-timeout", "soon"],
        ["lab", "--start-at", "tomorrow"],
        ["lab", "--item", "pool=vm"],
        ["--item", "pool=vm,count=two"],
        ["--item", "pool=vm,surprise=1"],
        ["--item", "pool=vm,pool=lab"],
        ["--item", "{no json"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error_and_asks_for_nothing(api: FakeApi, cli: Cli, options: list[str]) -> None:
    assert cli("take", *options).status == 2
    assert not api.requests


def test_no_wait_prints_the_number_and_leaves_the_lease_queued(api: FakeApi, cli: Cli) -> None:
    api.way = [QUEUED]

    assert cli("take", "lab", "--no-wait").out == "1\n"
    assert len(api.requests) == 1


def test_no_wait_prints_the_id_of_a_lease_that_has_no_number_yet(api: FakeApi, cli: Cli) -> None:
    api.way = [{"state": "submitted", "number": None}]

    assert cli("take", "lab", "--no-wait").out == "lease-1\n"


def test_the_timeout_leaves_the_lease_queued_and_says_so(api: FakeApi, cli: Cli) -> None:
    api.way = [QUEUED]

    outcome = cli("take", "lab", "--timeout", "1s")

    assert (outcome.status, outcome.out) == (4, "")
    assert "leasehold wait 1, or leasehold cancel 1" in outcome.err
    assert api.leases["lease-1"]["state"] == "queued"


@pytest.mark.parametrize("outcome", ["failed", "lost", "cancelled", "expired"])
def test_a_lease_that_ends_before_it_is_active_is_told(api: FakeApi, cli: Cli, outcome: str) -> None:
    error = {"code": "stage_failed", "detail": "wipe of lab/r1 failed"}
    api.way = [QUEUED, {"state": "ended", "outcome": outcome, "error": error}]

    told = cli("take", "lab")

    assert told.status == 5
    assert f"lease 1: ended: {outcome} (stage_failed): wipe of lab/r1 failed" in told.err


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [
        (400, "bad_filter", 2),
        (401, "unauthenticated", 1),
        (403, "duration_refused", 3),
        (404, "pool_unknown", 1),
        (409, "conflict", 3),
        (422, "invalid", 2),
        (422, "unsatisfiable", 3),
        (422, "idempotency_key_reused", 3),
        (500, "internal", 1),
        (403, "quota_of_tomorrow", 3),
    ],
)
def test_a_refusal_is_one_sentence_with_its_code_and_places(
    api: FakeApi, cli: Cli, status: int, code: str, exit_status: int
) -> None:
    fault = {"path": "items[0].count", "code": "too_many", "detail": "more than there are"}
    api.answers["POST /v1/leases"] = [problem(status, code, "no\nway", fault)] * 2

    told, machine = cli("take", "lab"), cli("take", "lab", "--json")

    assert told.status == machine.status == exit_status
    assert told.err == f"no way ({code})\n  items[0].count: more than there are (too_many)\n"
    assert json.loads(machine.err) == {
        "type": f"urn:leasehold:error:{code}",
        "title": "Title",
        "status": status,
        "code": code,
        "detail": "no\nway",
        "errors": [fault],
    }
    assert told.out == machine.out == ""


def test_an_answer_that_got_lost_names_the_key_to_ask_again_with(
    api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers["POST /v1/leases"] = [Answer(0)] * 20

    outcome = cli("take", "lab", "--key", "K")

    assert outcome.status == 1
    assert "--key K" in outcome.err


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_take_that_is_interrupted_cancels_its_lease(api: FakeApi, signum: int, status: int) -> None:
    api.way = [QUEUED]
    process = start(api, "take", "lab")
    api.until(lambda: len(api.calls("GET", "/v1/leases/lease-1")) > 0)

    process.send_signal(signum)
    outcome = finish(process)

    assert (outcome.status, outcome.out) == (status, "")
    assert "Interrupted: lease 1 ended: cancelled" in outcome.err
    assert api.leases["lease-1"]["outcome"] == "cancelled"


def test_a_take_that_is_interrupted_before_the_answer_came_finds_its_lease_by_the_key(api: FakeApi) -> None:
    api.way = [QUEUED]
    api.answers["POST /v1/leases"] = [Answer(503, None, {"Retry-After": "2"})]
    process = start(api, "take", "lab")
    api.until(lambda: len(api.calls("POST", "/v1/leases")) > 0)

    process.send_signal(signal.SIGINT)
    finish(process)

    assert len({one.headers["idempotency-key"] for one in api.calls("POST", "/v1/leases")}) == 1
    assert [one["outcome"] for one in api.leases.values()] == ["cancelled"]


def test_an_interruption_before_anything_was_asked_for_leaves_no_trace(api: FakeApi) -> None:
    early = "import os, signal, leasehold.cli.take as t; t.connect = lambda: os.kill(os.getpid(), signal.SIGTERM); "
    process = start(api, "take", "lab", wrapper=early, in_process=True)

    outcome = finish(process)

    assert (outcome.status, outcome.out, outcome.err) == (143, "", "")
    assert not api.requests
