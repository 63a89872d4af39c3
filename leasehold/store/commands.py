"""Commands of leases: admitted, given to a runner, taken up at most once, and ended with their lease."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from leasehold import durations
from leasehold.commands import (
    ADMINS_ONLY,
    DUPLICATE_OF,
    RESERVED,
    Begun,
    Command,
    CommandEnding,
    CommandPolicy,
    CommandRule,
    CommandSpec,
    CommandState,
    Misfit,
    account_of,
    filled,
    home_of,
)
from leasehold.errors import (
    CommandBegun,
    CommandOver,
    CommandRefused,
    Duplicate,
    DurationRefused,
    Fault,
    LeaseUnknown,
)
from leasehold.messages import (
    AfterLoss,
    CommandLost,
    CommandReport,
    PlaceCommand,
    Placement,
    SubmitLease,
)
from leasehold.model import LONGEST, LeaseState, Outcome
from leasehold.ports import CommandFilter, OutputOf
from leasehold.store import catalogue, envelopes, events, outbox, runners, specs
from leasehold.store import tables as t
from leasehold.store.engine import Tx

COMMAND_STARTED = "command_started"
"""The event that says which runner took up which attempt."""

_SPEC = TypeAdapter(CommandSpec)
_C = t.commands.c
_ROW = select(t.commands).where(_C.lease == bindparam("lease"))
_CHANGE = update(t.commands).where(_C.lease == bindparam("lease_"))
_ADD = insert(t.commands).inline()
_TWIN = (
    select(_C.lease, t.leases.c.number)
    .join(t.leases, t.leases.c.id == _C.lease)
    .where(_C.same == bindparam("same"), _C.ended_at.is_(None), t.leases.c.ended_at.is_(None))
    .order_by(t.leases.c.number)
    .limit(1)
)
_LONGEST_VARIABLE = 128 * 1024
"""Linux refuses to start a program with a longer one (MAX_ARG_STRLEN, with name and final NUL)."""

HELD = "held: its priority is negative, so it waits until it is withdrawn"


# Requests


def check(tx: Tx, request: SubmitLease, *, again: bool = False) -> Mapping[str, Any]:
    """What is recorded of a request's command, in the pool's words of today.

    Raises `CommandRefused` where no rule lets it run, `Duplicate` where it is there already and one is enough; not if
    it was admitted before, and comes `again`: whether it may run is asked once more when it begins.
    """
    command = request.command
    assert command is not None
    pool = home_of(request.items[0].pool)
    policy = policy_of(tx.connection, pool)
    rule = policy.rule_for(request.owner, command) if again else _rule(policy, pool, request.owner, command)
    if policy.runner and command.runner not in {None, policy.runner} and not again:
        detail = f"pool {pool} has its commands run on {policy.runner}, and not on {command.runner}"
        raise CommandRefused(detail, [Fault(path="command.runner", code="not_allowed", detail=detail)])
    same = _same(request, command, pool)
    if command.unique and not again and (twin := tx.execute(_TWIN, {"same": same}).one_or_none()) is not None:
        raise duplicate_of(twin.lease, twin.number)
    return {
        "spec": asdict(command),
        "line": command.line,
        "folder": command.folder,
        "same": same,
        "pool": pool,
        "account": account_of(rule, request.owner) if rule else None,
        "runner": policy.runner or command.runner,
        "labels": sorted({*command.labels, *policy.labels}),
        "timeout_s": _timeout_s(policy, command, again=again),
        "grace_s": policy.grace.total_seconds(),
        "output_limit": policy.output,
        "state": CommandState.WAITING,
        "attempt": 1,
        "losses": 0,
    }


def duplicate_of(lease: str, number: int) -> Duplicate:
    """The error that names the lease that a request repeats."""
    return Duplicate(
        f"the same command is there already, as lease {number}",
        [Fault(path="command", code=DUPLICATE_OF, detail=lease)],
    )


def policy_of(connection: Connection, pool: str) -> CommandPolicy:
    """What the settings of a pool in force say of commands."""
    found = catalogue.current(connection).in_force.get(pool)
    return (found[1].commands if found else None) or ADMINS_ONLY


def _rule(policy: CommandPolicy, pool: str, owner: str, command: CommandSpec) -> CommandRule:
    """The rule by which a command runs; raise `CommandRefused` where it may not."""
    rule = policy.rule_for(owner, command)
    if rule is None:
        detail = f"no rule of pool {pool} lets {owner}, as {command.role}, run {command.line[:200]}"
        nearest = max((one.misfit(owner, command) or 0 for one in policy.rules), default=0)
        if nearest == Misfit.FOLDER:
            detail += f" in {command.folder or 'a fresh folder'}"
        elif nearest == Misfit.VARIABLES:
            detail += f" with {', '.join(command.variables)[:200]} set"
        raise CommandRefused(detail, [Fault(path="command", code="not_allowed", detail=detail)])
    return rule


def _timeout_s(policy: CommandPolicy, command: CommandSpec, *, again: bool) -> float | None:
    wanted = durations.parse(command.timeout) if command.timeout else None
    if not again and wanted is not None and policy.timeout is not None and wanted > policy.timeout:
        detail = (
            f"{command.timeout} is longer than the {durations.render(policy.timeout)} that the pool's commands have"
        )
        raise DurationRefused(detail, [Fault(path="command.timeout", code="too_long", detail=detail)])
    chosen = wanted or policy.timeout
    return None if chosen is None else chosen.total_seconds()


def _same(request: SubmitLease, command: CommandSpec, pool: str) -> str:
    return specs.digest([request.owner, list(command.argv), command.shell, command.folder, pool])


def add(tx: Tx, lease: str, about: Mapping[str, Any]) -> None:
    """Record the command of a lease that is admitted."""
    tx.write(_ADD, {"lease": lease, **about})


def wanted_duration(command: CommandSpec, limit: timedelta) -> timedelta:
    """How long the lease of a command lasts that says nothing of it: it ends with the command."""
    if command.timeout is None:
        return limit
    return min(limit, durations.parse(command.timeout) + _SLACK)


def needed_until(tx: Tx, lease: Row[Any]) -> datetime | None:
    """Until when a lease lasts that is as long as its command may run: each attempt has all of that, however late.

    None of a lease whose length was asked for, and of one without such a command.
    """
    row = _row(tx, lease.id)
    if row is None or row.ended_at is not None or row.timeout_s is None:
        return None
    needed = timedelta(seconds=row.timeout_s) + _SLACK
    if lease.duration_s != needed.total_seconds():
        return None
    begun: datetime = row.begun_at or tx.now
    return begun + needed


_SLACK = timedelta(minutes=10)
"""What the lease of a command lasts beyond that: time to find a runner, and to stop it."""


# Runners


def place(tx: Tx, order: PlaceCommand) -> Placement:
    """Find a runner for a command, or have it wait for one; asked again, tell which it is by now."""
    row = _known(tx, order.lease)
    if row.state == CommandState.ENDED:
        return Placement(over=True)
    if row.attempt < order.attempt or (row.begun_at is not None and row.runs_on is None):
        # Only a database that was restored from an older copy is behind the lease's workflow, which has not begun it.
        _change(tx, order.lease, {**_anew(order.attempt), "started_at": row.started_at if row.losses else None})
        row = _known(tx, order.lease)
    if row.attempt == order.attempt and row.begun_at is not None:
        # Its workflow was reset, to before it was told so.
        return Placement(runner=row.runs_on, attempt=row.attempt, begun=True)
    if row.attempt == order.attempt:
        if row.state == CommandState.WAITING and row.wanted_at is None:
            _change(tx, order.lease, {"wanted_at": tx.now})
        runners.serve(tx, asking=order.lease, besides=order.missed)
        row = _known(tx, order.lease)
    timeout_s = LONGEST.total_seconds() if row.timeout_s is None else row.timeout_s
    found = row.runs_on if row.attempt == order.attempt and row.state != CommandState.WAITING else None
    return Placement(runner=found, attempt=row.attempt, timeout_s=timeout_s)


def begin(tx: Tx, runner: str, lease: str, instance: str, attempt: int) -> Begun:
    """Let a runner take a command up, once; what it is told is the same if the same process asks again.

    Raises `CommandOver` where it must not begin: it was given to another, has ended, or may not run any more;
    `CommandBegun` where another process has begun it.
    """
    row = _row(tx, lease)
    holder = tx.execute(_LEASE, {"lease": lease}).one_or_none()
    if row is None or holder is None or row.ended_at is not None or holder.state != LeaseState.ACTIVE:
        raise CommandOver("its lease is over, or not active")
    if row.runs_on != runner or row.attempt != attempt:
        raise CommandOver("it was given to another runner")
    if row.begun_at is not None and row.instance != instance:
        raise CommandBegun("another process of this runner has taken it up")
    command = _SPEC.validate_python(row.spec)
    try:
        rule = _rule(policy_of(tx.connection, row.pool), row.pool, holder.owner, command)
    except CommandRefused as error:
        raise CommandOver(error.detail) from None
    account = account_of(rule, holder.owner)
    if account != row.account:
        raise CommandOver(f"by the pool's rules it would run as {account or 'the runner'} now")
    if row.begun_at is None:
        started_at = row.started_at or tx.now
        changes = {"state": CommandState.RUNNING, "begun_at": tx.now, "instance": instance, "started_at": started_at}
        _change(tx, lease, changes)
        about = {"runner": runner, "attempt": attempt}
        events.record(tx, COMMAND_STARTED, lease=lease, pool=row.pool, actor=f"runner {runner}", data=about)
    return _told(tx, row, holder, command)


_LEASE = select(t.leases).where(t.leases.c.id == bindparam("lease"))
_HELD = (
    select(t.grants, t.resources.c.tags, t.resources.c.properties)
    .outerjoin(t.resources, (t.resources.c.pool == t.grants.c.pool) & (t.resources.c.name == t.grants.c.resource))
    # What was added while a runner was taking the command up may not be ready yet.
    .where(t.grants.c.lease == bindparam("lease"), t.grants.c.closed_at.is_(None), t.grants.c.ready_at.is_not(None))
    .order_by(t.grants.c.item, t.grants.c.id)
)


def _told(tx: Tx, row: Row[Any], lease: Row[Any], command: CommandSpec) -> Begun:
    held = tx.execute(_HELD, {"lease": lease.id}).all()
    first = [grant.resource for grant in held if grant.item == 0]
    pools: dict[str, list[str]] = {item.pool: [] for item in specs.items_from_json(lease.wanted) if item.pool}
    for grant in held:
        pools.setdefault(grant.pool, []).append(grant.resource)
    sealed = envelopes.of(tx.connection, lease.id)
    if not sealed.env.keys() >= set(command.variables) or bool(sealed.secrets) < command.secrets:
        # After a restore, or where no worker was there for very long. It may mean the world to the command.
        raise CommandOver("its environment is not known any more")
    # What an outer command was told is not true of one that it submits.
    given = {name: value for name, value in sealed.env.items() if not name.startswith(RESERVED)}
    secrets = {"LEASEHOLD_SECRETS": json.dumps(dict(sealed.secrets), ensure_ascii=False)} if sealed.secrets else {}
    return Begun(
        lease=lease.id,
        number=lease.number,
        owner=lease.owner,
        pool=row.pool,
        argv=filled(command.argv, first, pools),
        shell=command.shell,
        env={**given, **_environment(row, lease, held), **secrets},
        folder=command.folder,
        account=row.account,
        timeout_s=row.timeout_s,
        grace_s=row.grace_s,
        output_limit=row.output_limit,
        given=tuple(given),
    )


def _environment(row: Row[Any], lease: Row[Any], held: Sequence[Row[Any]]) -> dict[str, str]:
    """What a command is told of its lease, by our names and dci-queue's; what no variable can hold is left out."""
    names = [grant.resource for grant in held if grant.item == 0]
    number = str(lease.number)
    resources = [
        {
            "pool": grant.pool,
            "name": grant.resource,
            "role": grant.role,
            "item": grant.item,
            "tags": grant.tags or [],
            "properties": grant.properties or {},
        }
        for grant in held
    ]
    delivered = [
        {
            "pool": grant.pool,
            "name": grant.resource,
            "role": grant.role,
            "data_base64": b64encode(grant.data or b"").decode(),
        }
        for grant in held
    ]
    variables = {
        "LEASEHOLD_LEASE": lease.id,
        "LEASEHOLD_NUMBER": number,
        "LEASEHOLD_OWNER": lease.owner,
        "LEASEHOLD_POOL": row.pool,
        "LEASEHOLD_RESOURCE": ",".join(names),
        "LEASEHOLD_RESOURCES": json.dumps(resources, ensure_ascii=False),
        "LEASEHOLD_DELIVERY": json.dumps({"lease": lease.id, "resources": delivered}, ensure_ascii=False),
        "LEASEHOLD_ATTEMPT": str(row.attempt),
        "DCI_QUEUE": row.pool,
        "DCI_QUEUE_RES": ",".join(names),
        "DCI_QUEUE_ID": number,
        "DCI_QUEUE_JOBID": f"{row.pool}.{number}",
    }
    for place, grant in enumerate(held, 1):
        variables[f"DCI_QUEUE{place}"] = grant.pool
        variables[f"DCI_QUEUE_RES{place}"] = grant.resource
    return {name: value for name, value in variables.items() if len(name) + len(value.encode()) + 2 < _LONGEST_VARIABLE}


