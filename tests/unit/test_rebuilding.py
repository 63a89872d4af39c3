"""What is written so that the records say what the workflows know: pure, for each way in which they can disagree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from leasehold.healing import DeadRecycling
from leasehold.holdings import Holding
from leasehold.messages import LeaseView, ResourceView, SubmitLease
from leasehold.model import LeaseState, Outcome, ResourceState
from leasehold.rebuilding import Books, Census, Grant, Place, Plan, Record, Told, plan

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
LATER = NOW + timedelta(hours=1)
REQUEST = SubmitLease(lease="a", principal="t", owner="t", digest="", items=())


def at(resource: str, epoch: int) -> Holding:
    return Holding(pool="p", resource=resource, epoch=epoch)


def view(state: str, *named: Holding, expires_at: datetime | None = None) -> LeaseView:
    resources = tuple(ResourceView(pool=h.pool, resource=h.resource, epoch=h.epoch) for h in named)
    return LeaseView(state=state, expires_at=expires_at, resources=resources)


def runs(said: LeaseView | None) -> Told:
    return Told(started_at=EARLIER, view=said, request=REQUEST)


def closed(how: str, *had: Holding, outcome: Outcome | None = None) -> Told:
    said = view("ended", *had)
    return Told(started_at=EARLIER, how=how, closed_at=NOW, outcome=outcome, view=said, request=REQUEST)


def books(
    records: dict[str, str] | None = None,
    grants: dict[str, Holding] | None = None,
    places: dict[str, Place] | None = None,
    granted_at: datetime = EARLIER,
) -> Books:
    found = {
        lease: Record(number=n, state=LeaseState(state), expires_at=LATER if state == "active" else None)
        for n, (lease, state) in enumerate((records or {}).items(), 1)
    }
    held = tuple(Grant(lease=lease, holding=h, granted_at=granted_at) for lease, h in (grants or {}).items())
    known = {("p", name): place for name, place in (places or {}).items()}
    return Books(records=found, grants=held, places=known)


def census(leases: dict[str, Told] | None = None, **more: Any) -> Census:
    return Census(taken_at=NOW, leases=leases or {}, **more)


def free(epoch: int, used: int = 0) -> Place:
    return Place(state=ResourceState.FREE, epoch=epoch, used=used)


def leased(epoch: int) -> Place:
    return Place(state=ResourceState.LEASED, epoch=epoch, used=epoch)


def written(made: Plan) -> list[str]:
    """Each step in short: `grant a r0@7`."""
    return [
        " ".join(
            str(part)
            for part in (
                step.action,
                step.lease,
                step.holding and f"{step.holding.resource}@{step.holding.epoch}",
                step.state,
                step.outcome,
                step.code,
            )
            if part is not None
        )
        for step in made.steps
    ]


ACTIVE = view("active", at("r0", 7), expires_at=LATER)


def test_where_all_agree_nothing_is_written() -> None:
    made = plan(
        census({"a": runs(ACTIVE), "b": runs(view("queued")), "c": runs(view("submitted"))}),
        books({"a": "active", "b": "queued"}, {"a": at("r0", 7)}, {"r0": leased(7)}),
    )
    assert (written(made), made.problems, made.lost) == ([], (), None)


@pytest.mark.parametrize(
    ("said", "record", "steps"),
    [
        (view("queued"), None, ["record a"]),
        (view("preparing", at("r0", 7)), None, ["record a", "grant a r0@7", "move a preparing"]),
        (ACTIVE, None, ["record a", "grant a r0@7", "move a active"]),
        (ACTIVE, "queued", ["grant a r0@7", "move a active"]),
        (ACTIVE, "preparing", ["grant a r0@7", "move a active"]),
        (view("preparing", at("r0", 7)), "queued", ["grant a r0@7", "move a preparing"]),
        (view("releasing", at("r0", 4)), None, ["record a", "move a preparing", "give_back a cancelled"]),
        (view("releasing", at("r0", 4), expires_at=LATER), "active", ["give_back a released"]),
        (view("releasing"), "queued", ["move a preparing", "give_back a cancelled"]),
        (view("submitted"), None, []),
        (view("refused"), None, []),
        (ACTIVE, "ended", ["cancel a"]),
        (ACTIVE, "releasing", ["cancel a"]),
        (view("releasing"), "ended", []),
    ],
)
def test_a_record_is_moved_to_where_its_workflow_is(said: LeaseView, record: str | None, steps: list[str]) -> None:
    made = plan(census({"a": runs(said)}), books({"a": record} if record else {}, places={"r0": free(5, used=4)}))
    assert written(made) == steps
    assert made.problems == ()


def test_a_workflow_that_waits_for_what_it_was_granted_is_told() -> None:
    made = plan(census({"a": runs(view("queued"))}), books({"a": "preparing"}, {"a": at("r0", 7)}, {"r0": leased(7)}))
    assert written(made) == ["nudge a"]


def test_the_later_end_of_a_lease_is_that_of_its_workflow() -> None:
    said = view("active", at("r0", 7), expires_at=LATER + timedelta(days=1))
    made = plan(census({"a": runs(said)}), books({"a": "active"}, {"a": at("r0", 7)}, {"r0": leased(7)}))
    assert written(made) == ["move a active"]
    assert made.steps[0].expires_at == LATER + timedelta(days=1)


def test_whoever_names_a_resource_at_the_highest_epoch_has_it() -> None:
    made = plan(
        census({"a": runs(ACTIVE), "b": closed("completed", at("r0", 5), outcome=Outcome.RELEASED)}),
        books({"a": "queued", "b": "active"}, {"b": at("r0", 5)}, {"r0": leased(5)}),
    )
    assert written(made) == ["close_grant b r0@5", "grant a r0@7", "move a active", "end b released"]


def test_the_loser_of_two_that_run_ends() -> None:
    later = view("active", at("r0", 9), expires_at=LATER)
    made = plan(
        census({"a": runs(ACTIVE), "b": runs(later)}),
        books({"a": "active", "b": "active"}, {"b": at("r0", 9)}, {"r0": leased(9)}),
    )
    assert written(made) == ["end a failed grant_lost", "cancel a"]


def test_what_has_gone_on_to_others_is_not_taken_back() -> None:
    made = plan(census({"a": runs(ACTIVE)}), books({"a": "active"}, places={"r0": free(12, used=9)}))
    assert written(made) == ["end a failed grant_lost", "cancel a"]


def test_a_resource_that_was_added_again_is_given_back_to_its_holder() -> None:
    made = plan(census({"a": runs(ACTIVE)}), books({"a": "active"}, places={"r0": free(12, used=0)}))
    assert written(made) == ["grant a r0@7"]


def test_a_broken_resource_that_its_lease_still_has_is_left_alone() -> None:
    broken = Place(state=ResourceState.BROKEN, epoch=8, used=7)
    made = plan(census({"a": runs(ACTIVE)}), books({"a": "active"}, {"a": at("r0", 7)}, {"r0": broken}))
    assert written(made) == []


def test_a_grant_that_nobody_was_asked_about_stands() -> None:
    made = plan(census(), books({"a": "active"}, {"a": at("r0", 7)}, {"r0": leased(7)}))
    assert written(made) == []


def test_two_claims_are_not_settled_while_one_of_them_is_on_the_move() -> None:
    made = plan(
        census({"a": runs(view("active", at("r0", 9), expires_at=LATER))}),
        books({"a": "active", "b": "active"}, {"b": at("r0", 7)}, {"r0": leased(7)}),
    )
    assert written(made) == []
    assert made.problems == ("p/r0 is held by lease 2 too, which is on the move",)


@pytest.mark.parametrize(
    ("granted_at", "steps"),
    [(EARLIER, ["close_grant a r1@6", "recycle a r1@6"]), (NOW - timedelta(seconds=5), [])],
)
def test_what_a_lease_gave_back_is_cleaned_unless_it_was_just_granted(granted_at: datetime, steps: list[str]) -> None:
    known = Books(
        records={"a": Record(number=1, state=LeaseState.ACTIVE, expires_at=LATER)},
        grants=tuple(Grant(lease="a", holding=h, granted_at=granted_at) for h in (at("r0", 7), at("r1", 6))),
        places={("p", "r0"): leased(7), ("p", "r1"): leased(6)},
    )
    assert written(plan(census({"a": runs(ACTIVE)}), known)) == steps


def test_a_workflow_that_does_not_answer_is_a_problem_and_its_grants_stand() -> None:
    made = plan(census({"a": runs(None)}), books({"a": "active"}, {"a": at("r0", 7)}, {"r0": leased(7)}))
    assert (written(made), made.problems) == ([], ("the workflow of lease 1 does not answer",))


def test_a_resource_in_no_pool_is_a_problem() -> None:
    made = plan(census({"a": runs(ACTIVE)}), books({"a": "active"}))
    assert made.problems == ("p/r0 is held by lease 1, and is in no pool: apply the pools file that has it",)


@pytest.mark.parametrize(
    ("told", "record", "steps"),
    [
        (closed("terminated"), "active", ["end a failed workflow_gone"]),
        (closed("completed", outcome=Outcome.EXPIRED), "active", ["end a expired"]),
        (closed("completed", outcome=Outcome.RELEASED), "ended", []),
        (closed("failed"), None, ["record a", "move a ended failed"]),
        (
            closed("completed", at("r0", 7), outcome=Outcome.RELEASED),
            None,
            ["record a", "past_grant a r0@7", "move a ended released", "recycle a r0@7"],
        ),
        (Told(started_at=EARLIER, how="completed", view=view("refused"), request=REQUEST), None, []),
    ],
)
def test_a_lease_that_is_over_ends_as_it_did(told: Told, record: str | None, steps: list[str]) -> None:
    made = plan(census({"a": told}), books({"a": record} if record else {}, places={"r0": free(5)}))
    assert written(made) == steps


def test_what_was_used_since_is_cleaned_once_and_only_if_nobody_has_it() -> None:
    over = {
        name: closed("completed", at("r0", epoch), outcome=Outcome.RELEASED) for name, epoch in (("a", 6), ("b", 8))
    }
    records = {"a": "ended", "b": "ended", "c": "active"}
    made = plan(census(over), books(records, places={"r0": free(5)}))
    assert written(made) == ["recycle b r0@8"]
    had_by_c = {**over, "c": runs(view("active", at("r0", 9), expires_at=LATER))}
    assert written(plan(census(had_by_c), books(records, places={"r0": free(5)}))) == ["grant c r0@9"]
    assert written(plan(census(over), books(records, places={"r0": free(8)}))) == []


def test_a_recycling_that_runs_has_its_resource() -> None:
    running = census(recyclings=frozenset({at("r0", 9)}))
    assert written(plan(running, books(places={"r0": free(5)}))) == ["adopt_recycling r0@9"]
    known = Place(state=ResourceState.RECYCLING, epoch=9, used=9)
    assert written(plan(running, books(places={"r0": known}))) == []
    assert written(plan(running, books(places={"r0": free(12, used=11)}))) == [], "it is stale, and stops by itself"


def test_a_recycling_that_the_database_saw_end_is_not_begun_again() -> None:
    """It ended after Temporal was asked, or Temporal's list is late."""
    listed = census(recyclings=frozenset({at("r0", 9)}))
    assert written(plan(listed, books(places={"r0": free(12, used=9)}))) == []
    broken = Place(state=ResourceState.BROKEN, epoch=12, used=9)
    assert written(plan(listed, books(places={"r0": broken}))) == []


def test_a_recycling_that_is_gone_begins_again_or_ends_in_quarantine() -> None:
    dead = (
        DeadRecycling(pool="p", resource="r0", epoch=7, how="terminated"),
        DeadRecycling(pool="p", resource="r1", epoch=7),
    )
    recycling = Place(state=ResourceState.RECYCLING, epoch=7)
    made = plan(census(dead_recyclings=dead), books(places={"r0": recycling, "r1": recycling}))
    assert written(made) == ["quarantine r1@7", "recycle r0@7"]


@pytest.mark.parametrize(("count", "accept", "ends"), [(5, False, 5), (6, False, 0), (6, True, 6)])
def test_what_temporal_does_not_know_ends_unless_it_is_too_much(count: int, accept: bool, ends: int) -> None:
    names = [f"l{n}" for n in range(count)]
    made = plan(census(lost=frozenset(names)), books(dict.fromkeys(names, "active")), accept_lost=accept)
    assert written(made) == [f"end {name} failed workflow_lost" for name in names[:ends]]
    assert (made.lost is None) is (ends > 0)
    assert made.problems == ()
