"""`leasehold run`: the command's environment, signals and status, and that the lease is always given back."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Outcome, children, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, QUEUED, Answer, FakeApi, leased, problem


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
        kill_leftovers()


def run(api: FakeApi, *argv: str) -> Outcome:
    return finish(start(api, "run", "--pool", "lab", *argv))


def outcome_of_lease(api: FakeApi) -> Any:
    (lease,) = api.leases.values()
    return lease["outcome"]


def wait_for_file(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize("status", [0, 1, 77])
def test_the_status_is_the_commands_own_and_the_lease_is_released(api: FakeApi, status: int) -> None:
    outcome = run(api, "--", "sh", "-c", f"echo hello; exit {status}")

    assert (outcome.status, outcome.out) == (status, "hello\n")
    assert outcome_of_lease(api) == "released"


def test_what_follows_the_command_belongs_to_it(api: FakeApi) -> None:
    assert run(api, "echo", "-n", "--json", "x").out == "--json x"


def test_the_command_waits_for_its_resources(api: FakeApi) -> None:
    api.way = [QUEUED, ACTIVE]

    outcome = run(api, "--", "echo", "now")

    assert outcome.out == "now\n"
    assert "queued, position 2" in outcome.err


def test_the_command_is_told_of_its_resource(api: FakeApi) -> None:
    print_it = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('LEASEHOLD_')}))"

    printed = json.loads(run(api, "--", sys.executable, "-c", print_it).out)

    told = {name: value for name, value in printed.items() if os.environ.get(name) != value}

    assert told.pop("LEASEHOLD_TOKEN")
    assert json.loads(told.pop("LEASEHOLD_RESOURCES")) == ACTIVE["resources"]
    assert json.loads(told.pop("LEASEHOLD_DELIVERY")) == {"lease": "lease-1", "resources": api.delivered, "shared": []}
    assert told == {
        "LEASEHOLD_URL": api.url,
        "LEASEHOLD_LEASE": "lease-1",
        "LEASEHOLD_NUMBER": "1",
        "LEASEHOLD_POOL": "lab",
        "LEASEHOLD_RESOURCE": "r1",
        "LEASEHOLD_RESOURCE_DATA": base64.b64encode(b"url\nkey\n").decode(),
    }


def test_several_resources_are_told_as_json_alone(api: FakeApi) -> None:
    api.way = [{**ACTIVE, "resources": [leased("r1"), leased("r2")]}]
    api.delivered.append({**api.delivered[0], "name": "r2"})

    assert run(api, "--", "sh", "-c", "echo ${LEASEHOLD_RESOURCE-none}").out == "none\n"


def test_data_that_no_environment_can_hold_is_left_out_and_named(api: FakeApi) -> None:
    api.delivered[0]["data"] = "x" * 140_000

    outcome = run(api, "--", "sh", "-c", "echo ${LEASEHOLD_DELIVERY-none} $LEASEHOLD_RESOURCE_DATA")

    assert outcome.out == "none dXJsCmtleQo=\n"
    assert "LEASEHOLD_DELIVERY is too long" in outcome.err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_signals_reach_the_command_and_all_it_started_once(api: FakeApi, tmp_path: Path, name: str) -> None:
    script = tmp_path / "script"
    script.write_text(
        f"trap 'echo got >> {tmp_path}/'$1 {name[3:]}\ntouch {tmp_path}/ready$1\nwhile :; do sleep 0.05; done\n"
    )
    job = f"trap : {name[3:]}; sh {script} child | sh {script} self"
    process = start(api, "run", "--pool", "lab", "--", "sh", "-c", job)
    for who in ("self", "child"):
        wait_for_file(tmp_path / f"ready{who}")

    process.send_signal(signal.Signals[name])
    for who in ("self", "child"):
        wait_for_file(tmp_path / who)
    time.sleep(0.2)
    assert [(tmp_path / who).read_text() for who in ("self", "child")] == ["got\n", "got\n"]
    assert outcome_of_lease(api) is None, "the lease must be held as long as the command runs"

    (command,) = children(process)
    os.killpg(command, signal.SIGKILL)
    assert finish(process).status == 128 + signal.SIGKILL
    assert outcome_of_lease(api) == "released"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_ends_the_command_is_in_the_status(api: FakeApi, tmp_path: Path, name: str) -> None:
    process = start(api, "run", "--pool", "lab", "--", "sh", "-c", f"touch {tmp_path}/ready; exec sleep 30")
    wait_for_file(tmp_path / "ready")

    process.send_signal(signal.Signals[name])

    assert finish(process).status == 128 + signal.Signals[name]
    assert outcome_of_lease(api) == "released"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_that_is_stopped_while_it_waits_cancels_its_lease(api: FakeApi, signum: int, status: int) -> None:
    api.way = [QUEUED]
    process = start(api, "run", "--pool", "lab", "--", "true")
    api.until(lambda: len(api.calls("GET", "/v1/leases/lease-1")) > 0)

    process.send_signal(signum)

    assert finish(process).status == status
    assert outcome_of_lease(api) == "cancelled"


@pytest.mark.parametrize("how", ["lost", "expired", "cancelled"])
def test_a_command_whose_lease_has_ended_is_told_to_stop(api: FakeApi, tmp_path: Path, how: str) -> None:
    stopping = f"trap 'echo stopped; exit 9' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    process = start(api, "run", "--pool", "lab", "--", "sh", "-c", stopping)
    wait_for_file(tmp_path / "ready")

    api.end("lease-1", how)
    outcome = finish(process)

    assert (outcome.status, outcome.out) == (9, "stopped\n")
    assert f"Lease 1 is ended: {how}: stopping the command" in outcome.err


def test_a_command_outlives_an_api_that_is_away(api: FakeApi) -> None:
    api.answers["GET /v1/leases/lease-1"] = [Answer(0)] * 3

    assert run(api, "--", "sh", "-c", "sleep 1; echo done").out == "done\n"
    assert outcome_of_lease(api) == "released"


def test_a_refused_lease_is_125_and_nothing_is_run(api: FakeApi) -> None:
    api.answers["POST /v1/leases"] = [problem(403, "duration_refused", "too long")]

    outcome = run(api, "--", "echo", "ran")

    assert (outcome.status, outcome.out) == (125, "")
    assert "too long (duration_refused)" in outcome.err
    assert len(api.requests) == 1


def test_a_lease_that_failed_is_125(api: FakeApi) -> None:
    api.way = [{"state": "ended", "outcome": "failed", "error": {"code": "stage_failed", "detail": "no power"}}]

    outcome = run(api, "--", "echo", "ran")

    assert (outcome.status, outcome.out) == (125, "")
    assert "no power" in outcome.err


def test_a_run_that_waited_too_long_gives_its_place_back(api: FakeApi) -> None:
    api.way = [QUEUED]

    outcome = run(api, "--timeout", "1s", "--json", "--", "echo", "ran")

    assert (outcome.status, outcome.out) == (125, "")
    assert json.loads(outcome.err)["code"] == "lease_not_active"
    assert outcome_of_lease(api) == "cancelled"


def test_a_command_that_does_not_exist_takes_nothing(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "plain").touch(mode=0o644)

    assert run(api, "--", "no-such-command").status == 127
    assert run(api, "--", str(tmp_path / "none")).status == 127
    assert run(api, "--", str(tmp_path / "plain")).status == 126
    assert not api.requests


def test_a_command_that_cannot_be_started_gives_the_lease_back(api: FakeApi, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)

    assert run(api, "--", str(broken)).status == 127
    assert outcome_of_lease(api) == "released"


def test_a_lease_that_cannot_be_given_back_is_named_and_the_status_stays(api: FakeApi) -> None:
    api.answers["POST /v1/leases/lease-1/release"] = [problem(500, "internal", "it broke")]

    outcome = run(api, "--", "sh", "-c", "exit 3")

    assert outcome.status == 3
    assert "it broke" in outcome.err
    assert "leasehold release 1; it ends by itself at 2999-01-05T10:00:00Z" in outcome.err


def test_without_an_api_there_is_125() -> None:
    with FakeApi() as gone:
        pass

    assert run(gone, "--", "echo", "ran").status == 125


def test_options_say_when_and_how_patiently(api: FakeApi) -> None:
    options = "--start-at 2026-03-01T17:00:00Z --queue-timeout 30m --wait-for-supply --share-key nightly"
    assert run(api, *options.split(), "--", "true").status == 0

    (asked,) = api.calls("POST", "/v1/leases")
    assert {key: asked.json[key] for key in ("start_at", "queue_timeout", "wait_for_supply", "share_key")} == {
        "start_at": "2026-03-01T17:00:00Z",
        "queue_timeout": "30m",
        "wait_for_supply": True,
        "share_key": "nightly",
    }


def test_a_command_is_not_started_when_patience_is_over(api: FakeApi) -> None:
    error = {"code": "queue_timeout", "detail": "not granted in time"}
    api.way = [QUEUED, {"state": "ended", "outcome": "failed", "error": error}]

    outcome = run(api, "--queue-timeout", "10m", "--", "echo", "never")

    assert (outcome.status, outcome.out) == (125, "")
    assert "(queue_timeout): not granted in time; the command was not started" in outcome.err
