"""How a resource is named where a pool need not be."""

from __future__ import annotations

from leasehold.errors import Malformed


def split_resource(text: str) -> tuple[str | None, str]:
    """`NAME` or `POOL/NAME` as pool, if there is one, and name; raise `Malformed`."""
    pool, slash, name = text.rpartition("/")
    if not name or "/" in pool or (slash and not pool):
        raise Malformed(f"resource={text}: this is not of the form POOL/NAME")
    return pool or None, name
