"""cq's users on the service: a command with its environment, a script that is told of its end, and its defects."""

from __future__ import annotations

import asyncio
import stat
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.api.port import Port
from tests.api.queue_lab import QueueLab, interrupt, until, written
from tests.api.stack import Stack


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack, queue_port: Port, tmp_path: Path) -> AsyncIterator[QueueLab]:
    made = QueueLab(stack, queue_port, tmp_path)
    yield made
    await made.clear()


@pytest_asyncio.fixture(loop_scope="package")
async def host(lab: QueueLab) -> str:
    """A build host that takes one command at a time, as a pool."""
    return await build_host(lab)


async def build_host(lab: QueueLab, **rule: Any) -> str:
    pool = lab.name()
    body = {"name": pool, "resources": [{"name": "turn"}], "commands": {"allow": [rule]}}
    assert (await lab.stack.http.put(f"/v1/pools/{pool}", json=body)).status_code == 200
    return pool


def script(folder: Path) -> Path:
    """A script that writes down what it is told."""
    path = folder / uuid.uuid4().hex
    path.write_text(f'#!/bin/sh\necho "$1 $2" > {path}.told\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def told(path: Path) -> list[int]:
    return [int(word) for word in (await written(path.with_name(f"{path.name}.told"))).split()]


class TestExamples:
    async def test_a_command_runs_there_as_if_it_ran_here(self, lab: QueueLab, host: str) -> None:
        said = await lab.run("remote", "--pool", host, "--", "sh", "-c", 'pwd; echo "$MINE"; exit 3', MINE="a  b")
        assert (said.status, said.out) == (3, f"{lab.folder}\na  b\n")

    async def test_the_whole_environment_goes_along_but_for_what_is_ours(self, lab: QueueLab, host: str) -> None:
        said = await lab.run("remote", "--pool", host, "-E", "MINE=1", "--", "env", OTHER="2")
        lines = said.out.splitlines()
        assert {"MINE=1", "OTHER=2"} <= set(lines)
        assert not [line for line in lines if line.startswith(("LEASEHOLD_TOKEN=", "LEASEHOLD_URL=", "TEMPORAL_"))]
        only = await lab.run("remote", "--pool", host, "--only-given", "-E", "MINE=1", "--", "env", OTHER="2")
        assert "MINE=1" in only.out
        assert "OTHER=2" not in only.out

    async def test_one_at_a_time_in_their_order(self, lab: QueueLab, host: str) -> None:
        log = lab.folder / "log"
        jobs = [
            (await lab.run("compat", "cq_client", "--pool", host, "--", "sh", "-c", job(log, n))).number
            for n in range(4)
        ]
        for number in jobs:
            assert (await lab.command(number))["exit_code"] == 0
        assert log.read_text().split() == [word for n in range(4) for word in (f"begin{n}", f"end{n}")]

    async def test_it_returns_at_once_and_the_script_is_told_two_numbers(self, lab: QueueLab, host: str) -> None:
        then, go = script(lab.folder), lab.folder / "go"
        wait = f"until [ -e {go} ]; do sleep 0.05; done; echo done; exit 4"
        command = ["--", "sh", "-c", wait]
        said = await lab.run("compat", "cq_client", "--pool", host, "-P", str(then), "--log", "log", *command)
        assert (said.status, said.err) == (0, "")
        assert (await lab.lease(said.number))["state"] != "ended"
        go.touch()
        assert await told(then) == [0, 4]
        assert "done\n" in (lab.folder / "log").read_text()

    async def test_the_script_is_told_of_a_command_that_never_ran(self, lab: QueueLab, host: str) -> None:
        then = script(lab.folder)
        said = await lab.run("remote", "--pool", host, "--then", str(then), "--", "no-such-command")
        assert said.status == 126
        assert await told(then) == [126, 0]

    async def test_host_and_port_are_those_of_the_service(self, lab: QueueLab, host: str) -> None:
        port = lab.port.url.rpartition(":")[2]
        arguments = ["-h", "127.0.0.1", "-p", port, "--pool", host, "-f", "true"]
        said = await lab.run("compat", "cq_client", *arguments, LEASEHOLD_URL="")
        assert said.status == 0, said

    async def test_ctrl_c_ends_the_waiting_alone(self, lab: QueueLab, host: str) -> None:
        go = lab.folder / "go"
        process = await lab.start("remote", "--pool", host, "--", "sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done")

        async def runs() -> bool:
            return len(await lab.lines(host, "Executing commands")) == 1

        await until(runs)
        interrupt(process)
        said = await lab.finish(process)
        assert said.status == 130
        assert "The command goes on" in said.err
        (line,) = await lab.lines(host, "Executing commands")
        go.touch()
        assert (await lab.command(line.partition(" ")[0]))["exit_code"] == 0


def job(log: Path, number: int) -> str:
    return f"echo begin{number} >> {log}; sleep 0.2; echo end{number} >> {log}"


class TestDefects:
    async def test_the_queue_is_in_memory_only(self, lab: QueueLab, host: str) -> None:
        go = lab.folder / "go"
        first = await lab.run("queue", "add", host, "--", "sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done")
        second = await lab.run("queue", "add", host, "--", "echo", "after")
        await lab.running(first.number)
        await lab.port.stop()
        await lab.port.start()
        listed = await lab.run("queue", "ls", host)
        assert f" {second.number} []: echo after" in listed.out
        go.touch()
        assert (await lab.command(second.number))["exit_code"] == 0

    async def test_there_are_no_ids_list_cancel_or_logs(self, lab: QueueLab, host: str) -> None:
        number = (await lab.run("queue", "add", host, "--", "sh", "-c", "echo hello; sleep 300")).number
        await lab.running(number)
        assert f" {number} [turn]: " in (await lab.run("queue", "ls", host)).out

        async def has_printed() -> bool:
            return (await lab.run("queue", "log", number)).out == "hello\n"

        await until(has_printed)
        assert (await lab.run("queue", "search", host, "--like", "hello")).out == f"{number}\n"
        said = await lab.run("queue", "rm", number)
        assert (said.status, "it had started, and was cancelled" in said.out) == (0, True)
        assert (await lab.run("queue", "wait", number)).status == 5

    async def test_a_signalled_job_reports_0(self, lab: QueueLab, host: str) -> None:
        then = script(lab.folder)
        said = await lab.run("remote", "--pool", host, "-P", str(then), "--", "sh", "-c", "kill -TERM $$")
        assert said.status == 143
        assert await told(then) == [0, 143]

    async def test_a_credential_that_fails_to_decode_is_forwarded_all_the_same(self, lab: QueueLab, host: str) -> None:
        said = await lab.run("remote", "--pool", host, "--", "touch", f"{lab.folder}/ran", LEASEHOLD_TOKEN="forged")
        assert said.status == 125
        assert "unauthenticated" in said.err
        assert (await lab.run("queue", "search", host, "--all", "--like", "touch")).status == 1
        assert not (lab.folder / "ran").exists()

    async def test_everything_runs_as_the_servers_user(self, lab: QueueLab, stack: Stack) -> None:
        mapped = await build_host(lab, **{"as": "{owner}"})
        joe = (await stack.token("joe"))["token"]
        said = await lab.run("queue", "add", mapped, "--", "true", LEASEHOLD_TOKEN=joe)
        command = await lab.command(said.number)
        assert command["account"] == "joe"
        # There is no such account on this machine, or the runner may not become it: then nothing runs as anybody else.
        assert (command["result"], command["started"]) == ("not_started", False)

    async def test_only_those_may_whom_the_pool_lets(self, lab: QueueLab, stack: Stack) -> None:
        closed = await build_host(lab, users=["ci-*"])
        joe = (await stack.token("joe"))["token"]
        said = await lab.run("queue", "add", closed, "--", "true", LEASEHOLD_TOKEN=joe)
        assert (said.status, "command_refused" in said.err) == (3, True)

    async def test_a_repeated_command_is_dropped_where_that_is_wanted(self, lab: QueueLab, host: str) -> None:
        """As cq's roadmap has it."""
        go = lab.folder / "go"
        command = ["--", "sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done"]
        first, *others = await asyncio.gather(*(lab.run("queue", "add", host, *command) for _ in range(4)))
        assert {said.number for said in others} == {first.number}
        go.touch()
        assert (await lab.command(first.number))["exit_code"] == 0
