"""The lock files of hooks, held by the worker itself: for drivers whose hooks are no processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from pathlib import Path

from activities.drivers.hookrun import LOCK_POLL
from activities.drivers.locknames import lock_files
from activities.drivers.locks import Lock
from activities.drivers.processes import Tree, living
from leasehold.errors import Unavailable

TREE_POLL = 0.1
"""In seconds, between two looks at processes that an earlier hook left behind."""


@contextlib.asynccontextmanager
async def hold(
    folder: Path, names: Iterable[str], kill_grace: timedelta, note: Callable[[str], None]
) -> AsyncIterator[None]:
    """Hold these locks while the block runs; wait until they are free, and until what held them before is gone.

    `note` hears what is waited for. The kernel frees the locks when this process dies. Raises `Unavailable` where there
    can be no lock files.
    """
    held: list[Lock] = []
    cleared, told = 0, False
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in lock_files(names):
            lock = Lock(str(folder), name)
            while not lock.take():
                if not told:
                    note("waiting until an earlier run on this machine is gone")
                told = True
                await asyncio.sleep(LOCK_POLL)
            held.append(lock)
            if tree := lock.left_behind():
                note("stopping what an earlier run left behind on this machine")
                await _end(tree, kill_grace.total_seconds())
            lock.forget()
            cleared += 1
    except OSError as error:
        _release(held, cleared)
        raise Unavailable(f"the hook's locks cannot be taken: {error}") from error
    except BaseException:
        _release(held, cleared)
        raise
    try:
        yield
    finally:
        _release(held, cleared)


def _release(held: list[Lock], cleared: int) -> None:
    for number, lock in enumerate(held):
        # The record of a lock that is not cleared yet tells of what may still live.
        lock.release(keep_record=number >= cleared)


async def _end(tree: Tree, grace: float) -> None:
    """Stop what a dead worker left running, and wait until it is gone."""
    while pids := living([tree]).get(tree):
        tree.stop(pids, time.monotonic(), grace)
        tree.press(pids, time.monotonic())
        await asyncio.sleep(TREE_POLL)
