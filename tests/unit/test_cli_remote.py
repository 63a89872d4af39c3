"""`leasehold remote` and `compat cq_client`: a command with this environment, and what is told of its end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import syslog
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from leasehold.cli import daemon
from tests.unit.cli_runner import Cli, Outcome, finish, kill_leftovers, start
from tests.unit.fake_api import RUNNING, Answer, FakeApi, command, problem, ran
from tests.unit.test_cli_queue import ENDS

DONE: dict[str, Any] = ran("exited", exit_code=3)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        api.way = [{"command": command()}, RUNNING, DONE]
        api.output = [("stdout", b"built\n")]
        yield api
    kill_leftovers()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def script(folder: Path) -> Path:
    """A script that writes down what it is told."""
    path = folder / "then"
    path.write_text(f'#!/bin/sh\necho "$# $1 $2" > {folder}/told.new\nmv {folder}/told.new {folder}/told\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def sent(api: FakeApi) -> dict[str, Any]:
    (request,) = api.calls("POST", "/v1/leases")
    body: dict[str, Any] = request.json
    return body


def come(path: Path) -> str:
    """What is in a file, once it is there."""
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)
    return path.read_text()


class TestRemote:
    def test_folder_and_environment_go_along_and_status_and_output_come_back(
        self, api: FakeApi, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEMPORAL_API_KEY", "secret")
        monkeypatch.setenv("MINE", "here")

        outcome = cli("remote", "-E", "MINE=there", "-E", "NEW=1", "--", "make", "-E", "x")

        assert (outcome.status, outcome.out) == (3, "built\n")
        assert outcome.err.splitlines()[-1] == "lease 1: it ran, and exited with status 3"
        body = sent(api)
        assert body["items"] == [{"pool": "cq", "count": 1}]
        assert (body["command"]["run"], body["command"]["folder"]) == (["make", "-E", "x"], str(folder))
        env = body["command"]["env"]
        assert (env["MINE"], env["NEW"], env["PATH"]) == ("there", "1", os.environ["PATH"])
        assert not [name for name in env if name.startswith(("LEASEHOLD_", "TEMPORAL_"))]
        assert body["command"]["duplicates"] == "allow"

    def test_only_what_is_given(self, api: FakeApi, cli: Cli) -> None:
        assert cli("remote", "--only-given", "-E", "A=1", "make").status == 3
        assert sent(api)["command"]["env"] == {"A": "1"}

    def test_what_cannot_be_sent_is_named(self, api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BASH_FUNC_x%%", "() { :; }")
        monkeypatch.setenv("LONG", "x" * 100_001)
        monkeypatch.setenv("RAW", "\udcff")
        outcome = cli("remote", "make")
        assert outcome.err.splitlines()[0] == "Not passed on: LONG, RAW"
        assert "BASH_FUNC_x%%" in sent(api)["command"]["env"]
        assert not {"LONG", "RAW"} & set(sent(api)["command"]["env"])

    def test_where_it_runs(self, api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEASEHOLD_CQ_POOL", "builds")
        assert cli("remote", "--runner", "b1", "--label", "x86", "make").status == 3
        body = sent(api)
        assert body["items"] == [{"pool": "builds", "count": 1}]
        assert (body["command"]["runner"], body["command"]["labels"]) == ("b1", ["x86"])

    def test_a_pool_that_is_named_goes_first(self, api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEASEHOLD_CQ_POOL", "builds")
        cli("remote", "--pool", "others", "make")
        assert sent(api)["items"] == [{"pool": "others", "count": 1}]

    @pytest.mark.parametrize(("end", "status", "words"), ENDS, ids=[words for _, _, words in ENDS])
    def test_the_script_is_told_two_numbers(
        self, api: FakeApi, cli: Cli, script: Path, end: dict[str, Any], status: int, words: str
    ) -> None:
        api.way = [{"command": command()}, end]
        outcome = cli("remote", "--then", str(script), "make")
        by_itself = end["command"]["result"] in ("exited", "signalled")
        assert come(script.with_name("told")) == f"2 {0 if by_itself else status} {status if by_itself else 0}\n"
        assert outcome.status == status

    @pytest.mark.parametrize(
        ("end", "facts"),
        [
            (ran("exited", exit_code=137), "exited 1 -"),
            (ran("signalled", signal=9), "signalled 1 9"),
            (ran("cancelled", started=False), "cancelled 0 -"),
        ],
    )
    def test_and_in_its_environment_how_it_ended(
        self, api: FakeApi, cli: Cli, script: Path, end: dict[str, Any], facts: str
    ) -> None:
        api.way = [RUNNING, end]
        told = script.with_name("told")
        script.write_text(f"#!/bin/sh\necho $LEASEHOLD_RESULT $LEASEHOLD_STARTED ${{LEASEHOLD_SIGNAL:--}} >{told}\n")
        cli("remote", "--then", str(script), "make")
        assert come(told) == f"{facts}\n"

    def test_a_script_that_cannot_be_run_is_named(self, cli: Cli) -> None:
        outcome = cli("remote", "-P", "/none", "make")
        assert outcome.status == 3
        assert "/none cannot be run: No such file" in outcome.err

    def test_what_is_refused_is_told_and_no_script_is_run(self, api: FakeApi, cli: Cli, script: Path) -> None:
        api.answers["POST /v1/leases"] = [problem(403, "command_refused", "not yours")]
        outcome = cli("remote", "-P", str(script), "make")
        assert outcome.status == 125
        assert "not yours (command_refused)" in outcome.err
        assert not script.with_name("told").exists()

    def test_the_script_is_told_of_what_leasehold_failed_at(self, api: FakeApi, cli: Cli, script: Path) -> None:
        api.answers["GET /v1/leases/lease-1/output"] = [problem(500, "internal", "it broke")]
        assert cli("remote", "-P", str(script), "make").status == 125
        assert come(script.with_name("told")) == "2 125 0\n"

    def test_stopped_it_says_that_the_command_goes_on(self, api: FakeApi, script: Path) -> None:
        api.way = [{"command": command()}]
        process = start(api, "remote", "-P", str(script), "make")
        api.until(lambda: len(api.calls("GET", "/v1/leases/lease-1")) > 1)
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)
        assert outcome.status == 128 + signal.SIGTERM
        assert "The command goes on" in outcome.err
        assert not script.with_name("told").exists()

    @pytest.mark.parametrize(
        "argv", [["--log", "x"], ["--syslog"], ["--detach", "--log", "x", "--syslog"], ["--detach", "--log", "/no/x"]]
    )
    def test_options_that_do_not_fit(self, api: FakeApi, cli: Cli, argv: list[str]) -> None:
        assert cli("remote", *argv, "make").status == 2
        assert not api.requests


class TestDetached:
    def test_it_returns_at_once_and_waits_without_a_terminal(self, api: FakeApi, folder: Path, script: Path) -> None:
        api.way = [{"command": command()}]
        argv = ["remote", "--detach", "--log", f"{folder}/log", "--then", str(script), "make"]

        outcome = finish(start(api, *argv))

        assert (outcome.status, outcome.out, outcome.err) == (0, "1\n", "")
        waiting = background(script)
        assert os.getsid(waiting) != os.getsid(0)
        assert [os.readlink(f"/proc/{waiting}/fd/{fd}") for fd in range(3)] == ["/dev/null", *[f"{folder}/log"] * 2]
        api.go_on("lease-1", DONE)
        assert come(script.with_name("told")) == "2 0 3\n"
        assert "built\n" in (folder / "log").read_text()
        assert "lease 1: it ran, and exited with status 3\n" in (folder / "log").read_text()

    def test_what_is_refused_is_told_before_it_goes(self, api: FakeApi, folder: Path, script: Path) -> None:
        api.answers["POST /v1/leases"] = [problem(403, "command_refused", "not yours")]
        outcome = finish(start(api, "remote", "--detach", "--then", str(script), "make"))
        assert (outcome.status, outcome.out) == (125, "")
        assert not script.with_name("told").exists()

    def test_a_signal_ends_the_waiting_alone(self, api: FakeApi, folder: Path, script: Path) -> None:
        api.way = [{"command": command()}]
        finish(start(api, "remote", "--detach", "--log", f"{folder}/log", "-P", str(script), "make"))
        os.kill(background(script), signal.SIGTERM)
        end = time.monotonic() + 10
        while "goes on" not in (folder / "log").read_text():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not api.calls("POST", "/v1/leases/lease-1/cancel")

    def test_lines_go_to_the_systems_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines: list[tuple[int, str]] = []
        monkeypatch.setattr(syslog, "syslog", lambda level, line: lines.append((level, line)))
        stream = daemon.to_syslog(syslog.LOG_INFO)
        stream.write("one\ntw")
        stream.flush()
        stream.write("o\n")
        stream.flush()
        stream.buffer.write(b"\xff\0\nrest")
        stream.close()
        assert lines == [(syslog.LOG_INFO, line) for line in ("one", "two", "\ufffd\ufffd", "rest")]


def background(script: Path) -> int:
    """The process that waits to run this script."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = subprocess.run(["pgrep", "-f", f"[l]easehold.*{script}"], capture_output=True, text=True, check=False)
        if found.stdout.strip():
            return int(found.stdout.split()[0])
        time.sleep(0.02)
    raise AssertionError("nothing waits in the background")


