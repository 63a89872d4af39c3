"""Hands over to the service what the file of a command's output has, as it grows, however long the service is away."""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import Executor
from contextlib import nullcontext
from datetime import timedelta

from activities.drivers.spool import SpoolFile
from leasehold.errors import CommandOver, Invalid, LeaseholdError, LeaseUnknown, Malformed
from leasehold.ports import CommandDesk

FIRST_PAUSE = timedelta(milliseconds=100)
LONGEST_PAUSE = timedelta(seconds=5)
"""Between two tries while the service is away."""

UNKNOWN_FOR = timedelta(days=1)
"""For so long the service may not know of a command: until its records, restored from a copy, are put right."""

_HOPELESS = (CommandOver, Invalid, Malformed)
"""What the service itself says of output that it never will take. Others than it say 404 or 413."""

log = logging.getLogger(__name__)


class Unwanted(Exception):
    """The service will never take this output."""


async def upload(file: SpoolFile, desk: CommandDesk, threads: Executor, gate: asyncio.Semaphore | None = None) -> None:
    """Return once the service has all of the file, to its end, or does not want it; `gate` is passed for each try."""
    offset = failures = 0
    unknown = _Unknown()
    while True:
        file.grown.clear()
        ended = file.ended
        # Where the service has more than this disk kept, all that is missing to it is that nothing follows.
        beyond = ended and file.body < offset != file.size
        packed = file.end if beyond else await _read(file, offset, threads)
        if not packed:
            if ended:
                return
            await file.grown.wait()
            continue
        try:
            async with gate or nullcontext():
                taken = await _put(file, desk, offset, packed, unknown, first=failures == 0)
        except Unwanted:
            return
        if beyond and taken >= offset + len(packed):
            return
        failures = 0 if taken != offset else failures + 1
        offset = taken
        if failures:
            await asyncio.sleep(_pause_s(failures))


class _Unknown:
    """Since when the service says that it does not know of a command."""

    def __init__(self) -> None:
        self.since: float | None = None

    def is_final(self) -> bool:
        """Take note that it said so again; return whether it will not know of it any more."""
        now = asyncio.get_running_loop().time()
        self.since = now if self.since is None else self.since
        return now - self.since > UNKNOWN_FOR.total_seconds()


async def _put(
    file: SpoolFile, desk: CommandDesk, offset: int, packed: bytes, unknown: _Unknown, *, first: bool
) -> int:
    """Hand over frames once, and return how far the service is then; `first` trouble is told."""
    about = file.about
    try:
        taken = await desk.put_output(about.runner, about.lease, about.attempt, offset, packed)
    except Exception as error:
        if isinstance(error, _HOPELESS) or (isinstance(error, LeaseUnknown) and unknown.is_final()):
            log.warning("the output of lease %s is not wanted: %s", about.lease, error)
            raise Unwanted from error
        if first:
            # Of what is no error of the service, its place too.
            trace = None if isinstance(error, LeaseholdError) else error
            log.warning("the output of lease %s waits for the service: %s", about.lease, error, exc_info=trace)
        return offset
    unknown.since = None
    return taken


async def _read(file: SpoolFile, offset: int, threads: Executor) -> bytes:
    """Frames from `offset` on; where the file cannot be read, the last ones, if they are known."""
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, file.read, offset)
    except (OSError, ValueError) as error:
        log.error("the output of lease %s cannot be read from byte %d on: %s", file.about.lease, offset, error)
        return file.end if file.ended else b""


def _pause_s(failures: int) -> float:
    doubled: timedelta = FIRST_PAUSE * (1 << min(failures - 1, 10))
    return min(doubled, LONGEST_PAUSE).total_seconds() * random.uniform(0.5, 1.0)
