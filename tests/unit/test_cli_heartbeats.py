"""Heartbeats of the command line: when they are sent, and what becomes of a command whose lease is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.cli_runner import Cli, children, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, QUEUED, Answer, FakeApi, Request, lease, problem

HEARTBEAT = "/v1/leases/lease-1/heartbeat"
LOST = problem(409, "lease_not_active", "the lease is lost: no heartbeat came in time")

# Less than a user may ask for, so that no test has to wait for long.
_SHORTER = "import datetime, leasehold.cli.options as o; o._SHORTEST_HEARTBEAT = datetime.timedelta(seconds=1); "


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
        kill_leftovers()


@pytest.fixture
def cli(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(api, monkeypatch, capfdbinary)


def run(api: FakeApi, script: str, every: str = "1s") -> subprocess.Popen[str]:
    """`leasehold run` of a line of shell, with more frequent heartbeats than people may ask for."""
    options = ("--pool", "lab", "--heartbeat", every)
    return start(api, "run", *options, "--", "sh", "-c", script, wrapper=_SHORTER, in_process=True)


def beats(api: FakeApi) -> list[Request]:
    return api.calls("POST", HEARTBEAT)


def wait_for_file(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "asked"), [([], "60s"), (["--heartbeat", "10m"], "10m"), (["--no-heartbeat"], None)]
)
def test_run_asks_for_heartbeats_by_itself(api: FakeApi, options: list[str], asked: str | None) -> None:
    outcome = finish(start(api, "run", "--pool", "lab", *options, "--", "sleep", "0.5"))

    assert outcome.status == 0
    assert api.calls("POST", "/v1/leases")[0].json.get("heartbeat") == asked
    # The first one at once: the answer may be that to an earlier request with the same key.
    assert len(beats(api)) == (0 if asked is None else 1)


def test_they_come_each_third_of_the_time_while_it_waits_and_while_the_command_runs(
    api: FakeApi, tmp_path: Path
) -> None:
    api.way = [QUEUED]
    process = run(api, f"touch {tmp_path}/started; exec sleep 2", every="2s")
    api.until(lambda: len(beats(api)) == 3)
    assert api.leases["lease-1"]["state"] == "queued"

    api.go_on("lease-1", ACTIVE)
    wait_for_file(tmp_path / "started")
    heard = len(beats(api))
    assert finish(process).status == 0

    assert len(beats(api)) >= heard + 2
    assert all(later.at - earlier.at > 0.5 for earlier, later in pairwise(beats(api)))


def test_after_the_command_there_are_none(api: FakeApi) -> None:
    assert finish(run(api, "true")).status == 0
    (released,) = api.calls("POST", "/v1/leases/lease-1/release")

    assert all(beat.at <= released.at for beat in beats(api))


def test_a_command_whose_lease_is_lost_gets_sigterm_once_and_is_told_why(api: FakeApi, tmp_path: Path) -> None:
    api.answers[f"POST {HEARTBEAT}"] = [Answer(200, lease(1, **ACTIVE)), LOST, LOST]
    trap = f"trap 'echo told >> {tmp_path}/told' TERM; until [ -e {tmp_path}/told ]; do sleep 0.05; done"
    outcome = finish(run(api, f"{trap}; sleep 1; exit 9"))

    assert (outcome.status, (tmp_path / "told").read_text()) == (9, "told\n")
    assert "Lease 1: the lease is lost: no heartbeat came in time: stopping the command" in outcome.err
    assert outcome.err.count("stopping the command") == 1


@pytest.mark.parametrize("how", ["lost", "cancelled"])
def test_however_it_is_learned_that_the_lease_is_over_it_is_said_once(api: FakeApi, tmp_path: Path, how: str) -> None:
    process = run(api, f"trap 'echo told; exit 9' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done")
    wait_for_file(tmp_path / "ready")

    api.end("lease-1", how)
    outcome = finish(process)

    assert (outcome.status, outcome.out) == (9, "told\n")
    assert outcome.err.count(f"Lease 1 is ended: {how}: stopping the command") == 1
    assert outcome.err.count("stopping the command") == 1


def test_a_lease_that_is_lost_before_the_command_started_stops_it_too(api: FakeApi) -> None:
    api.answers[f"POST {HEARTBEAT}"] = [LOST]

    outcome = finish(run(api, "exec sleep 30"))

    assert outcome.status == 128 + signal.SIGTERM
    assert outcome.err.count("stopping the command") == 1


@pytest.mark.parametrize(
    "trouble", [Answer(0), problem(503, "unavailable", "not now"), problem(500, "internal", "it broke"), Answer(502)]
)
def test_errors_that_pass_end_no_command_and_are_not_worth_a_word(api: FakeApi, trouble: Answer) -> None:
    api.answers[f"POST {HEARTBEAT}"] = [trouble] * 3

    outcome = finish(run(api, "sleep 2.5; echo done", every="3s"))

    assert (outcome.status, outcome.out) == (0, "done\n")
    assert "may be lost" not in outcome.err
    assert len(beats(api)) > 3, "it was tried again"


def test_when_none_came_through_for_the_whole_time_people_are_told_and_the_command_goes_on(api: FakeApi) -> None:
    api.answers[f"POST {HEARTBEAT}"] = [problem(401, "unauthenticated", "the token is\nnot valid")] * 1000

    outcome = finish(run(api, "sleep 3; echo done"))

    assert (outcome.status, outcome.out) == (0, "done\n")
    told = "Lease 1 may be lost: no heartbeat has come through for 1s (the token is not valid)\n"
    assert outcome.err.count(told) == 1
    assert len(beats(api)) < 50, "trouble is no reason for a storm"


def test_a_machine_that_slept_too_long_finds_its_lease_lost_and_stops_the_command(api: FakeApi, tmp_path: Path) -> None:
    process = run(api, f"trap 'exit 9' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done")
    wait_for_file(tmp_path / "ready")

    process.send_signal(signal.SIGSTOP)
    api.end("lease-1", "lost")
    time.sleep(2)
    process.send_signal(signal.SIGCONT)
    outcome = finish(process)

    assert outcome.status == 9
    assert "Lease 1 is ended: lost: stopping the command" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_machine_that_slept_while_it_waited_goes_on_if_it_still_can(api: FakeApi) -> None:
    api.way = [QUEUED]
    process = run(api, "echo now")
    api.until(lambda: len(beats(api)) > 0)

    process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    api.go_on("lease-1", ACTIVE)
    process.send_signal(signal.SIGCONT)

    assert finish(process).out == "now\n"


def test_a_lease_that_is_lost_while_it_waits_runs_nothing(api: FakeApi) -> None:
    api.way = [QUEUED]
    process = run(api, "echo ran")
    api.until(lambda: len(beats(api)) > 0)

    api.end("lease-1", "lost")
    outcome = finish(process)

    assert (outcome.status, outcome.out) == (125, "")
    assert "lease 1 is ended: lost; the command was not started" in outcome.err


def test_a_killed_run_sends_no_more_and_leaves_the_lease_to_be_lost(api: FakeApi, tmp_path: Path) -> None:
    process = run(api, f"touch {tmp_path}/ready; exec sleep 30")
    wait_for_file(tmp_path / "ready")
    (command,) = children(process)
    try:
        process.kill()
        process.wait(timeout=20)
        heard = len(beats(api))
        time.sleep(1)

        assert len(beats(api)) == heard
        assert not api.calls("POST", "/v1/leases/lease-1/release")
    finally:
        os.killpg(command, signal.SIGKILL)


def test_take_sends_them_while_it_waits_and_says_that_they_are_yours_then(api: FakeApi) -> None:
    api.way = [QUEUED]
    process = start(api, "take", "lab", "--heartbeat", "1s", wrapper=_SHORTER, in_process=True)
    api.until(lambda: len(beats(api)) == 3)

    api.go_on("lease-1", ACTIVE)
    outcome = finish(process)

    assert (outcome.status, outcome.out) == (0, "lab/r1\n  url\n  key\n")
    assert outcome.err.endswith("To keep it: leasehold heartbeat 1, at least every 1s from now on\n")


def test_a_lease_without_heartbeats_is_asked_for_without(api: FakeApi, cli: Cli) -> None:
    cli("take", "lab")

    assert "heartbeat" not in api.calls("POST", "/v1/leases")[0].json
    assert not beats(api)


@pytest.mark.parametrize(
    "argv",
    [
        ["take", "lab", "--heartbeat", "9s"],
        ["take", "lab", "--heartbeat", "soon"],
        ["run", "--heartbeat", "9s", "--pool", "lab", "--", "true"],
        ["run", "--heartbeat", "1m", "--no-heartbeat", "--pool", "lab", "--", "true"],
    ],
)
def test_what_no_heartbeat_can_keep_is_a_usage_error(api: FakeApi, cli: Cli, argv: list[str]) -> None:
    assert cli(*argv).status == 2
    assert not api.requests


def test_one_can_be_sent_by_hand(api: FakeApi, cli: Cli) -> None:
    api.add(lease(1, **ACTIVE, heartbeat_by="2999-01-05T09:05:00Z"))

    outcome = cli("heartbeat", "1")

    assert outcome.status == 0
    assert outcome.out.startswith("Lease 1: active until 2999-01-05T10:00:00Z (in ")
    assert ", heartbeat by 2999-01-05T09:05:00Z (in " in outcome.out
    assert len(api.calls("POST", "/v1/leases/1/heartbeat")) == 1


def test_where_none_is_expected_that_is_said(api: FakeApi, cli: Cli) -> None:
    api.add(lease(1, **ACTIVE))

    assert cli("heartbeat", "1").err == "It expects no heartbeats\n"


def test_one_for_a_lease_that_is_lost_is_refused(api: FakeApi, cli: Cli) -> None:
    api.add(lease(1, **ACTIVE))
    api.answers["POST /v1/leases/1/heartbeat"] = [LOST]

    outcome = cli("heartbeat", "1")

    assert (outcome.status, outcome.out) == (3, "")
    assert outcome.err == "the lease is lost: no heartbeat came in time (lease_not_active)\n"
