"""A hook's process tree: every process of the session that the hook's first process leads.

The session and not just one process group, because `timeout`, `set -m` and the like put their children into groups of
their own without meaning them to live on; what means to live on calls `setsid`. Of a thorough run nothing may live on:
its tree is also what carries its mark in other sessions, in the environment or as a limit that Linux does not heed, and
what such processes have started. Linux only. Standard library only, and light: the supervisor imports this.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import resource
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from activities.drivers import accounts
from activities.drivers.wire import DETAIL_LIMIT, Start

_PR_SET_PDEATHSIG = 1
_NO_FURTHER_DESCRIPTOR = 1 << 20
_LONGEST_ENVIRONMENT = 6 * 1024 * 1024
"""In bytes: execve(2) gives no process more, arguments included."""
_prctl = ctypes.CDLL(None).prctl

MARK = "LEASEHOLD_RUN"
"""The environment variable by which a hook's processes are known after their supervisor has died."""

_RLIMIT_LOCKS = 10
"""A limit of getrlimit(2) that means nothing any more. Every child has its parent's, whatever it runs, and as whom."""
_LIMIT_SHOWN = b"Max file locks"

THOROUGH = "thorough"
"""What a lock file says of a run of which nothing may live on."""

FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
"""The limits on open files that this process was started with, and hooks get."""


class Tree:
    """The processes of one hook, and how far the killing of them has come. Times are monotonic seconds.

    `session` is None where that of the first process is no more; `run` is the mark of a thorough run, None of others.
    """

    def __init__(self, session: int | None, run: str | None = None) -> None:
        self.session = session
        self.kill_at: float | None = None
        self._mark = None if run is None else Mark.of(run)
        first = None if run is None or session is None else _visible(session)
        self._since = _born(first) if first else 0  # whatever is older is not ours
        self._known: frozenset[tuple[int, int]] = frozenset()

    @staticmethod
    def left_behind(session: int, run: str, *, thorough: bool = False) -> Tree | None:
        """Return what still lives of an earlier run, None if nothing does.

        The session's number may be somebody else's by now: it is ours only if one of its processes carries the run's
        mark. Then all of it is ours, because no session number is given out anew while a process has it.
        """
        mark = Mark.of(run)
        plain = Tree(session)
        ours = any(carries(pid, mark) for pid in living([plain]).get(plain, ()))
        if not thorough:
            return plain if ours else None
        tree = Tree(session if ours else None, run)
        return tree if living([tree]) else None

    def stop(self, pids: Collection[int], now: float, grace: float) -> None:
        """Send SIGTERM to those that live now; `press` sends SIGKILL after `grace` seconds. Again changes nothing."""
        if self.kill_at is None:
            self.kill_at = now + grace
            self._signal(pids, signal.SIGTERM)

    def hurry(self, now: float, grace: float) -> None:
        """Wait no longer than `grace` seconds from now, if it is being stopped."""
        if self.kill_at is not None:
            self.kill_at = min(self.kill_at, now + grace)

    def press(self, pids: Collection[int], now: float) -> None:
        """Kill those that still live, once their grace is over."""
        if self.kill_at is not None and now >= self.kill_at:
            self._signal(pids, signal.SIGKILL)

    def _signal(self, pids: Collection[int], number: int) -> None:
        """Signal whole groups: only that reaches a process which is being forked at this moment.

        But in other sessions groups of which all is ours alone: a mark can be put into somebody else's group.
        """
        groups: dict[int, set[int]] = {}
        foreign = set()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                group = os.getpgid(pid)
                groups.setdefault(group, set()).add(pid)
                if self.session is None or os.getsid(pid) != self.session:
                    foreign.add(group)
        mixed = {group for group in foreign if not _members(group) <= groups[group]}
        for group, members in groups.items():
            send = os.kill if group in mixed else os.killpg
            for target in members if group in mixed else (group,):
                # Not permitted: a hook's `sudo` made it somebody else's. It still counts as living.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(target, number)

    def elsewhere(self, members: Collection[int]) -> set[int]:
        """Return those processes of a thorough run that live in other sessions than its own `members` do.

        What was found once stays known, whatever it makes of its environment, and after its parent has gone.
        """
        if self._mark is None:
            return set()
        processes = {process.pid: process for process in _processes()}
        roots = {
            pid
            for pid, process in processes.items()
            if process.born >= self._since
            and (pid in members or (pid, process.born) in self._known or carries(pid, self._mark))
        }
        found = _with_children(roots, processes)
        self._known = frozenset((pid, processes[pid].born) for pid in found)
        return {pid for pid in found if processes[pid].runs}


