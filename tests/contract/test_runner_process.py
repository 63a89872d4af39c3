"""The process of a runner: it starts in any order, waits for what is away, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

import worker.runner
from activities.commands import Commands
from leasehold.commands import SILENCE, CommandEnding
from leasehold.messages import CommandReport, RunCommand
from leasehold.settings import RunnerSettings
from leasehold.temporal import runner_queue
from tests.contract.command_desk import Desk, command, serving
from tests.contract.command_hooks import PATIENCE, exists, lives, names, until, written
from tests.contract.runner_lab import runner
from tests.servers import free_port
from tests.stack import ROOT, foreign_environment

LEASE = "lease-1"


@workflow.defn
class RunsOne:
    """Has a runner run one command, as leases do."""

    @workflow.run
    async def run(self, order: RunCommand) -> CommandReport:
        return await workflow.execute_activity_method(
            Commands.run_command,
            order,
            task_queue=runner_queue(order.runner),
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_attempts=1),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


class Process:
    """`python -m worker.runner` with a folder of its own."""

    def __init__(self, data: Path, name: str, **environment: str) -> None:
        self.data, self.name = data, name
        self.log = data.with_name("runner.log")
        self._environment = {
            **foreign_environment(),
            "LEASEHOLD_DATA": str(data),
            "LEASEHOLD_TOKEN": "t",
            **environment,
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *more: str) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            arguments = more if "--local" in more else ("--name", self.name, *more)
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worker.runner", *arguments, cwd=ROOT, env=self._environment, stderr=log
            )
        return self.process

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), PATIENCE)

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def name() -> str:
    return f"build-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def client(temporal_address: str) -> Client:
    return await Client.connect(temporal_address)


@asynccontextmanager
async def process(data: Path, name: str, url: str, temporal: str, **more: str) -> AsyncIterator[Process]:
    one = Process(data, name, LEASEHOLD_URL=url, TEMPORAL_ADDRESS=temporal, **more)
    try:
        yield one
    finally:
        await one.close()


@asynccontextmanager
async def leases(client: Client) -> AsyncIterator[str]:
    """A worker for the workflow; its queue."""
    queue = uuid.uuid4().hex
    async with Worker(client, task_queue=queue, workflows=[RunsOne], workflow_runner=UnsandboxedWorkflowRunner()):
        yield queue


async def start(client: Client, queue: str, order: RunCommand) -> Any:
    return await client.start_workflow(RunsOne.run, order, id=uuid.uuid4().hex, task_queue=queue)


async def test_it_runs_commands_ends_what_it_left_when_killed_and_stops_in_good_order(
    tmp_path: Path, desk: Desk, name: str, client: Client, temporal_address: str
) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    order = RunCommand(lease=LEASE, attempt=1, runner=name)
    stubborn = f"cd {work}; trap '' TERM; setsid sleep 1000 & echo $! > child; echo $$ > leader; echo on; wait; wait"
    desk.with_command(command(LEASE, "echo hello")).with_command(command("lease-2", stubborn))
    with serving(desk) as url:
        async with process(data, name, url, temporal_address) as mine, leases(client) as queue:
            await mine.start("--labels", "x86_64,fast", "--slots", "2")
            report = await (await start(client, queue, order)).result()
            assert (report.ending, report.code, report.output_bytes) == (CommandEnding.EXITED, 0, 6)
            assert desk.text() == b"hello\n"
            first = desk.hosts[-1]
            assert (first.labels, first.slots) == (("x86_64", "fast"), 2)

            # Another one of its name beside it is refused.
            other = Process(data, name, LEASEHOLD_URL=url, TEMPORAL_ADDRESS=temporal_address)
            other.log = tmp_path / "other.log"
            await other.start()
            assert await other.ended() == 1
            assert "another runner of this name" in other.said()

            # Killed, what it ran is dead before the next one says that it is there.
            await start(client, queue, RunCommand(lease="lease-2", attempt=1, runner=name))
            tree = await written(work, "leader", "child")
            await mine.close()
            desk.hosts.clear()
            await mine.start()
            await until(lambda: bool(desk.hosts))
            assert not any(map(lives, tree))
            assert desk.hosts[0].instance != first.instance
            assert (desk.hosts[0].locks, desk.hosts[0].boot) == (first.locks, first.boot)
            await until(lambda: desk.has_all("lease-2"))

            # Stopped, it kills what it runs, says so, and goes.
            for file in ("leader", "child"):
                (work / file).unlink()
            third = await start(client, queue, RunCommand(lease="lease-2", attempt=2, runner=name))
            tree = await written(work, "leader", "child")
            assert mine.process is not None
            mine.process.send_signal(signal.SIGTERM)
            assert await mine.ended() == 0
            assert not any(map(lives, tree))
            report = await third.result()
            assert (report.ending, report.detail) == (CommandEnding.LOST, "its runner was stopped")
            assert desk.left == [desk.hosts[-1].instance]
            await until(lambda: names(data / f"runner-{name}" / "spool") == [])


async def test_a_lease_that_ends_cancels_its_command(
    tmp_path: Path, desk: Desk, name: str, client: Client, temporal_address: str
) -> None:
    desk.with_command(command(LEASE, "echo $$ > leader; exec sleep 1000", folder=str(tmp_path)))
    with serving(desk) as url:
        async with process(tmp_path / "data", name, url, temporal_address) as mine, leases(client) as queue:
            await mine.start()
            handle = await start(client, queue, RunCommand(lease=LEASE, attempt=1, runner=name))
            (leader,) = await written(tmp_path, "leader")
            await handle.cancel()
            report = await handle.result()
            assert report.ending == CommandEnding.CANCELLED
            assert not lives(leader)


async def test_it_waits_for_temporal_and_the_service_and_outlives_both(
    tmp_path: Path, desk: Desk, name: str, temporal_address: str
) -> None:
    port = free_port()
    async with process(tmp_path / "data", name, f"http://127.0.0.1:{port}", f"127.0.0.1:{free_port()}") as mine:
        running = await mine.start()
        await until(lambda: mine.log.exists() and "waiting for Temporal" in mine.said())
        running.send_signal(signal.SIGTERM)
        assert await mine.ended() == 0
    async with process(tmp_path / "data", name, f"http://127.0.0.1:{port}", temporal_address) as mine:
        running = await mine.start()
        await until(lambda: "does not take this runner" in mine.said())
        with serving(desk, port):
            await until(lambda: "takes this runner again" in mine.said())
        assert running.returncode is None
        running.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert await mine.ended() == 0
        # A service that is away does not hold it up.
        assert time.monotonic() - begun < 20
        assert "Traceback" not in mine.said()


async def test_the_embedded_one_finds_its_service_and_makes_its_token(tmp_path: Path, temporal_address: str) -> None:
    desk, data = Desk(), tmp_path / "data"
    with serving(desk) as url:
        more = {"LEASEHOLD_API_HOST": "0.0.0.0", "LEASEHOLD_API_PORT": url.rpartition(":")[2]}
        async with process(data, "local", "http://127.0.0.1:1", temporal_address, **more) as mine:
            await mine.start("--local")
            await until(lambda: bool(desk.hosts))
    assert (data / "runner-token").stat().st_mode & 0o777 == 0o600
    assert desk.hosts[0].slots == 100
    assert names(data / "runner-local") == ["instance", "locks", "spool"]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((), {"LEASEHOLD_URL": ""}, "is not a URL"),
        ((), {"LEASEHOLD_TOKEN": ""}, "a runner needs LEASEHOLD_TOKEN"),
        ((), {"LEASEHOLD_TOKEN": "", "LEASEHOLD_TOKEN_FILE": "/no/such/file"}, "LEASEHOLD_TOKEN_FILE cannot be read"),
        (("--policy", "/no/such/file"), {}, "/no/such/file cannot be read: No such file"),
        (("--policy", "{bad}"), {}, "line 2: account: there is no such field"),
        (("--slots", "0"), {}, "'0' is no number from 1 to 1000"),
    ],
)
async def test_what_it_cannot_start_with_is_said(
    tmp_path: Path, arguments: Sequence[str], environment: dict[str, str], said: str
) -> None:
    (tmp_path / "policy.yaml").write_text("accounts: [ci]\naccount: ci\n")
    filled = [text.replace("{bad}", str(tmp_path / "policy.yaml")) for text in arguments]
    mine = Process(tmp_path / "data", "build01", **{"LEASEHOLD_URL": "http://127.0.0.1:1", **environment})
    await mine.start(*filled)
    assert await mine.ended() != 0
    assert said in mine.said()
    assert not exists(tmp_path / "data" / "runner-build01")


class Silent:
    """Takes the place of a client whose Temporal does not answer while it is `away`."""

    def __init__(self) -> None:
        self.away = False

    @property
    def workflow_service(self) -> Silent:
        return self

    async def get_system_info(self, *_: object, **__: object) -> None:
        if self.away:
            await asyncio.sleep(1000)

    def get_workflow_handle(self, _: str) -> Silent:
        return self

    async def describe(self, **_: object) -> None:
        await self.get_system_info()


async def test_a_runner_that_temporal_does_not_answer_ends_its_commands_in_time(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same waits as in the product, only shorter.
    monkeypatch.setattr(worker.runner, "PING_EVERY", timedelta(seconds=0.1))
    monkeypatch.setattr(worker.runner, "FENCE_AFTER", timedelta(seconds=1))
    temporal: Any = Silent()
    async with runner(tmp_path / "data", desk) as lab, worker.runner._fencing(temporal, lab.commands, lab.driver):
        run = "trap '' TERM; echo $$ > leader; while :; do sleep 0.1; done"
        running = lab.start(command(LEASE, run, folder=str(tmp_path), grace_s=1000.0))
        (leader,) = await written(tmp_path, "leader")
        await asyncio.sleep(1.5)
        assert lives(leader)
        temporal.away = True
        report = await running
        assert (report.ending, report.started) == (CommandEnding.LOST, True)
        assert "Temporal" in report.detail
        assert not lives(leader)
        # It goes on once it is heard again.
        temporal.away = False
        await asyncio.sleep(0.5)
        assert not lab.commands.is_fenced()
        later = worker.runner._now() + 1
        with monkeypatch.context() as patch:
            patch.setattr(worker.runner, "_now", lambda: later)
            assert lab.commands.is_fenced(), "it stood still, and has not heard of Temporal since"
        assert (await lab.run(command("lease-2", "true"))).code == 0


class Cable:
    """A way to a server that can swallow, without a word, all that goes over the connections that there are."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._open = asyncio.Event()
        self._open.set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._carry, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        mine = self._open

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                await mine.wait()
                target.write(data)

        try:
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)
        finally:
            back.close()
            writer.close()


