"""The driver `command`: a hook of several resources holds the locks of all, and nothing is left when it ends."""

from __future__ import annotations

import asyncio
import itertools
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from activities.drivers.command import CommandDriver
from leasehold.errors import StaleEpoch, Unavailable
from tests.contract.command_hooks import GRACE, PATIENCE, Log, call, kill, lives, names, run_hook, until, written
from tests.contract.test_command_driver_crashes import NAMES, ROOT, STUBBORN, WORKER

HOSTS = ("r640/host01", "r640/host02", "vm/vm1", "vm/vm2")

# Fails, and says so, when another one that shares a resource runs at the same time.
ALONE = """
for one in $MINE; do mkdir "$one" || { echo overlap >> overlaps; exit 1; }; done
sleep 0.05
for one in $MINE; do rmdir "$one"; done
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
async def worker(locks: Path, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another worker, a process of its own, that runs a stubborn hook of two hosts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, locks, folder, STUBBORN, *HOSTS[:2], cwd=ROOT
    )
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_hooks_that_share_one_of_their_resources_never_overlap_nor_wait_for_each_other(
    driver: CommandDriver, folder: Path, locks: Path
) -> None:
    sets = [*itertools.combinations(HOSTS, 1), *itertools.combinations(HOSTS, 2), *itertools.combinations(HOSTS, 3)]
    chosen = random.Random(5).sample(sets * 2, 28)
    async with CommandDriver(locks, GRACE) as another:
        results = await asyncio.gather(
            *(
                # Each names its locks in an order of its own.
                run_hook(
                    (driver, another)[number % 2],
                    call(
                        ALONE,
                        folder=folder,
                        env={"MINE": " ".join(host.replace("/", "-") for host in mine)},
                        locks=mine if number % 3 else mine[::-1],
                    ),
                )
                for number, mine in enumerate(chosen)
            )
        )
    assert [result.code for result in results] == [0] * len(chosen)
    assert names(folder) == []


async def test_hooks_that_share_no_resource_do_not_wait(driver: CommandDriver, folder: Path) -> None:
    first = call("until [ -e second ]; do sleep 0.05; done", folder=folder, locks=HOSTS[:2])
    second = call("touch second", folder=folder, locks=HOSTS[2:])
    results = await asyncio.gather(run_hook(driver, first), run_hook(driver, second))
    assert all(result.ok for result in results)


async def test_the_same_resource_twice_is_one_lock(driver: CommandDriver) -> None:
    assert (await run_hook(driver, call("true", locks=(HOSTS[0], HOSTS[0])))).ok


def test_a_hook_without_any_lock_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="lock"):
        call("true", locks=())


async def test_a_hook_of_five_hundred_resources_runs_and_keeps_nothing(driver: CommandDriver, locks: Path) -> None:
    result = await run_hook(driver, call("ls /proc/self/fd | wc -l", locks=tuple(f"r640/host{n}" for n in range(500))))
    assert result.stdout.strip() == b"4"
    assert names(locks) == []


async def test_more_locks_than_files_can_be_open_is_said_and_harms_no_other_hook(
    driver: CommandDriver, locks: Path
) -> None:
    supervisor = int((await run_hook(driver, call("echo $PPID"))).stdout)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with pytest.raises(Unavailable, match="too many locks at once"):
        await run_hook(driver, call("true", locks=tuple(f"r640/host{n}" for n in range(300))))
    assert names(locks) == []
    assert (await run_hook(driver, call("true"))).ok


@pytest.mark.parametrize("hook", ["exit 0", "exit 3", "kill -9 $$", "exec ./missing", "sleep 1000"])
async def test_however_a_hook_ends_all_its_locks_are_free_and_no_file_is_left(
    driver: CommandDriver, locks: Path, hook: str
) -> None:
    await run_hook(driver, call(hook, timeout=1, locks=HOSTS))
    assert names(locks) == []
    for host in HOSTS:
        assert (await run_hook(driver, call("true", locks=(host,)))).ok


async def test_a_cancelled_hook_frees_all_its_locks(driver: CommandDriver, folder: Path, locks: Path) -> None:
    running = asyncio.create_task(run_hook(driver, call(STUBBORN, folder=folder, locks=HOSTS)))
    _, *tree = await written(folder, *NAMES)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(map(lives, tree))
    assert names(locks) == []


async def test_one_that_waits_for_its_second_lock_gives_the_first_back_when_cancelled(
    driver: CommandDriver, folder: Path, locks: Path
) -> None:
    hold = "touch held; until [ -e go ]; do sleep 0.05; done"
    # Its name is the last in the order, so that the other one is taken before.
    holder = asyncio.create_task(run_hook(driver, call(hold, folder=folder, locks=("vm/vm2",))))
    await until((folder / "held").exists)
    log = Log()
    waiting = asyncio.create_task(run_hook(driver, call("touch started", folder=folder, locks=HOSTS), log))
    await until(lambda: b"waiting" in log.text("service"))
    assert len(names(locks)) == 5  # four locks, and the holder's lease
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(names(locks)) == 2
    (folder / "go").touch()
    assert (await holder).ok
    assert not (folder / "started").exists()


async def test_nothing_starts_that_is_not_wanted_and_all_locks_are_free(driver: CommandDriver, locks: Path) -> None:
    async def no() -> bool:
        return False

    async def stale() -> bool:
        raise StaleEpoch("epoch 3 is over")

    assert await driver.run(call("true", locks=HOSTS, begin=no), Log()) is None
    assert names(locks) == []
    with pytest.raises(StaleEpoch):
        await driver.run(call("true", locks=HOSTS, begin=stale), Log())
    await until(lambda: names(locks) == [])


async def test_whether_to_start_is_asked_once_all_locks_are_held(driver: CommandDriver, locks: Path) -> None:
    async def asked() -> bool:
        found.append(len(names(locks)))
        return True

    found: list[int] = []
    await run_hook(driver, call("true", locks=HOSTS, begin=asked))
    assert found == [4]


@pytest.mark.parametrize("host", HOSTS[:2])
async def test_after_the_worker_is_killed_the_next_hook_of_either_host_waits(
    worker: asyncio.subprocess.Process, folder: Path, driver: CommandDriver, host: str
) -> None:
    _, *tree = await written(folder, *NAMES)
    worker.kill()
    assert (await run_hook(driver, call("true", locks=(host,)))).ok
    assert not any(map(lives, tree))


@pytest.mark.parametrize("wanted", [HOSTS[:1], HOSTS[1:2], HOSTS[1:3], HOSTS[:2]], ids=len)
async def test_after_worker_and_supervisor_are_gone_the_next_hook_of_either_host_ends_the_old_one(
    worker: asyncio.subprocess.Process, folder: Path, driver: CommandDriver, wanted: tuple[str, ...]
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
    assert (await run_hook(driver, call("true", locks=wanted, begin=begin), log)).ok
    assert alive == [[False, False]]
    assert b"an earlier run" in log.text("service")


async def test_a_starting_worker_clears_both_locks_of_a_dead_one(
    worker: asyncio.subprocess.Process, folder: Path, locks: Path
) -> None:
    supervisor, *tree = await written(folder, *NAMES)
    worker.send_signal(signal.SIGSTOP)
    kill(supervisor)
    worker.kill()
    await worker.wait()
    async with CommandDriver(locks, GRACE):
        await until(lambda: not any(map(lives, tree)))
        # The file with the lease belongs to the first of the two.
        await until(lambda: names(locks) == [])


async def test_what_a_dead_hook_recorded_for_one_host_does_not_end_the_next_hook_of_the_other(
    worker: asyncio.subprocess.Process, folder: Path, driver: CommandDriver
) -> None:
    supervisor, *_ = await written(folder, *NAMES)
    worker.send_signal(signal.SIGSTOP)
    kill(supervisor)
    first = asyncio.create_task(
        run_hook(driver, call("touch on; until [ -e go ]; do sleep 0.05; done", folder=folder, locks=HOSTS[:1]))
    )
    await until((folder / "on").exists)
    assert (await run_hook(driver, call("touch go", folder=folder, locks=HOSTS[1:2]))).ok
    assert (await first).ok
