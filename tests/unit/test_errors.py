"""The tree of errors: codes that never change, statuses, and the way through Temporal and back."""

from __future__ import annotations

from pathlib import Path

import pytest

import api.errors  # noqa: F401 (its errors are part of the tree)
from leasehold.errors import Fault, IllegalTransition, LeaseholdError, from_code
from leasehold.store import migrate  # noqa: F401

ROOT = Path(__file__).parents[2]
FAULTS = (Fault(path="items[0].count", code="too_many", detail="3 wanted, and there are just 2"),)

# Users' scripts compare these. A code may be added; one that is here stays, with its status.
CODES = {
    "malformed": 400,
    "bad_filter": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "duration_refused": 403,
    "extension_refused": 403,
    "self_service_closed": 403,
    "limit_reached": 403,
    "request_refused": 403,
    "duplicate": 403,
    "command_refused": 403,
    "over_quota": 403,
    "not_found": 404,
    "lease_unknown": 404,
    "pool_unknown": 404,
    "resource_unknown": 404,
    "token_unknown": 404,
    "user_unknown": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "lease_not_active": 409,
    "not_free": 409,
    "last_resource": 409,
    "not_delivered": 409,
    "resource_busy": 409,
    "owned_elsewhere": 409,
    "temporal_changed": 409,
    "stale_epoch": 409,
    "illegal_transition": 409,
    "user_exists": 409,
    "not_reservable": 409,
    "command_runs": 409,
    "no_command": 409,
    "command_over": 409,
    "too_large": 413,
    "invalid": 422,
    "idempotency_key_reused": 422,
    "unsatisfiable": 422,
    "too_many_requests": 429,
    "internal": 500,
    "schema_mismatch": 500,
    "unavailable": 503,
}


def tree(root: type[LeaseholdError] = LeaseholdError) -> list[type[LeaseholdError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in tree(child))]


def test_the_codes_and_their_statuses_are_those_that_were_published() -> None:
    assert {kind.code: kind.status for kind in tree()} | CODES == {kind.code: kind.status for kind in tree()}


def test_the_reference_names_every_code_that_a_caller_can_do_something_about() -> None:
    reference = (ROOT / "docs" / "reference" / "http-api.md").read_text()
    own = {"internal", "method_not_allowed", "stale_epoch", "illegal_transition", "schema_mismatch"}
    assert [kind.code for kind in tree() if kind.code not in own and f"`{kind.code}`" not in reference] == []


def test_no_two_kinds_share_a_code() -> None:
    codes = [kind.code for kind in tree()]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.code)
def test_an_error_is_the_same_after_its_way_through_temporal(kind: type[LeaseholdError]) -> None:
    again = from_code(kind.code, "what went wrong", FAULTS)
    assert type(again) is kind
    assert (again.code, again.title, again.status) == (kind.code, kind.title, kind.status)
    assert (again.detail, str(again), again.faults) == ("what went wrong", "what went wrong", FAULTS)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.code)
def test_every_kind_says_what_it_is(kind: type[LeaseholdError]) -> None:
    assert kind.title
    assert kind.code == kind.code.lower().replace(" ", "_")


def test_a_code_of_a_newer_version_is_kept() -> None:
    error = from_code("quota_exceeded", "no more than 3")
    assert (type(error), error.code, error.detail, error.status) == (
        LeaseholdError,
        "quota_exceeded",
        "no more than 3",
        500,
    )
    assert LeaseholdError.code == "internal"


def test_a_transition_says_both_states() -> None:
    assert IllegalTransition("lease", None, "ended").detail == "a lease cannot go from nothing to ended"
