"""Where the hooks of this worker run, such that another worker knows whether it would find them here."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from pathlib import Path

from leasehold.errors import Unavailable
from leasehold.ports import Place

IDENTITY = "identity"
"""The file in a lock folder that tells it from all others, of this machine and any other."""


def place_of(lock_folder: Path) -> Place:
    """Return the place of the drivers that lock in this folder, which is made if need be. Raises `Unavailable`."""
    try:
        os.makedirs(lock_folder, mode=0o700, exist_ok=True)
        return Place(
            host=socket.gethostname(),
            locks=_identity(lock_folder),
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            # Of another namespace, a container's, no process can be seen from here.
            processes=os.readlink("/proc/self/ns/pid"),
        )
    except OSError as error:
        raise Unavailable(f"the lock folder cannot be used: {error}") from error


def _identity(folder: Path) -> str:
    """Return the folder's identity; of those who make it at once one wins, and all see the whole of it."""
    path = folder / IDENTITY
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    made = folder / f"{IDENTITY}.{uuid.uuid4().hex}"
    with made.open("x") as file:
        file.write(f"{uuid.uuid4().hex}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()
    return path.read_text().strip()
