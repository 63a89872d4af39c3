"""Lock files, one or more for each running hook: whoever holds them all may run that hook on this machine.

The kernel lets go of the lock when the supervisor dies, however it dies; the record inside then tells the next holder
whose processes may still live. Standard library only, and light: the supervisor imports this.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource

from activities.drivers.processes import THOROUGH, Tree

SUFFIX = ".lock"

SPARE_DESCRIPTORS = 64
"""So many stay free for looking at processes and files; locks and starts that would take them are turned away."""


class Lock:
    """The right to run the hooks of one lock name, and the file with the lease that belongs to the run."""

    def __init__(self, folder: str, name: str) -> None:
        self._path = os.path.join(folder, name + SUFFIX)
        self.lease_path = os.path.join(folder, name + ".json")
        self.fd = -1

    def take(self) -> bool:
        """Take the lock if it is free, without waiting; return whether it is ours now. Raises OSError."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # `release` removes the file, and another holder may have made it anew: the one we got is nobody's.
                if self._is_current(fd):
                    self.fd, fd = fd, -1
                    self._check_limit()
                    return True
            except BlockingIOError:
                return False
            finally:
                if fd >= 0:
                    os.close(fd)

    def left_behind(self) -> Tree | None:
        """Return what still lives of the run that the file records, None if nothing does."""
        words = os.pread(self.fd, 4096, 0).decode(errors="replace").split()
        if len(words) < 2 or not words[0].isdigit():
            return None
        return Tree.left_behind(int(words[0]), words[1], thorough=THOROUGH in words[2:])

    def forget(self) -> None:
        """Take out what the file tells of an earlier run. Raises OSError."""
        os.ftruncate(self.fd, 0)

    def write_lease(self, content: bytes) -> None:
        """Put the lease where only this user's hook reads it. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.lease_path)
        with open(self.lease_path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)

    def release(self, *, keep_record: bool = False) -> None:
        """Let the next one in; the record stays if what it tells of may still live."""
        for path in (self.lease_path,) if keep_record else (self.lease_path, self._path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        # Said aloud: a copy of the descriptor in a process that is just being started would keep it otherwise.
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)
        self.fd = -1

    def _check_limit(self) -> None:
        """Let go of the lock and raise OSError if it took one of the last descriptors."""
        if self.fd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS:
            self.release(keep_record=os.fstat(self.fd).st_size > 0)
            raise OSError(errno.EMFILE, "too many locks at once for the limit on open files")

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False
