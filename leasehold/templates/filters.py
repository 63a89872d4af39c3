"""The filters and tests of templates: some of Jinja's, and our own where those could run away or are about HTML."""

from __future__ import annotations

import base64
import binascii
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from jinja2 import Undefined
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.tests import TESTS as JINJA_TESTS

from leasehold.templates.meter import ROUND, NotRendered, spend


class Encoded(str):
    """A part of a URL that `urlencode` has made: it goes in as it is."""

    __slots__ = ()


class PathAndQuery(str):
    """A path, perhaps with a query, that `path` has made: its slashes are meant."""

    __slots__ = ()


def _size(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 1


def printed(value: object) -> str:
    """What a template prints of a value: texts, numbers, true and false. Raises `NotRendered` for all else."""
    if isinstance(value, str):
        spend(len(value))
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Undefined):
        # Raises, and says what is missing.
        return str(value)
    if value is None:
        raise NotRendered("a value is null; `| default('', true)` would say what to take then")
    raise NotRendered("a value is a list or an object; `| tojson` or `| join(',')` would make text of it")


def rounds(value: Any) -> list[Any]:
    """What a loop goes through, paid for beforehand."""
    found = list(value)
    spend(ROUND * (len(found) + 1))
    return found


def _replace(value: object, old: str, new: str) -> str:
    text = printed(value)
    spend(text.count(printed(old)) * len(printed(new)))
    return text.replace(old, new)


def _join(value: Any, between: str = "") -> str:
    parts = [printed(part) for part in value]
    spend(len(parts) * len(between))
    return between.join(parts)


def _tojson(value: object) -> str:
    if isinstance(value, Undefined):
        return str(value)
    return json.dumps(value)


def _from_json(value: object) -> Any:
    try:
        return json.loads(printed(value))
    except (ValueError, RecursionError):
        raise NotRendered("`from_json` was given what is no JSON") from None


def _b64encode(value: object) -> str:
    return base64.b64encode(printed(value).encode()).decode()


def _b64decode(value: object) -> str:
    try:
        return base64.b64decode(printed(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise NotRendered("`b64decode` was given what is no text in base64") from None


def _urlencode(value: object) -> str:
    if isinstance(value, Mapping):
        return Encoded(urlencode([(key, printed(part)) for key, part in value.items()], quote_via=quote))
    return Encoded(quote(printed(value), safe=""))


def _path(value: object) -> str:
    """The path and query of a path or URL; where that URL points otherwise does not count."""
    parts = urlsplit(printed(value))
    path = quote(parts.path, safe="/:@!$&'()*+,;=%~") + ("?" if parts.query else "")
    return PathAndQuery(path + quote(parts.query, safe="/:@!$&'()*+,;=%~?"))


_OF_JINJA = (
    *("abs", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length", "list"),
    *("map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique"),
)
_OWN: Mapping[str, Callable[..., Any]] = {
    "b64decode": _b64decode,
    "b64encode": _b64encode,
    "from_json": _from_json,
    "join": _join,
    "lower": lambda value: printed(value).lower(),
    "path": _path,
    "replace": _replace,
    "string": printed,
    "tojson": _tojson,
    "trim": lambda value: printed(value).strip(),
    "upper": lambda value: printed(value).upper(),
    "urlencode": _urlencode,
}


def _metered(filter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(filter)  # keeps the marks by which Jinja knows what to pass
    def call(*args: Any, **kwargs: Any) -> Any:
        spend(1 + sum(map(_size, args)))
        found = filter(*args, **kwargs)
        if isinstance(found, Iterator):
            found = list(found)
        spend(_size(found))
        return found

    return call


FILTERS: Mapping[str, Callable[..., Any]] = {
    **{name: _metered(JINJA_FILTERS[name]) for name in _OF_JINJA},
    **{name: _metered(filter) for name, filter in _OWN.items()},
}
"""The filters that templates can use."""

TESTS: Mapping[str, Callable[..., Any]] = {
    name: cast("Callable[..., Any]", test)
    for name, test in JINJA_TESTS.items()
    if name not in {"callable", "escaped", "filter", "sameas", "test"}
}
"""The tests that templates can use."""
