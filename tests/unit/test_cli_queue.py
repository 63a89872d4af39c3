"""`leasehold queue`: what is asked for, what is printed where, and which exit status tells what."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, finish, kill_leftovers, start
from tests.unit.fake_api import (
    ACTIVE,
    QUEUED,
    RUNNING,
    Answer,
    FakeApi,
    Request,
    command,
    lease,
    leased,
    pool,
    problem,
    ran,
    resource,
)

WAITING: dict[str, Any] = {**QUEUED, "command": command()}
SUBMITTED: dict[str, Any] = {**WAITING, "state": "submitted", "number": None, "queue": None}


def refused(code: str, detail: str) -> dict[str, Any]:
    """What becomes of a request in which a worker has found something."""
    error = {"code": code, "detail": detail}
    return {**SUBMITTED, "state": "ended", "outcome": "failed", "command": None, "error": error}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.way = [WAITING]
        yield api
    kill_leftovers()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(api: FakeApi) -> dict[str, Any]:
    """The one request for a lease."""
    (request,) = api.calls("POST", "/v1/leases")
    body: dict[str, Any] = request.json
    return body


class TestAdd:
    def test_its_number_is_printed_and_what_was_typed_is_sent(self, api: FakeApi, cli: Cli, folder: Path) -> None:
        outcome = cli("queue", "add", "lab", "--", "make", "test", "-n")

        assert (outcome.status, outcome.out, outcome.err) == (0, "1\n", "")
        assert asked(api) == {
            "items": [{"pool": "lab", "count": 1}],
            "command": {
                "run": ["make", "test", "-n"],
                "folder": str(folder),
                "env": {},
                "runner": None,
                "labels": [],
                "timeout": None,
                "retry": 0,
                "duplicates": "drop",
            },
        }

    def test_every_option(self, api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "yes")
        options = "-f -r --reason flaky -p 3 -e spoke -e spoke --runner b1 --label x86 --label big --timeout 2h"
        more = "--duration 3h --retry 2 --description nightly -d /src -E CI -E A=b=c"

        assert cli("queue", "add", *options.split(), "lab", *more.split(), "--", "true").status == 0

        assert asked(api) == {
            "items": [{"pool": name, "count": 1} for name in ("lab", "spoke", "spoke")],
            "priority": 3,
            "duration": "3h",
            "description": "nightly",
            "on_end": "offline",
            "on_end_reason": "flaky",
            "command": {
                "run": ["true"],
                "folder": "/src",
                "env": {"CI": "yes", "A": "b=c"},
                "runner": "b1",
                "labels": ["x86", "big"],
                "timeout": "2h",
                "retry": 2,
                "duplicates": "allow",
            },
        }

    @pytest.mark.parametrize(
        ("argv", "run"),
        [
            (["lab", "rm", "-r", "--force"], ["rm", "-r", "--force"]),
            (["lab", "-p", "1", "make", "-p", "2"], ["make", "-p", "2"]),
            (["lab", "-p1", "--label=-x", "make"], ["make"]),
            (["lab", "-fp", "1", "make"], ["make"]),
            (["lab", "--", "--", "x"], ["--", "x"]),
            (["lab", "make", "--", "x"], ["make", "--", "x"]),
            (["lab", "--priority", "-1", "--", "-"], ["-"]),
        ],
    )
    def test_what_belongs_to_the_command_is_left_to_it(
        self, api: FakeApi, cli: Cli, argv: list[str], run: list[str]
    ) -> None:
        assert cli("queue", "add", *argv).status == 0
        assert asked(api)["command"]["run"] == run
        assert "on_end" not in asked(api)

    def test_a_line_for_a_shell(self, api: FakeApi, cli: Cli) -> None:
        cli("queue", "add", "lab", "--shell", "make | tee log")
        assert asked(api)["command"]["run"] == "make | tee log"

    def test_a_fresh_folder(self, api: FakeApi, cli: Cli) -> None:
        cli("queue", "add", "lab", "--fresh", "make")
        assert asked(api)["command"]["folder"] is None

    def test_a_folder_is_meant_as_it_is_from_here(self, api: FakeApi, cli: Cli, folder: Path) -> None:
        cli("queue", "add", "lab", "-d", "src/..", "make")
        assert asked(api)["command"]["folder"] == str(folder)

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["lab"], "say what to run"),
            (["lab", "--"], "say what to run"),
            ([], "Missing argument"),
            (["lab", "--reason", "x", "make"], "--reason goes with --remove"),
            (["lab", "--fresh", "-d", "/", "make"], "give one of --folder and --fresh"),
            (["lab", "-C", "--json", "make"], "give one of --output and --json"),
            (["lab", "-E", "=2", "make"], "is not of the form VAR or VAR=VALUE"),
            (["lab", "-E", "NOT_SET_HERE", "make"], "NOT_SET_HERE is not set here"),
            (["lab", "-E", "LEASEHOLD_OWNER=joe", "make"], "LEASEHOLD_OWNER cannot be set"),
            (["lab", "-E", "DCI_QUEUE_RES=r1", "make"], "DCI_QUEUE_RES cannot be set"),
            (["lab", "--timeout", "soon", "make"], "soon"),
            (["lab", "--retry", "-1", "make"], "-1"),
        ],
    )
    def test_what_says_nothing_sensible_is_not_sent(self, api: FakeApi, cli: Cli, argv: list[str], said: str) -> None:
        outcome = cli("queue", "add", *argv)
        assert outcome.status == 2
        assert said in outcome.err
        assert not api.requests

    def test_a_duplicate_gives_the_number_of_the_first(self, api: FakeApi, cli: Cli) -> None:
        first = lease(7, **RUNNING)
        api.answers["POST /v1/leases"] = [Answer(200, {**first, "duplicate": True})]

        outcome = cli("queue", "add", "lab", "--", "make", "test")

        assert (outcome.status, outcome.out) == (0, "7\n")
        assert outcome.err == "The same command is there already, as lease 7: active: running on build01\n"

    def test_json_is_the_apis_lease(self, api: FakeApi, cli: Cli) -> None:
        outcome = cli("queue", "add", "lab", "--json", "make")
        assert json.loads(outcome.out)["command"]["run"] == ["make", "test"]

    def test_a_refusal_is_told(self, api: FakeApi, cli: Cli) -> None:
        api.answers["POST /v1/leases"] = [problem(403, "command_refused", "lab runs no command of alice")]
        outcome = cli("queue", "add", "lab", "make")
        assert (outcome.status, outcome.out) == (3, "")
        assert outcome.err == "lab runs no command of alice (command_refused)\n"

    def test_an_answer_that_never_came_is_not_taken_for_a_refusal(self, api: FakeApi, cli: Cli) -> None:
        api.answers["POST /v1/leases"] = [Answer(0)] * 99
        outcome = cli("queue", "add", "lab", "make")
        assert outcome.status == 1
        assert "may be queued all the same; leasehold queue search tells" in outcome.err


ENDS: list[tuple[dict[str, Any], int, str]] = [
    (ran("exited", exit_code=0), 0, "it ran, and exited with status 0"),
    (ran("exited", exit_code=3), 3, "it ran, and exited with status 3"),
    (ran("signalled", signal=9), 137, "it ran, and was ended by signal 9 (SIGKILL)"),
    (ran("timed_out", detail="after 2h"), 124, "it had started, and was stopped at its time limit: after 2h"),
    (ran("timed_out", started=False), 124, "its time was over before it started"),
    (ran("lost"), 125, "it had started, and was lost with its runner"),
    (ran("lost", started=False), 125, "its runner was lost before it started"),
    (ran("not_started", started=False, detail="no such folder"), 126, "it was not started: no such folder"),
    (ran("cancelled"), 5, "it had started, and was cancelled"),
    (ran("cancelled", started=False), 5, "it was cancelled before it started"),
]


class TestWaiting:
    @pytest.mark.parametrize(("end", "status", "words"), ENDS, ids=[words for _, _, words in ENDS])
    def test_the_status_is_passed_on_with_whether_it_started(
        self, api: FakeApi, cli: Cli, end: dict[str, Any], status: int, words: str
    ) -> None:
        api.way = [WAITING, RUNNING, end]

        outcome = cli("queue", "add", "--wait", "lab", "make")

        assert (outcome.status, outcome.out) == (status, "1\n")
        assert outcome.err.splitlines()[-1] == f"lease 1: {words}"

        outcome = cli("queue", "wait", "1")
        assert (outcome.status, outcome.out) == (status, "")
        assert outcome.err.splitlines()[-1] == f"lease 1: {words}"

    def test_how_it_comes_along_is_told(self, api: FakeApi, cli: Cli) -> None:
        starting = {**ACTIVE, "command": command(state="starting", on="b2", attempt=2)}
        waits = {**ACTIVE, "command": command(reason="b1 is down")}
        api.way = [WAITING, waits, starting, RUNNING, ran("exited", exit_code=0)]

        outcome = cli("queue", "add", "-b", "lab", "make")

        assert outcome.err.splitlines()[:4] == [
            "lease 1: queued, position 2: needs 1 of lab, 0 free",
            "lease 1: active: waiting for a runner: b1 is down",
            "lease 1: active: starting on b2, attempt 2",
            "lease 1: active: running on build01",
        ]

    def test_output_is_shown_each_stream_where_it_belongs(self, api: FakeApi, cli: Cli) -> None:
        api.way = [WAITING, RUNNING, ran("exited", exit_code=1)]
        api.output = [("stdout", b"one\xff\n"), ("stderr", b"oops\n"), ("service", b"output bound reached\n")]

        outcome = cli("queue", "add", "-C", "lab", "make")

        assert (outcome.status, outcome.out_bytes) == (1, b"1\none\xff\n")
        assert outcome.err.splitlines()[-3:] == [
            "oops",
            "output bound reached",
            "lease 1: it ran, and exited with status 1",
        ]

    def test_a_second_attempt_is_told(self, api: FakeApi, cli: Cli) -> None:
        api.way = [WAITING, ran("exited", exit_code=0, attempt=2)]
        api.output = [("stdout", b"again\n")]
        assert "It is run again: attempt 2\n" in cli("queue", "add", "-C", "lab", "make").err

    def test_json_is_the_ended_lease_alone(self, api: FakeApi, cli: Cli) -> None:
        api.way = [WAITING, ran("exited", exit_code=4)]
        outcome = cli("queue", "add", "--wait", "--json", "lab", "make")
        assert outcome.status == 4
        assert json.loads(outcome.out)["command"]["exit_code"] == 4

    def test_who_waits_for_a_duplicate_waits_for_the_first(self, api: FakeApi, cli: Cli) -> None:
        first = lease(7, **RUNNING)
        api.add(first, [ran("exited", exit_code=3)])
        api.answers["POST /v1/leases"] = [Answer(200, {**first, "duplicate": True})]
        outcome = cli("queue", "add", "-b", "lab", "make")
        assert (outcome.status, outcome.out) == (3, "7\n")

    def test_of_one_whose_output_is_not_for_everybody_too(self, api: FakeApi, cli: Cli) -> None:
        # An admit hook has merged it into somebody else's.
        first = lease(7, **RUNNING)
        api.add(first, [RUNNING, ran("exited", exit_code=3)])
        api.answers["POST /v1/leases"] = [Answer(200, {**first, "duplicate": True})]
        api.answers["GET /v1/leases/lease-7/output"] = [problem(403, "forbidden", "a lease of bob")]
        outcome = cli("queue", "add", "-C", "lab", "make")
        assert (outcome.status, outcome.out) == (3, "7\n")
        assert "What it prints cannot be shown: a lease of bob" in outcome.err

    @pytest.mark.parametrize("option", ["-b", "-C"])
    def test_of_a_duplicate_that_only_a_worker_found_too(self, api: FakeApi, cli: Cli, option: str) -> None:
        first = lease(7, **RUNNING)
        api.add(first, [ran("exited", exit_code=3)])
        late = lease(2, **SUBMITTED)
        api.add(late, [refused("duplicate", "the same command is there already, as lease 7")])
        api.answers["POST /v1/leases"] = [Answer(202, late), Answer(200, {**first, "duplicate": True})]
        outcome = cli("queue", "add", option, "lab", "make")
        assert (outcome.status, outcome.out) == (3, "lease-2\n")
        assert "The same command is there already, as lease 7" in outcome.err
        one, again = api.calls("POST", "/v1/leases")
        assert one.headers["idempotency-key"] == again.headers["idempotency-key"]

    @pytest.mark.parametrize("option", ["-b", "-C"])
    def test_what_only_a_worker_refused_is_told_as_what_it_is(self, api: FakeApi, cli: Cli, option: str) -> None:
        late = lease(1, **SUBMITTED)
        api.add(late, [refused("command_refused", "no rule lets joe")])
        api.answers["POST /v1/leases"] = [Answer(202, late), problem(403, "command_refused", "no rule lets joe")]
        outcome = cli("queue", "add", option, "lab", "make")
        assert (outcome.status, outcome.out) == (125, "lease-1\n")
        assert "no rule lets joe" in outcome.err
        assert "goes on" not in outcome.err

    def test_what_is_refused_is_told_apart_from_the_commands_own_status(self, api: FakeApi, cli: Cli) -> None:
        api.answers["POST /v1/leases"] = [problem(403, "command_refused", "no")]
        assert cli("queue", "add", "-b", "lab", "make").status == 125

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_stopped_it_says_that_the_command_goes_on(self, api: FakeApi, signum: signal.Signals) -> None:
        api.way = [RUNNING]
        process = start(api, "queue", "add", "--wait", "lab", "make")
        api.until(lambda: bool(api.calls("GET", "/v1/leases/lease-1")))
        process.send_signal(signum)

        outcome = finish(process)

        assert (outcome.status, outcome.out) == (128 + signum, "1\n")
        assert (
            "The command goes on: leasehold queue wait 1 waits for its end, leasehold queue rm 1 stops it"
            in outcome.err
        )
        assert not api.calls("POST", "/v1/leases/lease-1/cancel")

    def test_a_timeout_leaves_it_as_it_is(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **RUNNING))
        outcome = cli("queue", "wait", "7", "--timeout", "1s")
        assert outcome.status == 4
        assert outcome.err.splitlines()[-1] == "lease 7: active: running on build01"

    def test_there_is_nothing_to_wait_for(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **ACTIVE))
        assert cli("queue", "wait", "7").err == "lease 7 has no command (no_command)\n"
        assert cli("queue", "wait", "7").status == 125
        assert cli("queue", "wait", "8").status == 125


class TestLs:
    def test_without_a_pool_there_are_the_pools(self, api: FakeApi, cli: Cli) -> None:
        pools = [Answer(200, {"items": [pool(name="a"), pool(name="b")], "next_cursor": None})] * 2
        api.answers["GET /v1/pools"] = pools
        outcome = cli("queue", "ls")
        assert (outcome.status, outcome.out) == (0, "a\nb\n")
        assert outcome.err == "The commands of one: leasehold queue ls POOL\n"
        assert len(json.loads(cli("queue", "ls", "--json").out)["items"]) == 2
        api.answers["GET /v1/pools"] = [Answer(200, {"items": [], "next_cursor": None})]
        assert cli("queue", "ls").err == "There is no pool yet\n"

    def test_a_pool_in_sections(self, api: FakeApi, cli: Cli) -> None:
        listed(api)

        outcome = cli("queue", "ls", "lab")

        assert outcome.status == 0
        assert outcome.out.splitlines() == [
            "Resources on the lab pool: r1 r2 r3",
            "Available resources on the lab pool: r2",
            "Removed resources on the lab pool:",
            " r4: flaky disk [2026-01-05T09:00:00Z]",
            "Executing commands on the lab pool:",
            " 2(p1) [r1,s1]: bash -c 'ping r1 s1' (wd: /src) [REMOVE]",
            "Queued commands on the lab pool:",
            " 6(p5) []: make test (wd: /src)",
            " 4 []: make @RESOURCE | tee log (wd: a fresh one)",
            " 3(p-1) []: make test (wd: /src)",
        ]
        (request,) = api.calls("GET", "/v1/leases")
        query = dict(request.query)
        assert (query["commands"], query["pool"]) == ("true", "lab")
        assert set(query["state"].split(",")) == {"queued", "preparing", "active", "releasing"}

    def test_what_is_free_and_cannot_be_had_is_not_available(self, api: FakeApi, cli: Cli) -> None:
        kept = resource("r3", kept_until="2026-01-05T09:00:00Z")
        free = [resource("r1"), resource("r2", suspect=True), kept]
        listed(api, resources=free)
        assert "Available resources on the lab pool: r1\n" in cli("queue", "ls", "lab").out
        mark = {"reason": "new switch", "by": "ann", "since": "2026-01-05T09:00:00Z"}
        listed(api, resources=free)
        api.answers["GET /v1/pools/lab"] = [Answer(200, pool(paused=mark))]
        assert "Available resources on the lab pool: \n" in cli("queue", "ls", "lab").out

    def test_what_has_its_resource_and_no_runner_says_so(self, api: FakeApi, cli: Cli) -> None:
        listed(api)
        why = "no runner fast is up"
        waits = {"state": "active", "resources": [leased("r1")], "command": command(reason=why)}
        api.add(lease(9, **waits))
        assert f" 9 [r1]: make test (wd: /src) [{why}]\n" in cli("queue", "ls", "lab").out

    def test_nothing_removed_is_no_section(self, api: FakeApi, cli: Cli) -> None:
        listed(api, resources=[])
        assert "Removed" not in cli("queue", "ls", "lab").out

    def test_json(self, api: FakeApi, cli: Cli) -> None:
        listed(api)
        printed = json.loads(cli("queue", "ls", "lab", "--json").out)
        assert [one["number"] for one in printed["executing"]] == [2]
        assert [one["number"] for one in printed["queued"]] == [6, 4, 3]
        assert [one["name"] for one in printed["resources"]] == ["r1", "r2", "r3", "r4"]

    def test_an_unknown_pool(self, api: FakeApi, cli: Cli) -> None:
        api.answers["GET /v1/pools/lab"] = [problem(404, "pool_unknown", "there is no pool lab")]
        assert cli("queue", "ls", "lab").status == 1


def listed(api: FakeApi, resources: list[dict[str, Any]] | None = None) -> None:
    """Let a pool have four resources and four commands."""
    mark = {"reason": "flaky disk", "by": "ann", "since": "2026-01-05T09:00:00.5Z"}
    known = [
        resource("r1", state="leased", lease="lease-2"),
        resource("r2"),
        resource("r3", broken={"reason": "x", "since": "2026-01-05T09:00:00Z"}),
        resource("r4", offline=mark),
    ]
    items = [{"pool": "lab", "count": 1}, {"pool": "spoke", "count": 1}]
    mine = [leased("r1"), {**leased("s1"), "pool": "spoke", "item": 1}]
    runs = command(run=["bash", "-c", "ping @RESOURCE @RESOURCE:spoke"], state="running", started=True, on="b1")
    shell = command(run="make @RESOURCE | tee log", folder=None)
    first = {"position": 1, "reason": "", "eta": None, "alternatives": None}
    api.add(lease(3, state="queued", priority=-1, command=command()))
    api.add(lease(4, **QUEUED | {"command": shell}))
    api.add(lease(6, state="queued", priority=5, queue=first, command=command()))
    api.add(lease(2, state="active", priority=1, items=items, resources=mine, command=runs, on_end="offline"))
    api.answers["GET /v1/pools/lab"] = [Answer(200, pool())]
    found = known if resources is None else resources
    api.answers["GET /v1/resources"] = [Answer(200, {"items": found, "next_cursor": None})]


class TestShow:
    def test_everything_about_one(self, api: FakeApi, cli: Cli) -> None:
        end = ran("exited", exit_code=3, timeout="2h", retry=2, account="ci", labels=["x86"], attempt=2)
        end["command"]["output"] = {"limit": 100, "bytes": 150, "dropped": 50}
        api.add(lease(7, resources=[leased("r1")], on_end="offline", on_end_reason="flaky", **end))

        outcome = cli("queue", "show", "7")

        assert outcome.out.splitlines() == [
            "Command 7: it ran, and exited with status 3",
            "  command: make test",
            "  folder: /src",
            "  wanted runner: x86",
            "  how it stands: it ran, and exited with status 3",
            "  ran on: build01",
            "  as: ci",
            "  attempt: 2",
            "  may be run again: 2 times, if its runner is lost",
            "  time limit: 2h",
            "  when it ends: offline: flaky",
            "  output: 150 bytes, 50 of them dropped: its pool keeps 100",
            "  owner: alice",
            "  needs: 1 lab",
            "  resources: lab/r1",
            "  lease: ended: released",
            "  queued: 2026-01-05T09:00:00Z",
            "  started: 2026-01-05T09:00:00Z",
            "  ended: 2026-01-05T09:01:00Z",
        ]

    def test_one_that_waits_says_for_what(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **WAITING))
        out = cli("queue", "show", "7").out.splitlines()
        assert out[0] == "Command 7: queued, position 2: needs 1 of lab, 0 free"
        assert "  started: not" in out

    def test_json_and_what_is_none(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **WAITING))
        api.add(lease(8, **ACTIVE))
        assert json.loads(cli("queue", "show", "7", "--json").out) == api.leases["lease-7"]
        assert cli("queue", "show", "8").status == 3

    def test_the_leases_own_story_tells_of_it(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **RUNNING))
        out = cli("show", "7").out
        assert out.startswith("Lease 7: active: running on build01\n")
        assert "  command: make test\n" in out


class TestLog:
    def test_it_is_printed_as_it_is(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **RUNNING))
        api.output = [("stdout", b"one\xff"), ("stderr", b"two")]
        outcome = cli("queue", "log", "7")
        assert (outcome.out_bytes, outcome.err) == (b"one\xfftwo", "")

    @pytest.mark.parametrize("options", [[], ["-f"], ["--stream", "stdout"], ["-f", "--stream", "stdout"]])
    def test_that_a_bound_was_reached_is_told_beside_it(self, api: FakeApi, cli: Cli, options: list[str]) -> None:
        api.add(lease(7, **RUNNING), [ran("exited", exit_code=0)])
        api.output = [("stdout", b"one\n"), ("service", b"output bound of 4 bytes reached: the rest is dropped\n")]
        outcome = cli("queue", "log", *options, "7")
        assert outcome.out_bytes == b"one\n"
        assert outcome.err == "output bound of 4 bytes reached: the rest is dropped\n"

    def test_a_part_of_it(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **RUNNING))
        cli("queue", "log", "-f", "-n", "5", "--stream", "stderr", "--attempt", "2", "7")
        request, beside = api.calls("GET", "/v1/leases/7/output")
        part = {"tail": "5", "stream": "stderr", "attempt": "2"}
        assert dict(request.query) == {"follow": "true", "events": "true", **part}
        assert dict(beside.query) == {"stream": "service", "attempt": "2"}
        cli("queue", "log", "7")
        assert [one.query for one in api.requests[-2:]] == [[], [("stream", "service")]]

    def test_an_unknown_one(self, cli: Cli) -> None:
        assert cli("queue", "log", "7").status == 1
        assert cli("queue", "log", "7", "--stream", "both").status == 2


class TestRm:
    def test_it_waits_until_each_has_ended(self, api: FakeApi, cli: Cli) -> None:
        stopping = {"state": "releasing"}
        api.add(lease(7, **RUNNING), [RUNNING, stopping, stopping, ran("cancelled", detail="by alice")])
        api.add(lease(8, **ran("exited", exit_code=0)))
        api.answers["POST /v1/leases/lease-7/cancel"] = [Answer(200, {**api.leases["lease-7"], **stopping})]

        outcome = cli("queue", "rm", "7", "8", "--reason", "wrong branch")

        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.splitlines() == [
            "Command 7: it had started, and was cancelled: by alice",
            "Command 8: it ran, and exited with status 0",
        ]
        assert api.calls("POST", "/v1/leases/lease-7/cancel")[0].json == {"reason": "wrong branch"}

    def test_an_unknown_one_says_so_and_the_others_are_stopped_all_the_same(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **RUNNING), [ran("cancelled")])
        outcome = cli("queue", "rm", "99", "7")
        assert outcome.status == 1
        assert outcome.err == "there is no lease lease-99 (lease_unknown)\n"
        assert outcome.out == "Command 7: it had started, and was cancelled\n"

    def test_what_is_no_command_is_left_alone(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **ACTIVE))
        assert cli("queue", "rm", "7").status == 3
        assert api.leases["lease-7"]["state"] == "active"

    def test_json(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **ran("cancelled")))
        api.add(lease(8, **ran("cancelled")))
        assert json.loads(cli("queue", "rm", "7", "--json").out)["number"] == 7
        assert len(json.loads(cli("queue", "rm", "7", "8", "--json").out)["items"]) == 2


class TestSearch:
    def found(self, api: FakeApi) -> Request:
        (request,) = api.calls("GET", "/v1/leases")
        return request

    def test_the_very_command(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(8, **WAITING))
        api.add(lease(7, **RUNNING))
        outcome = cli("queue", "search", "lab", "--", "make", "a b")
        assert (outcome.status, outcome.out) == (0, "7\n8\n")
        query = dict(self.found(api).query)
        assert (query["pool"], query["command"], query["commands"]) == ("lab", "make 'a b'", "true")
        assert "ended" not in query["state"]

    def test_in_any_pool_ended_ones_too(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(7, **ran("exited", exit_code=0)))
        assert cli("queue", "search", "--all", "--", "make", "test").status == 0
        assert dict(self.found(api).query) == {"commands": "true", "command": "make test"}

    def test_by_a_part_or_a_folder(self, api: FakeApi, cli: Cli, folder: Path) -> None:
        assert cli("queue", "search", "lab", "--like", "make", "--dir", ".").status == 1
        query = dict(self.found(api).query)
        assert (query["command_like"], query["folder"]) == ("make", str(folder))

    def test_a_line_for_a_shell(self, api: FakeApi, cli: Cli) -> None:
        assert cli("queue", "search", "--shell", "--", "make | tee log").status == 1
        assert dict(self.found(api).query)["command"] == "make | tee log"

    def test_json_and_none(self, api: FakeApi, cli: Cli) -> None:
        outcome = cli("queue", "search", "--like", "x", "--json")
        assert (outcome.status, json.loads(outcome.out)["items"]) == (1, [])
        outcome = cli("queue", "search", "lab")
        assert outcome.status == 2
        assert "say which" in outcome.err


def test_runners_are_listed(api: FakeApi, cli: Cli) -> None:
    host = {"instance": "i", "host": "h1", "slots": 4, "seen_at": "", "started_at": ""}
    one = {"name": "b1", "labels": ["x86"], "slots": 4, "used": 1, "up": True, "hosts": [host]}
    page = Answer(200, {"items": [one, {**one, "name": "b2", "up": False}], "next_cursor": None})
    api.answers["GET /v1/runners"] = [page, page]
    assert cli("queue", "runners").out == "b1\tup\t1\t4\tx86\th1\nb2\tdown\t1\t4\tx86\th1\n"
    assert json.loads(cli("queue", "runners", "--json").out)["items"][0] == one


def test_stopped_before_the_number_is_known_it_leaves_nothing(api: FakeApi) -> None:
    process = start(api, "queue", "add", "lab", "make", wrapper=_SIGNAL_IN_SUBMIT, in_process=True)
    outcome = finish(process)
    assert (outcome.status, outcome.out) == (128 + signal.SIGTERM, "")
    assert "Interrupted: nothing is queued" in outcome.err
    assert len(api.calls("POST", "/v1/leases/lease-1/cancel")) == 1
    assert len({one.headers["idempotency-key"] for one in api.calls("POST", "/v1/leases")}) == 1


_SIGNAL_IN_SUBMIT = (
    "import os, signal; from leasehold.client import Client; submit = Client.submit\n"
    "def first(*a, **k):\n"
    "    Client.submit = submit; found = submit(*a, **k); os.kill(os.getpid(), signal.SIGTERM); return found\n"
    "Client.submit = first\n"
)


def test_variables_that_are_ours_are_not_needed(api: FakeApi, cli: Cli) -> None:
    assert cli("queue", "add", "lab", "-E", "PATH", "make").status == 0
    assert asked(api)["command"]["env"] == {"PATH": os.environ["PATH"]}
