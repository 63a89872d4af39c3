"""`compat resalloc …`: the commands of resalloc's client and of its maintenance tool, over Leasehold's API."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, Outcome, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, QUEUED, Answer, FakeApi, Request, lease, problem

DATA = b"\xff\xfehost\x00\n"
IN_BASE64 = "//5ob3N0AAo="


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
    kill_leftovers()


class Resalloc:
    """`resalloc("ticket-check", "7")` runs one of the commands."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def __call__(self, *argv: str) -> Outcome:
        return self._cli("compat", "resalloc", *argv)


@pytest.fixture
def resalloc(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Resalloc:
    return Resalloc(Cli(api, monkeypatch, capfdbinary))


def pools(*limits: str | None) -> list[Answer]:
    """Pools that lend for so long at most, asked for once."""
    items = [{"name": f"p{n}", "policy": {"max_duration": limit}} for n, limit in enumerate(limits)]
    return [Answer(200, {"items": items, "next_cursor": None})]


def delivered(data: str = IN_BASE64) -> list[dict[str, Any]]:
    return [{"pool": "lab", "name": "r1", "role": None, "data": None, "data_base64": data}]


def submitted(api: FakeApi) -> list[Request]:
    return api.calls("POST", "/v1/leases")


class TestTicket:
    def test_its_number_is_printed_and_what_was_asked_is_sent(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.way = [QUEUED]
        api.answers["GET /v1/pools"] = pools(None, None)

        outcome = resalloc("ticket", "--tag", "x86", "--tag", "big", "--sandbox", "copr/joe")

        assert (outcome.status, outcome.out, outcome.err) == (0, "1\n", "")
        (request,) = submitted(api)
        assert request.json == {
            "items": [{"count": 1, "tags": ["x86", "big"]}],
            "wait_for_supply": True,
            "share_key": "copr/joe",
            "duration": "365d",
        }

    @pytest.mark.parametrize(("limits", "lasts"), [((), "365d"), (("2d", None, "36h"), "36h")])
    def test_it_lasts_as_long_as_all_pools_allow(
        self, api: FakeApi, resalloc: Resalloc, limits: tuple[str | None, ...], lasts: str
    ) -> None:
        api.answers["GET /v1/pools"] = pools(*limits)
        assert resalloc("ticket", "--tag", "x").status == 0
        assert submitted(api)[0].json["duration"] == lasts

    def test_who_may_not_have_it_for_so_long_gets_what_there_is_by_itself(
        self, api: FakeApi, resalloc: Resalloc
    ) -> None:
        api.answers["GET /v1/pools"] = pools(None)
        api.answers["POST /v1/leases"] = [problem(403, "duration_refused", "365d is longer than the 4h")]
        assert resalloc("ticket", "--tag", "x").out == "1\n"
        first, second = submitted(api)
        assert "duration" not in second.json
        assert first.headers["idempotency-key"] != second.headers["idempotency-key"]

    def test_a_refusal_is_told(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.answers["GET /v1/pools"] = pools(None)
        api.answers["POST /v1/leases"] = [problem(422, "unsatisfiable", "there is no pool at all")]
        outcome = resalloc("ticket", "--tag", "x")
        assert (outcome.status, outcome.out) == (3, "")
        assert "there is no pool at all" in outcome.err

    def test_a_tag_is_needed(self, api: FakeApi, resalloc: Resalloc) -> None:
        assert resalloc("ticket").status == 2
        assert submitted(api) == []

    def test_without_a_worker_it_waits_for_its_number(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.way = [{"number": None, "state": "submitted"}, {"state": "queued", "number": 1}]
        api.answers["GET /v1/pools"] = pools(None)
        outcome = resalloc("ticket", "--tag", "x")
        assert (outcome.status, outcome.out) == (0, "1\n")

    def test_who_is_refused_by_a_worker_that_came_late_is_told_too(self, api: FakeApi, resalloc: Resalloc) -> None:
        refused = {"code": "unsatisfiable", "detail": "no such thing"}
        api.way = [{"number": None, "state": "submitted"}, {"state": "ended", "outcome": "failed", "error": refused}]
        api.answers["GET /v1/pools"] = pools(None)
        outcome = resalloc("ticket", "--tag", "x")
        assert (outcome.status, outcome.out, outcome.err) == (3, "", "no such thing (unsatisfiable)\n")

    def test_stopped_before_the_number_is_known_it_leaves_nothing(self, api: FakeApi) -> None:
        api.way = [{"number": None, "state": "submitted"}]
        api.answers["GET /v1/pools"] = pools(None)
        process = start(api, "compat", "resalloc", "ticket", "--tag", "x")
        api.until(lambda: bool(api.calls("GET", "/v1/leases/lease-1")))
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)
        assert (outcome.status, outcome.out) == (128 + signal.SIGTERM, "")
        assert len(api.calls("POST", "/v1/leases/lease-1/cancel")) == 1


class TestTicketCheck:
    def test_an_assigned_one_prints_its_data_and_nothing_else(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, **ACTIVE))
        api.delivered = delivered()
        outcome = resalloc("ticket-check", "7")
        assert (outcome.status, outcome.out_bytes, outcome.err) == (0, DATA, "")

    def test_one_that_waits_prints_nothing(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, **QUEUED))
        outcome = resalloc("ticket-check", "7")
        assert (outcome.status, outcome.out, outcome.err) == (1, "", "nothing is assigned to it\n")

    @pytest.mark.parametrize(
        ("ended", "word"),
        [
            ({"outcome": "released"}, "was closed"),
            ({"outcome": "cancelled"}, "was closed"),
            ({"outcome": "expired"}, "has failed"),
            ({"outcome": "lost"}, "has failed"),
            ({"outcome": "released", "error": {"code": "ended_by_operator", "detail": "by ann"}}, "has failed"),
        ],
        ids=str,
    )
    def test_one_that_is_over_prints_its_data_all_the_same(
        self, api: FakeApi, resalloc: Resalloc, ended: dict[str, Any], word: str
    ) -> None:
        api.add(lease(7, **{**ACTIVE, "state": "ended", **ended}))
        api.delivered = delivered()
        outcome = resalloc("ticket-check", "7")
        assert (outcome.status, outcome.out_bytes, outcome.err) == (1, DATA, f"warning: ticket 7 {word}\n")

    def test_one_that_there_is_not(self, resalloc: Resalloc) -> None:
        outcome = resalloc("ticket-check", "7")
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err == "warning: there is no ticket 7\nnothing is assigned to it\n"


class TestTicketWait:
    def test_it_prints_the_bytes_once_they_are_there(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, **QUEUED), [QUEUED, ACTIVE])
        api.delivered = delivered()
        outcome = resalloc("ticket-wait", "7")
        assert (outcome.status, outcome.out_bytes, outcome.err) == (0, DATA, "")

    def test_empty_data_is_nothing_at_all(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, **ACTIVE))
        api.delivered = delivered("")
        assert resalloc("ticket-wait", "7").out_bytes == b""

    def test_what_is_for_the_whole_lease_follows(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, **ACTIVE))
        api.delivered = delivered()
        api.shared = [{"pool": pool, "data": "x", "data_base64": "eA=="} for pool in ("lab", "another")]
        assert resalloc("ticket-wait", "7").out_bytes == DATA + b"x"

    def test_one_that_ended_before_gives_nothing(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, state="ended", outcome="failed"))
        outcome = resalloc("ticket-wait", "7")
        assert (outcome.status, outcome.out) == (5, "")
        assert "ended before" in outcome.err

    def test_one_that_there_is_not_is_an_error(self, resalloc: Resalloc) -> None:
        assert resalloc("ticket-wait", "7").status == 1


