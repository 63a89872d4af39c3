"""The driver `command`: a hook is a command on this machine, started and stopped by the worker's supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from activities.drivers import wire
from activities.drivers.link import Link, LinkedRun, SupervisorLost
from activities.drivers.locknames import lock_files
from activities.drivers.outlast import outlast
from activities.drivers.output import Output, Tap
from activities.drivers.wire import Ended, Start
from leasehold import durations
from leasehold.errors import Unavailable
from leasehold.model import Hook
from leasehold.ports import Ending, HookCall, HookResult, LogSink, OutputSink, Stop

KILL_GRACE = timedelta(seconds=5)
"""From SIGTERM to SIGKILL."""

_OF_AN_ACCOUNT = ("HOME", "USER", "LOGNAME")


def minimal_environment() -> dict[str, str]:
    """Return what every hook's environment starts from; nothing of the worker's own is in it."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = "/"
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8"}


class CommandDriver:
    """Runs hooks as commands (`leasehold.ports.Driver`); usable inside `async with`.

    All drivers on one machine that may meet the same lock names must be given the same `lock_folder`, which is made
    if need be, for this user alone. `environment` replaces `minimal_environment()`. `alone`: no other driver has this
    folder, so that `swept` waits for those who still lock in it.
    """

    def __init__(
        self,
        lock_folder: Path,
        kill_grace: timedelta = KILL_GRACE,
        environment: Mapping[str, str] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self._alone = alone
        self._lock_folder = lock_folder.resolve()
        self._kill_grace = kill_grace
        self._environment = minimal_environment() if environment is None else dict(environment)
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._open = False

    async def __aenter__(self) -> Self:
        """Start the supervisor, which also ends what dead workers left running here. Raises `Unavailable`."""
        self._open = True
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs, and wait until it is gone."""
        self._open = False
        async with self._opening:
            if self._link is not None:
                await self._link.close()

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Run a hook and return how it ended, None if `call.begin` said not to; its own failures are results.

        It ends when its first process does; what is left of its session is killed then. Cancelled, it kills the hook,
        and raises CancelledError only when nothing of it lives. Raises `Unavailable` if the supervisor dies or cannot
        start processes, and whatever `call.begin` raises.
        """
        stop = Stop()
        # A task of its own, that no cancellation reaches: the hook must be waited for, however often we are cancelled.
        task = asyncio.create_task(self._run(call, log, stop))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.ask()
            await outlast(task)
            raise

    async def _run(self, call: HookCall, log: LogSink, stop: Stop) -> HookResult | None:
        output = Output(log, log_stdout=call.log_stdout)
        ended = await self._to_the_end(call, output, stop)
        if ended is None:
            return None
        if ended.how == wire.CANCELLED:
            raise asyncio.CancelledError
        return _result(call.hook, ended, *output.result)

    async def run_into(self, call: HookCall, sink: OutputSink, stop: Stop) -> HookResult | None:
        """Run a call whose output goes to `sink`, and return how it ended, without any output.

        None if `call.begin` said not to, or if nothing of it lives after it was asked to `stop`, which is the only way
        to have it end, or was ended because this process was not `heard` of. Raises like `run`.
        """
        ended = await self._to_the_end(call, sink, stop)
        if ended is None or ended.how == wire.CANCELLED:
            return None
        return _result(call.hook, ended, b"", cut=False)

    def heard(self, within: timedelta) -> None:
        """Have all that runs killed unless this is called again within that time, whatever becomes of this process.

        Once it stands still, stopped or starved, nobody else on this machine would.
        """
        if self._link is not None and not self._link.lost:
            self._link.heard(within)

    async def swept(self) -> None:
        """Wait until all is gone that dead workers left here, if this driver is `alone`. Raises `Unavailable`."""
        while True:
            link = await self._connected()
            await link.swept.wait()
            if not link.lost:
                return

    async def _to_the_end(self, call: HookCall, output: OutputSink, stop: Stop) -> Ended | None:
        try:
            ended = await self._until_ended(call, output, stop)
        finally:
            await output.finish(stop.asked)
        if ended is None:
            return None
        if ended.how in (wire.UNABLE, wire.CANCELLED):
            # The supervisor has seen the whole tree gone, if there ever was one.
            await call.stopped()
        if ended.how == wire.UNABLE:
            raise Unavailable(f"the hook could not be run: {ended.detail}")
        return ended

    async def _until_ended(self, call: HookCall, output: OutputSink, stop: Stop) -> Ended | None:
        link = await self._connected()
        if stop.asked.done():
            return Ended(wire.CANCELLED)
        with contextlib.ExitStack() as taps:
            try:
                stdout = taps.enter_context(contextlib.closing(Tap(output.stdout)))
                stderr = taps.enter_context(contextlib.closing(Tap(output.stderr)))
                run = link.start(self._start(call), (stdout.hand_over(), stderr.hand_over()), output.note)
            except OSError as error:
                raise Unavailable(f"the hook could not be started: {error}") from error
            stop.tell(lambda grace: link.stop(run, grace))
            try:
                return await _follow(link, run, call)
            except SupervisorLost:
                await self._clear_up_after(link)
                raise Unavailable("the supervisor of this worker's hooks has ended, and the hook with it") from None

    async def _connected(self) -> Link:
        """Return the link to a living supervisor, a new one if need be. Raises `Unavailable`."""
        async with self._opening:
            if not self._open:
                raise Unavailable("the driver of commands is closed")
            if self._link is not None and self._link.lost:
                # Its locks are free only then.
                await self._link.gone()
                self._link = None
            if self._link is None:
                try:
                    os.makedirs(self._lock_folder, mode=0o700, exist_ok=True)
                    self._link = await Link.open(self._lock_folder, self._kill_grace, alone=self._alone)
                except OSError as error:
                    raise Unavailable(f"no supervisor can be started: {error}") from error
            return self._link

    async def _clear_up_after(self, lost: Link) -> None:
        """Wait until nothing lives of the hooks of a supervisor that has ended."""
        await lost.gone()
        if self._open:
            # The next one does that first of all.
            await (await self._connected()).swept.wait()

    def _start(self, call: HookCall) -> Start:
        run = call.hook.run
        # Of an account of its own they are that account's.
        foreign = () if call.account is None else _OF_AN_ACCOUNT
        base = {name: value for name, value in self._environment.items() if name not in foreign}
        return Start(
            run=uuid.uuid4().hex,
            argv=["/bin/sh", "-c", run] if isinstance(run, str) else list(run),
            env={**base, **call.env},
            folder=call.folder or "/",
            timeout=call.hook.timeout.total_seconds(),
            locks=lock_files(call.locks),
            lease_file=call.lease_file,
            account=call.account,
            thorough=call.thorough,
            grace=None if call.kill_grace is None else call.kill_grace.total_seconds(),
        )


async def _follow(link: Link, run: LinkedRun, call: HookCall) -> Ended | None:
    """Let a run begin when it is ready, if `call.begin` agrees (None if not), and return how it ended."""
    either: set[asyncio.Future[Any]] = {run.ready, run.ended}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if run.ended.done():
        return await run.ended
    wanted = False
    try:
        wanted = await call.begin()
    finally:
        if not wanted:
            link.stop(run)
            with contextlib.suppress(SupervisorLost):
                await run.ended
    if not wanted:
        return None
    link.go(run)
    return await run.ended


def _result(hook: Hook, ended: Ended, stdout: bytes, cut: bool) -> HookResult:
    return HookResult(ending=Ending(ended.how), code=ended.code, detail=_in_words(hook, ended), stdout=stdout, cut=cut)


def _in_words(hook: Hook, ended: Ended) -> str:
    match ended.how:
        case wire.EXITED:
            return f"exited with status {ended.code}"
        case wire.SIGNALLED:
            return f"ended by signal {ended.code} ({signal.strsignal(ended.code or 0)})"
        case wire.TIMED_OUT:
            return f"killed at its timeout of {durations.render(hook.timeout)}"
        case wire.NOT_STARTED:
            return f"could not be started: {ended.detail}"
        case _:
            return ended.how
