"""The store's part for commands that run on leased resources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from leasehold.commands import Begun, RunnerHost
from leasehold.messages import AfterLoss, CommandLost, PlaceCommand, Placement
from leasehold.model import Runner
from leasehold.ports import OutputOf
from leasehold.store import commands, runners
from leasehold.store.engine import Database

Write = Callable[..., Awaitable[Any]]


class SqlCommands:
    """See `leasehold.ports.Commands` for what each call means."""

    def __init__(self, database: Database, write: Write) -> None:
        self._database = database
        self._write = write

    async def place(self, order: PlaceCommand) -> Placement:
        placement: Placement = await self._write(commands.place, order)
        return placement

    async def gone(self, lease: str, attempt: int) -> str | None:
        return await self._database.read(commands.is_gone, lease, attempt)

    async def lost(self, order: CommandLost) -> AfterLoss:
        after: AfterLoss = await self._write(commands.lost, order)
        return after

    async def begin(self, runner: str, lease: str, instance: str, attempt: int) -> Begun:
        begun: Begun = await self._write(commands.begin, runner, lease, instance, attempt)
        return begun

    async def output_of(self, runner: str, lease: str, attempt: int) -> OutputOf:
        return await self._database.read(commands.output_of, runner, lease, attempt)

    async def register(self, runner: str, host: RunnerHost) -> None:
        await self._write(runners.register, runner, host)

    async def leave(self, runner: str, instance: str) -> None:
        await self._write(runners.leave, runner, instance)

    async def runners(self) -> list[Runner]:
        return await self._database.read(lambda c: runners.listed(c, self._database.now(c)))
