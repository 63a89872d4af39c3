"""A disk that fills up and gets space again."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_SIZE = "24m"
_UNLIMITED = resource.RLIM_INFINITY


class Disk(Protocol):
    """Where a stack keeps its data, or what it can write at all."""

    def fill(self) -> None:
        """Leave no byte."""
        ...

    def free(self) -> None:
        """Have space again."""
        ...


class _Small:
    """A small file system; whatever is not used is taken by a file of no use."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        file = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            for size in (65536, 512, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(file, bytes(size))
        finally:
            os.close(file)

    def free(self) -> None:
        self._ballast.unlink()


class _Limited:
    """Where nothing may be mounted: processes that are not allowed to write to any file, which fails alike."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def fill(self) -> None:
        self._limit(1)

    def free(self) -> None:
        self._limit(_UNLIMITED)

    def _limit(self, size: int) -> None:
        for pid in self._pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, _UNLIMITED))


@contextmanager
def mounted(folder: Path) -> Iterator[bool]:
    """Put a small file system onto a folder, if this user may; say whether it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    small = os.geteuid() == 0 and subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield small
    finally:
        if small:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk(folder: Path, small: bool, pids: Sequence[int]) -> Disk:
    """The disk of these processes, whose data are in a folder: a small one, if it was mounted."""
    return _Small(folder) if small else _Limited(pids)
