"""What the tests of the driver `command` share: calls, a log that remembers, and looking at real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

from activities.drivers.command import CommandDriver
from leasehold.model import Hook
from leasehold.ports import HookCall, HookResult, LogSink

GRACE = timedelta(seconds=1)

PATIENCE = 30.0
"""In seconds. No test says how fast something is; this only ends those that hang."""


async def agreed() -> bool:
    """Let a hook start."""
    return True


async def unheard() -> None:
    """Do nothing when it was stopped."""


def call(
    run: str | tuple[str, ...],
    *,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    locks: tuple[str, ...] = ("r640/host01",),
    lease_file: bytes = b"{}",
    log_stdout: bool = True,
    begin: Callable[[], Awaitable[bool]] = agreed,
    stopped: Callable[[], Awaitable[None]] = unheard,
) -> HookCall:
    """Return a call of a hook; `timeout` in seconds."""
    return HookCall(
        hook=Hook(run=run, timeout=timedelta(seconds=timeout)),
        env=env or {},
        folder=None if folder is None else str(folder),
        locks=locks,
        lease_file=lease_file,
        log_stdout=log_stdout,
        begin=begin,
        stopped=stopped,
    )


class Log:
    """Remembers what a hook's log was given."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, bytes]] = []

    async def __call__(self, stream: str, data: bytes) -> None:
        self.pieces.append((stream, data))

    def text(self, stream: str) -> bytes:
        """Return all of one stream."""
        return b"".join(data for name, data in self.pieces if name == stream)


async def run_hook(driver: CommandDriver, call: HookCall, log: LogSink | None = None) -> HookResult:
    """Run a hook that is let start."""
    result = await driver.run(call, log or Log())
    assert result is not None
    return result


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail when it never does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def pids(folder: Path, *files: str) -> list[int]:
    """Return the process ids that a hook wrote into these files, fewer while it has not written all of them."""
    found = [(folder / name).read_text().strip() for name in files if (folder / name).exists()]
    return [int(pid) for pid in found if pid]


async def written(folder: Path, *files: str) -> list[int]:
    """Wait until a hook has written its process ids into these files, and return them."""
    await until(lambda: len(pids(folder, *files)) == len(files))
    return pids(folder, *files)


def lives(pid: int) -> bool:
    """Tell whether a process runs, and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def names(folder: Path) -> list[str]:
    """Return the names of what is in a folder."""
    return sorted(os.listdir(folder))


def exists(path: str | Path) -> bool:
    """Tell whether there is something at a path, be it a link that leads nowhere."""
    return os.path.lexists(path)


def kill(pid: int) -> None:
    """Kill one process, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
