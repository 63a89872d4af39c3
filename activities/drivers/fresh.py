"""Fresh folders, each for one command, which are removed after it. Everything here may take long: use a thread."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile

from activities.drivers import accounts

PREFIX = "leasehold-"

_ESCAPED = re.compile(rb"\\([0-7]{3})")

log = logging.getLogger(__name__)


def choose() -> str:
    """Return the path of a folder that nobody has, for `make`."""
    return os.path.join(os.path.realpath(tempfile.gettempdir()), f"{PREFIX}{secrets.token_hex(8)}")


def make(path: str, account: str | None) -> None:
    """Make a folder for an account, for that of this process if None.

    Raises OSError where there can be none, ValueError where there is no such account for this process.
    """
    owner = None if account is None else accounts.find(account)
    os.mkdir(path, 0o700)
    if owner is not None and owner.uid != os.geteuid():
        os.chown(path, owner.uid, owner.gid)


def remove(path: str) -> None:
    """Remove such a folder with all that is in it, if it is there; nothing outside, whatever it links to.

    What cannot be removed is said in the log.
    """
    if not os.path.basename(path).startswith(PREFIX):
        log.error("%s is none of the folders that were made for commands: it stays", path)
        return
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            # Its owner may have put something else in its place.
            os.unlink(path)
        elif mounts := _mounts_below(path):
            # What is mounted there is somewhere else too.
            log.error("%s stays: %s is mounted there", path, mounts[0])
        else:
            _remove_tree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error("%s could not be removed: %s", path, error)


def _remove_tree(path: str) -> None:
    assert shutil.rmtree.avoids_symlink_attacks
    try:
        shutil.rmtree(path)
    except PermissionError:
        if os.geteuid() == 0:
            # It would follow links.
            raise
        # Folders without write permission, in which only root may delete: Go's module cache has such.
        os.chmod(path, 0o700)
        for _, folders, _, here in os.fwalk(path):
            for folder in folders:
                with contextlib.suppress(OSError):
                    os.chmod(folder, 0o700, dir_fd=here)
        shutil.rmtree(path)


def _mounts_below(path: str) -> list[str]:
    """The mount points at a path and below it (proc(5), `mountinfo`: the 5th field)."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4]) for line in file]
    inside = os.fsencode(path)
    return [os.fsdecode(point) for point in points if point == inside or point.startswith(inside + b"/")]
