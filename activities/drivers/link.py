"""The worker's side of one supervisor process: start it, ask it, hear from it, notice its death."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from activities.drivers import wire
from activities.drivers.wire import Ended, Outbox, Start

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = "activities.drivers.supervisor"

# Neither PYTHON* variables nor site-packages: the supervisor needs the standard library alone, and must start fast.
_INTERPRETER = (sys.executable, "-E", "-S", "-X", "utf8")


class SupervisorLost(Exception):
    """The supervisor ended before the hook did."""


class LinkedRun(NamedTuple):
    """One hook in the supervisor's hands: `ready` to be let go or stopped, then `ended` (or `SupervisorLost`)."""

    name: str
    ready: asyncio.Future[None]
    ended: asyncio.Future[Ended]
    note: Callable[[str], None]


class Link:
    """One running supervisor. `swept` is set once what dead supervisors left on this machine is gone."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.lost = False
        self.swept = asyncio.Event()
        self._process, self._channel = process, channel
        self._outbox = Outbox(channel)
        self._runs: dict[str, LinkedRun] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._receive)

    @classmethod
    async def open(cls, lock_folder: Path, kill_grace: timedelta, *, alone: bool = False) -> Link:
        """Start a supervisor, `alone` in its folder or with those of others. Raises OSError when that is impossible."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            arguments: tuple[str, ...] = (str(theirs.fileno()), str(lock_folder), str(kill_grace.total_seconds()))
            arguments += ("alone",) if alone else ()
            process = await asyncio.create_subprocess_exec(
                *_INTERPRETER, "-m", _MODULE, *arguments,
                cwd=_ROOT,
                env={},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for the worker, which then stops its hooks in good order.
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def start(self, start: Start, streams: tuple[int, int], note: Callable[[str], None]) -> LinkedRun:
        """Have a hook wait for its lock; nothing runs before `go`.

        `streams` are the write ends of its stdout and stderr; they are closed here once sent. Raises OSError.
        """
        run = LinkedRun(start.run, self._loop.create_future(), self._loop.create_future(), note)
        if self.lost:
            wire.close_all(streams)
            run.ended.set_exception(SupervisorLost())
            return run
        try:
            file = wire.pack(start)
        except BaseException:
            wire.close_all(streams)
            raise
        self._runs[run.name] = run
        self._send({"do": "start", "run": start.run}, (file, *streams))
        return run

    def go(self, run: LinkedRun) -> None:
        """Have a hook that is ready begin; nothing happens if it has ended."""
        if run.name in self._runs:
            self._send({"do": "go", "run": run.name})

    def stop(self, run: LinkedRun, grace: timedelta | None = None) -> None:
        """Have a hook's process tree killed, within less `grace` if so asked; nothing happens if it has ended."""
        if run.name in self._runs:
            seconds = None if grace is None else grace.total_seconds()
            self._send({"do": "stop", "run": run.name, "grace": seconds})

    def heard(self, within: timedelta) -> None:
        """Have everything killed unless this is said again within that time."""
        self._send({"do": "heard", "run": "", "within": within.total_seconds()})

    async def gone(self) -> None:
        """Wait until the process has ended and its locks are free."""
        await self._process.wait()

    async def close(self) -> None:
        """Have all hooks killed, and wait until they and the supervisor are gone."""
        self._lose()
        await self.gone()

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        self._outbox.put(message, descriptors)
        self._flush()

    def _flush(self) -> None:
        if self._outbox.flush():
            self._loop.remove_writer(self._channel)
        else:
            self._loop.add_writer(self._channel, self._flush)

    def _receive(self) -> None:
        try:
            data = self._channel.recv(wire.PACKET_LIMIT)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if data:
            self._hear(json.loads(data))
        else:
            self._lose()

    def _hear(self, message: dict[str, Any]) -> None:
        if message["is"] == "swept":
            self.swept.set()
        elif message["is"] == "ready":
            self._runs[message["run"]].ready.set_result(None)
        elif message["is"] == "note":
            self._runs[message["run"]].note(message["text"])
        else:
            ended = Ended(message["how"], message["code"], message["detail"])
            self._runs.pop(message["run"]).ended.set_result(ended)

    def _lose(self) -> None:
        """Take note that nothing more will be heard. Closing the socket tells the supervisor, if it still lives."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._channel)
        self._loop.remove_writer(self._channel)
        self._channel.close()
        self._outbox.flush()
        self.swept.set()
        for run in self._runs.values():
            run.ended.set_exception(SupervisorLost())
        self._runs.clear()
