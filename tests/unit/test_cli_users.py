"""`user add`, `ls`, `passwd`, `disable`, `enable`, `rm`: passwords come from a file or standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi, problem

PASSWORD = "correct horse battery"


def user(name: str = "joe", **fields: Any) -> dict[str, Any]:
    times = {"created_at": "2026-01-05T09:00:00Z", "password_at": "2026-01-06T09:00:00.5Z"}
    return {
        "name": name,
        "role": "user",
        "created_by": "admin",
        "disabled_at": None,
        "disabled_by": None,
        **times,
        **fields,
    }


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_password_comes_from_a_file(api: FakeApi, cli: Cli, tmp_path: Path, ending: str) -> None:
    api.answers["POST /v1/users"] = [Answer(201, user(role="operator"))]
    (tmp_path / "password").write_bytes(f"{PASSWORD}{ending}".encode())
    outcome = cli("user", "add", "joe", "--role", "operator", "--password-file", str(tmp_path / "password"))
    assert (outcome.status, outcome.out) == (0, "joe (operator) can log in\n")
    assert api.requests[0].json == {"name": "joe", "password": PASSWORD, "role": "operator"}


def test_the_password_comes_from_standard_input(api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answers["POST /v1/users/joe/password"] = [Answer(200, user())]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
    outcome = cli("user", "passwd", "joe", "--password-file", "-")
    assert (outcome.status, outcome.out) == (0, "joe (user) has a new password\n")
    assert api.requests[0].json == {"password": PASSWORD}


@pytest.mark.parametrize(
    ("content", "said"), [(None, "give --password-file"), ("", "has 0 lines"), ("a\nb\n", "has 2 lines")]
)
def test_without_a_password_nothing_is_asked_of_the_service(
    api: FakeApi, cli: Cli, tmp_path: Path, content: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    arguments = []
    if content is not None:
        (tmp_path / "password").write_text(content)
        arguments = ["--password-file", str(tmp_path / "password")]
    outcome = cli("user", "add", "joe", *arguments)
    assert outcome.status == 2
    assert said in " ".join(outcome.err.replace("│", " ").split())
    assert api.requests == []


def test_no_password_can_be_given_on_the_command_line(api: FakeApi, cli: Cli) -> None:
    for arguments in (["--password", PASSWORD], [PASSWORD]):
        assert cli("user", "add", "joe", *arguments).status == 2
    assert api.requests == []


def test_ls_says_who_can_log_in(api: FakeApi, cli: Cli) -> None:
    gone = user("ann", disabled_at="2026-01-07T09:00:00Z", disabled_by="otto")
    api.answers["GET /v1/users"] = [Answer(200, {"items": [gone, user()], "next_cursor": None})]
    outcome = cli("user", "ls")
    assert outcome.out == (
        "ann\tuser\tdisabled by otto\t2026-01-06T09:00:00Z\tadmin\njoe\tuser\tenabled\t2026-01-06T09:00:00Z\tadmin\n"
    )


@pytest.mark.parametrize(
    ("command", "call", "said"),
    [
        ("disable", "POST /v1/users/joe/disable", "cannot log in"),
        ("enable", "POST /v1/users/joe/enable", "can log in"),
        ("rm", "DELETE /v1/users/joe", "is forgotten"),
    ],
)
def test_what_becomes_of_a_user(api: FakeApi, cli: Cli, command: str, call: str, said: str) -> None:
    api.answers[call] = [Answer(200, user())]
    outcome = cli("user", command, "joe")
    assert (outcome.status, outcome.out) == (0, f"joe (user) {said}\n")
    api.answers[call] = [problem(404, "user_unknown", "there is no user joe")]
    outcome = cli("user", command, "joe")
    assert outcome.status == 1
    assert "there is no user joe (user_unknown)" in outcome.err
