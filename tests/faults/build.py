"""The test build of the service: the product's own processes, whose stores stop where they are told to.

    python -m tests.faults.build worker

Nothing of this is part of the product, which knows nothing of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import temporalio.worker

import activities.heartbeat
import api.__main__
import leasehold.store.__main__
import worker.__main__
import worker.runner
import worker.wiring
import workflows.commanding
import workflows.hooks
from leasehold import process
from leasehold.settings import Settings
from leasehold.store import heartbeats, outbox, runners
from leasehold.store.engine import Database, Tx
from leasehold.store.migrate import checked
from tests.faults.parts import MIGRATION, NAMES, RUNNER
from tests.faults.points import UNWRITTEN, Call, Moment, Point, Victim, writing_methods

HEARTBEAT = timedelta(seconds=0.4)
HEARTBEAT_TIMEOUT = timedelta(seconds=2)
STICKY = timedelta(seconds=0.5)
WORKFLOW_TASK_TIMEOUT_S = 1
"""For Temporal's `history.defaultWorkflowTaskTimeout`."""
TAKEN_UP_WITHIN = timedelta(seconds=5)
TELL_AGAIN = timedelta(seconds=2)
RUNNER_SILENCE = timedelta(seconds=10)
"""How soon it is noticed that a worker is dead, or not there: the same waits as in the product, only shorter.

Of a runner not so soon that one which has to wait for its CPU is taken to be dead.
"""
REGISTER_EVERY = timedelta(days=1)
"""A runner registers when it starts, and not in the midst of any scenario."""
_OTHERS_ACT_WITHIN_S = 2.0

_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def load() -> None:
    """Load what the builds need; importing this module has done it."""


def run(name: str) -> NoReturn:
    """Run `worker` or `api` with the stores of the test build, or the `runner` or the `migration`, which have none."""
    if name == RUNNER:
        _register_once()
    elif name != MIGRATION:
        _Faults(Path(os.environ["LEASEHOLD_DATA"]), name).install()
        # A runner that has registered is there until another one takes its place.
        _replace(runners, "SILENCE", 2 * REGISTER_EVERY)
    if name == "worker":
        _notice_dead_workers_sooner()
    serve(name)


def serve(name: str) -> NoReturn:
    """Run a process of the Procfile, or the `migration` before them, as it is."""
    match name:
        case "migration":
            sys.argv = ["leasehold.store", "upgrade"]
            os._exit(leasehold.store.__main__.main())
        case "runner":
            sys.argv = ["worker.runner", "--local"]
            process.run(functools.partial(worker.runner._start, worker.runner._options()))
        case "worker":
            process.run(lambda: worker.__main__.run(checked(Settings())))
        case "api":
            process.run(lambda: api.__main__.serve(checked(Settings())))
    raise ValueError(name)


def _notice_dead_workers_sooner() -> None:
    _replace(workflows.hooks, "_HEARTBEAT_TIMEOUT", HEARTBEAT_TIMEOUT)
    _replace(workflows.hooks, "TAKEN_UP_WITHIN", TAKEN_UP_WITHIN)
    _replace(workflows.commanding, "TAKEN_UP_WITHIN", TAKEN_UP_WITHIN)
    # Shorter than what a runner itself waits until it ends its commands, which it does where Temporal is away for long:
    # here Temporal is killed only together with the runner.
    _replace(workflows.commanding, "SILENCE", RUNNER_SILENCE)
    _replace(heartbeats, "TELL_AGAIN", TELL_AGAIN)
    for module in (activities.heartbeat, worker.wiring):
        _replace(module, "HEARTBEAT", HEARTBEAT)
    hasty = functools.partial(temporalio.worker.Worker, sticky_queue_schedule_to_start_timeout=STICKY)
    _replace(worker.wiring, "Worker", hasty)


def _register_once() -> None:
    _replace(worker.runner, "REGISTER_EVERY", REGISTER_EVERY)
    for module in (activities.heartbeat, worker.runner):
        _replace(module, "HEARTBEAT", HEARTBEAT)


