"""The names of lock files, the same for every driver: hooks of different drivers keep out of each other's way too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from urllib.parse import quote

_READABLE = 80
"""So many characters of a lock's name show in its file's name."""


def lock_files(locks: Iterable[str]) -> list[str]:
    """Return safe file names for these locks, each once, in the one order in which everybody takes them.

    Whoever waits for a lock holds only such as come before it, so that two calls whose sets overlap never wait for each
    other.
    """
    return sorted({_file(lock) for lock in locks})


def _file(lock: str) -> str:
    digest = hashlib.sha256(lock.encode()).hexdigest()[:32]
    return f"{quote(lock, safe='')[:_READABLE]}.{digest}"
