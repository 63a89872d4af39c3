"""Which state may follow which: the tables of the design, each pair of them."""

from __future__ import annotations

import itertools

import pytest

from leasehold.errors import IllegalTransition
from leasehold.model import LeaseState, ResourceState, check_lease_transition, check_resource_transition

LEASES = {
    (None, "queued"),
    (None, "preparing"),
    ("queued", "preparing"),
    ("queued", "ended"),
    ("preparing", "active"),
    ("preparing", "releasing"),
    ("active", "releasing"),
    ("releasing", "ended"),
}
RESOURCES = {
    (None, "free"),
    (None, "creating"),
    (None, "deleting"),
    ("creating", "free"),
    ("creating", "broken"),
    ("creating", "deleting"),
    ("free", "leased"),
    ("free", "recycling"),
    ("free", "broken"),
    ("free", "deleting"),
    ("leased", "deleting"),
    ("recycling", "deleting"),
    ("broken", "deleting"),
    ("deleting", "deleting"),
    ("leased", "free"),
    ("leased", "recycling"),
    ("leased", "broken"),
    ("recycling", "free"),
    ("recycling", "recycling"),
    ("recycling", "broken"),
    ("broken", "free"),
    ("broken", "recycling"),
    ("broken", "leased"),
}


@pytest.mark.parametrize(("before", "after"), [*itertools.product([None, *LeaseState], LeaseState)])
def test_a_lease_goes_only_where_the_design_says(before: LeaseState | None, after: LeaseState) -> None:
    if (before, after) in LEASES:
        check_lease_transition(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"a lease cannot go from {before or 'nothing'} to {after}"):
            check_lease_transition(before, after)


@pytest.mark.parametrize(("before", "after"), [*itertools.product([None, *ResourceState], ResourceState)])
def test_a_resource_goes_only_where_the_design_says(before: ResourceState | None, after: ResourceState) -> None:
    if (before, after) in RESOURCES:
        check_resource_transition(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"a resource cannot go from {before or 'nothing'} to {after}"):
            check_resource_transition(before, after)
