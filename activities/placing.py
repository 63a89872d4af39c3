"""The short database steps of commands: local activities, one transaction each."""

from __future__ import annotations

from temporalio import activity

from leasehold.messages import AfterLoss, CommandLost, PlaceCommand, Placement, RunCommand
from leasehold.ports import Store


class Placing:
    """What a lease's workflow asks of the record about its command."""

    def __init__(self, store: Store) -> None:
        self._commands = store.commands

    @activity.defn
    async def place_command(self, order: PlaceCommand) -> Placement:
        """Find a runner for a command, or have it wait for one."""
        return await self._commands.place(order)

    @activity.defn
    async def is_runner_gone(self, order: RunCommand) -> str | None:
        """Say why the process that runs a lease's command is known to be no more, if it is."""
        return await self._commands.gone(order.lease, order.attempt)

    @activity.defn
    async def lose_command(self, order: CommandLost) -> AfterLoss:
        """Learn what follows after nothing is heard of a command's runner any more."""
        return await self._commands.lost(order)
