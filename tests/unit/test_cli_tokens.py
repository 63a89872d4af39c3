"""`token create`, `token ls`, `token revoke`, `token whoami`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi, problem

SECRET = f"lh_{'a' * 12}_{'b' * 52}"


def token(name: str = "a" * 12, **fields: Any) -> dict[str, Any]:
    known = {"id": name, "user": "ci", "role": "user", "scopes": {"pools": None, "read": False}, "label": None}
    times = {"created_at": "2026-01-05T09:00:00Z", "expires_at": "2999-01-05T09:00:00Z", "last_used_at": None}
    ends = {"created_by": "admin", "made_with": None, "revoked_at": None, "revoked_by": None}
    return {**known, **times, **ends, **fields}


REVOKED = {"revoked_at": "2026-01-06T09:00:00.123Z", "revoked_by": "otto"}


def test_create_prints_the_token_alone_so_that_a_variable_can_hold_it(api: FakeApi, cli: Cli) -> None:
    scopes = {"pools": ["r640", "vm"], "read": True}
    api.answers["POST /v1/tokens"] = [Answer(201, {**token(scopes=scopes), "token": SECRET})]

    outcome = cli(
        "token", "create", "--user", "ci", "--role", "user", "--expires", "30d", "-p", "r640", "-p", "vm",
        "--read-only", "--label", "nightly",
    )  # fmt: skip

    assert (outcome.status, outcome.out) == (0, f"{SECRET}\n")
    assert "Token aaaaaaaaaaaa of ci: user in r640,vm, reading, until 2999-01-05T09:00:00Z" in outcome.err
    assert "leasehold token revoke aaaaaaaaaaaa" in outcome.err
    assert SECRET not in outcome.err
    assert api.requests[0].json == {
        "user": "ci",
        "role": "user",
        "expires": "30d",
        "scopes": scopes,
        "label": "nightly",
    }


def test_create_says_nothing_of_what_it_was_not_told(api: FakeApi, cli: Cli) -> None:
    made = {**token(), "token": SECRET}
    api.answers["POST /v1/tokens"] = [Answer(201, made)]

    outcome = cli("token", "create", "--json")

    assert json.loads(outcome.out) == made
    assert outcome.err == ""
    assert api.requests[0].json == {"scopes": {"pools": None, "read": False}}


def test_what_is_refused_prints_no_token(api: FakeApi, cli: Cli) -> None:
    fault = {"path": "role", "code": "role_too_small", "detail": "the token in use has the role user"}
    api.answers["POST /v1/tokens"] = [problem(403, "forbidden", "the token in use has the role user", fault)]

    outcome = cli("token", "create", "--role", "admin")

    assert (outcome.status, outcome.out) == (3, "")
    assert "the token in use has the role user (forbidden)" in outcome.err


@pytest.mark.parametrize("argv", [["create", "--expires", "soon"], ["create", "ci"], ["revoke"], ["ls", "--role", "x"]])
def test_what_cannot_be_is_a_usage_error(api: FakeApi, cli: Cli, argv: list[str]) -> None:
    assert cli("token", *argv).status == 2
    assert not api.requests


def test_ls_shows_those_that_are_good_or_all(api: FakeApi, cli: Cli) -> None:
    scopes = {"pools": ["lab"], "read": False}
    found = [
        token("good", label="nightly\n", scopes=scopes, last_used_at="2026-01-05T10:00:00.5Z"),
        token("gone", **REVOKED),
        token("old", expires_at="2026-01-05T10:00:00Z", role="viewer"),
    ]
    pages = [
        Answer(200, {"items": found[:2], "next_cursor": "7"}),
        Answer(200, {"items": found[2:], "next_cursor": None}),
    ]
    api.answers["GET /v1/tokens"] = pages * 3

    good = cli("token", "ls", "--user", "ci").out.splitlines()
    everything = cli("token", "ls", "--all").out.splitlines()

    assert [line.split("\t")[:4] for line in good] == [["good", "ci", "user in lab", "nightly "]]
    assert good[0].split("\t")[5:] == ["2026-01-05T10:00:00Z", "admin"]
    assert [line.split("\t")[4] for line in everything[1:]] == [
        "revoked 2026-01-06T09:00:00Z by otto",
        "expired 2026-01-05T10:00:00Z",
    ]
    assert [request.query for request in api.requests[:3]] == [
        [("user", "ci")],
        [("user", "ci"), ("cursor", "7")],
        [],
    ]
    assert json.loads(cli("token", "ls", "--all", "--json").out) == {"items": found, "next_cursor": None}


def test_revoke_ends_each_whatever_becomes_of_the_others(api: FakeApi, cli: Cli) -> None:
    api.answers["DELETE /v1/tokens/one"] = [Answer(200, token("one", **REVOKED))] * 2
    api.answers["DELETE /v1/tokens/two"] = [problem(404, "token_unknown", "there is no token two")]
    api.answers["DELETE /v1/tokens/three"] = [Answer(200, token("three", **REVOKED))]

    outcome = cli("token", "revoke", "one", "two", "three")

    assert outcome.status == 1
    assert outcome.out.splitlines() == [
        "one of ci: revoked 2026-01-06T09:00:00Z by otto",
        "three of ci: revoked 2026-01-06T09:00:00Z by otto",
    ]
    assert outcome.err == "there is no token two (token_unknown)\n"
    assert json.loads(cli("token", "revoke", "one", "--json").out) == token("one", **REVOKED)


def test_a_whole_token_that_was_found_is_revoked_without_sending_its_secret(api: FakeApi, cli: Cli) -> None:
    api.answers[f"DELETE /v1/tokens/{'a' * 12}"] = [Answer(200, token(**REVOKED))]

    assert cli("token", "revoke", SECRET).status == 0
    assert api.requests[0].path == f"/v1/tokens/{'a' * 12}"


def test_whoami_says_whose_token_it_is_and_what_for(api: FakeApi, cli: Cli) -> None:
    mine = {"user": "ci", "role": "user", "scopes": {"pools": ["lab"], "read": True}, "token": "k3x", "lease": None}
    mine["expires_at"] = "2026-01-05T10:00:00Z"
    leases = {"user": "lease:l1", "role": None, "scopes": {"pools": None, "read": False}, "token": None, "lease": "l1"}
    leases["expires_at"] = None
    api.answers["GET /v1/whoami"] = [Answer(200, mine), Answer(200, leases), Answer(200, mine)]

    assert cli("token", "whoami").out.splitlines() == [
        "user: ci",
        "role: user",
        "pools: lab",
        "changes: nothing",
        "token: k3x",
        "until: 2026-01-05T10:00:00Z",
    ]
    assert cli("token", "whoami").out == "lease: l1\n"
    assert json.loads(cli("token", "whoami", "--json").out) == mine


def test_an_expired_token_is_told_with_its_reason(api: FakeApi, cli: Cli) -> None:
    fault = {"path": "Authorization", "code": "expired", "detail": "token k3x of ci has expired"}
    api.answers["GET /v1/whoami"] = [problem(401, "unauthenticated", "token k3x of ci has expired", fault)] * 2

    assert cli("token", "whoami").status == 1
    told = json.loads(cli("token", "whoami", "--json").err)
    assert (told["code"], told["errors"]) == ("unauthenticated", [fault])