def may_use(tx: Tx, lease: Row[Any]) -> bool:
    """Whether a lease's command may be using what the lease has."""
    if not lease.commanded:
        return False
    row = _row(tx, lease.id)
    return row is not None and row.ended_at is None and row.runs_on is not None


def is_begun(tx: Tx, lease: str) -> bool:
    """Whether a runner has taken a lease's command up, and has not told of its end."""
    row = _row(tx, lease)
    return row is not None and row.begun_at is not None and row.ended_at is None


def is_gone(connection: Connection, lease: str, attempt: int) -> str | None:
    """Why the process that has an attempt of a lease's command is known to be no more, if it is."""
    row = connection.execute(select(_C.gone, _C.attempt).where(_C.lease == lease)).one_or_none()
    if row is None:
        return None
    if row.attempt > attempt:
        # Its loss is recorded, and a worker died before the lease's workflow knew of it.
        return "it was lost"
    gone: str | None = row.gone
    return gone


def lost(tx: Tx, order: CommandLost) -> AfterLoss:
    """What follows after nothing is heard of a command's runner any more; asked again, the answer is the same.

    One that was not taken up cannot be by now, and is tried anew; one that was, as often as its request allows.
    """
    row = _known(tx, order.lease)
    if row.ended_at is not None:
        return AfterLoss(again=False, report=_report(row))
    if row.attempt > order.attempt:
        return AfterLoss(again=True, attempt=row.attempt)
    if row.attempt < order.attempt:
        # Only a database that was restored from an older copy is behind: what it does not know may have run.
        return AfterLoss(again=False, report=CommandReport(ending=CommandEnding.LOST, detail=order.detail))
    command = _SPEC.validate_python(row.spec)
    begun = row.begun_at is not None
    losses = row.losses + begun
    if losses > command.retry or order.final:
        # It ends with its lease, which records it. One that was not taken up must not be until then.
        if not begun:
            _change(tx, order.lease, {"state": CommandState.WAITING, "runs_on": None})
        report = CommandReport(ending=CommandEnding.LOST, detail=order.detail) if begun else None
        return AfterLoss(again=False, report=report)
    about = {"runner": row.runs_on, "attempt": row.attempt, "started": begun}
    events.record(tx, "command_lost", lease=order.lease, pool=row.pool, reason=order.detail, data=about)
    _change(tx, order.lease, {**_anew(row.attempt + 1), "losses": losses, "reason": order.detail})
    runners.serve(tx)
    return AfterLoss(again=True, attempt=row.attempt + 1, missed=not begun)


