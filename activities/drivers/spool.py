"""The output of one command on the runner's disk, as frames, until the service has all of it.

What a command prints is neither kept in memory nor slowed down by a service that is away. It survives the runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from activities.drivers.outlast import patiently
from leasehold.commands import BATCH_LIMIT, FRAME_LIMIT, Frame, Stream, places

GATHER = timedelta(milliseconds=30)
"""What is printed within this time is written together, but for the first of it, which nothing holds up."""

ENOUGH = 256 * 1024
"""Bytes that are written at once: more does not wait."""

HAND_OVER_WITHIN = timedelta(seconds=30)
"""How long a command that has ended waits for the disk, and for the service, to have its output."""

LAST_WORDS = timedelta(seconds=1)
"""The same for one that was stopped."""

CROWDED = 1024 * 1024
"""Bytes that may wait for the disk: a command that prints more has to wait for it."""

CRUMB = 256
"""Bytes that a small piece takes in memory at the least."""

PIECE = 64
"""One frame for so many bytes of the bound may come, beyond `PIECES`: each takes room of its own wherever it goes."""

PIECES = 10_000

FRAMES = ".frames"
ABOUT = ".json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class About:
    """Whose output a file has, and the folder that was made for the command, if one was."""

    lease: str
    attempt: int
    runner: str
    folder: str | None


class SpoolFile:
    """Frames in a file, with another file beside it that says whose they are. To be used in threads, but for `grown`.

    `size` are the bytes of the frames that it has; all of them once it has `ended`. `body` are those before its end.
    """

    def __init__(self, path: Path, about: About, fd: int) -> None:
        self.about = about
        self.size = self.body = 0
        self.ended = False
        self.end = b""
        self.grown = asyncio.Event()
        self._path, self._fd = path, fd
        self._on_disk = 0

    @classmethod
    def create(cls, path: Path, about: About) -> SpoolFile:
        """Begin a file, `path` without what its name ends in. Raises FileExistsError if there is one.

        Where the disk has no room, it is one that takes nothing but its end.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            # First: nobody could tell whose the frames are.
            with open(_beside(path, ABOUT), "x", opener=_private) as file:
                json.dump(asdict(about), file)
            return cls(path, about, os.open(_beside(path, FRAMES), flags, 0o600))
        except FileExistsError:
            raise
        except OSError as error:
            log.warning("the output of lease %s is not kept: %s", about.lease, error)
            return cls(path, about, -1)

    @classmethod
    def adopt(cls, path: Path) -> SpoolFile:
        """Take over what an earlier runner has left, as far as it is whole.

        Raises OSError or ValueError where nobody can tell whose it is.
        """
        about = About(**json.loads(_beside(path, ABOUT).read_bytes()))
        fd = os.open(_beside(path, FRAMES), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = cls(path, about, fd)
        while packed := os.pread(fd, BATCH_LIMIT, file.size):
            size, file.ended = whole(packed)
            file.size += size
            if file.ended or size == 0:
                break
        os.ftruncate(fd, file.size)
        file._on_disk = file.body = file.size
        return file

    def append(self, packed: bytes) -> None:
        """Add whole frames. Raises OSError where the disk does not take them; then none of them is added."""
        if self._fd < 0:
            raise OSError("the spool could not be made")
        view, at = memoryview(packed), self._on_disk
        try:
            while view:
                count = os.pwrite(self._fd, view, at)
                view, at = view[count:], at + count
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._on_disk)
            raise
        self.size = self._on_disk = self.body = at

    def finish(self, packed: bytes) -> None:
        """Add the last frames, which are kept in memory where the disk does not take them."""
        body, self.end = self.size, packed
        try:
            self.append(packed)
        except OSError:
            self.size += len(packed)
        self.body, self.ended = body, True

    def read(self, offset: int, most: int = BATCH_LIMIT) -> bytes:
        """Return whole frames from `offset` on. Raises OSError, and ValueError where there is no frame."""
        size = self.size
        packed = os.pread(self._fd, most, offset) if offset < self._on_disk else b""
        if self.ended and self._on_disk <= self.body and offset + len(packed) >= self._on_disk:
            packed += self.end[max(0, offset - self._on_disk) :]
        packed = packed[: min(most, max(0, size - offset))]
        count, _ = whole(packed)
        if packed and count == 0:
            raise ValueError("no frame begins there")
        return packed[:count]

    def remove(self) -> None:
        """Remove the frames: nobody needs them any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        _beside(self._path, FRAMES).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what is left, once nothing has to be cleared up after the command."""
        _beside(self._path, ABOUT).unlink(missing_ok=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def whole(packed: bytes) -> tuple[int, bool]:
    """The bytes of the whole frames that these begin with, and whether the last of them is the end of the output."""
    size = 0
    with contextlib.suppress(ValueError):
        for _, size, stream in places(packed):
            if stream == Stream.END:
                return size, True
    return size, False


class _Piece:
    """A frame that grows."""

    def __init__(self, stream: int, at_us: int) -> None:
        self.stream, self.at_us = stream, at_us
        self.data = bytearray()

    def packed(self) -> bytes:
        return Frame(at_us=self.at_us, stream=self.stream, data=bytes(self.data)).packed()

    @property
    def printed(self) -> int:
        """So many bytes of it the command has printed."""
        return 0 if self.stream == Stream.SERVICE else len(self.data)


class Spool:
    """Takes in what one command prints (`leasehold.ports.OutputSink`), and writes it to a file in threads.

    Of its output there are `bytes` so far, of which `dropped`: beyond the `limit`, or not taken by the disk.
    """

    def __init__(self, file: SpoolFile, limit: int, threads: Executor) -> None:
        self.bytes = self.dropped = 0
        self._file, self._limit, self._room, self._threads = file, limit, limit, threads
        self._pending: list[_Piece] = []
        self._pieces = self._most = PIECES + limit // PIECE
        self._waiting = 0
        self._relief: asyncio.Future[None] | None = None
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._bounded = self._closed = False
        self._lost, self._why = 0, ""
        self._loop = asyncio.get_running_loop()
        self._writer = asyncio.create_task(self._write())

    def stdout(self, data: bytes) -> asyncio.Future[None] | None:
        """Take in a part of stdout; no more of it should come until what is returned is done."""
        return self._take(Stream.STDOUT, data)

    def stderr(self, data: bytes) -> asyncio.Future[None] | None:
        """Take in a part of stderr, alike."""
        return self._take(Stream.STDERR, data)

    def note(self, text: str) -> None:
        """Take in a line of the service's own."""
        self._add(Stream.SERVICE, f"{text}\n".encode())

    async def finish(self, stop: asyncio.Future[None]) -> None:
        """Write the rest, and that it is all; a disk that takes it no more is not waited for to the end."""
        self._closed = True
        self._some.set()
        self._enough.set()
        await patiently(self._writer, stop, most=HAND_OVER_WITHIN, last=LAST_WORDS)

    def _take(self, stream: int, data: bytes) -> asyncio.Future[None] | None:
        self.bytes += len(data)
        kept = data[: self._room] if self._may_add(stream) else b""
        if kept:
            self._room -= len(kept)
            self._add(stream, kept)
        if len(kept) < len(data):
            if not self._bounded:
                self._bounded = True
                bound = _in_words(self._limit) if self._pieces >= 0 else f"{self._most} pieces"
                self.note(f"output bound of {bound} reached: the rest is dropped")
            self.dropped += len(data) - len(kept)
        if self._waiting < CROWDED:
            return None
        if self._relief is None:
            self._relief = self._loop.create_future()
        return self._relief

    def _may_add(self, stream: int) -> bool:
        """Whether more of a stream is kept: what comes in pieces, two streams in turns, takes more than its bytes."""
        if not self._pending or self._pending[-1].stream != stream:
            self._pieces -= 1
        return self._pieces >= 0

    def _add(self, stream: int, data: bytes) -> None:
        now, view = time.time_ns() // 1000, memoryview(data)
        while view:
            last = self._pending[-1] if self._pending else None
            if last is None or last.stream != stream or len(last.data) == FRAME_LIMIT or now - last.at_us > _GATHER_US:
                last = _Piece(stream, now)
                self._pending.append(last)
            part = view[: FRAME_LIMIT - len(last.data)]
            last.data += part
            view = view[len(part) :]
        self._waiting += max(len(data), CRUMB)  # in memory a small piece is no smaller
        self._some.set()
        if self._waiting >= ENOUGH:
            self._enough.set()

    async def _write(self) -> None:
        due = 0.0
        while self._pending or not self._closed:
            await self._some.wait()
            if (pause := due - self._loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), pause)
            if not self._closed:
                self._some.clear()
                self._enough.clear()
            pieces, self._pending, self._waiting = self._pending, [], 0
            if pieces:
                await self._store(pieces)
            if self._relief is not None:
                self._relief.set_result(None)
                self._relief = None
            due = self._loop.time() + GATHER.total_seconds()
        end = _Piece(Stream.END, time.time_ns() // 1000)
        await self._in_thread(self._file.finish, [*self._lost_words(), end])
        self._file.grown.set()

    async def _store(self, pieces: Sequence[_Piece]) -> None:
        said = [*self._lost_words(), *pieces]
        try:
            await self._in_thread(self._file.append, said)
        except Exception as error:
            # Whatever it is, the command goes on.
            lost = sum(piece.printed for piece in pieces)
            if not self._lost:
                log.warning("output of lease %s is dropped: %s", self._file.about.lease, error)
            self.dropped += lost
            self._lost, self._why = self._lost + lost, getattr(error, "strerror", None) or str(error)
        else:
            self._lost = 0
            self._file.grown.set()

    def _lost_words(self) -> list[_Piece]:
        """What is to be said of what the disk did not take."""
        if not self._lost:
            return []
        piece = _Piece(Stream.SERVICE, time.time_ns() // 1000)
        piece.data += f"{self._lost} bytes were dropped here: the runner's disk: {self._why}\n".encode()
        return [piece]

    async def _in_thread(self, write: Callable[[bytes], None], pieces: Sequence[_Piece]) -> None:
        def work() -> None:
            write(b"".join(piece.packed() for piece in pieces))

        await self._loop.run_in_executor(self._threads, work)


_GATHER_US = GATHER // timedelta(microseconds=1)


def _in_words(size: int) -> str:
    """A number of bytes in the largest unit that divides it."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} bytes"