async def test_a_connection_that_died_unheard_is_replaced_before_a_runner_ends_its_commands(
    temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cable = Cable(temporal_address)
    async with cable.laid() as address:
        monkeypatch.setenv("TEMPORAL_ADDRESS", address)
        client = await worker.runner._connect(RunnerSettings(), "build01")
        assert await worker.runner._ping(client, None)
        cable.cut()
        began = time.monotonic()
        assert not await worker.runner._ping(client, None)
        while not await worker.runner._ping(client, None):
            assert time.monotonic() - began < worker.runner.FENCE_AFTER.total_seconds()


async def test_a_runner_that_stands_still_has_its_commands_ended_by_its_supervisor(tmp_path: Path, desk: Desk) -> None:
    async with runner(tmp_path / "data", desk) as lab:
        lab.driver.heard(timedelta(seconds=0.5))
        running = lab.start(command(LEASE, "echo $$ > leader; exec sleep 1000", folder=str(tmp_path)))
        (leader,) = await written(tmp_path, "leader")
        report = await running
        assert (report.ending, report.started, report.detail) == (
            CommandEnding.LOST, True, "its runner stood still for too long",
        )  # fmt: skip
        assert not lives(leader)
        assert (await lab.run(command("lease-2", "true"))).code == 0


def test_it_is_known_to_be_dead_no_sooner_than_it_is() -> None:
    longest = worker.runner.FENCE_AFTER + 2 * worker.runner.PING_EVERY + worker.runner.FENCE_GRACE
    assert longest < SILENCE