def _anew(attempt: int) -> dict[str, Any]:
    """What changes of a command that is to be tried for the nth time."""
    nobody = dict.fromkeys(("wanted_at", "runs_on", "begun_at", "instance", "gone"))
    return {"state": CommandState.WAITING, "attempt": attempt, **nobody}


_FIRST_HELD = (
    select(t.grants.c.pool, t.grants.c.resource, t.grants.c.epoch)
    .where(t.grants.c.lease == bindparam("lease"), t.grants.c.item == 0)
    .order_by(t.grants.c.closed_at.is_not(None), t.grants.c.id)
    .limit(1)
)


def output_of(connection: Connection, runner: str, lease: str, attempt: int) -> OutputOf:
    """Of what the output is that a runner has; raise `CommandOver` where it never had this attempt of the command.

    Where the record may only be older than that, being restored from a copy: `LeaseUnknown`.
    """
    row = connection.execute(_ROW, {"lease": lease}).one_or_none()
    if row is None or _is_behind(row, runner, attempt):
        raise LeaseUnknown(f"nothing is known of attempt {attempt} of the command of lease {lease} yet")
    if not _had(connection, row, runner, attempt):
        raise CommandOver("this runner never had that command")
    held = connection.execute(_FIRST_HELD, {"lease": lease}).one_or_none()
    return OutputOf(
        lease=lease,
        attempt=attempt,
        pool=held.pool if held else row.pool,
        resource=held.resource if held else "",
        epoch=held.epoch if held else 0,
    )