def _replace(owner: Any, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name} any more: the test build must follow")
    setattr(owner, name, value)


class _Faults:
    """Notes every commit of this process down, and carries out the armed point when it is reached."""

    def __init__(self, folder: Path, role: str) -> None:
        self._folder = folder
        self._role = role
        self._armed: Point | None = None
        self._reached: Counter[Moment] = Counter()

    def install(self) -> None:
        """Put itself between the service and every store that this process will have."""
        _replace(Database, "write", self._around_transaction(Database.write))
        for store, name in writing_methods():
            _replace(store, name, self._around_method(name, getattr(store, name)))
        for owner, name in UNWRITTEN:
            _replace(owner, name, self._around_step(name, getattr(owner, name)))

    def _around_method(self, name: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def method(store: Any, *args: Any, **kwargs: Any) -> Any:
            call = Call.made(name, *args, *kwargs.values())
            token = _call.set(call)
            try:
                result = await original(store, *args, **kwargs)
            finally:
                _call.reset(token)
            if self._comes_to(call, Moment.UNTOLD):
                await self._let_others_act(store)
                self._kill()
            return result

        return method

    def _around_step(self, name: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        call = Call(method=name)

        @functools.wraps(original)
        async def step(*args: Any) -> Any:
            if self._comes_to(call, Moment.BEFORE):
                self._kill()
            result = await original(*args)
            if result != [] and self._comes_to(call, Moment.AFTER):
                self._kill()
            return result

        return step

    def _around_transaction(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def write(database: Database, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = _call.get()
            if call is None:
                self._note("strays", getattr(what, "__qualname__", repr(what)))
                return await original(database, what, *args, **kwargs)

            def work(tx: Tx, *inner: Any, **more: Any) -> Any:
                result = what(tx, *inner, **more)
                made = (call.method, call.about or "", self._role, "told" if tx.posted else "")
                self._note("calls", "\t".join(made))
                if self._comes_to(call, Moment.BEFORE):
                    self._kill()
                return result

            result = await original(database, work, *args, **kwargs)
            if self._comes_to(call, Moment.AFTER):
                self._kill()
            return result

        return write

    def _comes_to(self, call: Call, moment: Moment) -> bool:
        """Whether this is where the armed point is."""
        point = Point.armed(self._folder)
        if point != self._armed:
            self._armed = point
            self._reached.clear()
        if point is None or (point.call, point.moment) != (call, moment):
            return False
        self._reached[moment] += 1
        return self._reached[moment] == point.nth

    async def _let_others_act(self, store: Any) -> None:
        """Wait until the outbox is delivered."""
        database: Database = store.database if hasattr(store, "database") else store._database
        until = time.monotonic() + _OTHERS_ACT_WITHIN_S
        while await database.read(outbox.due, 1) and time.monotonic() < until:
            await asyncio.sleep(0.01)

    def _kill(self) -> None:
        """Carry out the armed point. Comes back only where this process is not among the victims."""
        assert self._armed is not None
        victim = self._armed.victim
        try:
            (self._folder / "fault.json").rename(self._folder / "fault.done")
        except FileNotFoundError:
            return
        victims = {Victim.ITSELF: (), Victim.API: ("api",), Victim.ALL: (*NAMES, RUNNER)}[victim]
        pids = [int((self._folder / f"{name}.pid").read_text()) for name in victims]
        if victim is Victim.ALL:
            pids += self._supervisors()
        if victim is not Victim.API:
            pids.append(os.getpid())
        for pid in sorted(set(pids), key=lambda pid: pid == os.getpid()):
            _kill_9(pid)
        # Nothing more happens in a process that has been killed, not even on another thread.
        while victim is not Victim.API or self._role == "api":
            time.sleep(1)

    def _supervisors(self) -> list[int]:
        """The supervisors of hooks and commands have no environment, and are told a folder inside the data folder."""
        inside = f"{self._folder}/".encode()
        return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if inside in _read(p)]

    def _note(self, file: str, line: str) -> None:
        with (self._folder / file).open("a") as notes:
            notes.write(f"{line}\n")


def _kill_9(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    run(sys.argv[1])
