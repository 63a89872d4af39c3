"""The driver `command`: how a hook's processes end, and that two of one lock never run at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from activities.drivers.command import CommandDriver
from leasehold.errors import StaleEpoch, Unavailable
from leasehold.ports import Ending
from tests.contract.command_hooks import GRACE, PATIENCE, Log, call, kill, lives, names, pids, run_hook, until, written

# A child, a grandchild, and one in a process group of its own; `wait` would be cut short by a trapped signal.
TREE = """
sleep 1000 & echo $! > child
sh -c 'sleep 1000 & echo $! > grandchild; wait' &
timeout 1000 sh -c 'echo $$ > own-group; exec sleep 1000' &
echo $$ > leader
sleep 1000
"""
TREE_PIDS = ("child", "grandchild", "own-group", "leader")

STUBBORN = f"trap '' TERM INT HUP\n{TREE}"

# Fails, and says so, when another one runs at the same time.
ALONE = "mkdir busy || { echo overlap >> overlaps; exit 1; }; sleep 0.2; rmdir busy"


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[CommandDriver]:
    async with asyncio.timeout(2 * PATIENCE), CommandDriver(tmp_path / "locks", GRACE) as driver:
        yield driver


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pools"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("hook", [TREE, STUBBORN], ids=["polite", "stubborn"])
async def test_at_its_timeout_all_of_a_hook_dies(driver: CommandDriver, folder: Path, hook: str) -> None:
    result = await run_hook(driver, call(f"echo begun; {hook}", timeout=3, folder=folder))
    assert (result.ending, result.code, result.stdout) == (Ending.TIMED_OUT, None, b"begun\n")
    assert "timeout" in result.detail
    assert [lives(pid) for pid in pids(folder, *TREE_PIDS)] == [False] * 4


async def test_a_hook_can_clean_up_at_its_timeout(driver: CommandDriver) -> None:
    result = await run_hook(driver, call("trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.1; done", timeout=2))
    assert (result.ending, result.stdout) == (Ending.TIMED_OUT, b"cleaned\n")


@pytest.mark.parametrize("hook", [TREE, STUBBORN], ids=["polite", "stubborn"])
@pytest.mark.parametrize("times", [1, 3])
async def test_cancelling_returns_when_all_of_a_hook_is_dead(
    driver: CommandDriver, folder: Path, hook: str, times: int
) -> None:
    running = asyncio.create_task(run_hook(driver, call(hook, folder=folder)))
    tree = await written(folder, *TREE_PIDS)
    assert all(map(lives, tree))
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(map(lives, tree))


async def test_a_cancelled_hooks_last_words_reach_the_log(driver: CommandDriver, folder: Path) -> None:
    log = Log()
    hook = "trap 'echo bye >&2; exit 0' TERM; echo $$ > leader; while :; do sleep 0.1; done"
    running = asyncio.create_task(run_hook(driver, call(hook, folder=folder), log))
    await written(folder, "leader")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert log.text("stderr").endswith(b"bye\n")


async def test_cancelling_at_once_starts_nothing(driver: CommandDriver, folder: Path) -> None:
    running = asyncio.create_task(run_hook(driver, call("touch started", folder=folder)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await run_hook(driver, call("ls", folder=folder))).stdout == b""


async def test_a_hook_ends_with_its_first_process_not_with_stdout(driver: CommandDriver) -> None:
    result = await run_hook(driver, call("echo early; exec >&- 2>&-; sleep 1; exit 7"))
    assert (result.code, result.stdout) == (7, b"early\n")


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["polite", "stubborn"])
async def test_what_a_hook_leaves_running_is_killed(driver: CommandDriver, folder: Path, trap: str) -> None:
    hook = f"{trap} sleep 1000 & echo $! > child; timeout 1000 sleep 1000 & echo done"
    result = await run_hook(driver, call(hook, folder=folder))
    assert (result.ending, result.code, result.stdout) == (Ending.EXITED, 0, b"done\n")
    assert not lives(pids(folder, "child")[0])


async def test_what_calls_setsid_lives_on_and_delays_nothing(driver: CommandDriver, folder: Path) -> None:
    # It keeps stdout open, and goes on writing.
    hook = "setsid sh -c 'echo $$ > daemon; exec yes' & until [ -s daemon ]; do sleep 0.05; done"
    result = await run_hook(driver, call(hook, folder=folder))
    (daemon,) = pids(folder, "daemon")
    try:
        assert result.ok
        assert result.stdout.startswith(b"y\n")
        # Nobody reads any more: it ends as the left-hand side of a pipe does, by a signal that is not ours.
        await until(lambda: not lives(daemon))
    finally:
        kill(daemon)


async def test_a_quiet_daemon_outlives_its_hook(driver: CommandDriver, folder: Path) -> None:
    hook = "setsid sh -c 'echo $$ > daemon; exec sleep 1000' & until [ -s daemon ]; do sleep 0.05; done"
    assert (await run_hook(driver, call(hook, folder=folder))).ok
    (daemon,) = pids(folder, "daemon")
    try:
        assert (await run_hook(driver, call("sleep 1", folder=folder))).ok
        assert lives(daemon)
    finally:
        kill(daemon)


async def test_two_hooks_of_one_lock_never_overlap(driver: CommandDriver, folder: Path, tmp_path: Path) -> None:
    async with CommandDriver(tmp_path / "locks", GRACE) as another:
        drivers = (driver, another) * 4
        results = await asyncio.gather(*(run_hook(each, call(ALONE, folder=folder)) for each in drivers))
    assert [result.code for result in results] == [0] * 8
    assert not (folder / "overlaps").exists()


async def test_hooks_of_other_locks_do_not_wait(driver: CommandDriver, folder: Path) -> None:
    first = call("until [ -e second ]; do sleep 0.05; done", folder=folder, locks=("r640/host01",))
    second = call("touch second", folder=folder, locks=("r640/host02",))
    results = await asyncio.gather(run_hook(driver, first), run_hook(driver, second))
    assert all(result.ok for result in results)


async def test_the_next_hook_waits_for_the_whole_tree(driver: CommandDriver, folder: Path) -> None:
    # The first process has gone; a child that ignores SIGTERM still works for a moment.
    first = call("trap '' TERM; (touch busy; sleep 0.3; rm busy) & echo $$ > leader", folder=folder)
    running = asyncio.create_task(run_hook(driver, first))
    await written(folder, "leader")
    result = await run_hook(driver, call("! [ -e busy ]", folder=folder))
    assert result.ok
    await running


async def test_a_hook_that_waits_for_its_lock_can_be_cancelled(driver: CommandDriver, folder: Path) -> None:
    holder = asyncio.create_task(
        run_hook(driver, call("touch held; until [ -e go ]; do sleep 0.05; done", folder=folder))
    )
    await until((folder / "held").exists)
    log = Log()
    waiting = asyncio.create_task(run_hook(driver, call("touch started", folder=folder), log))
    await until(lambda: log.text("service") == b"waiting until an earlier run on this machine is gone\n")
    waiting.cancel()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (folder / "go").touch()
    assert (await holder).ok
    assert not (folder / "started").exists()


async def test_the_time_spent_waiting_is_not_the_hooks(driver: CommandDriver) -> None:
    results = await asyncio.gather(*(run_hook(driver, call("sleep 1", timeout=3)) for _ in range(4)))
    assert [result.ending for result in results] == [Ending.EXITED] * 4


async def test_a_worker_that_stops_leaves_no_hook_behind(folder: Path, tmp_path: Path) -> None:
    async with CommandDriver(tmp_path / "other", GRACE) as driver:
        running = asyncio.create_task(run_hook(driver, call(STUBBORN, folder=folder)))
        tree = await written(folder, *TREE_PIDS)
    assert not any(map(lives, tree))
    with pytest.raises(Unavailable):
        await running
    with pytest.raises(Unavailable):
        await run_hook(driver, call("true"))
    assert names(tmp_path / "other") == []


async def test_nothing_starts_that_is_not_wanted_any_more(driver: CommandDriver, folder: Path) -> None:
    async def no() -> bool:
        return False

    log = Log()
    assert await driver.run(call("touch started", folder=folder, begin=no), log) is None
    assert (names(folder), log.pieces) == ([], [])
    assert (await run_hook(driver, call("true"))).ok


async def test_nothing_starts_when_the_resource_has_gone_to_somebody_else(driver: CommandDriver, folder: Path) -> None:
    async def stale() -> bool:
        raise StaleEpoch("epoch 3 is over")

    with pytest.raises(StaleEpoch):
        await driver.run(call("touch started", folder=folder, begin=stale), Log())
    assert names(folder) == []
    assert (await run_hook(driver, call("true"))).ok


async def test_whether_to_start_is_asked_once_nothing_else_runs(driver: CommandDriver, folder: Path) -> None:
    async def asked() -> bool:
        found.append(names(folder))
        return True

    found: list[list[str]] = []
    hook = call("touch busy; sleep 0.2; rm busy", folder=folder, begin=asked)
    await asyncio.gather(*(run_hook(driver, hook) for _ in range(3)))
    assert found == [[], [], []]


async def test_cancelled_while_it_asks_nothing_starts(driver: CommandDriver, folder: Path) -> None:
    async def slow() -> bool:
        running.cancel()
        await asyncio.sleep(0.3)
        return True

    running = asyncio.create_task(driver.run(call("touch started", folder=folder, begin=slow), Log()))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert names(folder) == []
    assert (await run_hook(driver, call("true"))).ok