_STARTS = select(t.events.c.data).where(t.events.c.lease == bindparam("lease"), t.events.c.kind == COMMAND_STARTED)


def _had(connection: Connection, row: Row[Any], runner: str, attempt: int) -> bool:
    """Whether a runner has this attempt of a command, or took it up when that was an earlier one."""
    if attempt == row.attempt:
        # Who has one that may have been begun before a restore nobody else knows.
        return bool(row.runs_on == runner or (row.runs_on is None and row.instance == _DOUBTED))
    starts = connection.execute(_STARTS, {"lease": row.lease}).scalars()
    return any((start["runner"], start["attempt"]) == (runner, attempt) for start in starts)


def _is_behind(row: Row[Any], runner: str, attempt: int) -> bool:
    """Whether a runner may have a command of which the record says that nobody has it yet."""
    if row.ended_at is not None:
        return False
    return bool(attempt > row.attempt or (attempt == row.attempt and row.begun_at is None and row.runs_on != runner))


_DOUBTED = ""
"""The instance of a command of which nobody knows whether it was begun, or by whom."""
_ACTIVE = select(t.leases.c.id).where(t.leases.c.state == LeaseState.ACTIVE)


def forgotten(tx: Tx, lease: str, outcome: Outcome) -> None:
    """Record that a lease's command is over, of which the records have forgotten how it ended."""
    why = "how it ended was lost with the records, which were restored from an older copy"
    end(tx, lease, CommandReport(ending=CommandEnding.LOST, detail=why), outcome, why)


