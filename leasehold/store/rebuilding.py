"""Writing what the workflows know into a database that has forgotten it, in one transaction.

What is written here is what has happened already: the legal transitions do not bind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from leasehold import allocation, rebuilding
from leasehold.allocation import Candidate
from leasehold.errors import LeaseholdError, from_code
from leasehold.healing import AlertKey
from leasehold.holdings import Holding, Key
from leasehold.messages import AdmitLease, CloseLease, Refusal
from leasehold.model import PREPARE, Item, LeaseState, ResourceState, StageName
from leasehold.rebuilding import Action, Books, Census, Grant, Place, Rebuilt, Record, Step, Suspension, Told
from leasehold.store import (
    admission,
    alerts,
    catalogue,
    closing,
    commands,
    events,
    facts,
    holding,
    instances,
    matching,
    moves,
    outbox,
    reuse,
    specs,
)
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_CHUNK = 500


def books(connection: Connection, leases: Collection[str] = ()) -> Books:
    """What the database has: what is open, and what there is of these leases."""
    wanted, rows = sorted(leases), list[Any]()
    query = select(t.leases.c.id, t.leases.c.number, t.leases.c.state, t.leases.c.expires_at)
    rows += connection.execute(query.where(t.leases.c.state != LeaseState.ENDED)).all()
    for at in range(0, len(wanted), _CHUNK):
        rows += connection.execute(query.where(t.leases.c.id.in_(wanted[at : at + _CHUNK]))).all()
    grants = connection.execute(select(t.grants).where(t.grants.c.closed_at.is_(None)).order_by(t.grants.c.id))
    used: dict[Key, int] = {}
    for table in (t.grants, t.runs):
        newest = select(table.c.pool, table.c.resource, func.max(table.c.epoch).label("epoch"))
        for row in connection.execute(newest.group_by(table.c.pool, table.c.resource)):
            used[row.pool, row.resource] = max(row.epoch, used.get((row.pool, row.resource), 0))
    places = connection.execute(
        select(t.resources.c.pool, t.resources.c.name, t.resources.c.state, t.resources.c.epoch)
    )
    return Books(
        records={
            row.id: Record(number=row.number, state=LeaseState(row.state), expires_at=row.expires_at) for row in rows
        },
        grants=tuple(
            Grant(
                lease=row.lease,
                holding=Holding(pool=row.pool, resource=row.resource, epoch=row.epoch),
                granted_at=row.granted_at,
            )
            for row in grants
        ),
        places={
            (row.pool, row.name): Place(
                state=ResourceState(row.state), epoch=row.epoch, used=used.get((row.pool, row.name), 0)
            )
            for row in places
        },
        making=frozenset(catalogue.current(connection).making),
    )


def last_number(connection: Connection) -> int:
    """The number of the newest lease."""
    number: int = connection.execute(select(t.counters.c.value).where(t.counters.c.name == "lease")).scalar_one()
    return number


def suspension(connection: Connection) -> Suspension | None:
    """Why nothing is granted, if that is so."""
    fact = facts.get(connection, facts.SUSPENSION)
    if fact is None:
        return None
    copied_at = datetime.fromisoformat(fact["copied_at"]) if fact["copied_at"] else None
    return Suspension(reason=fact["reason"], since=datetime.fromisoformat(fact["since"]), copied_at=copied_at)


def rebuild(tx: Tx, census: Census, seen: Books, *, actor: str, accept_lost: bool) -> Rebuilt:
    """Write what is to be written for all leases whose records are still as they were `seen`."""
    now = books(tx.connection, [*census.leases, *census.lost])
    moved = {lease for lease in {*census.leases, *census.lost} if now.of(lease) != seen.of(lease)}
    settled = census.without(moved)
    plan = rebuilding.plan(settled, now, accept_lost=accept_lost)
    before = facts.get(tx.connection, facts.SUSPENSION)
    # Until all is written nothing may be granted, not even by what is freed on the way.
    facts.put(tx, facts.SUSPENSION, before or {"reason": "the records are being rebuilt", "copied_at": None})
    writer = _Writer(tx, settled, actor)
    for step in plan.steps:
        writer.do(step)
    problems = (*plan.problems, *writer.problems)
    suspended = before["reason"] if before and (problems or settled.unsettled) else None
    if before is not None or plan.steps:
        # Which of them were taken up since a copy was made nobody knows: none may be run once more.
        commands.distrust(tx)
    if before is None or suspended is None:
        _lift(tx, before, actor)
    if plan.lost is None:
        alerts.settle(tx, AlertKey.WORKFLOWS_LOST, None)
    return Rebuilt(
        steps=tuple(writer.done),
        problems=problems,
        lost=plan.lost,
        unsettled=tuple(sorted(settled.unsettled)),
        suspended=suspended,
    )


def _lift(tx: Tx, before: Mapping[str, Any] | None, actor: str) -> None:
    """Grant again, and serve those who wait."""
    facts.drop(tx, facts.SUSPENSION)
    if before is None:
        return
    known, mine = before.get("passes") or 0, facts.get(tx.connection, "sweep")
    # From now on the database is as new as what Temporal remembers.
    passes = max(known, mine["passes"] if mine else 0)
    facts.put(tx, "sweep", {"passes": passes, "number": last_number(tx.connection), "at": tx.now.isoformat()})
    alerts.settle(tx, AlertKey.DATABASE_OLDER, None)
    _doubt_what_was_made(tx)
    events.record(tx, "matching_resumed", actor=actor)
    matching.match(tx, set(tx.execute(select(t.pools.c.name)).scalars()))


def _doubt_what_was_made(tx: Tx) -> None:
    """Let a livecheck say of what pools had made, and is recorded as free, whether it is still there."""
    known = catalogue.current(tx.connection).making
    pools = [pool for pool, spec in known.items() if spec.livecheck is not None]
    made = (t.resources.c.pool.in_(pools), t.resources.c.spec.is_not(None), t.resources.c.state == ResourceState.FREE)
    tx.execute(update(t.resources).where(*made).values(suspect=True))
    tx.execute(update(t.checks).where(t.checks.c.pool.in_(pools)).values(due_at=tx.now))
    for pool in sorted(known):
        outbox.tend(tx, pool)


class _Writer:
    """Writes steps, one after the other."""

    def __init__(self, tx: Tx, census: Census, actor: str) -> None:
        self._tx = tx
        self._census = census
        self._actor = actor
        self._failed: set[str] = set()
        self.done: list[Step] = []
        self.problems: list[str] = []
        self._by_action: Mapping[Action, Callable[[Step], str | None]] = {
            Action.RECORD: self._record,
            Action.CLOSE_GRANT: self._close_grant,
            Action.REGISTER: self._register,
            Action.GRANT: self._grant,
            Action.PAST_GRANT: self._past_grant,
            Action.ADOPT_RECYCLING: self._adopt_recycling,
            Action.MOVE: self._move,
            Action.GIVE_BACK: self._give_back,
            Action.END: self._end,
            Action.QUARANTINE: self._quarantine,
            Action.RECYCLE: self._recycle,
            Action.NUDGE: self._nudge,
        }

    def do(self, step: Step) -> None:
        """Write one step, and note it with what came of it; one of a lease that could not be recorded is left out."""
        if step.lease in self._failed:
            return
        # What is sent to workflows directly is sent by whoever called this, after the commit.
        write = self._by_action.get(step.action)
        detail = write(step) if write else None
        if step.lease not in self._failed:
            self.done.append(replace(step, detail=detail or step.detail))

    def _told(self, lease: str | None) -> Told:
        assert lease is not None
        return self._census.leases[lease]

    # Leases

    def _record(self, step: Step) -> str | None:
        """Admit the lease again; while nothing is granted it waits, and is moved to where it is."""
        told = self._told(step.lease)
        assert told.request is not None
        with self._tx.savepoint() as savepoint:
            # Its holder has a whole heartbeat's time again: nobody could send one while there was no record.
            order = AdmitLease(request=told.request, age_s=0)
            admitted = admission.admit(self._tx, order, told.run_id, again=True)
            if admitted.refusal is not None:
                savepoint.rollback()
        if admitted.refusal is not None:
            self._failed.add(told.request.lease)
            # Of one that is over nobody will miss more than its story.
            if told.how is None:
                error: LeaseholdError = from_code(admitted.refusal.code, admitted.refusal.detail)
                self.problems.append(f"lease {told.request.lease} cannot be recorded again: {error.detail}")
            return None
        self._update(step.lease, created_at=told.started_at)
        number = self._row(step.lease).number
        self._event(step, "lease_rebuilt", {"number": number})
        return f"{step.detail}: now lease {number}"

    def _move(self, step: Step) -> None:
        row, told = self._row(step.lease), self._told(step.lease)
        assert step.state is not None
        values: dict[str, Any] = {"state": step.state, "granted_at": row.granted_at or self._tx.now}
        if step.state is LeaseState.ACTIVE:
            expires_at = step.expires_at or row.expires_at or self._tx.now + timedelta(seconds=row.duration_s)
            begun = min(self._tx.now, expires_at - timedelta(seconds=row.duration_s))
            values |= {"expires_at": expires_at, "active_at": row.active_at or max(begun, told.started_at)}
            self._tx.execute(
                update(t.grants)
                .where(t.grants.c.lease == step.lease, t.grants.c.closed_at.is_(None), t.grants.c.ready_at.is_(None))
                .values(ready_at=self._tx.now)
            )
        elif step.state is LeaseState.ENDED:
            values |= {"outcome": step.outcome, "ended_at": told.closed_at or self._tx.now}
            if row.commanded and step.outcome is not None:
                commands.forgotten(self._tx, row.id, step.outcome)
        self._leave_queue(step.lease)
        self._update(step.lease, **values)
        self._event(step, f"lease_{step.state}", {"rebuilt": True})

    def _give_back(self, step: Step) -> None:
        assert step.lease is not None
        assert step.outcome is not None
        order = CloseLease(lease=step.lease, outcome=step.outcome, actor=self._actor, stopped=False, reason=step.detail)
        closing.close(self._tx, order)

    def _end(self, step: Step) -> str:
        """End a lease: one whose workflow runs gives back what it holds, and its workflow ends it."""
        assert step.lease is not None
        assert step.outcome is not None
        error = Refusal(code=step.code, detail=step.detail) if step.code else None
        runs = step.code == "grant_lost"
        number = self._row(step.lease).number
        if step.code == "workflow_lost":
            self._quarantine_all(step.lease, step.detail)
        order = CloseLease(
            lease=step.lease,
            outcome=step.outcome,
            actor=self._actor,
            stopped=not runs,
            reason=step.detail,
            error=error,
        )
        closed = closing.close(self._tx, order)
        if closed.state is LeaseState.RELEASING and not runs:
            closing.end(self._tx, step.lease)
        return f"lease {number}: {step.detail}"

    def _nudge(self, step: Step) -> None:
        assert step.lease is not None
        outbox.signal(self._tx, step.lease)

    # Resources

    def _close_grant(self, step: Step) -> None:
        """Close a grant, and leave the resource to whoever has it."""
        held = step.holding
        assert held is not None
        self._tx.execute(
            update(t.grants)
            .where(
                t.grants.c.lease == step.lease,
                t.grants.c.pool == held.pool,
                t.grants.c.resource == held.resource,
                t.grants.c.epoch == held.epoch,
                t.grants.c.closed_at.is_(None),
            )
            .values(closed_at=self._tx.now)
        )

    def _register(self, step: Step) -> None:
        """Know again of a resource that its pool has made; its numbers, and what `create` printed, are lost."""
        held = step.holding
        assert held is not None
        spec_id, spec = specs.in_force(self._tx.connection, held.pool)
        instances.add(self._tx, held.pool, held.resource)
        self._tx.execute(
            insert(t.resources).values(
                pool=held.pool,
                name=held.resource,
                file=None,
                state=ResourceState.FREE,
                epoch=0,
                draining=False,
                tags=list(spec.all_tags),
                properties=dict(spec.properties),
                kind=catalogue.made_kind(spec),
                spec=spec_id,
            )
        )

    def _grant(self, step: Step) -> None:
        held = step.holding
        assert held is not None
        self._insert_grant(step, closed_at=None)
        self._place(held, ResourceState.LEASED, step.lease)
        view = self._told(step.lease).view
        if view is None or view.state != LeaseState.ACTIVE:
            self._touch(step.lease, held)

    def _touch(self, lease: str | None, held: Holding) -> None:
        """Note that hooks may have run: so that it is cleaned after the lease even if that is never delivered."""
        self._tx.execute(
            insert(t.runs).values(
                lease=lease,
                pool=held.pool,
                resource=held.resource,
                epoch=held.epoch,
                stage=StageName.WIPE,
                hook=0,
                attempt=0,
                losses=0,
                host="",
                locks="",
                boot="",
                processes="",
                started_at=self._tx.now,
                deadline=self._tx.now,
                ended_at=self._tx.now,
                ending="lost",
                detail="what ran before the database was restored is not known",
            )
        )

    def _past_grant(self, step: Step) -> None:
        self._insert_grant(step, closed_at=self._told(step.lease).closed_at or self._tx.now)

    def _adopt_recycling(self, step: Step) -> None:
        assert step.holding is not None
        self._place(step.holding, ResourceState.RECYCLING, None)

    def _quarantine(self, step: Step) -> None:
        row = self._resource(step)
        if row is not None:
            moves.quarantine(self._tx, row, step.detail, lease=None)

    def _quarantine_all(self, lease: str, why: str) -> None:
        """Close a lease's grants, and put what it held out of use: nobody knows what runs on it."""
        open_ones = (t.grants.c.lease == lease, t.grants.c.closed_at.is_(None))
        for row in self._tx.execute(select(t.grants).where(*open_ones)).all():
            resource = moves.row_of(self._tx, row.pool, row.resource)
            if resource is not None and resource.state == ResourceState.LEASED and resource.epoch == row.epoch:
                moves.quarantine(self._tx, resource, why, lease=lease)
        self._tx.execute(update(t.grants).where(*open_ones).values(closed_at=self._tx.now))

    def _recycle(self, step: Step) -> None:
        row = self._resource(step)
        if row is None:
            return
        assert step.holding is not None
        last = self._last_grant(step.holding)
        if last is None:
            moves.quarantine(self._tx, row, f"{step.detail}, and nothing is known of how to clean it", lease=None)
            return
        spec = specs.load(self._tx.connection, {last.spec})[last.spec]
        reuse.recycle(self._tx, row, last.spec, spec, lease=step.lease or last.lease)

    def _resource(self, step: Step) -> Row[Any] | None:
        """The row of a step's resource, at the epoch at which somebody had it or at an older one."""
        held = step.holding
        assert held is not None
        row = moves.row_of(self._tx, held.pool, held.resource)
        if row is None or row.epoch > held.epoch:
            return None
        if row.epoch < held.epoch:
            self._set_epoch(held)
            row = moves.row_of(self._tx, held.pool, held.resource)
        return row

    def _last_grant(self, held: Holding) -> Row[Any] | None:
        query = select(t.grants).where(t.grants.c.pool == held.pool, t.grants.c.resource == held.resource)
        last: Row[Any] | None = self._tx.execute(query.order_by(t.grants.c.id.desc()).limit(1)).one_or_none()
        return last

    def _place(self, held: Holding, state: ResourceState, lease: str | None) -> None:
        """Put a resource into somebody's hands at exactly the epoch that they know."""
        self._tx.execute(
            update(t.resources)
            .where(t.resources.c.pool == held.pool, t.resources.c.name == held.resource)
            .values(state=state, epoch=held.epoch, stage=None, broken_reason=None, broken_since=None)
        )
        about = {"epoch": held.epoch, "rebuilt": True}
        events.record(
            self._tx,
            f"resource_{state}",
            lease=lease,
            pool=held.pool,
            resource=held.resource,
            actor=self._actor,
            data=about,
        )

    def _set_epoch(self, held: Holding) -> None:
        self._tx.execute(
            update(t.resources)
            .where(t.resources.c.pool == held.pool, t.resources.c.name == held.resource)
            .values(epoch=held.epoch)
        )

    def _insert_grant(self, step: Step, closed_at: datetime | None) -> None:
        held = step.holding
        assert held is not None
        spec = self._tx.execute(select(t.pools.c.spec).where(t.pools.c.name == held.pool)).scalar_one_or_none()
        if spec is None:
            return
        items = specs.items_from_json(self._row(step.lease).wanted)
        index = self._item(items, step.lease, held)
        self._tx.execute(
            insert(t.grants).values(
                lease=step.lease,
                owner=self._row(step.lease).owner,
                pool=held.pool,
                resource=held.resource,
                epoch=held.epoch,
                spec=spec,
                item=index,
                role=items[index].role,
                due=list(PREPARE),
                granted_at=closed_at or self._tx.now,
                closed_at=closed_at,
            )
        )

    def _item(self, items: tuple[Item, ...], lease: str | None, held: Holding) -> int:
        """For which item of its request a lease has a resource: as admission would have chosen among all it has."""
        view = self._told(lease).view
        named = {(r.pool, r.resource) for r in view.resources} if view else set()
        rows = self._tx.execute(select(t.resources).where(t.resources.c.pool.in_({pool for pool, _ in named}))).all()
        mine = [
            Candidate(pool=row.pool, name=row.name, tags=frozenset(row.tags), properties=row.properties)
            for row in rows
            if (row.pool, row.name) in named
        ]
        chosen = allocation.assign(items, mine)
        for index, group in enumerate(chosen or ()):
            if any(candidate.key == held.key for candidate in group):
                return index
        return next((index for index, item in enumerate(items) if item.pool in (held.pool, None)), 0)

    # Rows

    def _row(self, lease: str | None) -> Row[Any]:
        assert lease is not None
        return holding.lease_row(self._tx.connection, lease)

    def _update(self, lease: str | None, **values: Any) -> None:
        self._tx.execute(update(t.leases).where(t.leases.c.id == lease).values(**values))

    def _leave_queue(self, lease: str | None) -> None:
        assert lease is not None
        matching.leave(self._tx, lease, reserved=True)
        self._update(lease, waiting=False, missing=None)

    def _event(self, step: Step, kind: str, data: dict[str, Any]) -> None:
        events.record(self._tx, kind, lease=step.lease, actor=self._actor, reason=step.detail, data=data)
