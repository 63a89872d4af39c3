"""Users of dci-queue and cq on the service: their commands as processes, and a runner that runs what they queue."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from activities.drivers.accounts import own
from tests.api.port import Port
from tests.api.stack import ADMIN, PATIENCE_S, Json, Stack
from tests.stack import LEASEHOLD, ROOT, foreign_environment


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def number(self) -> str:
        """The number that it printed first."""
        return self.out.splitlines()[0]


class Runner:
    """`python -m worker.runner`, in a folder of its own."""

    def __init__(self, stack: Stack, port: Port, token: str, name: str, slots: int = 8) -> None:
        self.name = name
        folder = stack.folder / "runners"
        folder.mkdir(exist_ok=True)
        policy = folder / f"{name}.yaml"
        policy.write_text(f"accounts: [{own()}]\n")
        self._log = folder / f"{name}.log"
        self._arguments = ["--name", name, "--slots", str(slots), "--policy", str(policy)]
        self._stack = stack
        self._environment = {
            **foreign_environment(),
            "LEASEHOLD_URL": port.url,
            "LEASEHOLD_TOKEN": token,
            "LEASEHOLD_DATA": str(folder),
            "TEMPORAL_ADDRESS": stack.temporal.service_client.config.target_host,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    async def with_token(cls, stack: Stack, port: Port) -> Self:
        """One with a name that no other has, and its own token."""
        name = f"runner{uuid.uuid4().hex[:6]}"
        return cls(stack, port, (await stack.token(name, "runner"))["token"], name)

    async def start(self) -> None:
        """Start it, and wait until the service knows this very process."""
        known = {host["instance"] for host in await self._hosts()}
        process = self._process = self._launched()

        async def is_up() -> bool:
            assert process.poll() is None, self._log.read_text()
            return bool({host["instance"] for host in await self._hosts()} - known)

        await until(is_up)

    def _launched(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "worker.runner", *self._arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _hosts(self) -> list[Json]:
        found = (await self._stack.http.get("/v1/runners")).json()["items"]
        return [host for one in found if one["name"] == self.name for host in one["hosts"]]

    def kill(self) -> None:
        """Kill it so that it can do nothing more; what it started is not hit."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def stop(self) -> None:
        """Have it stop, with all that it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, PATIENCE_S)


@dataclass(frozen=True)
class QueueLab:
    """A place where people queue commands: each is run as a process, in `folder` if nothing else is said."""

    stack: Stack
    port: Port
    folder: Path
    pools: list[str] = field(default_factory=list)

    async def start(self, *argv: str, cwd: Path | None = None, **env: str) -> asyncio.subprocess.Process:
        """Start one of Leasehold's commands."""
        said = {"LEASEHOLD_URL": self.port.url, "LEASEHOLD_TOKEN": ADMIN, "COLUMNS": "200", **env}
        return await asyncio.create_subprocess_exec(
            str(LEASEHOLD),
            *argv,
            env={**foreign_environment(), **said},
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def finish(self, process: asyncio.subprocess.Process) -> Said:
        """What a command left behind, once it has ended."""
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Said(status=process.returncode, out=out.decode(), err=err.decode())

    async def run(self, *argv: str, cwd: Path | None = None, **env: str) -> Said:
        """Run one of Leasehold's commands."""
        return await self.finish(await self.start(*argv, cwd=cwd, **env))

    async def dci(self, *argv: str, cwd: Path | None = None) -> Said:
        """Run one of dci-queue's commands."""
        return await self.run("compat", "dci-queue", *argv, cwd=cwd)

    async def pool(self, *resources: str) -> str:
        """Make a pool as users of dci-queue do."""
        name = self.name()
        assert await self.dci("add-pool", "-n", name) == Said(status=0, out="", err="")
        for resource in resources:
            assert (await self.dci("add-resource", name, resource)).status == 0
        return name

    def name(self) -> str:
        """A name for a pool, which is emptied with the lab."""
        self.pools.append(f"q{uuid.uuid4().hex[:10]}")
        return self.pools[-1]

    async def schedule(self, *argv: str) -> str:
        """Schedule a command, and return its id."""
        said = await self.dci("schedule", *argv)
        assert said.status == 0, said
        return said.number

    async def lines(self, pool: str, section: str) -> list[str]:
        """What `list` prints in one of its sections, without the blanks around."""
        said = await self.dci("list", pool)
        assert said.status == 0, said
        heading = f"{section} on the {pool} pool:"
        found: list[str] = []
        inside = False
        for line in said.out.splitlines():
            if line.startswith(heading):
                found, inside = line.removeprefix(heading).split(), True
            elif inside and line.startswith(" "):
                found.append(line.strip())
            else:
                inside = False
        return found

    async def available(self, pool: str) -> list[str]:
        """What may be had at once."""
        return await self.lines(pool, "Available resources")

    async def lease(self, number: str, **wait: Any) -> Json:
        """The lease of a command."""
        return await self.stack.get({"id": number}, **wait)

    async def command(self, number: str) -> Json:
        """A command once it has ended."""
        command: Json = (await self.stack.ended({"id": number}))["command"]
        return command

    async def running(self, number: str) -> Json:
        """A command once it runs, with what it does."""

        async def runs() -> bool:
            lease = await self.lease(number)
            assert lease["state"] != "ended", lease
            return bool(lease["command"]["state"] == "running")

        await until(runs)
        return await self.lease(number)

    async def output(self, number: str) -> str:
        """What a command printed."""
        return (await self.stack.http.get(f"/v1/leases/{number}/output")).text

    async def clear(self) -> None:
        """Cancel what is left on the pools of this lab."""
        for pool in self.pools:
            params = {"pool": pool, "state": "queued,preparing,active", "limit": "1000"}
            for lease in (await self.stack.http.get("/v1/leases", params=params)).json()["items"]:
                await self.stack.steer(lease, "cancel")


@asynccontextmanager
async def serving(stack: Stack) -> AsyncIterator[Port]:
    """The API on a port, and a runner that uses it, until the block ends."""
    port = Port(stack.app)
    await port.start()
    runner = await Runner.with_token(stack, port)
    try:
        await runner.start()
        yield port
    finally:
        await runner.stop()
        await port.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something can be seen by asking for it."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.05)


async def gone(pid: int) -> None:
    """Wait until a process is no more, or nothing but an entry of one."""

    async def is_gone() -> bool:
        return _state(pid) in ("Z", None)

    await until(is_gone)


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


async def written(path: Path) -> str:
    """What is in a file, once there is something."""

    async def is_written() -> bool:
        return bool(_text(path))

    await until(is_written)
    return _text(path)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def interrupt(process: asyncio.subprocess.Process) -> None:
    """Stop a command as Ctrl-C does."""
    os.kill(process.pid, signal.SIGINT)
