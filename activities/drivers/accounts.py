"""The accounts of this machine, as which commands run. Standard library only, and light: supervisors import this."""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple


class Account(NamedTuple):
    """An account, with its numbers and its home folder."""

    name: str
    uid: int
    gid: int
    home: str


def find(name: str) -> Account:
    """The account of this name; raises ValueError, which says why, unless this process may run commands as it.

    It may take long: accounts can come from a server.
    """
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"there is no account {name} on this machine") from None
    if found.pw_uid == 0 and name != "root":
        raise ValueError(f"{name} is root by another name")
    if os.geteuid() not in (0, found.pw_uid):
        raise ValueError(f"only root can run commands as {name}, and this runner is {own()}")
    return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


def own() -> str:
    """The name of the account of this process; its number where it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def become(account: Account) -> None:
    """Make this process one of the account, which `find` returned; raises ValueError where that is impossible."""
    if os.geteuid() != 0:
        return
    try:
        # So that what is written to /dev/stdout can be opened.
        for stream in (1, 2):
            os.fchown(stream, account.uid, account.gid)
        os.initgroups(account.name, account.gid)
        os.setgid(account.gid)
        os.setuid(account.uid)
    except OSError as error:
        raise ValueError(f"account {account.name}: {error.strerror}") from None