class Mark(NamedTuple):
    """What the processes of a run have, and nobody else: a variable, and, of a thorough run, a number as a limit."""

    variable: bytes
    number: int

    @staticmethod
    def of(run: str) -> Mark:
        number = int.from_bytes(hashlib.sha256(run.encode()).digest()[:7], "big")
        return Mark(f"{MARK}={run}".encode(), number)

    def put(self) -> None:
        """Give this process the number; the variable is for whoever makes its environment."""
        with contextlib.suppress(OSError, ValueError):
            # Only what it is, not what it may become: a runner may be a command of another runner.
            resource.setrlimit(_RLIMIT_LOCKS, (self.number, resource.getrlimit(_RLIMIT_LOCKS)[1]))


class Process(NamedTuple):
    """A process: who started it, and when, in ticks since the machine did; whether it is more than a zombie."""

    pid: int
    parent: int
    born: int
    runs: bool


def living(trees: Collection[Tree]) -> dict[Tree, set[int]]:
    """Return the processes of these trees that run, zombies left out; a tree without any is not in the answer.

    To be sure that a tree is gone, its first process must be known to have ended before this is called.
    """
    sessions: dict[int | None, Tree] = {tree.session: tree for tree in trees if tree.session is not None}
    found: dict[Tree, set[int]] = {}
    inhabited: set[Tree] = set()
    # Twice: a process that forks and exits while we look can hide its child from one pass.
    for _ in range(2):
        for pid in _pids():
            tree = sessions.get(_session(pid))
            if tree is not None and _runs(pid):
                found.setdefault(tree, set()).add(pid)
        inhabited |= found.keys()
        for tree in trees:
            if pids := tree.elsewhere(found.get(tree, ())):
                found.setdefault(tree, set()).update(pids)
        if len(found) == len(trees) and all(tree.session is None or tree in inhabited for tree in trees):
            break
    for tree in trees:
        if tree not in inhabited:
            # Its number may become somebody else's.
            tree.session = None
    return found


def spawn(start: Start, env: dict[str, str], streams: Sequence[int], locks: Sequence[int]) -> tuple[int, int]:
    """Start a hook and return its process id, which is its session's too, and a descriptor to `read_report` from.

    The new process writes itself into every lock file before anything of the hook runs, so that there is no moment at
    which a hook lives and no record of it does. Raises OSError when there can be no process.
    """
    report, tell = os.pipe()
    try:
        # A signal for the hook must wait until the new process no longer has the supervisor's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(start, env, streams, locks, tell, parent)
    except OSError:
        os.close(report)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.close(tell)
    # From here on its session exists and can be signalled. The program itself is not waited for: its file may be on a
    # server that hangs.
    os.read(report, 1)
    os.set_blocking(report, False)
    return pid, report


def read_report(report: int) -> str:
    """Return why the program never came to run, empty if it did; closes the descriptor."""
    with open(report, "rb", buffering=0) as file:
        return (file.read() or b"").decode(errors="replace")


def _become(
    start: Start, env: dict[str, str], streams: Sequence[int], locks: Sequence[int], tell: int, parent: int
) -> NoReturn:
    """Turn this new process into the hook, or tell why not."""
    try:
        os.setsid()
        _die_with(parent)
        for lock in locks:
            os.pwrite(lock, _record(start).encode(), 0)
        os.write(tell, b".")
        for target, stream in enumerate(streams, 1):
            os.dup2(stream, target)
        # Not only at exec: should that hang, nobody else's lock or pipe must be held open.
        os.closerange(3, tell)
        os.closerange(tell + 1, _NO_FURTHER_DESCRIPTOR)
        resource.setrlimit(resource.RLIMIT_NOFILE, FILES)
        if start.thorough:
            Mark.of(start.run).put()
        _restore_signals()
        if start.account is not None:
            account = accounts.find(start.account)
            accounts.become(account)
            # Forgotten with the change of the account.
            _die_with(parent)
            env = {"HOME": account.home, "USER": account.name, "LOGNAME": account.name} | env
        os.chdir(start.folder)
        _execute(start.argv, env)
    except Exception as error:
        os.write(tell, _why(error, start)[:DETAIL_LIMIT].encode(errors="replace"))
    finally:
        os._exit(127)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def _record(start: Start) -> str:
    """What a lock file tells of the run that this process is."""
    return f"{os.getpid()} {start.run}{f' {THOROUGH}' if start.thorough else ''}\n"


