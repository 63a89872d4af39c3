"""Rebuilding: what must be written so that the records say what the workflows know. Pure.

A database that was restored from an older copy has forgotten leases and grants, and believes in others that are long
over. The workflows that run know better: of each resource, whoever names it at the highest epoch has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from leasehold import healing
from leasehold.healing import DeadRecycling
from leasehold.holdings import Holding, Key
from leasehold.messages import LeaseView, SubmitLease
from leasehold.model import OVER, LeaseState, Outcome, ResourceState

SETTLED = timedelta(minutes=1)
"""How old a grant must be before its workflow's not naming it means anything."""

_HOLDING = frozenset({LeaseState.PREPARING, LeaseState.ACTIVE})
_ADMITTED = frozenset({LeaseState.QUEUED, *_HOLDING, LeaseState.RELEASING})


@dataclass(frozen=True, kw_only=True)
class Told:
    """What Temporal tells of a lease's workflow.

    `how` it was closed, None if it runs. `view` is None where it did not answer, `request` where nobody needed it.
    """

    run_id: str = ""
    started_at: datetime
    how: str | None = None
    closed_at: datetime | None = None
    outcome: Outcome | None = None
    view: LeaseView | None = None
    request: SubmitLease | None = None


@dataclass(frozen=True, kw_only=True)
class Census:
    """What Temporal tells of all that matters here, `taken_at` by the database's clock.

    `lost` are the leases in the records whose workflows it does not know.
    """

    taken_at: datetime
    leases: Mapping[str, Told] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    recyclings: frozenset[Holding] = frozenset()
    dead_recyclings: tuple[DeadRecycling, ...] = ()
    unsettled: frozenset[str] = frozenset()

    def without(self, leases: Collection[str]) -> Census:
        """The same, but for leases that were on the move, so that what was told of them means nothing."""
        return replace(
            self,
            leases={lease: told for lease, told in self.leases.items() if lease not in leases},
            lost=self.lost.difference(leases),
            unsettled=self.unsettled.union(leases),
        )


@dataclass(frozen=True, kw_only=True)
class Suspension:
    """Why nothing is granted, since when, and when the copy was made that the database was restored from."""

    reason: str
    since: datetime
    copied_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A lease as the database has it."""

    number: int
    state: LeaseState
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Grant:
    """An open grant as the database has it."""

    lease: str
    holding: Holding
    granted_at: datetime


@dataclass(frozen=True, kw_only=True)
class Place:
    """A resource as the database has it; `used` is the last epoch at which anybody had it, or ran anything on it."""

    state: ResourceState
    epoch: int
    used: int = 0


@dataclass(frozen=True, kw_only=True)
class Books:
    """What the database has: the records that are open or were asked for, all open grants, all resources."""

    records: Mapping[str, Record] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()
    places: Mapping[Key, Place] = field(default_factory=dict)
    making: frozenset[str] = frozenset()
    """The pools that make their resources: what they have made since may be in no record."""

    def of(self, lease: str) -> tuple[Record | None, frozenset[Holding]]:
        """All that it has of one lease."""
        return self.records.get(lease), frozenset(g.holding for g in self.grants if g.lease == lease)


class Action(StrEnum):
    """What is written, in this order."""

    RECORD = "record"
    CLOSE_GRANT = "close_grant"
    REGISTER = "register"
    GRANT = "grant"
    PAST_GRANT = "past_grant"
    ADOPT_RECYCLING = "adopt_recycling"
    MOVE = "move"
    GIVE_BACK = "give_back"
    END = "end"
    QUARANTINE = "quarantine"
    RECYCLE = "recycle"
    NUDGE = "nudge"
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to write, or, with the last two actions, to tell a workflow."""

    action: Action
    detail: str
    lease: str | None = None
    holding: Holding | None = None
    state: LeaseState | None = None
    outcome: Outcome | None = None
    code: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything to write, and what keeps the records from being whole."""

    steps: tuple[Step, ...]
    problems: tuple[str, ...]
    lost: str | None = None

    @property
    def leases(self) -> set[str]:
        """The leases that something is to be done for."""
        return {step.lease for step in self.steps if step.lease is not None}


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What was done, or would be; `unsettled` are leases that moved meanwhile. `suspended`: why nothing is granted.

    Nothing is granted as long as there are `problems`; what is `lost` waits for an operator without that.
    """

    steps: tuple[Step, ...]
    problems: tuple[str, ...]
    lost: str | None
    unsettled: tuple[str, ...]
    suspended: str | None


def plan(census: Census, books: Books, *, accept_lost: bool = False) -> Plan:
    """Compare what the workflows tell with what the database has."""
    return _Planner(census, books, accept_lost).plan()


