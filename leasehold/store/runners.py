"""Runners: which processes take commands, and which of them gets the next one.

A command whose lease is active wants a runner, once all that the lease has is ready. It gets the one that has most
room of those that suit, in the order of priority and number; one that nobody suits now is passed by others, and waits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, select, update

from leasehold.commands import SILENCE, CommandState, RunnerHost
from leasehold.model import Runner, RunnerProcess
from leasehold.ports import Place
from leasehold.store import outbox
from leasehold.store import tables as t
from leasehold.store.engine import Tx

FORGET_AFTER = SILENCE * 20
"""How long a runner is shown that is not heard of any more."""

_C = t.commands.c
_R = t.runners.c
_BUSY = (CommandState.STARTING, CommandState.RUNNING)
_USED = (
    select(_C.runs_on, func.count().label("many"))
    .where(_C.ended_at.is_(None), _C.state.in_(_BUSY))
    .group_by(_C.runs_on)
)
_UNREADY = exists().where(t.grants.c.lease == _C.lease, t.grants.c.closed_at.is_(None), t.grants.c.ready_at.is_(None))
_WAITING = (
    select(t.commands, t.leases.c.priority, t.leases.c.number, _UNREADY.label("unready"))
    .join(t.leases, t.leases.c.id == _C.lease)
    .where(_C.ended_at.is_(None), _C.state == CommandState.WAITING, _C.wanted_at.is_not(None))
    .order_by(t.leases.c.priority.desc(), t.leases.c.number)
)
_GIVE = (
    update(t.commands)
    .where(_C.lease == bindparam("lease_"))
    .values(state=CommandState.STARTING, runs_on=bindparam("runs_on"), reason=None, wanted_at=None)
)
_EXPLAIN = update(t.commands).where(_C.lease == bindparam("lease_")).values(reason=bindparam("reason"))


def register(tx: Tx, name: str, host: RunnerHost) -> None:
    """Take note that a process takes commands.

    One that is new has cleared its place: what an earlier one there ran is known to be dead.
    """
    known = select(t.runners).where(_R.name == name, _R.instance == host.instance)
    about = {"labels": list(host.labels), "slots": host.slots, "seen_at": tx.now}
    row = tx.execute(known).one_or_none()
    if row is not None:
        tx.execute(update(t.runners).where(_R.name == name, _R.instance == host.instance).values(about))
        if row.slots == host.slots and row.labels == list(host.labels) and row.seen_at > tx.now - SILENCE:
            return
    else:
        _bury(tx, name, host)
        place = {field: getattr(host, field) for field in ("host", "locks", "boot", "processes")}
        tx.execute(insert(t.runners), {"name": name, "instance": host.instance, "started_at": tx.now, **place, **about})
    tx.execute(delete(t.runners).where(_R.seen_at < tx.now - FORGET_AFTER))
    serve(tx)


def _bury(tx: Tx, name: str, host: RunnerHost) -> None:
    """Forget the processes that were where this one is now, and tell those whose commands they ran."""
    here = Place(host=host.host, locks=host.locks, boot=host.boot, processes=host.processes)
    rows = tx.execute(select(t.runners).where(_R.name == name)).all()
    fields = tuple(asdict(here))
    dead = [row.instance for row in rows if here.clears(Place(**{field: getattr(row, field) for field in fields}))]
    if not dead:
        return
    tx.execute(delete(t.runners).where(_R.name == name, _R.instance.in_(dead)))
    ran = select(_C.lease).where(_C.ended_at.is_(None), _C.runs_on == name, _C.instance.in_(dead), _C.gone.is_(None))
    lost = list(tx.execute(ran).scalars())
    why = f"runner {name} on {host.host} was started anew"
    tx.execute(update(t.commands).where(_C.lease.in_(lost)).values(gone=why))
    for lease in lost:
        outbox.signal(tx, lease)


def leave(tx: Tx, name: str, instance: str) -> None:
    """Take note that a process takes no commands any more."""
    tx.execute(delete(t.runners).where(_R.name == name, _R.instance == instance))


def serve(tx: Tx, *, asking: str | None = None, besides: str | None = None) -> None:
    """Give runners to the commands that want one, and tell their leases, but for the one that asks now.

    `besides` is a runner that did not take up what the one that asks has: it gets another, if there is one.
    """
    waiting = tx.execute(_WAITING).all()
    if not waiting:
        return
    there = _there(tx.connection, tx.now)
    for row in waiting:
        # What came in the place of a dead resource, or was added since, may still be on its way.
        suitable = [one for one in there.values() if one.suits(row) and not row.unready]
        free = [one for one in suitable if one.free > 0]
        if row.lease == asking and besides is not None:
            free = [one for one in free if one.name != besides] or free
        if not free:
            reason = _why(row, suitable, there.values())
            if reason != row.reason:
                tx.execute(_EXPLAIN, {"lease_": row.lease, "reason": reason})
            continue
        best = max(free, key=lambda one: (one.free, one.name))
        best.used += 1
        tx.execute(_GIVE, {"lease_": row.lease, "runs_on": best.name})
        if row.lease != asking:
            outbox.signal(tx, row.lease)


@dataclass
class _There:
    """All processes of one runner that are heard of."""

    name: str
    labels: set[str]
    slots: int
    used: int

    @property
    def free(self) -> int:
        return self.slots - self.used

    def suits(self, command: Row[Any]) -> bool:
        named = command.runner is None or command.runner == self.name
        return named and set(command.labels) <= self.labels


def _there(connection: Connection, now: datetime) -> dict[str, _There]:
    used = _used(connection)
    found: dict[str, _There] = {}
    for row in connection.execute(select(t.runners).where(_R.seen_at > now - SILENCE)):
        one = found.get(row.name)
        if one is None:
            found[row.name] = _There(row.name, set(row.labels), row.slots, used.get(row.name, 0))
        else:
            # Whichever of them takes it must have what it wants.
            one.labels &= set(row.labels)
            one.slots += row.slots
    return found


def _used(connection: Connection) -> dict[str, int]:
    """How many commands each runner has that has any."""
    return {row.runs_on: row.many for row in connection.execute(_USED)}


def _why(command: Row[Any], suitable: Sequence[_There], there: Collection[_There]) -> str:
    """Why a command has no runner yet."""
    if command.unready:
        return "waits until all resources of its lease are ready"
    labels = ", ".join(command.labels)
    wanted = f"runner {command.runner}" if command.runner else "a runner"
    if command.labels:
        wanted += f" with {labels}"
    if suitable:
        busy = sum(one.slots for one in suitable)
        return f"{wanted} has no room: {busy} of {busy} commands are running"
    if not there:
        return f"waits for {wanted}: none is up"
    return f"waits for {wanted}: {', '.join(sorted(one.name for one in there))} alone is up"


def listed(connection: Connection, now: datetime) -> list[Runner]:
    """The runners that are known, by name, each with its processes."""
    used = _used(connection)
    found: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(select(t.runners).order_by(_R.name, _R.started_at, _R.instance)):
        found.setdefault(row.name, []).append(row)
    return [_runner(name, rows, used.get(name, 0), now) for name, rows in found.items()]


def _runner(name: str, rows: Sequence[Row[Any]], used: int, now: datetime) -> Runner:
    up = [row for row in rows if row.seen_at > now - SILENCE]
    common = set.intersection(*(set(row.labels) for row in up or rows))
    return Runner(
        name=name,
        labels=tuple(sorted(common)),
        slots=sum(row.slots for row in up),
        used=used,
        up=bool(up),
        hosts=tuple(
            RunnerProcess(
                instance=row.instance,
                host=row.host,
                slots=row.slots,
                seen_at=row.seen_at,
                started_at=row.started_at,
            )
            for row in rows
        ),
    )
