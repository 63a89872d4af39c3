"""A hook that is stopped: told to the record once nothing of it lives, so that another host need not wait."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from activities.drivers.command import CommandDriver
from activities.stages import Stages
from leasehold.errors import StaleEpoch, Unavailable
from leasehold.messages import Claim, RunHook
from leasehold.model import Hook, PoolSpec, StageName
from leasehold.ports import Place
from leasehold.store.engine import Database
from leasehold.store.logs import SqlLogStore
from tests.conftest import NewDatabase
from tests.contract.command_hooks import GRACE, PATIENCE, Log, agreed, call, kill, lives, run_hook, written
from tests.contract.store_lab import Lab, file, hosts, run_of

ELSEWHERE = Place(host="another")
HOOK = "sleep 1000 & echo $! > child; echo $PPID > supervisor; echo $$ > leader; wait"


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[CommandDriver]:
    async with asyncio.timeout(2 * PATIENCE), CommandDriver(tmp_path / "locks", GRACE) as driver:
        yield driver


class Told:
    """Remembers whether it was told that nothing lives, and what lived then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.alive: list[list[bool]] = []

    async def __call__(self) -> None:
        found = [int((self._folder / name).read_text()) for name in ("leader", "child")]
        self.alive.append([lives(pid) for pid in found])


async def test_it_is_told_once_the_whole_tree_is_gone(driver: CommandDriver, tmp_path: Path) -> None:
    told = Told(tmp_path)
    hook = call(f"trap '' TERM; {HOOK}; while :; do sleep 0.1; done", folder=tmp_path, stopped=told)
    running = asyncio.create_task(run_hook(driver, hook))
    await written(tmp_path, "leader", "child")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told.alive == [[False, False]]


@pytest.mark.parametrize("run", ["exit 3", "kill -9 $$", "sleep 10"], ids=["failed", "killed", "timed out"])
async def test_a_result_is_no_stop(driver: CommandDriver, tmp_path: Path, run: str) -> None:
    told = Told(tmp_path)
    await run_hook(driver, call(run, timeout=1, stopped=told))
    assert told.alive == []


async def test_what_was_not_let_start_is_no_stop(driver: CommandDriver, tmp_path: Path) -> None:
    async def stale() -> bool:
        raise StaleEpoch("epoch 3 is over")

    told = Told(tmp_path)
    with pytest.raises(StaleEpoch):
        await driver.run(call("true", begin=stale, stopped=told), Log())
    assert told.alive == []


async def test_where_nobody_can_tell_nothing_is_told(driver: CommandDriver, tmp_path: Path) -> None:
    told = Told(tmp_path)
    running = asyncio.create_task(run_hook(driver, call(HOOK, folder=tmp_path, stopped=told)))
    (supervisor,) = await written(tmp_path, "supervisor")
    kill(supervisor)
    with pytest.raises(Unavailable):
        await running
    assert told.alive == []


async def test_a_hook_that_was_let_start_and_never_did_is_over(driver: CommandDriver, tmp_path: Path) -> None:
    async def lose_the_folder() -> bool:
        shutil.rmtree(tmp_path / "locks")
        return await agreed()

    async def told() -> None:
        heard.append(True)

    heard: list[bool] = []
    with pytest.raises(Unavailable):
        await driver.run(call("true", begin=lose_the_folder, stopped=told), Log())
    assert heard == [True]


class TestAsAnActivity:
    """The whole way: Temporal's cancellation, the driver, the record."""

    @pytest.fixture
    async def stages(self, lab: Lab, driver: CommandDriver, new_database: NewDatabase) -> AsyncIterator[Stages]:
        logs = SqlLogStore(new_database("logs"))
        yield Stages(lab.store, logs, {"command": driver})
        logs.close()

    async def wiping(self, lab: Lab, folder: Path) -> tuple[Claim, RunHook]:
        hook = Hook(run=HOOK, timeout=timedelta(minutes=30))
        spec = PoolSpec(name="r640", stages={StageName.WIPE: (hook,)}, folder=str(folder))
        await lab.store.apply(file((spec, hosts(1)), name="r640"), "operator")
        (claim,) = (await lab.submit("a")).claims
        return claim, run_of("a", claim, claim.stages[0])

    async def test_another_host_goes_on_at_once_after_a_worker_stopped(
        self, lab: Lab, stages: Stages, tmp_path: Path
    ) -> None:
        # Given a hook that runs, for which another host would wait until its deadline.
        claim, order = await self.wiping(lab, tmp_path)
        environment = ActivityEnvironment()
        running = asyncio.create_task(environment.run(stages.wipe, order))
        tree = await written(tmp_path, "leader", "child")
        with pytest.raises(Unavailable):
            await lab.begin("a", claim, host=ELSEWHERE)
        # When its activity is cancelled, then nothing of it lives, and another host need not wait.
        environment.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not any(map(lives, tree))
        assert (await lab.begin("a", claim, host=ELSEWHERE)).finished is None

    async def test_a_database_that_hangs_does_not_keep_a_worker_from_stopping(
        self, lab: Lab, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("activities.stages.RECORD_WITHIN", timedelta(seconds=0.2))
        claim, order = await self.wiping(lab, tmp_path)
        environment = ActivityEnvironment()
        running = asyncio.create_task(environment.run(stages.wipe, order))
        tree = await written(tmp_path, "leader", "child")
        other = Database(lab.url)
        with other.writer.begin() as connection:
            other.lock(connection)
            environment.cancel()
            # The hook's log is not in this database.
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, PATIENCE)
            assert not any(map(lives, tree))
        other.close()
        # What was on its way is recorded all the same.
        async with asyncio.timeout(PATIENCE):
            while "stage_stopped" not in await lab.kinds("a"):
                await asyncio.sleep(0.02)
        assert (await lab.begin("a", claim, host=ELSEWHERE)).finished is None
