"""Healing: what a sweep finds, what may be done about it, and the messages of its workflow. Pure.

A sweep compares the records with the workflows that should stand behind them. What it finds is judged here, as a whole
and before anything is done: what looks like a handful of dead workflows in one pass, and like hundreds in another, is
not the same trouble.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from leasehold.holdings import RECYCLE, Holding

MOST_LOST = 5
"""How many workflows Temporal may not know in one pass; with more of them it is Temporal that is lost, not they."""

MOST_HEALED = 500
"""How many leases, and how many resources, one pass heals at most; the rest is for the next one."""

TELL_EVERY = 10
"""In which of its passes the sweep tells a workflow that its lease is over: each time adds to its history."""

LOOK_AFTER = 6
"""After how many times `lingers_s` somebody should look at a workflow that goes on."""

SAMPLE = 60
"""The part of the workflows that Temporal lists as running, one in so many, that a pass asks for all the same."""

_NAMED = 3


class AlertKey(StrEnum):
    """What can stand until somebody has seen to it."""

    TEMPORAL_CHANGED = "temporal_changed"
    DATABASE_OLDER = "database_older"
    WORKFLOWS_LOST = "workflows_lost"
    OUTBOX_STUCK = "outbox_stuck"
    RECORDS_DISAGREE = "records_disagree"
    LEASES_LINGER = "leases_linger"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which Temporal it is: the ids of its cluster and of the namespace; empty where Temporal does not tell."""

    cluster: str
    namespace: str

    def differs(self, known: Identity) -> bool:
        """Whether this is surely another one."""
        pairs = ((self.cluster, known.cluster), (self.namespace, known.namespace))
        return any(mine and theirs and mine != theirs for mine, theirs in pairs)

    def __str__(self) -> str:
        return f"cluster {self.cluster or 'unknown'}, namespace {self.namespace or 'unknown'}"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How far the sweep has come, and the number of the newest lease then.

    The database and Temporal each keep one: a database that is behind was restored from an older copy.
    """

    passes: int
    number: int


@dataclass(frozen=True, kw_only=True)
class SweepOrder:
    """How long a workflow must be closed before its lease is ended (`grace_s`), so that its hooks are gone too.

    `patience_s` is how long a message may take, and `lingers_s` how long a workflow may outlive its lease's record.
    """

    grace_s: float = 40.0
    patience_s: float = 60.0
    lingers_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class OpenPass:
    """Begin a pass; `previous` is the mark that Temporal kept of the last one."""

    previous: Mark | None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """How things stand at the beginning of a pass. `hourly`: it is the first one of its hour."""

    passes: int
    hourly: bool = False
    changed: str | None = None
    suspended: str | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Look at everything that depends on a workflow; `now` is Temporal's time."""

    now: datetime
    turn: int
    order: SweepOrder


@dataclass(frozen=True, kw_only=True)
class DeadLease:
    """A lease whose workflow is closed, which is `how`, or which Temporal does not know."""

    lease: str
    number: int
    how: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeadRecycling:
    """A resource whose recycling is closed without having freed it, or which Temporal does not know.

    Or whose creation or deletion, as `errand` says.
    """

    pool: str
    resource: str
    epoch: int
    how: str | None = None
    errand: str = RECYCLE

    @property
    def holding(self) -> Holding:
        """In whose hands it was."""
        return Holding(pool=self.pool, resource=self.resource, epoch=self.epoch, errand=self.errand)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a survey found. `older` says what shows that the database is older than the workflows."""

    leases: int = 0
    calls: int = 0
    dead: tuple[DeadLease, ...] = ()
    recyclings: tuple[DeadRecycling, ...] = ()
    unaware: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()
    unending: tuple[str, ...] = ()
    older: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Heal:
    """A part of what was found, to be put right."""

    dead: tuple[DeadLease, ...] = ()
    recyclings: tuple[DeadRecycling, ...] = ()
    unaware: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClosePass:
    """Write down how a pass went. Of `alerts`, those with a detail stand from now on and the others do not."""

    passes: int
    patience_s: float
    hourly: bool
    suspend: str | None
    alerts: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """A pass in figures, and the mark for the next one. `alerts` are those that stand after it."""

    mark: Mark
    leases: int = 0
    calls: int = 0
    healed: int = 0
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be done after a survey: all that was found is put right, or nothing."""

    heal: bool
    suspend: str | None
    alerts: Mapping[str, str | None]


