"""Filters in a query string: what is not a parameter of the call itself is a condition on properties."""

from __future__ import annotations

from fastapi import Request

from leasehold import selector
from leasehold.errors import BadFilter
from leasehold.selector import Condition

OWN = frozenset({"pool", "state", "limit", "cursor", "count", "tags", "owner"})


def conditions(request: Request, *own: str) -> tuple[Condition, ...]:
    """The conditions of a request's query string, without what is `own` to its call; raise `BadFilter`."""
    given = request.query_params.multi_items()
    return tuple(selector.parse(f"{key}={value}") for key, value in given if key not in OWN.union(own))


def tags(text: str | None) -> tuple[str, ...]:
    """`a,b` as two tags."""
    found = tuple(text.split(",")) if text else ()
    if "" in found:
        raise BadFilter(f"tags={text}: a tag is empty")
    return found
