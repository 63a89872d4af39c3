"""What the tests of commands share: runners, and what workflows and runners do with commands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select

from leasehold.commands import (
    Begun,
    Command,
    CommandEnding,
    CommandPolicy,
    CommandRule,
    CommandSpec,
    RunnerHost,
)
from leasehold.messages import (
    Admitted,
    AfterLoss,
    Closed,
    CloseLease,
    CommandLost,
    CommandReport,
    PlaceCommand,
    Refusal,
)
from leasehold.model import (
    Item,
    Outcome,
)
from leasehold.ports import Place
from leasehold.store import tables as t
from tests.contract.store_lab import Lab

ANYBODY = CommandPolicy(rules=(CommandRule(),))
EXITED = CommandReport(ending=CommandEnding.EXITED, code=0, detail="exit status 0", output_bytes=7, dropped=0)
HERE = Place(host="build01.lab", locks="locks", boot="boot", processes="processes")
MAKE = CommandSpec(argv=("make", "test"), folder="/src")
DAY = timedelta(days=1)


def command(*argv: str, **about: Any) -> CommandSpec:
    return CommandSpec(argv=argv or ("make", "test"), **about)


def host(instance: str = "one", *labels: str, slots: int = 1, place: Place = HERE) -> RunnerHost:
    """A process of a runner, by default where all others are."""
    return RunnerHost(
        instance=instance,
        labels=labels,
        slots=slots,
        host=place.host,
        locks=place.locks,
        boot=place.boot,
        processes=place.processes,
    )


async def up(lab: Lab, runner: str = "build01", *labels: str, slots: int = 1, instance: str = "one") -> None:
    """Have a runner say that it is there, on a machine of its own."""
    place = Place(host=f"{runner}-{instance}", locks=f"{runner}-{instance}", boot="boot", processes="processes")
    await lab.store.commands.register(runner, host(instance, *labels, slots=slots, place=place))


async def submit(lab: Lab, lease: str, *items: Item, command: CommandSpec = MAKE, **asked: Any) -> Admitted:
    return await lab.submit(lease, *items, command=command, **asked)


async def refusal(lab: Lab, lease: str, *items: Item, command: CommandSpec = MAKE, **asked: Any) -> Refusal:
    """Why a request is refused."""
    admitted = await lab.submit(lease, *items, command=command, **asked)
    assert admitted.refusal is not None, admitted
    return admitted.refusal


async def active(lab: Lab, *leases: str, command: CommandSpec = MAKE, **asked: Any) -> None:
    """Leases of one resource each that are delivered, so that their commands could begin."""
    for lease in leases:
        await lab.take(lease, command=command, **asked)


async def place(lab: Lab, lease: str, attempt: int = 1, missed: str | None = None) -> str | None:
    """Ask for a runner, as the lease's workflow does."""
    order = PlaceCommand(lease=lease, attempt=attempt, missed=missed)
    return (await lab.store.commands.place(order)).runner


async def places(lab: Lab, *leases: str) -> list[str | None]:
    return [await place(lab, lease) for lease in leases]


async def begin(lab: Lab, lease: str, attempt: int = 1, *, runner: str = "build01", instance: str = "one") -> Begun:
    return await lab.store.commands.begin(runner, lease, instance, attempt)


async def running(lab: Lab, *leases: str, command: CommandSpec = MAKE, **asked: Any) -> None:
    """Leases whose commands run on a runner that has room for them."""
    await lab.pool("r640", len(leases), commands=ANYBODY)
    await up(lab, slots=len(leases))
    await active(lab, *leases, command=command, **asked)
    for lease in leases:
        assert await place(lab, lease) == "build01"
        await begin(lab, lease)


async def lose(lab: Lab, lease: str = "a", attempt: int = 1, *, final: bool = False) -> AfterLoss:
    return await lab.store.commands.lost(
        CommandLost(lease=lease, attempt=attempt, detail="nothing was heard of it", final=final)
    )


async def close(
    lab: Lab, lease: str = "a", outcome: Outcome = Outcome.RELEASED, report: CommandReport | None = None, **more: Any
) -> Closed:
    """End a lease, by default without any news of its command."""
    order = CloseLease(lease=lease, outcome=outcome, actor="alice", stopped=True, command=report, **more)
    return await lab.store.close_lease(order)


async def command_of(lab: Lab, lease: str = "a") -> Command:
    found = (await lab.lease(lease)).command
    assert found is not None
    return found


async def why(lab: Lab, lease: str) -> str | None:
    """Why a command waits."""
    return (await command_of(lab, lease)).reason


async def envelopes(lab: Lab) -> list[str]:
    """Whose environments are kept."""
    query = select(t.envelopes.c.lease).order_by(t.envelopes.c.lease)
    return list(await lab.store.database.read(lambda c: c.execute(query).scalars().all()))


async def offline(lab: Lab, pool: str = "r640") -> dict[str, str]:
    """The resources of a pool that nobody gets, and why."""
    query = select(t.resources.c.name, t.resources.c.offline_reason).where(
        t.resources.c.pool == pool, t.resources.c.offline_reason.is_not(None)
    )
    rows = await lab.store.database.read(lambda c: c.execute(query).all())
    return {row.name: row.offline_reason for row in rows}


async def place_and_begin(lab: Lab, lease: str) -> None:
    assert await place(lab, lease) == "build01"
    await begin(lab, lease)
