"""The one grammar of filters: `key=value`, `key__op=value`, dotted keys into properties.

`disks.disk_type=nvme` looks into every element of the list `disks`; several conditions below the same list must hold
for one element. Numbers compare as numbers, where both sides are some. `ne` means that no element equals; a missing
key satisfies `ne` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from leasehold.errors import BadFilter

_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class Condition:
    """One parsed filter: the dotted key's parts, the operator, and what to compare with, as written."""

    path: tuple[str, ...]
    op: str
    value: str

    @property
    def text(self) -> str:
        """The filter as it would be written."""
        op = "" if self.op == "eq" else f"__{self.op}"
        path = ("properties", *self.path) if self.path[0] == "properties" else self.path
        return f"{'.'.join(path)}{op}={self.value}"


def _number(value: object) -> Decimal | None:
    """A number exactly, or None: a serial number is not rounded to its neighbour."""
    if isinstance(value, bool) or not _NUMBER.fullmatch(str(value)):
        return None
    return Decimal(str(value))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equal(have: object, wanted: str) -> bool:
    left, right = _number(have), _number(wanted)
    return left == right if left is not None and right is not None else _text(have) == wanted


def _ordered(holds: Callable[[Any, Any], bool]) -> Callable[[object, str], bool]:
    def compare(have: object, wanted: str) -> bool:
        left, right = _number(have), _number(wanted)
        if left is not None and right is not None:
            return holds(left, right)
        return holds(_text(have), wanted)

    return compare


def _like(fold: Callable[[str], str]) -> Callable[[object, str], bool]:
    def compare(have: object, wanted: str) -> bool:
        return _matches(fold(_text(have)), fold(wanted).split("%"))

    return compare


def _matches(text: str, parts: Sequence[str]) -> bool:
    """Whether the parts follow one another in a text that begins with the first and ends with the last one.

    Taking each part where it comes first is enough, and takes no longer than the text is long.
    """
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


_OPERATORS: Mapping[str, Callable[[object, str], bool]] = {
    "eq": _equal,
    "ne": _equal,
    "lt": _ordered(lambda a, b: a < b),
    "lte": _ordered(lambda a, b: a <= b),
    "gt": _ordered(lambda a, b: a > b),
    "gte": _ordered(lambda a, b: a >= b),
    "like": _like(str),
    "ilike": _like(str.casefold),
    "in": lambda have, wanted: any(_equal(have, one) for one in wanted.split(",")),
}


@lru_cache(maxsize=4096)
def parse(text: str) -> Condition:
    """Parse `key=value` or `key__op=value`; raise `BadFilter` that says what is wrong with it."""
    key, equals, value = text.partition("=")
    if not equals:
        raise BadFilter(f"{text!r} is not of the form key=value or key__op=value")
    name, _, op = key.partition("__")
    op = op or "eq"
    if op not in _OPERATORS or key.endswith("__"):
        raise BadFilter(f"{text!r}: there is no operator {op!r}; there are {', '.join(sorted(_OPERATORS))}")
    path = name.removeprefix("properties.")
    if not _KEY.fullmatch(path):
        raise BadFilter(f"{text!r}: {path!r} is not a key")
    if "\0" in text:
        raise BadFilter(f"{text!r}: a filter must not contain NUL")
    if op in {"lt", "lte", "gt", "gte"} and not value:
        raise BadFilter(f"{text!r}: {op} needs a value")
    return Condition(tuple(path.split(".")), op, value)


def satisfies(conditions: Sequence[Condition], properties: Mapping[str, Any]) -> bool:
    """Whether a resource with these properties satisfies all conditions."""
    return _all_hold([(c.path, c) for c in conditions], properties)


def values(path: Sequence[str], have: object) -> set[str]:
    """What there is at a path, as it would be written in a filter, in every element of lists on the way."""
    if isinstance(have, Sequence) and not isinstance(have, str):
        return {value for element in have for value in values(path, element)}
    if path:
        return values(path[1:], have[path[0]]) if isinstance(have, Mapping) and path[0] in have else set()
    return set() if isinstance(have, Mapping) or have is None else {_text(have)}


def _all_hold(conditions: Iterable[tuple[tuple[str, ...], Condition]], have: object) -> bool:
    """Check conditions, each with what is left of its path, against one value."""
    below: dict[str, list[tuple[tuple[str, ...], Condition]]] = {}
    for path, condition in conditions:
        if path:
            below.setdefault(path[0], []).append((path[1:], condition))
        elif _leaf(condition, have) is False:
            return False
    return all(_key_holds(rest, have, key) for key, rest in below.items())


def _key_holds(rest: list[tuple[tuple[str, ...], Condition]], have: object, key: str) -> bool:
    if not isinstance(have, Mapping) or key not in have:
        return all(condition.op == "ne" for _, condition in rest)
    value = have[key]
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _all_hold(rest, value)
    # `ne` speaks of all elements; everything else must hold together for one of them.
    denied = [(p, Condition(c.path, "eq", c.value)) for p, c in rest if c.op == "ne"]
    wanted = [(p, c) for p, c in rest if c.op != "ne"]
    if any(_all_hold([one], element) for one in denied for element in value):
        return False
    return not wanted or any(_all_hold(wanted, element) for element in value)


def _leaf(condition: Condition, have: object) -> bool:
    if isinstance(have, Mapping) or have is None:
        return condition.op == "ne"
    return _OPERATORS[condition.op](have, condition.value) != (condition.op == "ne")
