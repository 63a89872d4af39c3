"""`compat dci-queue …`: its own arguments, over Leasehold's API, with its words and exit statuses."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, Outcome, finish, kill_leftovers, start
from tests.unit.fake_api import (
    ACTIVE,
    QUEUED,
    RUNNING,
    Answer,
    FakeApi,
    command,
    lease,
    leased,
    pool,
    problem,
    ran,
    resource,
)

POOL = Answer(200, pool())
APPLIED = Answer(200, {"changes": []})
UNKNOWN = problem(404, "pool_unknown", "there is no pool lab")
NO_RESOURCE = problem(404, "resource_unknown", "there is no resource lab/r1")
WAITING: dict[str, Any] = {**QUEUED, "command": command(run=["echo", "@RESOURCE"])}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.way = [WAITING]
        api.answers["GET /v1/pools/lab"] = [POOL] * 9
        yield api
    kill_leftovers()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class DciQueue:
    """`dci("list", "lab")` runs one of the commands."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def __call__(self, *argv: str) -> Outcome:
        return self._cli("compat", "dci-queue", *argv)


@pytest.fixture
def dci(cli: Cli) -> DciQueue:
    return DciQueue(cli)


def asked(api: FakeApi) -> dict[str, Any]:
    (request,) = api.calls("POST", "/v1/leases")
    body: dict[str, Any] = request.json
    return body


