"""What commands have on their runner's machine: a folder to start in, and a file that takes their output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from activities.drivers import fresh
from activities.drivers.outlast import patiently, unbroken
from activities.drivers.spool import ABOUT, FRAMES, HAND_OVER_WITHIN, LAST_WORDS, About, Spool, SpoolFile
from activities.drivers.upload import upload
from leasehold.commands import Begun, Frame, Stream
from leasehold.errors import Conflict, Refused
from leasehold.messages import RunCommand
from leasehold.ports import CommandDesk, OutputSink

_THREADS = 32
_AT_ONCE = 4
"""So many pieces of files of earlier lives are handed over at once."""

log = logging.getLogger(__name__)


class Workplace:
    """That of one command. `folder` is where it starts, `sink` takes what it prints."""

    def __init__(
        self,
        file: SpoolFile,
        spool: Spool,
        folder: str,
        *,
        sending: asyncio.Task[None],
        cleared: asyncio.Event,
        threads: Executor,
    ) -> None:
        self.folder = folder
        self._file, self._spool, self._sending = file, spool, sending
        self._cleared, self._threads = cleared, threads

    @property
    def sink(self) -> OutputSink:
        """Where its output goes."""
        return self._spool

    @property
    def printed(self) -> tuple[int, int]:
        """How many bytes it has printed, and how many of them were dropped."""
        return self._spool.bytes, self._spool.dropped

    async def clear_up(self, stop: asyncio.Future[None]) -> None:
        """Remove the folder that was made for it. Nothing of it may live any more."""
        folder = self._file.about.folder
        if folder is None:
            self._cleared.set()
            return
        removing = asyncio.get_running_loop().run_in_executor(self._threads, fresh.remove, folder)
        removing.add_done_callback(lambda _: self._cleared.set())
        await patiently(removing, stop, most=HAND_OVER_WITHIN, last=LAST_WORDS)

    async def handed_over(self, stop: asyncio.Future[None]) -> None:
        """Wait a while until the service has its output; less than that once `stop` is done."""
        await patiently(self._sending, stop, most=HAND_OVER_WITHIN, last=LAST_WORDS)


class Workplaces:
    """Those of all commands of one runner, with their files in one folder, which is made if need be.

    What the service does not have yet is handed over in the background, also what an earlier runner has left.
    """

    def __init__(self, folder: Path, desk: CommandDesk) -> None:
        self._folder, self._desk = folder, desk
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")
        self._sending: set[asyncio.Task[None]] = set()
        self._old = asyncio.Semaphore(_AT_ONCE)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def open(self, order: RunCommand, begun: Begun) -> Workplace:
        """Make one. Raises `Refused` where there can be no folder, `Conflict` where the attempt was begun before."""
        return await unbroken(self._open(order, begun))

    async def _open(self, order: RunCommand, begun: Begun) -> Workplace:
        made = None if begun.folder is not None else fresh.choose()
        about = About(lease=order.lease, attempt=order.attempt, runner=order.runner, folder=made)
        path = self._folder / f"{quote(order.lease, safe='')}.{order.attempt}"
        loop = asyncio.get_running_loop()
        try:
            file = await loop.run_in_executor(self._threads, SpoolFile.create, path, about)
        except FileExistsError:
            raise Conflict(f"attempt {order.attempt} was begun on this runner before") from None
        try:
            if made is not None:
                await loop.run_in_executor(self._threads, fresh.make, made, begun.account)
        except (OSError, ValueError) as error:
            await loop.run_in_executor(self._threads, _drop, file)
            raise Refused(str(error) if isinstance(error, ValueError) else f"no folder: {error}") from None
        cleared = asyncio.Event()
        return Workplace(
            file,
            Spool(file, begun.output_limit, self._threads),
            begun.folder or made or "/",
            sending=self._send(file, cleared=cleared),
            cleared=cleared,
            threads=self._threads,
        )

    async def recover(self) -> None:
        """Clear up after the commands of an earlier runner, of which nothing lives, and hand over what they printed."""
        for name in sorted(os.listdir(self._folder)):
            stem = name.removesuffix(ABOUT)
            if stem != name:
                try:
                    file = await asyncio.get_running_loop().run_in_executor(self._threads, self._adopt, stem)
                except (OSError, ValueError, TypeError) as error:
                    log.error("the output in %s is lost: %s", self._folder / stem, error)
                    self._discard((f"{stem}{ABOUT}", f"{stem}{FRAMES}"))
                else:
                    self._send(file, gate=self._old)
            elif name.endswith(FRAMES) and not (self._folder / f"{name.removesuffix(FRAMES)}{ABOUT}").exists():
                self._discard((name,))

    async def drain(self, patience: timedelta) -> None:
        """Wait so long, at most, until the service has everything; the rest is for the next runner here."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=patience.total_seconds())
        for task in self._sending:
            task.cancel()

    def _adopt(self, stem: str) -> SpoolFile:
        file = SpoolFile.adopt(self._folder / stem)
        if file.about.folder is not None:
            fresh.remove(file.about.folder)
        if not file.ended:
            now = time.time_ns() // 1000
            text = b"the runner was ended: what came after this is lost\n"
            said = Frame(at_us=now, stream=Stream.SERVICE, data=text)
            file.finish(said.packed() + Frame(at_us=now, stream=Stream.END, data=b"").packed())
        return file

    def _send(
        self, file: SpoolFile, *, cleared: asyncio.Event | None = None, gate: asyncio.Semaphore | None = None
    ) -> asyncio.Task[None]:
        async def send() -> None:
            loop = asyncio.get_running_loop()
            await upload(file, self._desk, self._threads, gate)
            await loop.run_in_executor(self._threads, file.remove)
            if cleared is not None:
                # Should this runner be ended before, the next one must know of the folder.
                await cleared.wait()
            await loop.run_in_executor(self._threads, file.forget)

        task = asyncio.create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sent)
        return task

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("output could not be handed over", exc_info=error)

    def _discard(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()


def _drop(file: SpoolFile) -> None:
    file.remove()
    file.forget()
