"""What one hook prints: its result kept, its log passed on in pieces, and both cut where they grow too long."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable
from datetime import timedelta

from activities.drivers.outlast import patiently
from leasehold.ports import LogSink

RESULT_LIMIT = 64 * 1024
"""Bytes of stdout that are kept: an environment variable cannot carry more."""

LOG_LIMIT = 1024 * 1024
"""Bytes of log that are passed on for each run, both streams together."""

PIECE = 32 * 1024
"""Bytes that go to the log at once: more does not wait, and is split."""

PIECE_AFTER = timedelta(milliseconds=100)
"""What a hook prints within this time goes to the log together, so that a chatty hook does not write it often."""

LAST_WORDS = timedelta(seconds=5)
"""How long a log may take to store the rest of a run that was cancelled."""

_READ = 64 * 1024

logger = logging.getLogger(__name__)


class Output:
    """Takes in what a hook prints. Its memory is bounded by `RESULT_LIMIT` and `LOG_LIMIT`, however slow the log is.

    A log that fails loses what it was given; that is said in the worker's own log, and the hook goes on.
    """

    def __init__(self, log: LogSink, *, log_stdout: bool) -> None:
        self._log, self._log_stdout = log, log_stdout
        self._stdout = bytearray()
        self._budget = LOG_LIMIT
        self._pending: dict[str, bytearray] = {}
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._closed = False
        self._writer = asyncio.create_task(self._write())

    @property
    def result(self) -> tuple[bytes, bool]:
        """What stdout said, and whether it was cut: to whole lines, or hard where the first line is too long."""
        if len(self._stdout) <= RESULT_LIMIT:
            return bytes(self._stdout), False
        kept = bytes(self._stdout[:RESULT_LIMIT])
        return kept[: kept.rfind(b"\n") + 1] or kept, True

    def stdout(self, data: bytes) -> None:
        """Take in a part of stdout."""
        # One byte too many tells that there was more.
        self._stdout += data[: RESULT_LIMIT + 1 - len(self._stdout)]
        if self._log_stdout:
            self._keep("stdout", data)

    def stderr(self, data: bytes) -> None:
        """Take in a part of stderr."""
        self._keep("stderr", data)

    def note(self, text: str) -> None:
        """Put a line of the service's own into the log."""
        self._pend("service", f"{text}\n".encode())

    async def finish(self, stop: asyncio.Future[None]) -> None:
        """Pass on the rest; once `stop` is done, no longer than `LAST_WORDS`."""
        self._closed = True
        self._some.set()
        self._enough.set()
        await patiently(self._writer, stop, last=LAST_WORDS)
        self._writer.cancel()

    def _keep(self, stream: str, data: bytes) -> None:
        if self._budget < 0:
            return
        kept = data[: self._budget]
        self._budget -= len(kept)
        if kept:
            self._pend(stream, kept)
        if len(kept) < len(data):
            self._budget = -1
            self.note(f"the log of this run is longer than {LOG_LIMIT // 1024} KiB; the rest was dropped")

    def _pend(self, stream: str, data: bytes) -> None:
        self._pending.setdefault(stream, bytearray()).extend(data)
        self._some.set()
        if sum(map(len, self._pending.values())) >= PIECE:
            self._enough.set()

    async def _write(self) -> None:
        while self._pending or not self._closed:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), PIECE_AFTER.total_seconds())
            pending, self._pending = self._pending, {}
            if not self._closed:
                self._some.clear()
                self._enough.clear()
            for stream, data in pending.items():
                for start in range(0, len(data), PIECE):
                    await self._pass_on(stream, bytes(data[start : start + PIECE]))

    async def _pass_on(self, stream: str, piece: bytes) -> None:
        try:
            await self._log(stream, piece)
        except Exception:
            logger.exception("%d bytes of a hook's log are lost", len(piece))


class Tap:
    """One pipe from a hook to the worker: everything that comes out of it goes to `take`, which may make it wait."""

    def __init__(self, take: Callable[[bytes], asyncio.Future[None] | None]) -> None:
        self._take = take
        self._reader, self._write_end = os.pipe()
        os.set_blocking(self._reader, False)
        self._loop = asyncio.get_running_loop()
        self._go_on()

    def hand_over(self) -> int:
        """Return the pipe's write end, which is the caller's to close from now on."""
        fd, self._write_end = self._write_end, -1
        return fd

    def close(self) -> None:
        """Take what is in the pipe now, and close it.

        A process that lives on may be writing still: no more is read than the pipe can have held when the hook ended.
        """
        left = fcntl.fcntl(self._reader, fcntl.F_GETPIPE_SZ)
        while left > 0 and (count := self._read(min(left, _READ))):
            left -= count
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        self._reader = -1
        if self._write_end >= 0:
            os.close(self._write_end)

    def _go_on(self, _: object = None) -> None:
        if self._reader >= 0:
            self._loop.add_reader(self._reader, self._read, _READ)

    def _read(self, size: int) -> int:
        """Take what is there, up to `size` bytes, and return how many."""
        try:
            data = os.read(self._reader, size)
        except BlockingIOError:
            return 0
        if not data:
            # Every writer has closed it; that says nothing about the hook.
            self._loop.remove_reader(self._reader)
        elif (pause := self._take(data)) is not None:
            self._loop.remove_reader(self._reader)
            pause.add_done_callback(self._go_on)
        return len(data)
