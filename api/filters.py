"""Filters in a query string: what is not a parameter of the call itself is a condition on properties."""

from __future__ import annotations

from fastapi import Request

from leasehold import selector
from leasehold.errors import BadFilter
from leasehold.selector import Condition

OWN = frozenset({"pool", "state", "limit", "cursor", "count", "tags", "owner"})


def conditions(request: Request) -> tuple[Condition, ...]:
    """The conditions of a request's query string; raise `BadFilter`."""
    return tuple(
        selector.parse(f"{key}={value}") for key, value in request.query_params.multi_items() if key not in OWN
    )


def tags(text: str | None) -> tuple[str, ...]:
    """`a,b` as two tags."""
    found = tuple(text.split(",")) if text else ()
    if "" in found:
        raise BadFilter(f"tags={text}: a tag is empty")
    return found