class _Planner:
    """One comparison."""

    def __init__(self, census: Census, books: Books, accept_lost: bool) -> None:
        self._census = census
        self._books = books
        self._accept_lost = accept_lost
        self._steps: list[Step] = []
        self._problems: list[str] = []
        self._claims: dict[Key, list[tuple[int, str | None]]] = defaultdict(list)
        self._past: list[tuple[str, Holding]] = []
        self._given_back: list[Grant] = []
        self._robbed: dict[str, Holding] = {}
        self._open = {grant.holding.key: grant for grant in books.grants}
        self._grants: dict[str, list[Grant]] = defaultdict(list)
        for grant in books.grants:
            self._grants[grant.lease].append(grant)

    def plan(self) -> Plan:
        for lease, told in self._census.leases.items():
            self._hear(lease, told)
        for grant in self._books.grants:
            if grant.lease not in self._census.leases and grant.lease not in self._census.lost:
                self._claim(grant.lease, grant.holding)
        for holding in self._census.recyclings:
            self._claim(None, holding)
        for key, claims in self._claims.items():
            self._settle(key, max(claims, key=lambda claim: claim[0]), claims)
        for lease, told in self._census.leases.items():
            self._set_right(lease, told)
        self._clean_up()
        lost = self._count_lost()
        ordered = sorted(self._steps, key=lambda step: list(Action).index(step.action))
        return Plan(steps=tuple(ordered), problems=tuple(self._problems), lost=lost)

    def _do(self, action: Action, detail: str, **more: object) -> None:
        self._steps.append(Step(action=action, detail=detail, **more))  # type: ignore[arg-type]

    # Who has what

    def _claim(self, lease: str | None, holding: Holding) -> None:
        self._claims[holding.key].append((holding.epoch, lease))

    def _hear(self, lease: str, told: Told) -> None:
        """Take down what a workflow has, or had."""
        record, view = self._books.records.get(lease), told.view
        named = [Holding(pool=r.pool, resource=r.resource, epoch=r.epoch) for r in view.resources] if view else []
        if told.how is not None or (view is not None and view.state in OVER):
            self._past += [(lease, holding) for holding in named]
            return
        if record is not None and record.state in OVER:
            return
        if view is None:
            self._problems.append(f"the workflow of {self._name(lease)} does not answer")
        holds = view is not None and view.state in _HOLDING
        for holding in named if holds else ():
            self._claim(lease, holding)
        for grant in self._grants[lease]:
            if grant.holding in named and holds:
                continue
            if holds and grant.granted_at < self._census.taken_at - SETTLED:
                self._given_back.append(grant)
            else:
                # The workflow does not know of it yet.
                self._claim(lease, grant.holding)

    def _settle(self, key: Key, top: tuple[int, str | None], claims: list[tuple[int, str | None]]) -> None:
        """Give a resource to whoever names it at the highest epoch."""
        epoch, lease = top
        holding = Holding(pool=key[0], resource=key[1], epoch=epoch)
        place, grant = self._books.places.get(key), self._open.get(key)
        if place is None and lease is not None and key[0] in self._books.making:
            self._do(Action.REGISTER, "its pool has made it", lease=lease, holding=holding)
            place = Place(state=ResourceState.FREE, epoch=0)
        if place is None:
            self._problems += [
                f"{holding} is held by {self._name(holder)}, and is in no pool: apply the pools file that has it"
                for _, holder in claims
                if holder is not None
            ]
            return
        losers = [loser for _, loser in claims if loser is not None and loser != lease]
        if unheard := [loser for loser in losers if loser not in self._census.leases]:
            self._problems.append(f"{holding} is held by {self._name(unheard[0])} too, which is on the move")
            return
        self._robbed |= dict.fromkeys(losers, holding)
        if grant is not None and (grant.lease, grant.holding) == (lease, holding):
            return
        if place.used > epoch or (place.epoch > epoch and place.state is not ResourceState.FREE):
            # It has gone on to somebody else, who is not there any more either.
            if lease is not None:
                self._robbed[lease] = holding
            return
        if lease is None and (place.used >= epoch or (place.state, place.epoch) == (ResourceState.RECYCLING, epoch)):
            # The database knows of it: it goes on, or has come to its end since Temporal listed it as running.
            return
        if grant is not None:
            self._do(Action.CLOSE_GRANT, "somebody has it since", lease=grant.lease, holding=grant.holding)
        if lease is None:
            self._do(Action.ADOPT_RECYCLING, "its recycling runs", holding=holding)
        else:
            self._do(Action.GRANT, "its workflow has it", lease=lease, holding=holding)

    # Where each lease is

    def _set_right(self, lease: str, told: Told) -> None:
        record = self._books.records.get(lease)
        if told.how is not None:
            self._set_dead(lease, told, record)
        elif told.view is not None:
            self._set_live(lease, told.view, record)
        if lease in self._robbed and told.how is None:
            lost = self._robbed[lease]
            self._do(
                Action.END, f"{lost} went to somebody else", lease=lease, outcome=Outcome.FAILED, code="grant_lost"
            )
            self._do(Action.CANCEL, f"{lost} went to somebody else", lease=lease)

    def _set_live(self, lease: str, view: LeaseView, record: Record | None) -> None:
        if view.state not in _ADMITTED:
            return
        state = LeaseState(view.state)
        if record is None:
            self._do(Action.RECORD, f"its workflow is {state}", lease=lease)
        elif record.state in OVER:
            if state is not LeaseState.RELEASING:
                self._do(Action.CANCEL, f"the record is {record.state}, the workflow {state}", lease=lease)
            return
        before = record.state if record else LeaseState.QUEUED
        if state is LeaseState.RELEASING:
            self._set_releasing(lease, view, before)
        elif state is LeaseState.ACTIVE:
            self._set_active(lease, view, record)
        elif state is LeaseState.PREPARING and before is LeaseState.QUEUED:
            self._do(Action.MOVE, "its workflow is preparing", lease=lease, state=state)
        elif state is LeaseState.QUEUED and before is not state:
            self._do(Action.NUDGE, f"the record is {before}, the workflow waits", lease=lease)

    def _set_active(self, lease: str, view: LeaseView, record: Record | None) -> None:
        if record and (record.state, record.expires_at) == (LeaseState.ACTIVE, view.expires_at):
            return
        detail = f"its workflow is active until {view.expires_at}"
        self._do(Action.MOVE, detail, lease=lease, state=LeaseState.ACTIVE, expires_at=view.expires_at)

    def _set_releasing(self, lease: str, view: LeaseView, before: LeaseState) -> None:
        if before is LeaseState.QUEUED:
            self._do(Action.MOVE, "it was granted", lease=lease, state=LeaseState.PREPARING)
        outcome = Outcome.RELEASED if view.expires_at else Outcome.CANCELLED
        self._do(Action.GIVE_BACK, "its workflow is releasing", lease=lease, outcome=outcome)

    def _set_dead(self, lease: str, told: Told, record: Record | None) -> None:
        how = f"its workflow is {told.how}"
        if record is None:
            if told.request is None or told.view is None or told.view.state == "refused":
                return
            self._do(Action.RECORD, how, lease=lease)
            for resource in told.view.resources:
                held = Holding(pool=resource.pool, resource=resource.resource, epoch=resource.epoch)
                self._do(Action.PAST_GRANT, how, lease=lease, holding=held)
            outcome = told.outcome or Outcome.FAILED
            self._do(Action.MOVE, how, lease=lease, state=LeaseState.ENDED, outcome=outcome)
        elif record.state is not LeaseState.ENDED:
            outcome = told.outcome or Outcome.FAILED
            code = "workflow_gone" if outcome is Outcome.FAILED else None
            self._do(Action.END, how, lease=lease, outcome=outcome, code=code)

    # What nobody has any more

    def _clean_up(self) -> None:
        for grant in self._given_back:
            if grant.holding.key not in self._claims:
                detail = f"{self._name(grant.lease)} has it no more"
                self._do(Action.CLOSE_GRANT, detail, lease=grant.lease, holding=grant.holding)
                self._do(Action.RECYCLE, detail, lease=grant.lease, holding=grant.holding)
        newest: dict[Key, tuple[str, Holding]] = {}
        for lease, holding in self._past:
            if holding.key not in newest or newest[holding.key][1].epoch < holding.epoch:
                newest[holding.key] = (lease, holding)
        for key, (lease, holding) in newest.items():
            place = self._books.places.get(key)
            if place is None or key in self._claims or place.state is not ResourceState.FREE:
                continue
            if place.epoch < holding.epoch:
                # Whether it was cleaned since, nobody knows.
                self._do(Action.RECYCLE, f"{self._name(lease)} had it", lease=lease, holding=holding)
        for dead in self._census.dead_recyclings:
            if dead.how is not None and (dead.pool, dead.resource) not in self._claims:
                holding = Holding(pool=dead.pool, resource=dead.resource, epoch=dead.epoch)
                self._do(Action.RECYCLE, f"its recycling is {dead.how}", holding=holding)

    def _count_lost(self) -> str | None:
        """End what Temporal does not know, unless there is too much of it."""
        leases = sorted(self._census.lost & self._books.records.keys(), key=lambda one: self._books.records[one].number)
        leases = [lease for lease in leases if self._books.records[lease].state is not LeaseState.ENDED]
        recyclings = [
            dead
            for dead in self._census.dead_recyclings
            if dead.how is None and (dead.pool, dead.resource) not in self._claims
        ]
        if len(leases) + len(recyclings) > healing.MOST_LOST and not self._accept_lost:
            return healing.lost([self._books.records[lease].number for lease in leases], recyclings)
        unknown = "Temporal does not know its workflow"
        for lease in leases:
            self._do(Action.END, unknown, lease=lease, outcome=Outcome.FAILED, code="workflow_lost")
        for dead in recyclings:
            holding = Holding(pool=dead.pool, resource=dead.resource, epoch=dead.epoch)
            self._do(Action.QUARANTINE, "Temporal does not know its recycling", holding=holding)
        return None

    def _name(self, lease: str) -> str:
        record = self._books.records.get(lease)
        return f"lease {record.number}" if record else f"lease {lease}"
