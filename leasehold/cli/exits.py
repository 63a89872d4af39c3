"""The exit statuses of every command, and what leads to which. `docs/reference/cli.md` shows this table to users."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from leasehold.answers import Command, Lease
from leasehold.errors import LeaseholdError


class Exit(IntEnum):
    """What a command says by its exit status. Who runs a command, or waits for one, has its own, and the last four."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    REFUSED = 3
    NOT_YET = 4
    LEASE_FAILED = 5
    COMMAND_TIMED_OUT = 124
    LEASEHOLD_FAILED = 125
    COMMAND_NOT_EXECUTABLE = 126
    COMMAND_NOT_FOUND = 127


SIGNALLED = 128
"""A command that signal n ended, or that n interrupted, gives 128 + n."""

_BY_RESULT: Mapping[str, Exit] = {
    "timed_out": Exit.COMMAND_TIMED_OUT,
    "lost": Exit.LEASEHOLD_FAILED,
    "not_started": Exit.COMMAND_NOT_EXECUTABLE,
    "cancelled": Exit.LEASE_FAILED,
}

_BY_CODE: Mapping[str, Exit] = {"unsatisfiable": Exit.REFUSED, "idempotency_key_reused": Exit.REFUSED}

_BY_STATUS: Mapping[int, Exit] = {
    400: Exit.USAGE,
    403: Exit.REFUSED,
    409: Exit.REFUSED,
    413: Exit.USAGE,
    422: Exit.USAGE,
}


def of_error(error: LeaseholdError) -> Exit:
    """The exit status of a command that ended with this error."""
    return _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, Exit.ERROR)


def of_command(command: Command) -> int:
    """The exit status of having waited for the end of a lease's command: its own, if it came to its end by itself."""
    if command["result"] == "exited" and command["exit_code"] is not None:
        return command["exit_code"]
    if command["result"] == "signalled" and command["signal"] is not None:
        return SIGNALLED + command["signal"]
    return _BY_RESULT.get(command["result"] or "", Exit.LEASEHOLD_FAILED)


def of_wait(lease: Lease, wanted: str) -> Exit:
    """The exit status of having waited until the lease is `wanted` ("active" or "ended")."""
    if lease["state"] == "ended" and (wanted == "active" or lease["outcome"] in ("failed", "lost", "cancelled")):
        return Exit.LEASE_FAILED
    return Exit.DONE if lease["state"] == wanted else Exit.NOT_YET
