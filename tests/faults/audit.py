"""Checks a database in which all is over: what happened to each lease and each resource, one thing after another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, select
from temporalio.client import Client, WorkflowExecutionStatus

from leasehold import model
from leasehold.commands import CommandState
from leasehold.errors import IllegalTransition
from leasehold.messages import recycle_id
from leasehold.model import LeaseState, ResourceState
from leasehold.store import tables as t
from tests.contract import ledger


def faults(connection: Connection) -> list[str]:
    """Everything that must not be once every lease has ended and every resource is at rest."""
    return [
        *ledger.of(connection, datetime.now(UTC)),
        *_leases(connection),
        *_resources(connection),
        *_grants(connection),
        *_runs(connection),
        *_slots(connection),
        *_expected(connection),
        *_commands(connection),
        *_envelopes(connection),
        *_messages(connection),
    ]


def story(connection: Connection, lease: str) -> list[str]:
    """What happened to a lease, line by line."""
    rows = connection.execute(select(t.events).where(t.events.c.lease == lease).order_by(t.events.c.id))
    return [f"{r.at:%H:%M:%S.%f} {r.kind} {r.resource or ''} {r.actor or ''} {r.reason or ''} {r.data}" for r in rows]


def recyclings(connection: Connection, last: int | None = None) -> list[str]:
    """The workflows of all recyclings that were ordered, or of the `last` ones."""
    query = select(t.outbox.c.message).where(t.outbox.c.kind == "recycle").order_by(t.outbox.c.id.desc()).limit(last)
    claims = [message["claim"] for message in connection.execute(query).scalars()]
    return [recycle_id(claim["pool"], claim["resource"], claim["epoch"]) for claim in claims]


async def unfinished(temporal: Client, workflows: Iterable[str]) -> list[str]:
    """Those of these workflows that are not completed."""
    found = []
    for name in workflows:
        status = (await temporal.get_workflow_handle(name).describe()).status
        if status is not WorkflowExecutionStatus.COMPLETED:
            found.append(f"workflow {name} is {status.name if status else None}")
    return found


def _leases(connection: Connection) -> Iterator[str]:
    """Each lease has ended, once, by legal steps."""
    told = _kinds(connection, "lease_", LeaseState)
    for row in connection.execute(select(t.leases)):
        steps = [state for (lease, *_), states in told.items() if lease == row.id for state in states]
        if row.state != LeaseState.ENDED:
            yield f"lease {row.id} is {row.state}"
        if not steps or steps[-1] != row.state:
            yield f"lease {row.id} is {row.state} and its events say {[str(s) for s in steps]}"
        yield from _illegal(f"lease {row.id}", steps, model.check_lease_transition)


def _kinds(connection: Connection, prefix: str, states: Any) -> dict[Any, list[Any]]:
    """The states that events tell of, in order, of each lease or resource."""
    found = defaultdict(list)
    for row in connection.execute(select(t.events).order_by(t.events.c.id)):
        state = row.kind.removeprefix(prefix)
        if row.kind.startswith(prefix) and state in set(states):
            about = (row.lease,) if prefix == "lease_" else (row.pool, row.resource)
            found[about].append(states(state))
    return dict(found)


def _illegal(what: str, steps: Sequence[Any], check: Any) -> Iterator[str]:
    for before, after in zip([None, *steps], steps, strict=False):
        try:
            check(before, after)
        except IllegalTransition as error:
            yield f"{what}: {error}"


def _resources(connection: Connection) -> Iterator[str]:
    """Each resource is at rest, moved by legal steps, under epochs that only grew."""
    told = _kinds(connection, "resource_", ResourceState)
    rows: Mapping[Any, Row[Any]] = {(r.pool, r.name): r for r in connection.execute(select(t.resources))}
    for key, row in rows.items():
        if row.state not in {ResourceState.FREE, ResourceState.BROKEN}:
            yield f"{key} leaked: it is {row.state}"
        if row.stage is not None:
            yield f"{key} is at rest and shows stage {row.stage}"
        steps = told.get(key, [])
        registered = [] if steps[:1] == [ResourceState.CREATING] else [ResourceState.FREE]
        yield from _illegal(f"resource {key}", [*registered, *steps], model.check_resource_transition)
    query = select(t.events).where(t.events.c.kind.startswith("resource_")).order_by(t.events.c.id)
    last: dict[tuple[str, str], int] = {}
    for event in connection.execute(query):
        epoch, key = event.data.get("epoch"), (event.pool, event.resource)
        if epoch is not None and epoch <= last.get(key, 0):
            yield f"{key} got epoch {epoch} after {last[key]}"
        last[key] = epoch or last.get(key, 0)


def _grants(connection: Connection) -> Iterator[str]:
    """No resource was lent again before it was given back."""
    rows = connection.execute(select(t.grants).order_by(t.grants.c.pool, t.grants.c.resource, t.grants.c.epoch)).all()
    for before, after in pairwise(rows):
        same = (before.pool, before.resource) == (after.pool, after.resource)
        if same and (before.closed_at is None or before.closed_at > after.granted_at or before.epoch >= after.epoch):
            yield f"{after.pool}/{after.resource} was lent to {after.lease} while {before.lease} had it"


def _runs(connection: Connection) -> Iterator[str]:
    """Every run of a hook is closed, and none began before the one before it was over."""
    rows = connection.execute(select(t.runs)).all()
    for row in rows:
        if row.ended_at is None:
            yield f"{row.stage} of {row.pool}/{row.resource} for {row.lease} never ended"
    touching = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        for resource, epoch in _touched(connection, row):
            touching[row.pool, resource].append((row, epoch))
    for (pool, resource), of_one in touching.items():
        for (before, old), (after, new) in pairwise(of_one):
            if (before.ended_at is not None and before.ended_at > after.started_at) or old > new:
                yield f"{after.stage} (epoch {new}) ran beside {before.stage} (epoch {old}): {pool}/{resource}"


def _touched(connection: Connection, run: Row[Any]) -> list[tuple[str, int]]:
    """What a run was for, with the epochs: one resource, or of its pool all that its lease had when it began."""
    if run.resource != t.LEASE_WIDE:
        return [(run.resource, run.epoch)]
    grants = connection.execute(select(t.grants).where(t.grants.c.lease == run.lease, t.grants.c.pool == run.pool))
    had = [g for g in grants if g.granted_at <= run.started_at and (g.closed_at or run.started_at) >= run.started_at]
    return [(grant.resource, grant.epoch) for grant in had]


def _slots(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(t.slots)):
        yield f"{row.workflow} still has or wants a slot of {row.limiter}"


def _expected(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(t.heartbeats)):
        yield f"a heartbeat of {row.lease} is still expected"


def _commands(connection: Connection) -> Iterator[str]:
    """Every command is over with its lease; none was taken up twice for one attempt, and each has ended once."""
    events = connection.execute(select(t.events).where(t.events.c.kind.in_(("command_started", "command_ended"))))
    told = Counter((event.lease, event.kind, event.data.get("attempt")) for event in events)
    for (lease, kind, attempt), times in told.items():
        if times > 1:
            yield f"{kind} came {times} times of lease {lease}, attempt {attempt}"
    query = select(t.commands).join(t.leases, t.leases.c.id == t.commands.c.lease)
    for row in connection.execute(query.where(t.leases.c.state == LeaseState.ENDED)):
        if row.state != CommandState.ENDED or row.ended_at is None or row.ending is None:
            yield f"lease {row.lease} has ended, and its command is {row.state} on {row.runs_on}"
        elif (row.lease, "command_ended", None) not in told:
            yield f"no event tells that the command of lease {row.lease} has ended"


def _envelopes(connection: Connection) -> Iterator[str]:
    query = select(t.envelopes).join(t.leases, t.leases.c.id == t.envelopes.c.lease)
    for row in connection.execute(query.where(t.leases.c.state == LeaseState.ENDED)):
        if row.env or row.secrets is None:
            yield f"the environment of the command of lease {row.lease} is still kept"


def _messages(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(t.outbox).where(t.outbox.c.delivered_at.is_(None))):
        yield f"a message was never delivered: {row.kind} for {row.lease}"
