"""The process that starts a worker's hooks, and outlives the worker just long enough to end them.

    python -m activities.drivers.supervisor FD LOCK_FOLDER GRACE [alone]

FD is one end of a socket pair whose other end the worker has (`wire` says what goes over it); GRACE are the seconds
from SIGTERM to SIGKILL. With `alone` no other worker locks in this folder: who has a lock there at the start is dying,
and waited for. It ends, after all hooks have, when the worker closes its end, by dying for instance. A process
of its own, because a hook must be stopped when the worker is killed, and because forking from a small process is cheap.
One loop, no threads, standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from typing import Any

from activities.drivers import wire
from activities.drivers.hookrun import HookRun, Phase
from activities.drivers.locks import SPARE_DESCRIPTORS, SUFFIX, Lock
from activities.drivers.processes import living
from activities.drivers.wire import Ended, Outbox, Start

LONGEST_SLEEP = 3600.0
"""In seconds; epoll refuses what exceeds some weeks."""

DESCRIPTORS_OF_A_START = 3


class Supervisor:
    """All hooks of one worker."""

    def __init__(self, channel: socket.socket, folder: str, grace: float, *, alone: bool = False) -> None:
        self._channel, self._folder, self._grace, self._alone = channel, folder, grace, alone
        self._outbox = Outbox(channel)
        self._connected = True
        self._runs: dict[str, HookRun] = {}
        self._sweeping: list[HookRun] = []
        self._swept = False
        self._silent_at = math.inf  # by then the worker must be heard of again, once it has said so
        self._selector = selectors.DefaultSelector()
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def serve(self, children: int) -> None:
        """Serve until the worker is gone and all hooks are; `children` becomes readable when a process ends."""
        self._selector.register(children, selectors.EVENT_READ)
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._sweep()
        wake = 0.0
        while self._connected or self._runs or self._sweeping:
            ready = {key.fileobj for key, _ in self._selector.select(self._sleep(wake))}
            if children in ready:
                os.read(children, 4096)
            if self._connected and self._channel in ready:
                self._receive()
            self._end_what_nobody_follows(time.monotonic())
            wake = min(self._turn(time.monotonic()), self._silent_at)
            self._send()

    def _end_what_nobody_follows(self, now: float) -> None:
        """End all runs where the worker was to be heard of by now: it stands still, and may be taken for dead."""
        if now >= self._silent_at:
            self._silent_at = math.inf
            for run in self._runs.values():
                run.stop(self._grace)

    def _sleep(self, wake: float) -> float:
        return min(max(wake - time.monotonic(), 0.0), LONGEST_SLEEP)

    def _sweep(self) -> None:
        """Look for what dead supervisors left running: no later hook of the same lock may ever come to clear it."""
        for name in os.listdir(self._folder):
            if name.endswith(SUFFIX):
                lock = Lock(self._folder, name.removesuffix(SUFFIX))
                self._sweeping.append(self._run("", None, [], [lock], patient=self._alone))

    def _turn(self, now: float) -> float:
        """Let every run go on, and return when the next one needs it."""
        while True:
            runs = [*self._sweeping, *self._runs.values()]
            # All ends are noted before processes are listed: whoever was forked before such an end is in the list.
            trees = [tree for run in runs if (tree := run.look(now)) is not None]
            processes = living(trees) if trees else {}
            for run in runs:
                run.step(now, processes)
            over = self._forget_the_ended()
            # A lock may have become free for one that stood before its holder in the list.
            if not over:
                return min((run.wake(now) for run in runs), default=now + LONGEST_SLEEP)

    def _forget_the_ended(self) -> bool:
        before = len(self._runs) + len(self._sweeping)
        self._runs = {name: run for name, run in self._runs.items() if run.phase is not Phase.OVER}
        self._sweeping = [run for run in self._sweeping if run.phase is not Phase.OVER]
        if not self._sweeping and not self._swept:
            self._swept = True
            self._tell("swept", "", {})
        return len(self._runs) + len(self._sweeping) < before

    def _receive(self) -> None:
        """Take in all that the worker has said."""
        with contextlib.suppress(BlockingIOError):
            while self._connected:
                try:
                    data, descriptors, _, _ = socket.recv_fds(
                        self._channel, wire.PACKET_LIMIT, DESCRIPTORS_OF_A_START, socket.MSG_CMSG_CLOEXEC
                    )
                except ConnectionError:
                    data, descriptors = b"", []
                if data:
                    self._obey(json.loads(data), descriptors)
                else:
                    self._disconnect()

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        name = message["run"]
        if message["do"] == "start":
            self._start(name, descriptors)
        elif message["do"] == "heard":
            self._silent_at = time.monotonic() + message["within"]
        elif name not in self._runs:
            # It ended while the message was on its way.
            pass
        elif message["do"] == "go":
            self._runs[name].go()
        else:
            self._runs[name].stop(message["grace"])

    def _start(self, name: str, descriptors: list[int]) -> None:
        if len(descriptors) < DESCRIPTORS_OF_A_START or max(descriptors) > self._limit - SPARE_DESCRIPTORS:
            wire.close_all(descriptors)
            ended = Ended(wire.UNABLE, detail="too many hooks at once for the limit on open files")
            self._tell("ended", name, ended._asdict())
        else:
            start = wire.unpack(descriptors[0])
            locks = [Lock(self._folder, lock) for lock in start.locks]
            self._runs[name] = self._run(name, start, descriptors[1:], locks)

    def _run(
        self, name: str, start: Start | None, streams: list[int], locks: list[Lock], *, patient: bool = True
    ) -> HookRun:
        return HookRun(
            start,
            streams,
            locks,
            self._grace,
            patient=patient,
            ready=lambda: self._tell("ready", name, {}),
            note=lambda text: self._tell("note", name, {"text": text}),
            answer=lambda ended: self._tell("ended", name, ended._asdict()),
        )

    def _disconnect(self) -> None:
        """The worker has gone: nobody is there any more to follow its hooks."""
        self._connected = False
        self._selector.unregister(self._channel)
        self._channel.close()
        for run in self._runs.values():
            run.stop(self._grace)

    def _tell(self, what: str, name: str, fields: dict[str, Any]) -> None:
        if self._connected:
            self._outbox.put({"is": what, "run": name, **fields})

    def _send(self) -> None:
        """Send what the worker takes; a worker that is slow to listen must not keep us from a timeout."""
        if self._connected:
            waiting = 0 if self._outbox.flush() else selectors.EVENT_WRITE
            self._selector.modify(self._channel, selectors.EVENT_READ | waiting)


def _prepare_process() -> int:
    """Make this process one that lives by its socket alone; return what becomes readable when a child ends."""
    # Whatever the worker ignored or blocked when it started us.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        # Not SIG_IGN, which hooks would inherit.
        signal.signal(number, lambda *_: None)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    children, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    os.chdir("/")
    return children


def main() -> None:
    """Serve the worker that started this process."""
    descriptor, folder, grace, *alone = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    channel = socket.socket(fileno=int(descriptor))
    channel.setblocking(False)
    children = _prepare_process()
    Supervisor(channel, folder, float(grace), alone=bool(alone)).serve(children)


if __name__ == "__main__":
    main()
