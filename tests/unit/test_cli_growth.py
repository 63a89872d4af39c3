"""`leasehold add` and `leasehold give-back`: an active lease gets more, or gives a part back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.cli_runner import Cli, finish, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, FakeApi, lease, leased, problem

ADDED = {**leased("r2"), "epoch": 8}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.add(lease(1, **ACTIVE))
        api.delivered.append({**api.delivered[0], "name": "r2", "data": "second\n", "data_base64": "c2Vjb25kCg=="})
        yield api
        kill_leftovers()


@pytest.fixture
def cli(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(api, monkeypatch, capfdbinary)


def goes(api: FakeApi, *steps: dict[str, Any]) -> None:
    """Let what is added be, one after the other, as these say."""
    states = [{"resources": [leased("r1"), {**ADDED, "epoch": 7, **step}]} for step in steps]
    # The first look is before the addition.
    api.add(api.leases["lease-1"], [{}, *states])


def test_what_was_added_is_waited_for_and_printed_alone(api: FakeApi, cli: Cli) -> None:
    goes(api, {"state": "preparing", "stage": "provision", "attempt": 1}, {"state": "ready"})

    outcome = cli("add", "1", "lab")

    assert (outcome.status, outcome.out) == (0, "lab/r2\n  second\n")
    assert outcome.err.splitlines()[1:] == ["lease 1: lab/r2: wipe, attempt 1", "lease 1: lab/r2: provision, attempt 1"]


def test_it_asks_for_items_as_take_does(api: FakeApi, cli: Cli) -> None:
    cli(*"add 1 lab -n 2 --match ram__gte=64 --tag x86 --role worker --skip provision --no-wait".split())
    cli(*"add 1 --item pool=lab,name=r3 --item pool=vm,skip=wipe --no-wait".split())

    first, second = api.calls("POST", "/v1/leases/lease-1/resources")
    item = {"pool": "lab", "count": 2, "match": ["ram__gte=64"], "tags": ["x86"]}
    assert first.json == {"items": [{**item, "role": "worker", "skip": ["provision"]}]}
    assert second.json == {
        "items": [{"pool": "lab", "names": ["r3"], "count": 1}, {"pool": "vm", "skip": ["wipe"], "count": 1}]
    }
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


def test_no_wait_prints_its_name_at_once(api: FakeApi, cli: Cli) -> None:
    outcome = cli("add", "1", "lab", "--no-wait")

    assert (outcome.status, outcome.out, outcome.err) == (0, "lab/r2\n", "")


def test_json_is_the_apis_lease_with_the_delivery_of_what_was_added(api: FakeApi, cli: Cli) -> None:
    goes(api, {"state": "ready"})

    outcome = cli("add", "1", "lab", "--json")

    printed = json.loads(outcome.out)
    assert printed.pop("delivery") == {"lease": "lease-1", "resources": api.delivered[1:], "shared": []}
    assert printed == api.leases["lease-1"]
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [(409, "not_free", 3), (409, "lease_not_active", 3), (422, "unsatisfiable", 3), (404, "lease_unknown", 1)],
)
def test_a_refusal_is_told_with_its_code(api: FakeApi, cli: Cli, status: int, code: str, exit_status: int) -> None:
    api.answers["POST /v1/leases/lease-1/resources"] = [problem(status, code, "not now")]

    outcome = cli("add", "1", "lab")

    assert (outcome.status, outcome.out, outcome.err) == (exit_status, "", f"not now ({code})\n")


def test_what_fails_its_stages_is_named_and_the_rest_is_printed(api: FakeApi, cli: Cli) -> None:
    goes(api, {"state": "released"})

    outcome = cli("add", "1", "lab")

    assert (outcome.status, outcome.out) == (5, "")
    assert outcome.err.splitlines()[-1].startswith("Lease 1 is active until 2999-01-05T10:00:00Z (in ")
    assert outcome.err.endswith(", without lab/r2\n")


def test_a_lease_that_ends_meanwhile_is_told(api: FakeApi) -> None:
    process = start(api, "add", "1", "lab")
    api.until(lambda: len(api.calls("GET", "/v1/leases/lease-1")) > 1)

    api.go_on("lease-1", {"resources": [leased("r1"), leased("r2", "released")]})
    api.end("lease-1", "cancelled")
    outcome = finish(process)

    assert (outcome.status, outcome.out) == (5, "")
    assert "Lease 1 is ended: cancelled, without lab/r2" in outcome.err


def test_at_the_timeout_it_stays_and_that_is_said(api: FakeApi, cli: Cli) -> None:
    outcome = cli("add", "1", "lab", "--timeout", "1s")

    assert (outcome.status, outcome.out) == (4, "")
    assert "still being prepared: leasehold show 1" in outcome.err


@pytest.mark.parametrize("options", [[], ["-n", "2"], ["lab", "--item", "pool=vm"], ["lab", "-n", "0"]])
def test_what_makes_no_sense_is_a_usage_error(api: FakeApi, cli: Cli, options: list[str]) -> None:
    assert cli("add", "1", *options).status == 2
    assert not api.requests


def test_a_part_is_given_back_and_the_rest_stays(api: FakeApi, cli: Cli) -> None:
    outcome = cli("give-back", "1", "lab/r1")

    assert outcome.status == 0
    assert outcome.out.startswith("Lease 1: active until 2999-01-05T10:00:00Z")
    assert len(api.calls("DELETE", "/v1/leases/1/resources/lab/r1")) == 1
    assert json.loads(cli("give-back", "1", "lab/r1", "--json").out) == api.leases["lease-1"]


def test_the_last_part_is_refused(api: FakeApi, cli: Cli) -> None:
    api.answers["DELETE /v1/leases/1/resources/lab/r1"] = [problem(409, "last_resource", "release it instead")]

    outcome = cli("give-back", "1", "lab/r1")

    assert (outcome.status, outcome.err) == (3, "release it instead (last_resource)\n")


def test_a_resource_is_named_with_its_pool(api: FakeApi, cli: Cli) -> None:
    assert cli("give-back", "1", "r1").status == 2
    assert not api.requests
