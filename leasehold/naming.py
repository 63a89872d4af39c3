"""Names of the resources that a pool makes: written by its pattern, and known again by it."""

from __future__ import annotations

import re
import string
from datetime import datetime

from leasehold.model import NAME_PATTERN

_FIELDS = {
    "pool_name": None,
    "id": r"(?:0\d{7}|[1-9]\d{7,})",
    "id_in_pool": r"(?:0|[1-9]\d*)",
    "datetime": r"\d{8}_\d{6}",
}
"""What a pattern may have in braces, and what that looks like in a name; a pool's name looks like itself."""

_DISTINCT = {"id", "id_in_pool"}
"""Without one of these two resources could have the same name at once."""

LONGEST = 128
"""No name is longer."""
_NAME = re.compile(NAME_PATTERN)
_MOST = 99_999_999, 99_999
"""Numbers as long as they become: of all resources that there ever were, and of those of one pool."""


def check(pattern: str, pool: str = "p") -> None:
    """Raise `ValueError` where the pattern makes no names for a pool, or the same one twice."""
    fields = {field for _, field, _, _ in _parts(pattern) if field is not None}
    if not _DISTINCT & fields:
        raise ValueError("needs {id} or {id_in_pool}: two resources would have the same name")
    number, place = _MOST
    longest = name(pattern, pool=pool, number=number, place=place, now=datetime(2000, 1, 1))  # noqa: DTZ001
    if not _NAME.fullmatch(longest):
        raise ValueError(f"makes no names: they are {NAME_PATTERN}")


def name(pattern: str, *, pool: str, number: int, place: int, now: datetime) -> str:
    """The name of a resource of a pool; `number` is its own for ever, `place` that in the pool while it is there."""
    return pattern.format(pool_name=pool, id=f"{number:08}", id_in_pool=place, datetime=now.strftime("%Y%m%d_%H%M%S"))


def has_place(pattern: str) -> bool:
    """Whether names tell the places of resources in their pool."""
    return any(field == "id_in_pool" for _, field, _, _ in _parts(pattern))


def fitting(pattern: str, pool: str) -> re.Pattern[str]:
    """What a name looks like that a pool has given."""
    written = ""
    for literal, field, _, _ in _parts(pattern):
        written += re.escape(literal)
        if field is not None:
            written += _FIELDS[field] or re.escape(pool)
    return re.compile(rf"(?a:{written})\Z")


def _parts(pattern: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"is no pattern: {error}") from None
    for _, field, spec, conversion in parts:
        if field is not None and (field not in _FIELDS or spec or conversion):
            written = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(f"has {{{written}}}: there are only {', '.join(f'{{{one}}}' for one in _FIELDS)}")
    return parts