def distrust(tx: Tx) -> None:
    """Take every command that may have been begun to be, in a database that was restored from an older copy.

    None of them is begun again: whoever has one tells how it ended, or it is lost. A workflow that has given it to
    nobody yet is told to ask again.
    """
    begun: dict[str, Any] = {"state": CommandState.RUNNING, "begun_at": tx.now, "started_at": tx.now}
    begun |= {"instance": _DOUBTED, "wanted_at": None}
    these = (_C.ended_at.is_(None), _C.begun_at.is_(None), _C.lease.in_(_ACTIVE))
    doubted = tx.execute(select(_C.lease).where(*these).order_by(_C.lease)).scalars().all()
    tx.execute(update(t.commands).where(_C.lease.in_(doubted)).values(begun))
    for lease in doubted:
        outbox.signal(tx, lease)


def end(tx: Tx, lease: str, report: CommandReport | None, outcome: Outcome, why: str | None) -> None:
    """Record how a lease's command ended, unless that is known; without a `report`, by how its lease ended."""
    row = _row(tx, lease)
    if row is None or row.ended_at is not None:
        return
    if report is None:
        report = _unreported(row, outcome, why)
    values = {
        "state": CommandState.ENDED,
        "ended_at": tx.now,
        "ending": report.ending,
        "code": report.code,
        "detail": report.detail,
        "output_bytes": report.output_bytes,
        "dropped": report.dropped,
        "reason": None,
        "wanted_at": None,
        # Of one that was run again an earlier attempt has started.
        "started_at": row.started_at if report.started or row.losses else None,
    }
    _change(tx, lease, values)
    about = {"result": report.ending, "code": report.code, "started": report.started}
    events.record(tx, "command_ended", lease=lease, pool=row.pool, reason=report.detail, data=about)
    envelopes.command_ended(tx, lease)
    runners.serve(tx)


_BY_OUTCOME = {
    Outcome.EXPIRED: (CommandEnding.TIMED_OUT, "its lease's time was up"),
    Outcome.CANCELLED: (CommandEnding.CANCELLED, "its lease was cancelled"),
    Outcome.RELEASED: (CommandEnding.CANCELLED, "its lease was given back"),
    Outcome.LOST: (CommandEnding.CANCELLED, "its lease was lost"),
    Outcome.FAILED: (CommandEnding.NOT_STARTED, "its lease failed"),
}