class TestCqClient:
    def run(self, api: FakeApi, *argv: str) -> Outcome:
        return finish(start(api, "compat", "cq_client", *argv))

    def test_it_returns_at_once_with_the_number_and_the_script_is_told(
        self, api: FakeApi, folder: Path, script: Path
    ) -> None:
        outcome = self.run(api, "-P", str(script), "-E", "A=1", "--", "make", "-h")
        assert (outcome.status, outcome.out) == (0, "1\n")
        assert come(script.with_name("told")) == "2 0 3\n"
        body = sent(api)
        assert body["command"]["run"] == ["make", "-h"]
        assert body["command"]["env"]["A"] == "1"
        assert body["command"]["env"]["PATH"] == os.environ["PATH"]

    def test_host_and_port_are_the_apis(self, api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LEASEHOLD_URL")
        address = urlsplit(api.url)
        outcome = cli("compat", "cq_client", "-h", str(address.hostname), "-p", str(address.port), "-f", "make")
        assert (outcome.status, outcome.out) == (3, "built\n")

    @pytest.mark.parametrize("host", ["build01:8700", "http://build01"])
    def test_what_is_no_host_is_said(self, api: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        monkeypatch.delenv("LEASEHOLD_URL")
        outcome = cli("compat", "cq_client", "-h", host, "-f", "make")
        assert (outcome.status, api.requests) == (2, [])
        assert f"-h: {host!r} is no host's name" in " ".join(outcome.err.split()).replace("│ ", "")

    def test_the_url_of_the_environment_goes_first(self, api: FakeApi, cli: Cli) -> None:
        assert cli("compat", "cq_client", "-h", "no.such.host", "-p", "1", "-f", "make").status == 3

    def test_without_an_api_nothing_waits(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
        monkeypatch.delenv("LEASEHOLD_URL")
        outcome = cli("compat", "cq_client", "-h", "127.0.0.1", "-p", "1", "-P", str(script), "make")
        assert (outcome.status, outcome.out) == (125, "")
        assert "http://127.0.0.1:1 cannot be reached" in outcome.err

    @pytest.mark.parametrize("argv", [["--log", "x", "-f"], ["--log", "x", "--syslog"], ["-p", "0"], []])
    def test_what_says_nothing_sensible_is_not_sent(self, api: FakeApi, cli: Cli, argv: list[str]) -> None:
        assert cli("compat", "cq_client", *argv, *(["make"] if argv else [])).status == 2
        assert not api.requests


def test_a_dead_connection_is_made_again_and_nothing_comes_twice(api: FakeApi, cli: Cli) -> None:
    at = b'"at": "2026-01-05T09:00:00Z", "stream": "stdout", "attempt": 1, "data": null'
    one = b'id: 1\nevent: output\ndata: {%s, "data_base64": "b25lCg=="}\n\n: still here\n\n' % at
    two = b'id: 2\r\nevent: output\r\ndata: {%s, "data_base64": "dHdvCg=="}\r\n\r\nevent: end\ndata: {}\n\n' % at
    cut = Answer(200, one, {"Content-Length": str(len(one) + 10), "Connection": "close"})
    api.answers["GET /v1/leases/lease-1/output"] = [cut, Answer(0), Answer(200, two)]

    outcome = cli("remote", "make")

    assert (outcome.status, outcome.out) == (3, "one\ntwo\n")
    calls = api.calls("GET", "/v1/leases/lease-1/output")
    first, *others = [call.headers.get("last-event-id") for call in calls]
    assert (first, set(others)) == (None, {"1"})
    assert {call.headers["accept"] for call in calls} == {"text/event-stream"}
