"""What a pool has to do, as dci-queue lists it: resources, what runs on them, and what waits for them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leasehold.answers import Lease, Resource
from leasehold.cli import commandwords
from leasehold.cli.output import one_line, say
from leasehold.cli.words import exact, held, name_of
from leasehold.model import LeaseState

if TYPE_CHECKING:
    from leasehold.client import Client

NOT_ENDED = ",".join(state for state in LeaseState if state is not LeaseState.ENDED)
_WAITING = ("submitted", "queued")


@dataclass(frozen=True, kw_only=True)
class QueueList:
    """A pool's resources, and the leases with commands on it that have not ended."""

    pool: str
    paused: bool
    resources: Sequence[Resource]
    leases: Sequence[Lease]

    @property
    def available(self) -> list[Resource]:
        """What somebody who comes now gets, if nobody else waits for it."""
        return [] if self.paused else [one for one in self.resources if _is_available(one)]

    @property
    def executing(self) -> list[Lease]:
        """Those that have their resources."""
        return sorted((one for one in self.leases if one["state"] not in _WAITING), key=_number)

    @property
    def queued(self) -> list[Lease]:
        """Those that wait for some, in the order of service; last those that are held."""
        return sorted((one for one in self.leases if one["state"] in _WAITING), key=_turn)


def _is_available(one: Resource) -> bool:
    barred = one["offline"] or one["broken"] or one["suspect"] or one["kept_until"]
    return one["state"] == "free" and not barred


def _number(lease: Lease) -> float:
    return float("inf") if lease["number"] is None else lease["number"]


def _turn(lease: Lease) -> tuple[bool, float, int, float]:
    position = lease["queue"]["position"] if lease["queue"] else 0
    return lease["priority"] < 0, position or float("inf"), -lease["priority"], _number(lease)


def read(client: Client, pool: str) -> QueueList:
    """A pool as it is now; raise `PoolUnknown` where there is none."""
    return QueueList(
        pool=pool,
        paused=client.pool(pool)["paused"] is not None,
        resources=list(client.resources(pool=pool)),
        leases=list(client.leases(commands=True, pool=pool, state=NOT_ENDED)),
    )


def is_of(lease: Lease, pool: str) -> bool:
    """Whether a command is one of this pool; it may need resources of others."""
    return lease["items"][0].get("pool") == pool


def print_list(found: QueueList, join: commandwords.Join = shlex.join) -> None:
    """Print it, each section below its heading; `join` makes one line of a command's arguments."""
    there = [one for one in found.resources if one["offline"] is None]
    removed = [one for one in found.resources if one["offline"] is not None]
    say(f"Resources on the {found.pool} pool: {_names(there)}")
    say(f"Available resources on the {found.pool} pool: {_names(found.available)}")
    if removed:
        say(f"Removed resources on the {found.pool} pool:")
        for one in removed:
            mark = one["offline"]
            say(one_line(f" {one['name']}: {mark['reason'] if mark else ''} [{exact(mark and mark['since'])}]"))
    say(f"Executing commands on the {found.pool} pool:")
    for lease in found.executing:
        say(one_line(_line(lease, join)))
    say(f"Queued commands on the {found.pool} pool:")
    for lease in found.queued:
        say(one_line(_line(lease, join)))


def _names(resources: Sequence[Resource]) -> str:
    return " ".join(one["name"] for one in resources)


def _line(lease: Lease, join: commandwords.Join) -> str:
    """` 2(p1) [r1]: make test (wd: /home/joe/src)`, with what else there is to know of it behind."""
    command = lease["command"]
    assert command is not None
    priority = f"(p{lease['priority']})" if lease["priority"] else ""
    names = ",".join(one["name"] for one in held(lease))
    folder = command["folder"] or "a fresh one"
    remove = " [REMOVE]" if lease["on_end"] == "offline" else ""
    waits = f" [{command['reason']}]" if command["reason"] else ""
    line = commandwords.line(lease, command, join)
    return f" {name_of(lease)}{priority} [{names}]: {line} (wd: {folder}){remove}{waits}"