def _execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    if not argv:
        raise ValueError("there is nothing to run")
    try:
        os.execvpe(argv[0], argv, env)
    except FileNotFoundError:
        if "/" in argv[0] and os.path.exists(argv[0]):
            raise FileNotFoundError(errno.ENOENT, "its interpreter does not exist", argv[0]) from None
        raise


def _why(error: Exception, start: Start) -> str:
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error)
    if error.filename == start.folder:
        return f"folder {start.folder}: {reason}"
    return f"{start.argv[0]}: {reason}"


def _restore_signals() -> None:
    """Undo what Python and the worker's parents did: an ignored signal would stay ignored in the hook."""
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _session(pid: int) -> int | None:
    """The session of a process, None if there is none."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _processes() -> Iterator[Process]:
    """All processes of this machine. Of proc(5)'s fields, counted from 1, the 4th is the parent."""
    for pid in _pids():
        if fields := _visible(pid):
            yield Process(pid, int(fields[1]), _born(fields), _is_running(fields))


def _with_children(roots: Collection[int], processes: Mapping[int, Process]) -> set[int]:
    """These processes with all that they started, as far as it still has its parent."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    unseen = list(roots)
    while unseen:
        pid = unseen.pop()
        if pid not in found:
            found.add(pid)
            unseen.extend(children.get(pid, ()))
    return found


def _runs(pid: int) -> bool:
    """Return whether a process runs, as far as that can be told."""
    try:
        fields = _stat(pid)
    except PermissionError:
        return True
    return fields is not None and _is_running(fields)


def _visible(pid: int) -> list[bytes] | None:
    """The same as `_stat`; None, too, where the process is hidden: then it is somebody else's."""
    with contextlib.suppress(PermissionError):
        return _stat(pid)
    return None


def _stat(pid: int) -> list[bytes] | None:
    """The fields of proc(5)'s `stat` from the 3rd on, None if there is no such process.

    Raises PermissionError where it is hidden (`hidepid`).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _born(fields: Sequence[bytes]) -> int:
    """Field 22: when it was started."""
    return int(fields[19])


def _is_running(fields: Sequence[bytes]) -> bool:
    """Field 3 is the state, 20 the threads: whose first thread has ended looks like a zombie while others go on."""
    return fields[0] not in (b"Z", b"X") or int(fields[17]) > 1


def carries(pid: int, mark: Mark) -> bool:
    """Whether a process has a run's mark, in one way or the other."""
    return _limit(pid) == mark.number or _has_variable(pid, mark.variable)


def _limit(pid: int) -> int | None:
    """A process's number, None where it cannot be told."""
    try:
        return resource.prlimit(pid, _RLIMIT_LOCKS)[0]
    except PermissionError:
        return _shown_limit(pid)
    except (OSError, ValueError):
        return None


def _shown_limit(pid: int) -> int | None:
    """The same of somebody else's process, which everybody can read, only slower."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/limits", "rb") as file:
        for line in file:
            if line.startswith(_LIMIT_SHOWN):
                return int(line.removeprefix(_LIMIT_SHOWN).split()[0])
    return None


def _has_variable(pid: int, variable: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            # Any process can make its own as long as it likes, at no cost.
            environment = file.read(_LONGEST_ENVIRONMENT) or b""
    except OSError:
        return False
    return environment.startswith(variable + b"\0") or b"\0" + variable + b"\0" in environment


def _members(group: int) -> set[int]:
    """The processes of a group that run."""
    found = set()
    for pid in _pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == group and _runs(pid):
                found.add(pid)
    return found
