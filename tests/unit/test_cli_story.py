"""`show` and `resource show`: what happened, as somebody reads it who was just woken up."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, Outcome, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, QUEUED, Answer, FakeApi, lease, leased, problem, resource


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
        kill_leftovers()


@pytest.fixture
def cli(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(api, monkeypatch, capfdbinary)


def event(number: int, at: str, kind: str, **fields: Any) -> dict[str, Any]:
    """An event on the fifth of January."""
    nothing = dict.fromkeys(("pool", "resource", "actor", "reason"))
    return {
        "id": number,
        "at": f"2026-01-05T{at}.000000Z",
        "kind": kind,
        "lease": "lease-1",
        **nothing,
        "data": {},
    } | fields


def run(number: int, at: str, stage: str, seconds: float | None, **fields: Any) -> dict[str, Any]:
    """A run of a hook that succeeded, or that still goes on."""
    done = seconds is not None
    known = {
        "id": number,
        "lease": "lease-1",
        "pool": "lab",
        "resource": "r1",
        "epoch": 7,
        "stage": stage,
        "hook": 0,
        "attempt": 1,
        "host": "worker1",
        "started_at": f"2026-01-05T{at}.000000Z",
        "ended_at": "2026-01-05T23:00:00.000000Z" if done else None,
        "seconds": seconds,
        "ending": "exited" if done else None,
        "code": 0 if done else None,
        "detail": "exited with status 0" if done else None,
        "ok": True if done else None,
    }
    return known | fields


BAD = {"ok": False, "code": 3, "detail": "exited with status 3"}
LOST = {"ok": False, "ending": "lost", "code": None, "detail": "its worker went away"}
R1 = {"pool": "lab", "resource": "r1"}


def began(number: int, at: str, started: dict[str, Any]) -> dict[str, Any]:
    """The event of the beginning of a run."""
    data = {"stage": started["stage"], "attempt": started["attempt"], "hook": started["hook"], "run": started["id"]}
    return event(number, at, "stage_started", **R1, data=data)


RUNS = [
    run(21, "09:10:02", "wipe", 20.0, **LOST),
    run(22, "09:10:22", "wipe", 63.2),
    run(23, "09:11:26", "provision", 121.0, **BAD),
    run(24, "09:13:27", "provision", 0.42, attempt=2, hook=1),
    run(25, "12:01:00", "release", None),
]
EVENTS = [
    event(1, "09:00:00", "lease_queued", actor="alice", reason="1 of lab wanted, 0 free", data={"number": 1}),
    event(2, "09:10:02", "lease_preparing", data={"resources": ["lab/r1"]}),
    event(3, "09:10:02", "resource_leased", **R1, data={"epoch": 7}),
    began(4, "09:10:02", RUNS[0]),
    event(5, "09:10:22", "stage_lost", **R1, reason="its worker went away", data={"run": 21}),
    began(6, "09:10:22", RUNS[1]),
    event(7, "09:11:25", "stage_ended", **R1, data={"run": 22}),
    began(8, "09:11:26", RUNS[2]),
    event(9, "09:13:27", "stage_ended", **R1, reason="exited with status 3", data={"run": 23}),
    began(10, "09:13:27", RUNS[3]),
    event(11, "09:13:28", "lease_active", data={"expires_at": "2026-01-05T10:13:28+00:00"}),
    event(12, "09:30:00", "lease_extended", actor="bob", data={"expires_at": "2026-01-05T12:13:28+00:00"}),
    event(13, "10:00:00", "lease_warned", data={"left": "10m"}),
    event(14, "12:00:59", "lease_releasing", actor="alice", reason="enough", data={"outcome": "released"}),
    event(15, "12:00:59", "resource_recycling", **R1, data={"epoch": 8}),
    event(16, "12:00:59", "lease_ended", data={"outcome": "released"}),
    began(17, "12:01:00", RUNS[4]),
]
ENDED = {"state": "ended", "outcome": "released", "ended_at": "2026-01-05T12:00:59Z", "resources": [leased("r1")]}


def have(
    api: FakeApi, state: dict[str, Any], events: list[dict[str, Any]], runs: list[dict[str, Any]] | None = None
) -> None:
    api.add(lease(1, **state))
    api.events, api.runs = events, runs or []


def told(outcome: Outcome) -> list[str]:
    """What the story says, without its times."""
    lines = outcome.out.partition("What happened\n")[2].splitlines()
    return [line.partition("\t")[2] for line in lines]


HELD = [
    event(1, "09:00:00", "lease_preparing", actor="alice", data={"number": 1, "resources": ["lab/r1"]}),
    event(2, "09:01:00", "lease_blocked", **R1, reason="lab/r1: no worker has begun wipe for a minute"),
    event(3, "09:02:00", "resource_broken", **R1, reason="wipe: exit status 3"),
    event(4, "09:02:00", "lease_replaced", data={"resources": ["lab/r2"]}),
    event(5, "09:03:00", "lease_active", data={"expires_at": "2026-01-05T10:03:00+00:00"}),
    event(6, "09:04:00", "lease_grown", actor="bob", data={"resources": ["lab/r1", "lab/r3"]}),
    event(7, "09:05:00", "lease_resource_ready", **R1),
    event(8, "09:06:00", "lease_shrunk", **R1, actor="bob"),
    event(9, "09:33:00", "lease_expiring", data={"expires_at": "2026-01-05T10:03:00+00:00", "left_s": 1800}),
    event(10, "10:03:00", "lease_grace", data={"until": "2026-01-05T10:18:00+00:00"}),
    event(11, "10:10:00", "lease_extended", actor="policy", data={"expires_at": "2026-01-05T12:00:00+00:00"}),
    event(12, "11:00:00", "lease_ended", reason="no heartbeat came in time", data={"outcome": "lost"}),
]


class TestALease:
    def test_what_happens_while_it_is_held_and_before_in_words(self, api: FakeApi, cli: Cli) -> None:
        have(api, {**ENDED, "outcome": "lost"}, HELD)

        assert told(cli("show", "1")) == [
            "requested by alice: 1 lab; granted lab/r1",
            "waits: lab/r1: no worker has begun wipe for a minute",
            "lab/r1: broken: wipe: exit status 3",
            "granted lab/r2 in the stead of what failed",
            "delivered after 3m of preparation; lent until 2026-01-05T10:03:00Z",
            "given lab/r1, lab/r3 more by bob",
            "lab/r1: delivered",
            "lab/r1: given back by bob",
            "warned: it ends at 2026-01-05T10:03:00Z, in 30m",
            "expired, and can be extended until 2026-01-05T10:18:00Z",
            "extended by policy until 2026-01-05T12:00:00Z",
            "lost after 1h 57m: no heartbeat came in time",
        ]

    def test_its_story_from_the_request_to_the_recycling(self, api: FakeApi, cli: Cli) -> None:
        have(api, {**ENDED, "description": "nightly", "cc": ["bob"]}, EVENTS, RUNS)
        api.printed["23"] = b"[lab/r1 provision#1 stdout] installing\n[lab/r1 provision#1 stderr] no\x1b[2Jdisk\n"

        outcome = cli("show", "1")

        assert outcome.out.splitlines() == [
            "Lease 1: ended: released",
            "  id: lease-1",
            "  owner: alice",
            "  cc: bob",
            "  for: nightly",
            "  asked for: 1 lab",
            "  created: 2026-01-05T09:00:00Z",
            "  ended: 2026-01-05T12:00:59Z",
            "  Temporal: http://ui/workflows/lease-1",
            "Resources",
            "  lab/r1\t\tready\t7",
            "What happened",
            "  2026-01-05T09:00:00Z\trequested by alice: 1 lab; queued: 1 of lab wanted, 0 free",
            "  2026-01-05T09:10:02Z\tgranted lab/r1 after 10m 2s in the queue",
            "  2026-01-05T09:10:02Z\tlab/r1: wipe, attempt 1 lost on worker1 after 20s: its worker went away (run 21)",
            "  2026-01-05T09:10:22Z\tlab/r1: wipe ok, took 1m 3s",
            "  2026-01-05T09:11:26Z\tlab/r1: provision, attempt 1 failed after 2m 1s: exited with status 3 (run 23)",
            "  \t| installing",
            "  \t| no [2Jdisk",
            "  2026-01-05T09:13:27Z\tlab/r1: provision, hook 2, attempt 2 ok, took 0.4s",
            "  2026-01-05T09:13:28Z\tdelivered after 3m 26s of preparation; lent until 2026-01-05T10:13:28Z",
            "  2026-01-05T09:30:00Z\textended by bob until 2026-01-05T12:13:28Z",
            "  2026-01-05T10:00:00Z\twarned (left=10m)",
            "  2026-01-05T12:00:59Z\treleased after 2h 48m by alice: enough",
            "  2026-01-05T12:00:59Z\tlab/r1: recycling",
            "  2026-01-05T12:00:59Z\tended",
            "  2026-01-05T12:01:00Z\tlab/r1: release, attempt 1 is running on worker1 (run 25)",
        ]
        assert outcome.err == "All that a run printed: leasehold logs 1 --run RUN\n"
        (asked,) = api.calls("GET", "/v1/leases/lease-1/log")
        assert dict(asked.query) == {"run": "23", "tail": "5"}

    def test_its_command_was_lost_and_run_again(self, api: FakeApi, cli: Cli) -> None:
        again = {"runner": "build02", "attempt": 2}
        ended = {"result": "signalled", "code": 9, "started": True}
        events = [
            event(1, "09:00:00", "command_started", pool="lab", actor="runner b1", data={"runner": "b1", "attempt": 1}),
            event(2, "09:01:00", "command_lost", pool="lab", reason="b1 is gone", data={"runner": "b1", "attempt": 1}),
            event(3, "09:02:00", "command_started", pool="lab", actor="runner build02", data=again),
            event(4, "09:03:30", "command_ended", pool="lab", reason=None, data=ended),
            event(5, "09:03:31", "command_ended", reason=None, data={"result": "exited", "code": 0, "started": True}),
        ]
        have(api, ENDED, events)

        assert told(cli("show", "1")) == [
            "command started on b1",
            "command lost after 1m: b1 is gone; it is run again",
            "command started on build02, attempt 2",
            "command ended after 1m 30s: it ran, and was ended by signal 9 (SIGKILL)",
            "command ended: it ran, and exited with status 0",
        ]

    def test_one_that_was_granted_at_once_and_failed(self, api: FakeApi, cli: Cli) -> None:
        error = {"code": "stage_failed", "detail": "lab/r1: wipe: no power"}
        events = [
            event(
                1, "09:00:00", "lease_preparing", actor="alice", data={"number": 1, "resources": ["lab/r1", "lab/r2"]}
            ),
            event(2, "09:00:05", "lease_releasing", actor="leasehold", data={"outcome": "failed", "error": error}),
            event(3, "09:00:05", "resource_broken", **R1, reason="wipe: no power", data={"epoch": 8}),
            event(4, "09:00:05", "resource_free", pool="lab", resource="r2", data={"epoch": 8}),
            event(5, "09:00:17", "lease_ended", data={"outcome": "failed"}),
        ]
        have(api, ENDED, events)

        assert told(cli("show", "1")) == [
            "requested by alice: 1 lab; granted lab/r1, lab/r2",
            "failed by leasehold: lab/r1: wipe: no power (stage_failed)",
            "lab/r1: broken: wipe: no power",
            "lab/r2: free again",
            "ended, 12s later, when its hooks had stopped",
        ]

    def test_one_that_was_cancelled_in_the_queue(self, api: FakeApi, cli: Cli) -> None:
        cancelled = event(2, "09:05:00", "lease_ended", actor="bob", reason="typo", data={"outcome": "cancelled"})
        have(api, {"state": "ended", "outcome": "cancelled"}, [EVENTS[0], cancelled])

        assert told(cli("show", "1"))[1:] == ["cancelled by bob: typo"]

    def test_one_that_was_refused(self, api: FakeApi, cli: Cli) -> None:
        refused = event(
            1, "09:00:00", "lease_refused", actor="alice", reason="too many", data={"code": "unsatisfiable"}
        )
        have(api, {"number": None, "state": "ended", "outcome": "failed"}, [refused])

        assert told(cli("show", "1")) == ["requested by alice: 1 lab; refused: too many (unsatisfiable)"]

    def test_one_that_no_worker_has_seen_yet(self, api: FakeApi, cli: Cli) -> None:
        have(api, {"number": None, "state": "submitted"}, [])

        assert cli("show", "1").out.splitlines()[-1] == "  nothing yet: no worker has admitted it"

    def test_one_that_waits_says_why_now(self, api: FakeApi, cli: Cli) -> None:
        api.add(lease(1, **QUEUED))
        api.events = EVENTS[:1]

        assert cli("show", "1").out.startswith("Lease 1: queued, position 2: needs 1 of lab, 0 free\n")

    def test_one_that_waits_says_until_when_and_what_could_be_had_instead(self, api: FakeApi, cli: Cli) -> None:
        instead = [{"detail": "1 of lab,\nnot 2", "items": []}, {"detail": "2 of vm, not of lab", "items": []}]
        place = {"position": 1, "reason": "needs 2 of lab; 1 free", "eta": "2026-01-05T12:00:00.5Z"}
        api.add(lease(1, state="queued", queue={**place, "alternatives": instead}))
        api.events = EVENTS[:1]

        shown = cli("show", "1").out.partition("What happened")[0].splitlines()

        assert shown[0] == "Lease 1: queued, position 1: needs 2 of lab; 1 free"
        assert "  active about: 2026-01-05T12:00:00Z" in shown
        assert shown[-2:] == ["free now instead: 1 of lab, not 2", "free now instead: 2 of vm, not of lab"]

    def test_a_reservation_from_its_promise_to_its_beginning(self, api: FakeApi, cli: Cli) -> None:
        start = "2026-01-05T22:00:00Z"
        reserved = {"number": 1, "resources": ["lab/r1", "lab/r2"]}
        events = [
            event(1, "09:00:00", "lease_reserved", actor="alice", reason=f"reserved from {start}", data=reserved),
            event(2, "10:00:00", "lease_promised", reason="lab/r1 is broken", data={"resources": ["lab/r2", "lab/r3"]}),
            event(3, "22:00:00", "lease_preparing", data={"resources": ["lab/r2", "lab/r3"]}),
        ]
        place = {"position": 0, "reason": "reserved from 22:00 UTC: lab/r2 and lab/r3", "eta": start}
        have(api, {"start_at": start, "queue": {**place, "alternatives": None}}, events)

        outcome = cli("show", "1")

        assert outcome.out.startswith("Lease 1: queued: reserved from 22:00 UTC: lab/r2 and lab/r3\n")
        assert f"  reserved from: {start}\n  active about: {start}\n" in outcome.out
        assert told(outcome) == [
            f"requested by alice: 1 lab; reserved from {start}, promised lab/r1, lab/r2",
            "promised lab/r2, lab/r3 instead: lab/r1 is broken",
            "granted lab/r2, lab/r3 after 13h in the queue",
        ]

    def test_a_reservation_to_which_nothing_could_be_promised(self, api: FakeApi, cli: Cli) -> None:
        reserved = event(
            1, "09:00:00", "lease_reserved", actor="alice", reason="reserved from later", data={"number": 1}
        )
        have(api, QUEUED, [reserved])

        assert told(cli("show", "1")) == ["requested by alice: 1 lab; reserved from later"]

    def test_one_that_somebody_else_ended(self, api: FakeApi, cli: Cli) -> None:
        error = {"code": "ended_by_operator", "detail": "ended by bob: the rack is moved"}
        data = {"outcome": "released", "error": error}
        ended = event(2, "09:05:00", "lease_releasing", actor="bob", reason="the rack is moved", data=data)
        have(api, {**ENDED, "error": error}, [EVENTS[0], ended])

        outcome = cli("show", "1")

        assert outcome.out.startswith("Lease 1: ended: released (ended_by_operator): ended by bob: the rack is moved\n")
        assert told(outcome)[1:] == ["released by bob: ended by bob: the rack is moved (ended_by_operator)"]

    def test_output_that_cannot_be_had_keeps_nobody_from_the_story(self, api: FakeApi, cli: Cli) -> None:
        have(api, ENDED, [EVENTS[7]], [RUNS[2]])
        api.answers["GET /v1/leases/lease-1/log"] = [problem(503, "unavailable", "the database does not answer")] * 50

        outcome = cli("show", "1")

        assert (outcome.status, len(told(outcome))) == (0, 1)

    def test_only_the_last_failures_are_looked_into(self, api: FakeApi, cli: Cli) -> None:
        runs = [run(n, "09:00:00", "wipe", 1.0, **BAD, attempt=n) for n in range(1, 31)]
        have(api, ENDED, [], runs)

        cli("show", "1")

        asked = [dict(one.query)["run"] for one in api.calls("GET", "/v1/leases/lease-1/log")]
        assert asked == [str(n) for n in range(21, 31)]

    def test_json_has_all_of_it(self, api: FakeApi, cli: Cli) -> None:
        have(api, ENDED, EVENTS, RUNS)
        api.printed["23"] = b"[lab/r1 provision#1 stderr] no disk\n"

        shown = json.loads(cli("show", "1", "--json").out)

        told = {"output": None}
        runs = [{**one, **told} for one in RUNS]
        runs[2]["output"] = ["no disk"]
        assert shown == {**api.leases["lease-1"], "events": EVENTS, "runs": runs}

    def test_one_whose_resource_was_found_dead(self, api: FakeApi, cli: Cli) -> None:
        why = "livecheck: exited with status 1, 3 times in a row"
        dead = {"pool": "lab", "name": "r1", "reason": why, "since": "2026-01-05T09:30:00.5Z"}
        happened = [
            event(1, "09:10:00", "livecheck_failed", **R1, reason="exited with status 1"),
            event(2, "09:30:00", "lease_degraded", **R1, reason=why),
            event(3, "09:30:00", "not_replaced", **R1, reason="not all of it is free now"),
            event(4, "09:40:00", "resource_alive", **R1),
        ]
        have(api, {**ACTIVE, "degraded": [dead], "share_key": "nightly"}, happened)

        outcome = cli("show", "1")

        assert f"  degraded: lab/r1: {why} (since 2026-01-05T09:30:00Z)" in outcome.out.splitlines()
        assert "  share key: nightly" in outcome.out.splitlines()
        assert told(outcome) == [
            "lab/r1: its livecheck failed: exited with status 1",
            f"lab/r1: dead: {why}",
            "lab/r1: not replaced yet: not all of it is free now",
            "lab/r1: alive again",
        ]


class TestAResource:
    def known(self, api: FakeApi, **fields: Any) -> None:
        api.answers["GET /v1/pools/lab/resources/r1"] = [Answer(200, resource("r1", **fields))]

    def test_its_story(self, api: FakeApi, cli: Cli) -> None:
        offline = {"reason": "new disk", "by": "bob", "since": "2026-01-05T12:00:00.000000Z"}
        self.known(api, state="leased", stage="wipe", lease="lease-1", offline=offline)
        api.add(lease(1, **ACTIVE))
        api.events = [
            event(1, "08:00:00", "resource_added", **R1, lease=None, actor="carol"),
            event(2, "08:30:00", "resource_broken", **R1, lease="lease-0", reason="wipe: no power"),
            event(3, "08:40:00", "resource_repaired", **R1, lease=None, actor="bob"),
            event(4, "08:40:00", "resource_recycling", **R1, lease="lease-0"),
            event(5, "08:45:00", "resource_free", **R1, lease="lease-0"),
            event(6, "09:10:02", "resource_leased", **R1),
            began(7, "09:11:00", RUNS[1]),
            began(8, "09:11:26", RUNS[2]),
            event(9, "09:13:27", "stage_ended", **R1, reason="exited with status 3", data={"run": 23}),
            event(10, "12:00:00", "resource_offline", **R1, lease=None, actor="bob", reason="new disk"),
            event(11, "12:00:01", "resource_online", **R1, lease=None, actor="bob"),
            event(12, "12:00:02", "resource_changed", **R1, lease=None, actor="carol", data={"tags": [["a"], ["b"]]}),
        ]
        api.runs = [RUNS[1], RUNS[2]]
        api.printed["23"] = b"[lab/r1 provision#1 stderr] no disk\n"

        outcome = cli("resource", "show", "lab/r1")

        holder = outcome.out.splitlines()[8]
        assert outcome.out.splitlines() == [
            "Resource lab/r1: leased, wipe",
            "  leased to: lease 1 of alice",
            "  offline: new disk (by bob, since 2026-01-05T12:00:00Z)",
            "  epoch: 7",
            "  tags: x86,metal",
            "  properties:",
            "    ram: 64",
            "Last leases",
            holder,
            "What happened",
            "  2026-01-05T08:00:00Z\tadded by carol",
            "  2026-01-05T08:30:00Z\tbroken: wipe: no power",
            "  2026-01-05T08:40:00Z\tsent to repair by bob",
            "  2026-01-05T08:40:00Z\trecycling after lease lease-0",
            "  2026-01-05T08:45:00Z\tfree again after 5m of recycling",
            "  2026-01-05T09:10:02Z\tleased to lease 1 of alice",
            "  2026-01-05T09:11:26Z\tprovision, attempt 1 failed after 2m 1s: exited with status 3 (run 23)",
            "  \t| no disk",
            "  2026-01-05T12:00:00Z\tmarked offline by bob: new disk",
            "  2026-01-05T12:00:01Z\tmarked online by bob",
            '  2026-01-05T12:00:02Z\tchanged by carol (tags=[["a"], ["b"]])',
            "  1 of its last 2 runs of hooks went well",
        ]
        assert holder.split("\t")[:2] == ["  1", "alice"]
        (listed,) = api.calls("GET", "/v1/leases")
        assert dict(listed.query) == {"limit": "10", "resource": "lab/r1"}

    def test_a_broken_one_says_so_first(self, api: FakeApi, cli: Cli) -> None:
        self.known(api, state="broken", broken={"reason": "wipe: no power", "since": "2026-01-05T12:00:00Z"})

        lines = cli("resource", "show", "lab/r1").out.splitlines()

        assert lines[:2] == ["Resource lab/r1: broken", "  broken: wipe: no power (since 2026-01-05T12:00:00Z)"]

    def test_one_that_its_pool_has_made(self, api: FakeApi, cli: Cli) -> None:
        made = {
            "id": 12,
            "id_in_pool": 0,
            "counters": {"port": 3},
            "created_at": "2026-01-05T08:00:00.1Z",
            "ready_at": "2026-01-05T08:01:00.1Z",
            "uses": 2,
            "trouble": "try 2: delete: exited with status 1",
        }
        self.known(api, state="deleting", instance=made)
        mine = {**R1, "lease": None}
        failed = run(31, "09:30:00", "delete", 1.0, **BAD, lease="")
        api.events = [
            event(1, "08:00:00", "resource_creating", **mine),
            event(2, "08:01:00", "resource_free", **mine),
            event(3, "09:00:00", "livecheck_failed", **mine, reason="exited with status 1"),
            event(4, "09:10:00", "resource_alive", **mine),
            event(5, "09:30:00", "resource_deleting", **mine, reason="nobody needs it"),
            {**began(6, "09:30:00", failed), "lease": None},
            event(7, "09:30:01", "deletion_failed", **mine, reason="delete: exited with status 1"),
        ]
        api.runs = [failed]
        address = "/v1/pools/lab/resources/r1/log"
        api.answers[f"GET {address}"] = [Answer(200, b"[lab/r1 delete#1 stderr] no answer\n")]

        outcome = cli("resource", "show", "lab/r1")

        assert outcome.out.splitlines()[:12] == [
            "Resource lab/r1: deleting",
            "  epoch: 7",
            "  tags: x86,metal",
            "  properties:",
            "    ram: 64",
            "  id: 12, 0 in its pool",
            "  counters:",
            "    port: 3",
            "  created: 2026-01-05T08:00:00Z",
            "  ready: 2026-01-05T08:01:00Z",
            "  leases so far: 2",
            "  not deleted yet: try 2: delete: exited with status 1",
        ]
        assert told(outcome)[:8] == [
            "being created",
            "created after 1m",
            "its livecheck failed: exited with status 1",
            "alive again",
            "being deleted: nobody needs it",
            "delete, attempt 1 failed after 1.0s: exited with status 3 (run 31)",
            "| no answer",
            "not deleted, which is tried again: delete: exited with status 1",
        ]
        (asked,) = api.calls("GET", address)
        assert dict(asked.query) == {"run": "31", "tail": "5"}

    def test_one_that_could_not_be_made(self, api: FakeApi, cli: Cli) -> None:
        self.known(api, state="deleting")
        mine = {**R1, "lease": None}
        why = "create: exited with status 1"
        api.events = [
            event(1, "08:00:00", "resource_creating", **mine),
            event(2, "08:01:00", "creation_failed", **mine, reason=why, data={"lost": False}),
            event(3, "08:01:00", "resource_deleting", **mine, reason="it could not be created"),
        ]

        assert told(cli("resource", "show", "lab/r1")) == [
            "being created",
            f"not created: {why}",
            "being deleted: it could not be created",
        ]

    def test_as_much_of_its_history_as_wanted(self, api: FakeApi, cli: Cli) -> None:
        self.known(api)
        api.events = EVENTS

        outcome = cli("resource", "show", "lab/r1", "--last", "3")

        assert len(told(outcome)) <= 3
        for what in ("events", "runs"):
            (asked,) = api.calls("GET", f"/v1/pools/lab/resources/r1/{what}")
            assert dict(asked.query) == {"order": "desc", "limit": "3"}

    def test_json_has_all_of_it(self, api: FakeApi, cli: Cli) -> None:
        self.known(api)
        api.add(lease(1, **ACTIVE))
        api.events, api.runs = EVENTS, RUNS[1:2]

        shown = json.loads(cli("resource", "show", "lab/r1", "--json").out)

        assert (shown["name"], shown["properties"]) == ("r1", {"ram": 64})
        assert (shown["leases"], shown["events"]) == ([api.leases["lease-1"]], EVENTS)
        assert shown["runs"] == [{**RUNS[1], "output": None}]


def test_on_a_terminal_of_80_columns_nothing_is_cut_off(api: FakeApi) -> None:
    have(api, ENDED, EVENTS, RUNS)
    api.printed["23"] = b"[lab/r1 provision#1 stderr] " + b"a long line of output " * 10 + b"[red]END\n"
    master, slave = pty.openpty()
    wrapper = "import fcntl, struct, termios; fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('4H', 24, 80, 0, 0)); "
    process = start(api, "show", "1", wrapper=wrapper, stdout=slave, start_new_session=True)
    os.close(slave)
    seen = b""
    try:
        while True:
            seen += os.read(master, 4096)
    except OSError:  # EIO: the other end is closed.
        pass
    finally:
        os.close(master)
    assert finish(process).status == 0
    plain = _without_colours(seen.decode())
    lines = plain.partition("What happened")[2].splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("2026-01-05 (UTC)" in line for line in lines) == 1
    words = " ".join(plain.split())
    assert "09:11:26 lab/r1: provision, attempt 1 failed after 2m 1s: exited with status 3 (run 23)" in words
    assert "| a long line of output" in words
    assert "[red]END" in words
    # What failed is what the eye finds first.
    assert any("\x1b[31m" in line and "failed after" in line for line in seen.decode().splitlines())


def _without_colours(text: str) -> str:
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