def judge(opened: Opened, found: Findings | None) -> Verdict:
    """Decide over a pass as a whole; `found` is None where nothing was surveyed."""
    alerts: dict[str, str | None] = {AlertKey.TEMPORAL_CHANGED: opened.changed}
    if found is None:
        return Verdict(heal=False, suspend=None, alerts=alerts)
    suspend = None
    if found.older:
        suspend = f"the database is older than what runs: {some(found.older)}"
    leases = [lease.number for lease in found.dead if lease.how is None]
    recyclings = [one for one in found.recyclings if one.how is None]
    too_many = None
    if len(leases) + len(recyclings) > MOST_LOST:
        too_many = lost(leases, recyclings)
    alerts[AlertKey.WORKFLOWS_LOST] = too_many
    alerts[AlertKey.LEASES_LINGER] = None
    if found.unending:
        alerts[AlertKey.LEASES_LINGER] = (
            f"long over in the record, while the workflow goes on: {some(found.unending)}. Look at it in Temporal's UI,"
            " and terminate it there if it is stuck"
        )
    return Verdict(heal=suspend is None and too_many is None, suspend=suspend, alerts=alerts)


def lost(leases: Sequence[int], recyclings: Sequence[DeadRecycling]) -> str:
    """What an operator is told where Temporal does not know too much at once: leases by number, and recyclings."""
    names = [*(f"lease {number}" for number in leases), *(f"{r.pool}/{r.resource}" for r in recyclings)]
    return (
        f"Temporal knows no workflow of {len(leases)} leases and {len(recyclings)} recyclings ({some(names)}). More"
        f" than {MOST_LOST} at once mean a wrong namespace or lost data, so nothing is ended or freed. If they are lost"
        " for good: leasehold reconcile --accept-lost"
    )


def changed(now: Identity, known: Identity) -> str:
    """What an operator is told of another Temporal than before."""
    return (
        f"this is another Temporal than before ({now}; it was {known}): nothing is ended or freed. Point the service"
        " at the right one, or accept this one: leasehold reconcile --accept-identity"
    )


def behind(database: Mark | None, temporal: Mark) -> str | None:
    """What shows by the marks alone that the database was restored from an older copy, if anything does."""
    passes = database.passes if database else 0
    if passes >= temporal.passes:
        return None
    return f"the database is older than what runs: it is at pass {passes} of the sweep, Temporal at {temporal.passes}"


def parts(found: Findings, size: int = 50) -> Iterator[Heal]:
    """What is to be put right, in parts of `size`: none of them takes long."""
    dead, recyclings = found.dead[:MOST_HEALED], found.recyclings[:MOST_HEALED]
    signals = max(len(found.unaware), len(found.lingering))
    for at in range(0, max(len(dead), len(recyclings), signals), size):
        here = slice(at, at + size)
        yield Heal(
            dead=dead[here],
            recyclings=recyclings[here],
            unaware=found.unaware[here],
            lingering=found.lingering[here],
        )


def some(names: Sequence[str]) -> str:
    """A few of them, and how many more there are."""
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, kw_only=True)
class ReconcileOrder:
    """Rebuild the records from what runs; `dry_run` only tells what would be written."""

    actor: str
    dry_run: bool = False
    accept_identity: bool = False
    accept_lost: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportedStep:
    """One thing that was written, or would be."""

    action: str
    detail: str
    lease: str | None = None
    pool: str | None = None
    resource: str | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What a reconciliation did: the first of its steps, and how many `more` there were.

    `problems` are what it could not put right; `suspended` is why nothing is granted after it, if that is so.
    """

    dry_run: bool
    leases: int
    recyclings: int
    steps: tuple[ReportedStep, ...]
    more: int
    problems: tuple[str, ...]
    suspended: str | None