def _unreported(row: Row[Any], outcome: Outcome, why: str | None) -> CommandReport:
    """What is known of a command of which no runner has told."""
    if row.begun_at is not None:
        return CommandReport(ending=CommandEnding.LOST, detail="its lease ended, and its runner has not told of it")
    ending, detail = _BY_OUTCOME[outcome]
    return CommandReport(ending=ending, detail=f"{detail}: {why}" if why else detail, started=False)


def _report(row: Row[Any]) -> CommandReport:
    return CommandReport(
        ending=row.ending,
        code=row.code,
        detail=row.detail or "",
        started=row.started_at is not None,
        output_bytes=row.output_bytes,
        dropped=row.dropped,
    )


# Reading


def of(connection: Connection, leases: Collection[str]) -> dict[str, Command]:
    """The commands of these leases, of those that have one."""
    rows = connection.execute(select(t.commands).where(_C.lease.in_(leases))) if leases else ()
    return {row.lease: _command(row) for row in rows}


def _command(row: Row[Any]) -> Command:
    return Command(
        spec=_SPEC.validate_python(row.spec),
        account=row.account,
        state=CommandState(row.state),
        reason=row.reason,
        on=row.runs_on,
        attempt=row.attempt,
        started=row.started_at is not None,
        started_at=row.started_at,
        ended_at=row.ended_at,
        ending=CommandEnding(row.ending) if row.ending else None,
        code=row.code,
        detail=row.detail,
        output_limit=row.output_limit,
        output_bytes=row.output_bytes,
        dropped=row.dropped,
    )


def found(wanted: CommandFilter) -> Select[tuple[str]]:
    """The leases with a command that satisfies a filter."""
    query = select(_C.lease)
    if wanted.line is not None:
        query = query.where(_C.line == wanted.line)
    if wanted.like:
        # What SQLite's LIKE finds is not what PostgreSQL's does: it takes no notice of upper and lower case.
        query = query.where(func.replace(_C.line, wanted.like, "") != _C.line)
    if wanted.folder is not None:
        query = query.where(_C.folder == wanted.folder)
    return query


def queued(connection: Connection, pool: str, most: int = 1000) -> list[dict[str, Any]]:
    """What an `admit` hook is told of the commands that are there already, in a pool."""
    query = (
        select(_C.lease, _C.line, _C.folder, _C.state, t.leases.c.number, t.leases.c.owner, t.leases.c.priority)
        .join(t.leases, t.leases.c.id == _C.lease)
        .where(_C.pool == pool, _C.ended_at.is_(None))
        .order_by(t.leases.c.priority.desc(), t.leases.c.number)
        .limit(most)
    )
    return [
        {
            "id": row.lease,
            "number": row.number,
            "owner": row.owner,
            "priority": row.priority,
            "state": row.state,
            "line": row.line,
            "folder": row.folder,
        }
        for row in connection.execute(query)
    ]


def merged_into(connection: Connection, ref: str, pool: str | None) -> tuple[str, int] | None:
    """Id and number of the lease with a queued or running command of this pool that a reference names."""
    this = t.leases.c.number == int(ref) if ref.isascii() and ref.isdecimal() and len(ref) < 19 else _C.lease == ref
    query = select(_C.lease, t.leases.c.number).join(t.leases, t.leases.c.id == _C.lease)
    row = connection.execute(query.where(this, _C.pool == pool, _C.ended_at.is_(None))).one_or_none()
    return None if row is None else (row.lease, row.number)


def _row(tx: Tx, lease: str) -> Any:
    return tx.execute(_ROW, {"lease": lease}).one_or_none()


def _known(tx: Tx, lease: str) -> Any:
    """The command of a lease; raise `LeaseUnknown` where the record was restored from a copy without it."""
    row = _row(tx, lease)
    if row is None:
        raise LeaseUnknown(f"there is no command of lease {lease}")
    return row


def _change(tx: Tx, lease: str, values: Mapping[str, Any]) -> None:
    tx.write(_CHANGE, {"lease_": lease, **values})