class TestTicketClose:
    @pytest.mark.parametrize("state", [ACTIVE, QUEUED, {"state": "ended", "outcome": "released"}], ids=str)
    def test_it_may_come_twice(self, api: FakeApi, resalloc: Resalloc, state: dict[str, Any]) -> None:
        api.add(lease(7, **state))
        for _ in range(2):
            outcome = resalloc("ticket-close", "7")
            assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
        assert len(api.calls("POST", "/v1/leases/7/release")) == 2

    def test_one_that_there_is_not_is_no_error(self, resalloc: Resalloc) -> None:
        outcome = resalloc("ticket-close", "7")
        assert (outcome.status, outcome.err) == (0, "warning: there is no ticket 7\n")


class TestConnection:
    def test_it_says_where_leasehold_is_if_nothing_else_does(
        self, api: FakeApi, resalloc: Resalloc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api.add(lease(7, **ACTIVE))
        monkeypatch.delenv("LEASEHOLD_URL")
        assert resalloc("--connection", api.url, "ticket-close", "7").status == 0
        assert len(api.requests) == 1

    def test_a_script_with_the_old_servers_address_works_unchanged(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(7, **ACTIVE))
        assert resalloc("--connection", "http://resalloc.example:49100", "ticket-close", "7").status == 0

    def test_what_is_no_url_of_http_is_left_alone(
        self, api: FakeApi, resalloc: Resalloc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LEASEHOLD_URL")
        monkeypatch.setenv("LEASEHOLD_API_PORT", api.url.rpartition(":")[2])
        api.add(lease(7, **ACTIVE))
        assert resalloc("--connection", "unix:///run/resalloc", "ticket-close", "7").status == 0


def resource(name: str, state: str = "free", **fields: Any) -> dict[str, Any]:
    known = {"pool": "lab", "name": name, "state": state, "stage": None, "offline": None, "broken": None}
    return {**known, "lease": None, "epoch": 7, "tags": ["x86", "metal"], "properties": {}, **fields}


def instance(number: int, uses: int = 0) -> dict[str, Any]:
    created = {"id_in_pool": 0, "created_at": "2026-01-05T09:00:00Z", "counters": {}}
    return {"instance": {"id": number, "uses": uses, **created}}


RESOURCES = [
    resource("vm9", "free", **instance(9, 2)),
    resource("vm10", "leased", lease="lease-3", **instance(10, 1)),
    resource("vm11", "creating", **instance(11)),
    resource("vm12", "recycling", **instance(12)),
    resource("vm13", "deleting", instance={**instance(13)["instance"], "uses": None}),
    resource("host1", instance=None, tags=[]),
    resource("host2", "broken"),
    resource("host3", offline={"reason": "PSU", "by": "ann", "since": "2026-01-05T09:00:00Z"}),
    resource("host1", "leased", pool="other", lease="lease-99"),
]


@pytest.fixture
def lab(api: FakeApi) -> FakeApi:
    """An API with resources in all states, each list of which is asked for up to ten times."""
    api.add(lease(3, **ACTIVE))
    api.answers["GET /v1/resources"] = [Answer(200, {"items": RESOURCES[::-1], "next_cursor": None}) for _ in range(10)]
    return api


class TestResourceList:
    def test_each_is_a_line_as_the_old_tool_writes_it(self, lab: FakeApi, resalloc: Resalloc) -> None:
        outcome = resalloc("resource-list")
        assert outcome.err == ""
        assert outcome.out.splitlines()[:5] == [
            "9 - vm9 pool=lab tags=x86,metal status=UP releases=2 ticket=NULL",
            "10 - vm10 pool=lab tags=x86,metal status=UP releases=1 ticket=3",
            "11 - vm11 pool=lab tags=x86,metal status=STARTING releases=0 ticket=NULL",
            "12 - vm12 pool=lab tags=x86,metal status=RELEASING releases=0 ticket=NULL",
            "13 - vm13 pool=lab tags=x86,metal status=DELETING releases=0 ticket=NULL",
        ]
        assert sorted(outcome.out.splitlines()[5:]) == [
            "- - host1 pool=lab tags= status=UP releases=0 ticket=NULL",
            "- - host1 pool=other tags=x86,metal status=UP releases=0 ticket=lease-99",
            "- - host2 pool=lab tags=x86,metal status=BROKEN releases=0 ticket=NULL",
            "- - host3 pool=lab tags=x86,metal status=OFFLINE releases=0 ticket=NULL",
        ]

    def test_up_are_those_that_can_be_had_or_are_had(self, lab: FakeApi, resalloc: Resalloc) -> None:
        lines = resalloc("resource-list", "--up").out.splitlines()
        assert [line.split()[2] for line in lines if "pool=lab" in line] == ["vm9", "vm10", "host1"]

    def test_what_others_wrote_breaks_no_line(self, api: FakeApi, resalloc: Resalloc) -> None:
        hostile = [resource("r1", tags=["a\nb - c pool=x", "\x1b[2J"])]
        api.answers["GET /v1/resources"] = [Answer(200, {"items": hostile, "next_cursor": None})]
        out = resalloc("resource-list").out
        assert (out.count("\n"), "\x1b" in out) == (1, False)


class TestResourceInfo:
    @pytest.mark.parametrize("ref", ["10", "vm10", "lab/vm10"])
    def test_all_is_printed_as_json(self, lab: FakeApi, resalloc: Resalloc, ref: str) -> None:
        shown = json.loads(resalloc("resource-info", ref).out)
        assert (shown["id"], shown["name"], shown["status"], shown["releases"]) == ("10", "vm10", "UP", 1)
        assert (shown["ticket"], shown["lease"], shown["instance"]["id_in_pool"]) == ("3", "lease-3", 0)

    def test_a_name_that_is_none_or_several_is_an_error(self, lab: FakeApi, resalloc: Resalloc) -> None:
        assert resalloc("resource-info", "nope").err == "there is no resource nope (not_found)\n"
        several = resalloc("resource-info", "host1")
        assert several.status == 2
        assert "other/host1" in several.err
        assert resalloc("resource-info", "other/host1").status == 0
        # What has no id is not called by that of all the others.
        assert resalloc("resource-info", "-").status != 0


class TestResourceDelete:
    @pytest.fixture(autouse=True)
    def _deletable(self, lab: FakeApi) -> None:
        for one in RESOURCES:
            address = f"DELETE /v1/pools/{one['pool']}/resources/{one['name']}"
            lab.answers[address] = [Answer(200, {"changes": []})]

    def deleted(self, api: FakeApi) -> list[str]:
        return [one.path.rpartition("/")[2] for one in api.requests if one.method == "DELETE"]

    def ended(self, api: FakeApi) -> list[str]:
        return [one.path for one in api.requests if one.path.endswith("/cancel")]

    def test_those_that_are_named(self, lab: FakeApi, resalloc: Resalloc) -> None:
        assert resalloc("resource-delete", "9", "lab/host1").status == 0
        assert (self.deleted(lab), self.ended(lab)) == (["vm9", "host1"], [])

    def test_the_ticket_of_one_that_is_leased_fails_and_nobody_gets_it_in_between(
        self, lab: FakeApi, resalloc: Resalloc
    ) -> None:
        assert resalloc("resource-delete", "vm10").status == 0
        assert self.ended(lab) == ["/v1/leases/lease-3/cancel"]
        steps = [one.method for one in lab.requests if one.method != "GET"]
        assert steps == ["DELETE", "POST"]

    def test_all_are_those_that_are_up(self, lab: FakeApi, resalloc: Resalloc) -> None:
        lab.add(lease(99, **ACTIVE))
        assert resalloc("resource-delete", "--all").status == 0
        assert sorted(self.deleted(lab)) == ["host1", "host1", "vm10", "vm9"]
        assert sorted(self.ended(lab)) == ["/v1/leases/lease-3/cancel", "/v1/leases/lease-99/cancel"]

    def test_unused_are_those_that_nobody_has(self, lab: FakeApi, resalloc: Resalloc) -> None:
        assert resalloc("resource-delete", "--unused").status == 0
        assert (sorted(self.deleted(lab)), self.ended(lab)) == (["host1", "vm9"], [])

    def test_one_that_cannot_be_deleted_keeps_no_other_from_it_nor_loses_its_ticket(
        self, lab: FakeApi, resalloc: Resalloc
    ) -> None:
        refusal = problem(409, "owned_elsewhere", "the pools file lab has it")
        lab.answers["DELETE /v1/pools/lab/resources/vm10"] = [refusal]
        outcome = resalloc("resource-delete", "vm10", "vm9")
        assert outcome.status == 3
        assert "lab/vm10:\nthe pools file lab has it" in outcome.err
        assert (self.deleted(lab), self.ended(lab)) == (["vm10", "vm9"], [])

    @pytest.mark.parametrize("arguments", [(), ("--all", "--unused"), ("9", "--all")], ids=str)
    def test_it_is_said_which(self, lab: FakeApi, resalloc: Resalloc, arguments: tuple[str, ...]) -> None:
        assert resalloc("resource-delete", *arguments).status == 2
        assert self.deleted(lab) == []


def run(number: int, *, of: str = "lease-3", ended: bool = True) -> dict[str, Any]:
    known = {"lease": of, "pool": "lab", "resource": "vm10", "epoch": 7, "stage": "wipe", "hook": 0, "attempt": 1}
    times = {"started_at": "2026-01-05T09:00:00Z", "ended_at": "2026-01-05T09:00:01Z" if ended else None}
    return {"id": number, **known, **times, "host": "w1", "seconds": 1.0, "ending": None, "code": 0, "ok": True}


class TestResourceLogs:
    def test_what_hooks_printed_is_printed_until_the_resource_is_gone(
        self, lab: FakeApi, resalloc: Resalloc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("leasehold.cli.compat.maintenance.LOOK_AGAIN_S", 0.01)
        lab.runs = [run(1), run(2, of=""), run(3, ended=False)]
        lab.printed = {"1": b"wiping\n", "3": b"\xff half"}
        lab.answers["GET /v1/pools/lab/resources/vm10/log"] = [Answer(200, b"creating\n")]
        lab.answers["GET /v1/pools/lab/resources/vm10"] = [Answer(200, RESOURCES[1]), Answer(200, RESOURCES[1])]
        outcome = resalloc("resource-logs", "vm10")
        assert (outcome.status, outcome.out_bytes, outcome.err) == (0, b"wiping\ncreating\n\xff half", "")
        assert ("run", "2") in lab.calls("GET", "/v1/pools/lab/resources/vm10/log")[0].query

    def test_of_several_it_says_which(self, lab: FakeApi, resalloc: Resalloc) -> None:
        lab.runs, lab.printed = [run(1)], {"1": b"wiping\n"}
        out = resalloc("resource-logs", "vm10", "vm9").out
        assert out == "==> lab/vm10 <==\nwiping\n==> lab/vm9 <==\nwiping\n"

    def test_one_that_there_is_not_is_an_error(self, lab: FakeApi, resalloc: Resalloc) -> None:
        assert resalloc("resource-logs", "nope").status == 1


class TestTicketList:
    def test_each_open_one_is_a_line(self, api: FakeApi, resalloc: Resalloc) -> None:
        api.add(lease(8, **QUEUED, items=[{"count": 1, "tags": ["x86", "big"]}]))
        api.add(lease(3, **ACTIVE))
        outcome = resalloc("ticket-list")
        assert outcome.out.splitlines() == [
            "3 - state=OPEN tags= resource=r1",
            "8 - state=OPEN tags=x86,big",
        ]
        assert ("state", "queued,preparing,active,releasing") in api.requests[0].query


class TestForeachResource:
    def foreach(self, resalloc: Resalloc, command: str) -> list[str]:
        outcome = resalloc("foreach-resource", "--command", command)
        assert (outcome.status, outcome.err) == (0, "")
        return outcome.out.splitlines()

    def test_each_is_named_if_nothing_is_said(self, lab: FakeApi, resalloc: Resalloc) -> None:
        outcome = resalloc("foreach-resource")
        assert outcome.out.splitlines()[:3] == ["vm9", "vm10", "vm11"]
        assert len(outcome.out.splitlines()) == len(RESOURCES)

    def test_state_and_data_are_those_of_each(self, lab: FakeApi, resalloc: Resalloc) -> None:
        lab.delivered = [{"pool": "lab", "name": "vm10", "role": None, "data": None, "data_base64": "MTAuMC4wLjE="}]
        lines = self.foreach(resalloc, "printf '%s\\n' {state}-{data_utf8}")
        assert lines[:3] == ["UP-", "UP-10.0.0.1", "STARTING-"]

    def test_nobodys_data_is_asked_for_where_nobody_wants_it(self, lab: FakeApi, resalloc: Resalloc) -> None:
        self.foreach(resalloc, "echo {name}")
        assert not lab.calls("GET", "/v1/leases/lease-3/delivery")

    def test_data_that_is_not_utf8_crashes_its_tools(self, lab: FakeApi, resalloc: Resalloc) -> None:
        """A defect of resalloc's."""
        lab.delivered = [{"pool": "lab", "name": "vm10", "role": None, "data": None, "data_base64": "/wBh"}]
        assert "[\ufffd\ufffda]" in self.foreach(resalloc, "printf '%s\\n' [{data_utf8}]")

    def test_braces_and_variables_of_the_shell_stay(self, lab: FakeApi, resalloc: Resalloc) -> None:
        assert self.foreach(resalloc, "n={name}; echo ${{#n}}")[:2] == ["3", "4"]

    @pytest.mark.parametrize("command", ["{nope}", "{name!r}", "{name:>5}", "{name.__class__}", "{0}", "{", "a}"])
    def test_other_placeholders_run_nothing(self, lab: FakeApi, resalloc: Resalloc, command: str) -> None:
        outcome = resalloc("foreach-resource", "--command", f"echo ran; echo {command}")
        assert (outcome.status, outcome.out) == (2, "")

    @pytest.mark.parametrize(
        "command",
        [
            "echo {data_utf8}",
            "echo [{data_utf8}]",
            'echo "[{data_utf8}]"',
            "echo '[{data_utf8}]'",
            "echo `echo {data_utf8}`",
            'echo "$(echo "{data_utf8}")"',
            "echo it\\'s {data_utf8}",
            "cat <<END\n{data_utf8}\nEND",
            "# {data_utf8}\necho",
            "echo \\{data_utf8}",
            "echo $(({data_utf8}))",
            "x={data_utf8}; echo $x",
        ],
    )
    @pytest.mark.parametrize(
        "data",
        [
            "'; touch PWNED #",
            '"; touch PWNED; "',
            "$(touch PWNED)",
            "`touch PWNED`",
            "\ntouch PWNED\n",
            "a'\"`$(touch PWNED)",
        ],
        ids=repr,
    )
    def test_no_shell_takes_what_is_delivered_for_a_command(
        self, lab: FakeApi, resalloc: Resalloc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, data: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        coded = base64.b64encode(data.encode()).decode()
        lab.answers["GET /v1/resources"] = [Answer(200, {"items": [RESOURCES[1]], "next_cursor": None})]
        lab.delivered = [{"pool": "lab", "name": "vm10", "role": None, "data": data, "data_base64": coded}]
        resalloc("foreach-resource", "--command", command)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("written", ["{data_utf8}", '"{data_utf8}"', "'{data_utf8}'"])
    def test_a_value_stays_one_word_whatever_quotes_it_stands_in(
        self, lab: FakeApi, resalloc: Resalloc, written: str
    ) -> None:
        lab.delivered = [{"pool": "lab", "name": "vm10", "role": None, "data": None, "data_base64": "YSAgKiBi"}]
        assert self.foreach(resalloc, f"printf '<%s>\\n' x{written}y")[1] == "<xa  * by>"


def test_stopping_the_logs_stops_them(lab: FakeApi) -> None:
    lab.answers["GET /v1/pools/lab/resources/vm10"] = [Answer(200, RESOURCES[1]) for _ in range(50)]
    process = start(lab, "compat", "resalloc", "resource-logs", "vm10")
    lab.until(lambda: bool(lab.calls("GET", "/v1/pools/lab/resources/vm10/runs")))
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert finish(process).status != 0
