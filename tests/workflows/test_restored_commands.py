"""Commands after their database was restored from an older copy: they go on, and nothing is run twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from leasehold.commands import CommandEnding
from leasehold.model import LeaseState, Outcome
from tests.workflows.lab import Lab
from tests.workflows.restoring import Copy, restorable
from tests.workflows.runners import ANYBODY, EXITED, MAKE, runner
from tests.workflows.test_reconcile import reconcile, sweep
from workflows import commanding


@pytest_asyncio.fixture(autouse=True)
async def quick(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> AsyncIterator[None]:
    async with restorable(lab, monkeypatch):
        yield


async def restored(lab: Lab, copy: Copy) -> None:
    """Restore the copy, and reconcile what Temporal knows with it."""
    copy.restore()
    await sweep(lab)
    done = await reconcile(lab)
    assert (done.problems, done.suspended) == ((), None)


@pytest.mark.parametrize("earlier", [True, False], ids=["of which the copy knows nothing", "that the copy knows"])
async def test_one_that_waits_for_a_runner_gets_it_all_the_same(lab: Lab, earlier: bool) -> None:
    await lab.pool(2, commands=ANYBODY)
    copies = [Copy(lab)]
    handle = await lab.submit(command=MAKE)
    while (command := (await lab.record(handle)).command) is None or command.reason is None:
        await asyncio.sleep(0.02)
    copies.append(Copy(lab))
    later = await lab.submit()
    await lab.until(later, LeaseState.ACTIVE)

    await restored(lab, copies[0 if earlier else 1])

    async with runner(lab) as there, asyncio.timeout(20):
        await there.until_begun(handle.id)
        there.end(handle.id)
        assert await handle.result() == Outcome.RELEASED


@pytest.mark.parametrize("earlier", [True, False], ids=["of which the copy knows nothing", "that the copy knows"])
async def test_one_that_runs_goes_on_and_tells_how_it_ended(lab: Lab, earlier: bool) -> None:
    await lab.pool(1, commands=ANYBODY)
    copies = [Copy(lab)]
    handle = await lab.submit(command=MAKE)
    while (command := (await lab.record(handle)).command) is None or command.reason is None:
        await asyncio.sleep(0.02)
    copies.append(Copy(lab))
    async with runner(lab) as there, asyncio.timeout(30):
        await there.until_begun(handle.id)
        copies[0 if earlier else 1].restore()
        await sweep(lab)
        await reconcile(lab)

        there.end(handle.id)

        assert await handle.result() == Outcome.RELEASED
    command = (await lab.record(handle)).command
    assert command is not None
    assert (command.ending, command.code) == (CommandEnding.EXITED, EXITED.code)
    assert there.began == [(handle.id, 1)]


async def test_one_that_ran_is_not_run_again_when_its_runner_is_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commanding, "SILENCE", timedelta(seconds=4))
    await lab.pool(1, commands=ANYBODY)
    copy = Copy(lab)
    async with runner(lab) as there, asyncio.timeout(40):
        handle = await lab.submit(command=MAKE)
        await there.until_begun(handle.id)
        await restored(lab, copy)
        await there.register()

        there.mute = True

        assert await handle.result() == Outcome.LOST
    assert there.began == [(handle.id, 1)]
