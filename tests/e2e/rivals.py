"""Clients in processes of their own, who all want the same at the same moment.

Each takes a lease, holds what it got, and releases it. What it holds it locks by itself, apart from the service: two
holders of one resource would find each other.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

from leasehold.client import Client

ENOUGH = timedelta(seconds=100)
"""No test says how fast something is; this only ends those that hang."""

_HELD_S = 0.02
_started: Barrier


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What everybody wants, of which service; `folder` is where they lock what they hold."""

    url: str
    token: str
    pool: str
    count: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Served:
    """What became of one client: its process, how its lease ended, and what it held that somebody else held too."""

    pid: int
    outcome: str | None
    shared: Sequence[str]


def race(wish: Wish, clients: int) -> list[Served]:
    """Have so many clients begin at once; return when all are done. Raises what any of them met."""
    # A fresh process for each, forked where the client is loaded already.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier = context.Barrier(clients)
    with ProcessPoolExecutor(clients, context, _begin, (barrier,)) as processes:
        return list(processes.map(_take, [wish] * clients))


def _begin(barrier: Barrier) -> None:
    global _started
    _started = barrier


def _take(wish: Wish) -> Served:
    with Client(wish.url, wish.token, timeout=ENOUGH, patience=ENOUGH) as client:
        _started.wait(ENOUGH.total_seconds())
        asked = client.submit([{"pool": wish.pool, "count": wish.count}], duration="10m", wait="active")
        lease = client.wait_for(asked["id"], "active", ENOUGH)
        assert lease["state"] == "active", lease
        shared = hold([resource["name"] for resource in lease["resources"]], wish.folder)
        client.release(lease["id"])
        ended = client.wait_for(lease["id"], "ended", ENOUGH)
    return Served(pid=os.getpid(), outcome=ended["outcome"], shared=shared)


def hold(names: Sequence[str], folder: Path) -> list[str]:
    """Lock these for a while; return those that are locked already."""
    shared = []
    with ExitStack() as held:
        for name in names:
            lock = held.enter_context((folder / name).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                shared.append(name)
        time.sleep(_HELD_S)
    return shared