class TestItself:
    def test_options_before_the_command_are_taken(self, dci: DciQueue) -> None:
        assert dci("-l", "CRITICAL", "-t", "/x", "-c", "-p", "clean", "lab").status == 0
        assert dci("--log-level", "DEBUG", "--top-dir=/x", "clean", "lab").status == 0

    def test_a_level_that_there_is_not(self, dci: DciQueue) -> None:
        assert dci("-l", "TOTO", "clean", "lab").status == 2

    def test_without_a_command_there_is_help_and_1(self, dci: DciQueue) -> None:
        outcome = dci()
        assert outcome.status == 1
        assert "schedule" in outcome.out

    @pytest.mark.parametrize(
        "argv",
        [
            "add-resource lab r1", "remove-resource lab r1 why", "list lab", "log lab 1", "search lab x",
            "searchdir lab /x", "unschedule lab 1", "dci-job lab 1", "clean lab", "run lab", "install lab",
            "uninstall lab", "add-crontab lab file", "remove-crontab lab file",
        ],
    )  # fmt: skip
    def test_a_pool_that_there_is_not(self, api: FakeApi, dci: DciQueue, argv: str) -> None:
        api.answers["GET /v1/pools/lab"] = [UNKNOWN]
        outcome = dci(*argv.split())
        assert (outcome.status, outcome.err) == (1, "there is no pool lab (pool_unknown)\n")

    @pytest.mark.parametrize("argv", ["run lab -C", "clean lab", "install lab", "uninstall lab", "add-crontab lab f"])
    def test_what_needs_nothing_to_be_done(self, dci: DciQueue, argv: str) -> None:
        outcome = dci(*argv.split())
        assert (outcome.status, outcome.out) == (0, "")
        assert "nothing to" in outcome.err

    @pytest.mark.parametrize("argv", ["add-pool", "add-resource lab", "remove-resource lab r1", "log lab", "run"])
    def test_arguments_that_are_missing(self, dci: DciQueue, argv: str) -> None:
        assert dci(*argv.split()).status == 2

    def test_whatever_goes_wrong_the_status_is_1(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers["PUT /v1/pools/new"] = [problem(403, "forbidden", "an operator may")]
        assert dci("add-pool", "new").status == 1


class TestPools:
    def test_one_is_made_for_everybodys_commands(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers["GET /v1/pools/lab"] = [UNKNOWN]
        api.answers["PUT /v1/pools/lab"] = [APPLIED]
        assert dci("add-pool", "-n", "lab").status == 0
        assert api.calls("PUT", "/v1/pools/lab")[0].json == {
            "name": "lab",
            "commands": {"allow": [{"role": "user"}]},
            "policy": {"default_duration": "365d", "holder_may": ["offline"]},
            "resources": [],
        }

    def test_one_that_there_is_stays_as_it_is(self, api: FakeApi, dci: DciQueue) -> None:
        assert dci("add-pool", "lab").status == 0
        assert not api.calls("PUT", "/v1/pools/lab")

    def test_one_is_removed_and_may_be_gone_before(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers["DELETE /v1/pools/lab"] = [APPLIED, UNKNOWN]
        assert dci("remove-pool", "-n", "lab").status == 0
        assert dci("remove-pool", "lab").status == 0


class TestResources:
    place = "/v1/pools/lab/resources/r1"

    def test_one_is_added(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers[f"GET {self.place}"] = [NO_RESOURCE]
        api.answers[f"PUT {self.place}"] = [APPLIED]
        assert dci("add-resource", "lab", "r1").status == 0
        assert api.calls("PUT", self.place)[0].json == {"tags": [], "properties": {}}

    def test_added_again_its_removal_is_cleared_and_what_it_has_stays(self, api: FakeApi, dci: DciQueue) -> None:
        mark = {"reason": "x", "by": "ann", "since": "2026-01-05T09:00:00Z"}
        api.answers[f"GET {self.place}"] = [Answer(200, resource("r1", offline=mark))]
        api.answers[f"PUT {self.place}"] = [APPLIED]
        api.answers[f"POST {self.place}/online"] = [Answer(200, resource("r1"))]
        assert dci("add-resource", "lab", "r1").status == 0
        assert api.calls("PUT", self.place)[0].json == {"tags": ["x86", "metal"], "properties": {"ram": 64}}
        assert len(api.calls("POST", f"{self.place}/online")) == 1

    def test_what_a_file_lists_is_not_added_but_may_be_used_again(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers[f"GET {self.place}"] = [Answer(200, resource("r1"))]
        api.answers[f"PUT {self.place}"] = [problem(409, "owned_elsewhere", "the file default has it")]
        assert dci("add-resource", "lab", "r1").status == 0
        assert not api.calls("POST", f"{self.place}/online")

    def test_one_is_removed_with_a_reason(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers[f"POST {self.place}/offline"] = [Answer(200, resource("r1"))]
        assert dci("remove-resource", "lab", "r1", "debugging (fred)").status == 0
        assert api.calls("POST", f"{self.place}/offline")[0].json == {"reason": "debugging (fred)"}

    def test_an_unknown_one_cannot_be_removed(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers[f"POST {self.place}/offline"] = [NO_RESOURCE]
        outcome = dci("remove-resource", "lab", "r1", "why")
        assert (outcome.status, outcome.err) == (1, "Trying to remove resource r1 that does not exist.\n")

    def test_by_force_it_is_forgotten_and_may_be_unknown(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers[f"DELETE {self.place}"] = [APPLIED, NO_RESOURCE]
        for _ in range(2):
            outcome = dci("remove-resource", "-f", "lab", "r1", "why")
            assert (outcome.status, outcome.err) == (0, "")


class TestSchedule:
    def test_it_is_queued_from_here_and_its_id_is_printed(
        self, api: FakeApi, dci: DciQueue, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("LANG", "USER"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/home/joe")
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setenv("SECRET", "x")

        outcome = dci("schedule", "lab", "--", "bash", "-c", "ping @RESOURCE")

        assert (outcome.status, outcome.out, outcome.err) == (0, "1\n", "")
        body = asked(api)
        assert body["command"] == {
            "run": ["bash", "-c", "ping @RESOURCE"],
            "folder": str(folder),
            "env": {"HOME": "/home/joe", "PATH": "/usr/bin:/bin"},
            "runner": None,
            "labels": [],
            "timeout": None,
            "retry": 0,
            "duplicates": "drop",
        }
        assert (body["items"], body["wait_for_supply"], body["priority"]) == ([{"pool": "lab", "count": 1}], True, 0)

    def test_every_option(self, api: FakeApi, dci: DciQueue) -> None:
        assert (
            dci("schedule", "-f", "-r", "-p", "-1", "-e", "hub", "-e", "hub", "lab", "ls", "-r", "@RESOURCE").status
            == 0
        )
        body = asked(api)
        assert [item["pool"] for item in body["items"]] == ["lab", "hub", "hub"]
        assert (body["priority"], body["on_end"]) == (-1, "offline")
        assert (body["command"]["run"], body["command"]["duplicates"]) == (["ls", "-r", "@RESOURCE"], "allow")

    def test_a_command_without_a_resource(self, api: FakeApi, dci: DciQueue) -> None:
        outcome = dci("schedule", "lab", "echo", "x")
        assert (outcome.status, outcome.out, outcome.err) == (1, "", "no @RESOURCE in command: echo x\n")
        assert dci("schedule", "lab").err == "no @RESOURCE in command: \n"
        assert not api.requests

    def test_an_extra_pool_that_there_is_not(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers["POST /v1/leases"] = [problem(404, "pool_unknown", "there is no pool hub")]
        assert dci("schedule", "-e", "hub", "lab", "echo", "@RESOURCE").status == 1

    def test_a_duplicate_is_no_error_and_has_the_id_of_the_first(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers["POST /v1/leases"] = [Answer(200, {**lease(7, **RUNNING), "duplicate": True})]
        outcome = dci("schedule", "lab", "echo", "@RESOURCE")
        assert (outcome.status, outcome.out) == (0, "7\n")
        assert "The same command is there already" in outcome.err

    @pytest.mark.parametrize(
        ("end", "status"),
        [
            (ran("exited", exit_code=1), 1),
            (ran("signalled", signal=9), 137),
            (ran("lost"), 125),
            (ran("not_started", started=False), 126),
        ],
        ids=[1, 137, 125, 126],
    )
    def test_blocking_it_returns_the_jobs_status(
        self, api: FakeApi, dci: DciQueue, end: dict[str, Any], status: int
    ) -> None:
        api.way = [WAITING, end]
        api.output = [("stdout", b"hello\n")]
        assert dci("schedule", "-b", "lab", "false", "@RESOURCE").out == "1\n"
        api.way = [WAITING, end]
        outcome = dci("schedule", "-b", "-C", "lab", "false", "@RESOURCE")
        assert (outcome.status, outcome.out) == (status, "2\nhello\n")

    def test_a_client_that_is_killed_while_it_waits_leaks_nothing(self, api: FakeApi) -> None:
        process = start(api, "compat", "dci-queue", "schedule", "-b", "lab", "true", "@RESOURCE")
        api.until(lambda: bool(api.calls("GET", "/v1/leases/lease-1")))
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)
        assert outcome.status == 128 + signal.SIGTERM
        assert "leasehold queue rm 1 stops it" in outcome.err


class TestList:
    def test_pools(self, api: FakeApi, dci: DciQueue) -> None:
        pages = [[pool(name="b"), pool(name="a")], []]
        api.answers["GET /v1/pools"] = [Answer(200, {"items": page, "next_cursor": None}) for page in pages]
        assert dci("list").out.splitlines() == [
            "The following pools were found:",
            "  a",
            "  b",
            "Run the command below for the list of commands scheduled on your target pool:",
            "  leasehold compat dci-queue list <pool>",
        ]
        assert dci("list").out == "No pool was found on the host.\n"

    def test_a_pool(self, api: FakeApi, dci: DciQueue) -> None:
        mark = {"reason": "debugging", "by": "fred", "since": "2026-01-05T09:00:00Z"}
        found = [resource("r1", state="leased"), resource("r2"), resource("r3", offline=mark)]
        api.answers["GET /v1/resources"] = [Answer(200, {"items": found, "next_cursor": None})]
        runs = command(run=["bash", "-c", "sleep 9; echo @RESOURCE"], state="running", started=True, on="b1")
        api.add(lease(2, state="active", priority=1, resources=[leased("r1")], command=runs))
        api.add(lease(3, **WAITING, on_end="offline"))
        assert dci("list", "lab").out.splitlines() == [
            "Resources on the lab pool: r1 r2",
            "Available resources on the lab pool: r2",
            "Removed resources on the lab pool:",
            " r3: debugging [2026-01-05T09:00:00Z]",
            "Executing commands on the lab pool:",
            " 2(p1) [r1]: bash -c sleep 9; echo r1 (wd: /src)",
            "Queued commands on the lab pool:",
            " 3 []: echo @RESOURCE (wd: /src) [REMOVE]",
        ]

    def test_what_only_needs_something_of_it_is_another_pools(self, api: FakeApi, dci: DciQueue) -> None:
        api.answers["GET /v1/pools/lab"] = [Answer(200, pool())]
        api.answers["GET /v1/resources"] = [Answer(200, {"items": [], "next_cursor": None})]
        mine, other = lease(7, **RUNNING), lease(8, **RUNNING, items=[{"pool": "hub"}, {"pool": "lab"}])
        api.answers["GET /v1/leases"] = [Answer(200, {"items": [other, mine], "next_cursor": None})]
        out = dci("list", "lab").out
        assert [line.split()[0] for line in out.splitlines() if line.startswith(" ")] == ["7"]


class TestLog:
    def lines(self, api: FakeApi) -> None:
        api.add(lease(7, **RUNNING))
        api.output = [("stdout", b"one\ntw"), ("stderr", b"o\nthree\n")]

    def test_all_of_it(self, api: FakeApi, dci: DciQueue) -> None:
        self.lines(api)
        assert dci("log", "lab", "7").out == "one\ntwo\nthree\n"

    @pytest.mark.parametrize(("lines", "query"), [("2", {"tail": "2"}), ("-2", {"tail": "2"}), ("+1", {}), ("+3", {})])
    def test_a_part_of_it(self, api: FakeApi, dci: DciQueue, lines: str, query: dict[str, str]) -> None:
        self.lines(api)
        outcome = dci("log", "-n", lines, "lab", "7")
        # The last asks what is to be said of it.
        assert dict(api.requests[-2].query) == query
        assert outcome.out == ("three\n" if lines == "+3" else "one\ntwo\nthree\n")

    def test_following(self, api: FakeApi, dci: DciQueue) -> None:
        self.lines(api)
        dci("log", "-f", "-n", "+2", "lab", "7")
        assert dict(api.requests[-1].query) == {"follow": "true", "events": "true"}
        assert dci("log", "-n", "x", "lab", "7").status == 2

    def test_of_one_that_waits_it_waits_until_it_has_started(self, api: FakeApi, dci: DciQueue) -> None:
        api.add(lease(7, **WAITING), [WAITING, WAITING, RUNNING])
        api.output = [("stdout", b"one\n")]
        outcome = dci("log", "lab", "7")
        assert (outcome.out, outcome.err) == ("one\n", "Waiting for command 7 to start...\n")

    @pytest.mark.parametrize("job", ["8", "9", "10"])
    def test_one_that_there_is_not_in_this_pool(self, api: FakeApi, dci: DciQueue, job: str) -> None:
        api.add(lease(8, **{**RUNNING, "items": [{"pool": "other", "count": 1}, {"pool": "lab", "count": 1}]}))
        api.add(lease(9, **ACTIVE))
        outcome = dci("log", "lab", job)
        assert (outcome.status, outcome.err) == (1, f"there is no command {job} in pool lab (lease_unknown)\n")


class TestSearch:
    def test_by_command(self, api: FakeApi, dci: DciQueue) -> None:
        api.add(lease(7, **RUNNING))
        api.add(lease(8, **WAITING, items=[{"pool": "other", "count": 1}]))
        outcome = dci("search", "lab", "echo", "@RESOURCE")
        assert (outcome.status, outcome.out) == (0, "7\n")
        query = dict(api.calls("GET", "/v1/leases")[0].query)
        assert query["command"] == "echo @RESOURCE"
        assert "ended" not in query["state"]

    def test_none_is_no_error(self, dci: DciQueue) -> None:
        outcome = dci("search", "lab", "--", "ls", "-l")
        assert (outcome.status, outcome.out) == (0, "")

    def test_by_directory(self, api: FakeApi, dci: DciQueue) -> None:
        assert dci("searchdir", "lab", "/src").status == 1
        api.add(lease(8, **WAITING))
        api.add(lease(7, **RUNNING))
        outcome = dci("searchdir", "lab", "/src")
        assert (outcome.status, outcome.out) == (0, "7\n")
        assert dict(api.requests[-1].query)["folder"] == "/src"


class TestUnschedule:
    def test_it_waits_until_it_has_ended(self, api: FakeApi, dci: DciQueue) -> None:
        api.add(lease(7, **RUNNING))
        assert dci("unschedule", "lab", "7").status == 0
        assert api.leases["lease-7"]["state"] == "ended"
        assert ("wait", "ended") in api.requests[-1].query

    def test_an_unknown_one_is_no_error(self, dci: DciQueue) -> None:
        outcome = dci("unschedule", "lab", "7")
        assert (outcome.status, outcome.err) == (0, "")

    def test_one_of_another_pool_is_not_touched(self, api: FakeApi, dci: DciQueue) -> None:
        api.add(lease(7, **{**RUNNING, "items": [{"pool": "other", "count": 1}]}))
        api.add(lease(8, **ACTIVE))
        for job in ("7", "8"):
            assert dci("unschedule", "lab", job).status == 0
            assert api.leases[f"lease-{job}"]["state"] == "active"


class TestDciJob:
    def test_names_and_ids_are_found_in_what_was_printed(self, api: FakeApi, dci: DciQueue) -> None:
        api.add(lease(7, **RUNNING))
        changed = json.dumps({"changed": True, "job": {"name": "check", "id": "b-2"}})
        printed = (
            "2024-02-28 12:34:58 - dcipipeline.main - INFO - running jobdef: ocp-4.x with inventory /a "
            "private_data_dir=/var/lib/dci-pipeline/ocp-4.x/0a1b-2c env={'A': 'b'}\n"
            f"changed: [jumphost] => {changed}\n"
            'changed: [jumphost] => {"changed": true, "job": nonsense}\n'
            "nothing\n"
        )
        api.output = [("stdout", printed.encode())]
        outcome = dci("dci-job", "lab", "7")
        assert (outcome.status, outcome.out) == (0, "ocp-4.x:0a1b-2c\ncheck:b-2\n")

    def test_none(self, api: FakeApi, dci: DciQueue) -> None:
        api.add(lease(7, **RUNNING))
        outcome = dci("dci-job", "lab", "7")
        assert (outcome.status, outcome.err) == (1, "No DCI job IDs found in (pool/id): lab/7\n")
        assert dci("dci-job", "lab", "8").status == 1
