"""One hook in the supervisor's hands: it waits for its locks and its worker's word, runs, and ends.

Times are monotonic seconds. Standard library only, and light: the supervisor imports this.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from activities.drivers import wire
from activities.drivers.locks import Lock
from activities.drivers.processes import MARK, Tree, read_report, spawn
from activities.drivers.wire import Ended, Start

LOCK_POLL = 0.1
"""Between two looks at a lock that another supervisor holds: a waiting flock(2) would stop the loop."""

TREE_POLL = 0.02
"""Between two looks at a process tree that should be gone soon."""

LINGER = 0.5
"""From SIGTERM to SIGKILL for what a hook leaves running when its first process ends by itself."""

STUCK_AFTER = 5.0
"""From SIGKILL until somebody is told that processes are still there."""


class Phase(Enum):
    """Where a run is in its life."""

    WAITING = 1
    CLEARING = 2
    READY = 3
    RUNNING = 4
    OVER = 5


class HookRun:
    """The life of one run, with or (if `start` is None) without a hook to start once its locks' past is cleared.

    `locks` are taken one after another, in the order given. In every turn of the loop the supervisor calls `look` and
    then `step`, and again at `wake` or earlier. `ready` hears that all locks are held and nothing of the past lives,
    whereupon `go` or `stop` must follow; `note` what the hook's log should say; `answer`, once, how it ended. One that
    is not `patient` gives up where somebody else has a lock.
    """

    def __init__(
        self,
        start: Start | None,
        streams: Sequence[int],
        locks: Sequence[Lock],
        grace: float,
        *,
        patient: bool = True,
        ready: Callable[[], None],
        note: Callable[[str], None],
        answer: Callable[[Ended], None],
    ) -> None:
        self.phase = Phase.WAITING
        self._start, self._streams, self._locks, self._patient = start, streams, locks, patient
        self._grace = grace if start is None or start.grace is None else start.grace
        self._cleared = 0  # so many of the locks are held, and nothing of their past lives
        self._ready, self._note, self._answer = ready, note, answer
        self._said: set[str] = set()
        self._tree: Tree | None = None
        self._pid = 0
        self._report = -1
        self._deadline = math.inf
        self._exited = False
        self._reason: str | None = None

    def go(self) -> None:
        """Start the hook."""
        if self.phase is Phase.READY:
            try:
                self._spawn()
            except OSError as error:
                self._end(_unable(error))

    def stop(self, grace: float | None = None) -> None:
        """Ask for its end: at once if nothing of it runs yet, by killing its processes otherwise.

        `grace` are the seconds from SIGTERM to SIGKILL, where these are less than usual.
        """
        if grace is not None:
            self._grace = min(self._grace, grace)
            if self._tree is not None:
                self._tree.hurry(time.monotonic(), grace)
        if self.phase in (Phase.WAITING, Phase.READY):
            self._end(Ended(wire.CANCELLED))
        elif self.phase is Phase.CLEARING and self._start is not None:
            # Whoever asks need not wait for an earlier run's processes, but they still have to go.
            self._start = None
            self._answer(Ended(wire.CANCELLED))
        elif self.phase is Phase.RUNNING and not self._exited:
            self._reason = self._reason or wire.CANCELLED

    def look(self, now: float) -> Tree | None:
        """Take note of what has happened, and return the tree whose processes `step` must know, if any."""
        if self.phase is Phase.RUNNING and not self._exited:
            # Left unreaped until its whole session is gone, so that nobody else can get its number.
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            self._exited = os.waitid(os.P_PID, self._pid, options) is not None
            if not self._exited and now >= self._deadline:
                self._reason = self._reason or wire.TIMED_OUT
        if self._tree is not None and (self.phase is Phase.CLEARING or self._exited or self._reason):
            return self._tree
        return None

    def step(self, now: float, living: Mapping[Tree, set[int]]) -> None:
        """Go on as far as is possible now; `living` has the processes of the tree that `look` named."""
        if self.phase is Phase.RUNNING:
            self._watch(now, living)
            return
        try:
            if self.phase is Phase.CLEARING and self._is_gone(now, living):
                self._clear()
            if self.phase is Phase.WAITING:
                self._take_locks()
        except OSError as error:
            self._end(_unable(error), keep_record=True)

    def wake(self, now: float) -> float:
        """Return when to call again, should nothing else happen before."""
        if self.phase is Phase.WAITING:
            return now + LOCK_POLL
        if self.phase is Phase.READY:
            return math.inf
        if self.phase is Phase.RUNNING and not self._exited:
            due = self._deadline if self._tree is None or self._tree.kill_at is None else self._tree.kill_at
            return due if due > now else now + TREE_POLL
        return now + TREE_POLL

    def _take_locks(self) -> None:
        """Take as many locks as can be had now; once all are ours and cleared, ask whether to start."""
        while self.phase is Phase.WAITING and self._cleared < len(self._locks):
            lock = self._locks[self._cleared]
            if not lock.take():
                self._say("waiting until an earlier run on this machine is gone")
                if not self._patient:
                    self._end(None)
                return
            self._tree = lock.left_behind()
            if self._tree is not None:
                self.phase = Phase.CLEARING
                self._say("stopping what an earlier run left behind on this machine")
                return
            self._clear()
        if self.phase is Phase.WAITING:
            self.phase = Phase.READY
            self._ready()

    def _clear(self) -> None:
        """Nothing lives any more of the past of the lock that was taken last."""
        self._tree = None
        self._cleared += 1
        if self._start is None:
            self._end(None)
        else:
            self.phase = Phase.WAITING

    def _spawn(self) -> None:
        start = self._start
        if start is None:
            return
        for lock in self._locks:
            lock.forget()
        env = start.env | {MARK: start.run}
        if start.lease_file:
            self._locks[0].write_lease(start.lease_file)
            env["LEASEHOLD_LEASE_FILE"] = self._locks[0].lease_path
        self._pid, self._report = spawn(start, env, self._streams, [lock.fd for lock in self._locks])
        self.phase = Phase.RUNNING
        self._tree = Tree(self._pid, start.run if start.thorough else None)
        self._deadline = time.monotonic() + start.timeout
        self._close_streams()

    def _watch(self, now: float, living: Mapping[Tree, set[int]]) -> None:
        if self._tree is None or not (self._exited or self._reason):
            return
        if self._reason is not None:
            self._tree.stop(living.get(self._tree, ()), now, self._grace)
        if self._is_gone(now, living) and self._exited:
            self._finish()

    def _is_gone(self, now: float, living: Mapping[Tree, set[int]]) -> bool:
        """Whether nothing is left of the tree; what is left is pressed to go."""
        if self._tree is None:
            return True
        pids = living.get(self._tree, ())
        if not pids:
            return True
        self._tree.stop(pids, now, LINGER if self.phase is Phase.RUNNING else self._grace)
        self._tree.press(pids, now)
        if self._tree.kill_at is not None and now > self._tree.kill_at + STUCK_AFTER:
            self._say(f"waiting for processes that cannot be killed: {sorted(pids)}")
        return False

    def _finish(self) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        report = read_report(self._report)
        if self._reason is not None:
            self._end(Ended(self._reason))
        elif report:
            self._end(Ended(wire.NOT_STARTED, detail=report))
        else:
            self._end(Ended(wire.EXITED, code) if code >= 0 else Ended(wire.SIGNALLED, -code))

    def _end(self, ended: Ended | None, *, keep_record: bool = False) -> None:
        """Let go of everything, then answer: whoever hears it finds the locks free and the lease file gone."""
        self.phase = Phase.OVER
        self._close_streams()
        for number, lock in enumerate(self._locks):
            if lock.fd >= 0:
                # The record of a lock that is not cleared yet tells of what may still live.
                lock.release(keep_record=keep_record and number == self._cleared)
        if ended is not None and self._start is not None:
            self._answer(ended)

    def _say(self, text: str) -> None:
        if self._start is not None and text not in self._said:
            self._said.add(text)
            self._note(text)

    def _close_streams(self) -> None:
        wire.close_all(self._streams)
        self._streams = ()


def _unable(error: OSError) -> Ended:
    return Ended(wire.UNABLE, detail=str(error)[: wire.DETAIL_LIMIT])
