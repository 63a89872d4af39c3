"""What holds for every command: where it connects, as whom, and what it never loads or shows."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leasehold import __version__
from leasehold.cli import connect
from leasehold.cli.app import app
from leasehold.cli.exits import Exit
from tests.unit.cli_runner import ROOT, Cli, environment
from tests.unit.fake_api import TOKEN, Answer, FakeApi


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder without any settings."""
    for name in ("LEASEHOLD_URL", "LEASEHOLD_TOKEN", "LEASEHOLD_DATA", "LEASEHOLD_API_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_embedded_stack_is_found_without_any_setting(
    api: FakeApi, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect.api_url() == "http://127.0.0.1:8700"
    (nowhere / "data").mkdir()
    (nowhere / "data" / "admin-token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("LEASEHOLD_API_PORT", api.url.rpartition(":")[2])

    with connect.connect() as client:
        client.lease_page()

    assert api.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_the_admin_token_is_sent_to_no_other_machine(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "admin-token").write_text(TOKEN)
    monkeypatch.setenv("LEASEHOLD_DATA", str(nowhere))

    assert connect._token("http://127.0.0.1:8700") == TOKEN
    assert connect._token("https://lab.example") is None


def test_a_token_of_ones_own_goes_first(api: FakeApi, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "admin-token").write_text("admin")
    monkeypatch.setenv("LEASEHOLD_DATA", str(nowhere))
    monkeypatch.setenv("LEASEHOLD_TOKEN", " mine\n")

    assert connect._token(api.url) == "mine"


def test_a_missing_token_is_told_by_the_api(api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASEHOLD_TOKEN", "wrong")

    outcome = cli("ls")

    assert (outcome.status, outcome.err) == (1, "the token is not valid (unauthenticated)\n")


@pytest.mark.parametrize("url", ["lab", "http://", "ftp://lab"])
def test_a_bad_url_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LEASEHOLD_URL", url)

    outcome = cli("ls")

    assert outcome.status == 2
    assert outcome.err.count("\n") == 1


def test_text_that_is_not_utf8_is_one_sentence(api: FakeApi, cli: Cli) -> None:
    outcome = cli("take", "lab", "--description", "\udcff")

    assert (outcome.status, outcome.err) == (2, "the request has text that is not UTF-8 (malformed)\n")
    assert not api.requests


def test_an_api_that_is_away_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASEHOLD_URL", "http://127.0.0.1:1")

    outcome = cli("ls")

    assert outcome.status == 1
    assert outcome.err == "Leasehold at http://127.0.0.1:1 cannot be reached: Connection refused (unavailable)\n"


def test_something_that_is_not_leasehold_is_told(api: FakeApi, cli: Cli) -> None:
    api.answers["GET /v1/leases"] = [Answer(200, b"<html>"), Answer(307, b"", {"Location": "/login"})]

    assert "is not Leasehold" in cli("ls").err
    assert "answered 307" in cli("ls").err


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"leasehold {__version__}\n"
    assert "take" in cli("--help").out
    for command in ("take", "run", "ls", "show", "wait", "extend", "release", "cancel", "logs", "available", "apply"):
        assert "--json" in cli(command, "--help").out, command


def test_what_the_service_needs_is_never_loaded(api: FakeApi) -> None:
    program = (
        "import pkgutil, sys, leasehold.cli as cli\n"
        "for module in pkgutil.iter_modules(cli.__path__):\n"
        "    if module.name != '__main__': __import__(f'leasehold.cli.{module.name}')\n"
        "assert 'httpx' not in sys.modules and 'rich' not in sys.modules, 'slow to start'\n"
        "import leasehold.client\n"
        "assert not {'pydantic'} & set(sys.modules)\n"
        "try: cli.main(['ls'])\n"
        "finally: assert not {'temporalio', 'sqlalchemy', 'fastapi', 'yaml', 'ruamel'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], env=environment(api), cwd=ROOT, check=True, timeout=30)


def test_the_module_is_a_command_too(api: FakeApi) -> None:
    command = [sys.executable, "-m", "leasehold.cli", "ls", "--json"]
    done = subprocess.run(command, env=environment(api), cwd=ROOT, check=True, timeout=30, capture_output=True)

    assert b'"items": []' in done.stdout


def test_the_reference_names_every_command_with_all_its_options(cli: Cli) -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    item = reference[reference.index("## ITEM") : reference.index("## REQUEST")]
    request = reference[reference.index("## ITEM") : reference.index("## Heartbeats")]
    lines = [line for line in reference.splitlines() if re.match(r"leasehold [a-z-]+(?: (?!--item)|$)", line)]
    everywhere = {"--help", "--json"}

    for line in lines:
        words = itertools.takewhile(re.compile("[a-z]+([-_][a-z]+)*").fullmatch, line.split()[1:])
        options = {"[REQUEST]": request, "[ITEM]": item}
        more = [text for word, text in options.items() if word in line]
        written = set(re.findall(r"--[a-z][a-z-]+", "".join([line, *more])))
        told = set(re.findall(r"--[a-z][a-z-]+", cli(*words, "--help").out))
        assert written - {"--pool"} == told - {"--pool"} - everywhere, line

    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    groups = {group.name for group in app.registered_groups}
    assert {line.split()[1] for line in lines} == commands | groups


def test_the_reference_has_every_exit_status() -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    statuses = reference[reference.index("## Exit status") :]

    assert all(re.search(rf"\b{status.value}\b", statuses) for status in Exit)
