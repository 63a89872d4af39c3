"""The driver `command`: what becomes of hooks when the worker or its supervisor is killed outright."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from activities.drivers.command import CommandDriver
from leasehold.errors import Unavailable
from tests.contract.command_hooks import GRACE, PATIENCE, Log, call, kill, lives, names, run_hook, until, written

ROOT = Path(__file__).resolve().parents[2]

# Tells its supervisor's process id too, and ignores whatever can be ignored.
STUBBORN = """
trap '' TERM INT HUP
echo $PPID > supervisor
sh -c 'sleep 1000 & echo $! > grandchild; wait' &
echo $$ > leader
while :; do sleep 0.1; done
"""
NAMES = ("supervisor", "leader", "grandchild")

WORKER = """
import asyncio, pathlib, sys
from activities.drivers.command import CommandDriver
from tests.contract.command_hooks import GRACE, Log, call, run_hook

async def work(locks, folder, hook, *held):
    async with CommandDriver(pathlib.Path(locks), GRACE) as driver:
        await driver.run(call(hook, folder=pathlib.Path(folder), locks=held), Log())

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pools"
    folder.mkdir()
    return folder


@pytest.fixture
async def driver(locks: Path) -> AsyncIterator[CommandDriver]:
    async with asyncio.timeout(2 * PATIENCE), CommandDriver(locks, GRACE) as driver:
        yield driver


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session and is none of ours, though of Leasehold."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True, env={"LEASEHOLD_RUN": "another"}) as process:
        yield process
        process.kill()


@pytest.fixture
async def worker(locks: Path, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another worker, a process of its own, that runs a stubborn hook."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, locks, folder, STUBBORN, "r640/host01", cwd=ROOT
    )
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_when_the_worker_is_killed_its_hooks_die(
    worker: asyncio.subprocess.Process, folder: Path, locks: Path
) -> None:
    processes = await written(folder, *NAMES)
    worker.kill()
    await until(lambda: not any(map(lives, processes)))
    assert names(locks) == []


async def test_after_the_worker_is_killed_the_next_waits_for_its_hook(
    worker: asyncio.subprocess.Process, folder: Path, driver: CommandDriver
) -> None:
    _, *tree = await written(folder, *NAMES)
    worker.kill()
    assert (await run_hook(driver, call("true"))).ok
    assert not any(map(lives, tree))


async def test_when_the_supervisor_is_killed_its_hooks_die_and_may_be_tried_again(
    driver: CommandDriver, folder: Path
) -> None:
    running = asyncio.create_task(run_hook(driver, call(STUBBORN, folder=folder)))
    supervisor, *tree = await written(folder, *NAMES)
    kill(supervisor)
    with pytest.raises(Unavailable, match="supervisor"):
        await running
    assert not any(map(lives, tree))
    assert (await run_hook(driver, call("true"))).ok


async def test_an_idle_supervisor_that_dies_is_replaced(driver: CommandDriver) -> None:
    result = await run_hook(driver, call("echo $PPID"))
    kill(int(result.stdout))
    await until(lambda: not lives(int(result.stdout)))
    # The worker may learn of it only by the failure of the next hook.
    for _ in range(2):
        try:
            assert (await run_hook(driver, call("true"))).ok
        except Unavailable:
            continue
        return
    pytest.fail("no hook runs any more")


async def test_cancelled_while_the_supervisor_dies_nothing_lives_either(driver: CommandDriver, folder: Path) -> None:
    running = asyncio.create_task(run_hook(driver, call(STUBBORN, folder=folder)))
    supervisor, *tree = await written(folder, *NAMES)
    kill(supervisor)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(map(lives, tree))


async def test_another_workers_next_hook_starts_only_after_the_old_tree_is_dead(
    worker: asyncio.subprocess.Process, folder: Path, driver: CommandDriver
) -> None:
    async def begin() -> bool:
        alive.append([lives(pid) for pid in tree])
        return True

    alive: list[list[bool]] = []
    supervisor, *tree = await written(folder, *NAMES)
    # Held still, the worker cannot clear up itself.
    worker.send_signal(signal.SIGSTOP)
    kill(supervisor)
    log = Log()
    assert (await run_hook(driver, call("true", begin=begin), log)).ok
    assert alive == [[False, False]]
    assert b"an earlier run" in log.text("service")


async def test_a_starting_worker_ends_what_dead_ones_left(
    worker: asyncio.subprocess.Process, folder: Path, locks: Path
) -> None:
    supervisor, *tree = await written(folder, *NAMES)
    worker.send_signal(signal.SIGSTOP)
    kill(supervisor)
    worker.kill()
    await worker.wait()
    assert lives(tree[1])
    async with CommandDriver(locks, GRACE):
        await until(lambda: not any(map(lives, tree)))
        await until(lambda: names(locks) == [])


async def test_somebody_elses_process_of_a_recorded_number_is_left_alone(
    stranger: subprocess.Popen[bytes], locks: Path
) -> None:
    os.mkdir(locks)
    record = locks / "r640.lock"
    record.write_text(f"{stranger.pid} 0123456789abcdef\n")
    async with CommandDriver(locks, GRACE):
        await until(lambda: names(locks) == [])
    assert stranger.poll() is None


async def test_a_signal_to_the_whole_service_leaves_the_supervisor_to_its_worker(
    driver: CommandDriver, folder: Path
) -> None:
    hook = "echo $PPID > supervisor; until [ -e go ]; do sleep 0.05; done"
    running = asyncio.create_task(run_hook(driver, call(hook, folder=folder)))
    (supervisor,) = await written(folder, "supervisor")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(supervisor, number)
    (folder / "go").touch()
    assert (await running).ok


async def test_a_lock_folder_that_is_lost_is_not_the_hooks_fault(driver: CommandDriver, locks: Path) -> None:
    assert (await run_hook(driver, call("true"))).ok
    os.rmdir(locks)
    with pytest.raises(Unavailable, match="No such file"):
        await run_hook(driver, call("true"))
