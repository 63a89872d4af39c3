"""The keys of a pool in resalloc's `pools.yaml`, taken one by one: what cannot be is a fault, what changes is noted.

Their defaults, and what they mean, are those of its `config/pools.yaml` and of the class `Pool` of its server.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from leasehold.errors import Fault
from leasehold.model import LONGEST

DEFAULTS: Mapping[str, int] = {
    "max": 4,
    "max_starting": 1,
    "max_prealloc": 2,
    "start_delay": 0,
    "livecheck_period": 600,
    "livecheck_attempts": 3,
    "reuse_opportunity_time": 0,
    "reuse_max_count": 0,
    "reuse_max_time": 3600,
}
"""Of the keys that have numbers."""

KEYS = (
    *DEFAULTS, "cmd_new", "cmd_delete", "cmd_livecheck", "cmd_release", "cmd_list",
    "description", "tags", "tags_on_demand", "named_counters", "name_pattern",
)  # fmt: skip
"""All that resalloc knows."""

_SWITCHES = frozenset({"reuse_opportunity_time", "reuse_max_count", "reuse_max_time"})
"""Of which it takes null for 0."""

_MOST_TAGS, _LONGEST_TAG, _HIGHEST_PRIORITY = 100, 128, 1_000_000
_MOST_COUNTERS, _COUNTER = 20, r"[A-Za-z0-9_.-]{1,64}"

Json = dict[str, Any]


class Keys:
    """The keys of one pool. Where one has what cannot be, that is a fault, and something harmless is returned."""

    def __init__(self, pool: str, said: Mapping[Any, Any], faults: list[Fault], notes: list[str]) -> None:
        self.pool = pool
        self.said = said
        self._faults = faults
        self._notes = notes
        for key in said:
            if key not in KEYS:
                near = difflib.get_close_matches(str(key), KEYS, n=1)
                meant = f"; was {near[0]} meant?" if near else ""
                self.note(str(key), f"left out: resalloc has no such key, and ignores it{meant}")

    def note(self, key: str, text: str) -> None:
        """Tell people something of a key."""
        self._notes.append(f"{self.pool}.{key}: {text}")

    def fault(self, key: str, code: str, detail: str) -> None:
        """Say that a key has what cannot be."""
        self._faults.append(Fault(path=f"{self.pool}.{key}", code=code, detail=detail))

    def needs(self, key: str) -> None:
        """Make it a fault that a key is not there."""
        if self.said.get(key) in (None, ""):
            self.fault(key, "missing", "is needed: resalloc does not start without it")

    def whole(self, key: str, most: int) -> int:
        """How many."""
        value = self._number(key)
        if value > most:
            self.note(key, f"{most} here: that is as much as there can be")
            return most
        if value != int(value):
            self.fault(key, "wrong_type", f"must be a whole number, and is {told(value)}")
        return int(value)

    def seconds(self, key: str) -> timedelta | None:
        """How long, in whole seconds; None for 0."""
        value = self._number(key)
        if value > LONGEST.total_seconds():
            self.note(key, f"{LONGEST.days}d here: nothing is longer")
            return LONGEST
        if value != int(value):
            self.note(key, f"{math.ceil(value)}s here: durations are whole seconds")
        return timedelta(seconds=math.ceil(value)) if value else None

    def _number(self, key: str) -> int | float:
        value = self.said.get(key, DEFAULTS[key])
        if value is None and key in _SWITCHES:
            return 0
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return value
        self.fault(key, "wrong_type", f"must be a number, 0 or more, and is {told(value)}")
        return DEFAULTS[key]

    def text(self, key: str, most: int | None = None) -> str:
        """A text; an empty one where there is none."""
        value = self.said.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.fault(key, "wrong_type", f"must be a text, and is {told(value)}")
        elif not _storable(value):
            self.fault(key, "not_storable", "has a character that no environment can hold")
        elif most is not None and len(value) > most:
            self.note(key, f"its first {most} characters are kept: there can be no more")
            return value[:most]
        else:
            return value
        return ""

    def tags(self, key: str) -> list[str | Json]:
        """Tags, with their priorities where these are not 0."""
        listed = self._list(key, _MOST_TAGS)
        found: list[str | Json] = []
        for place, name in self._distinct(key, [self._tag_name(f"{key}[{i}]", tag) for i, tag in enumerate(listed)]):
            priority = self._priority(f"{key}[{place}]", listed[place])
            found.append({"name": name, "priority": priority} if priority else name)
        return found

    def counters(self, key: str) -> list[str]:
        """Names of counters, which become parts of names of variables."""
        names = []
        for place, name in enumerate(self._list(key, _MOST_COUNTERS)):
            good = isinstance(name, str) and re.fullmatch(_COUNTER, name)
            if not good:
                detail = f"must name a counter, which is {_COUNTER}, and is {told(name)}"
                self.fault(f"{key}[{place}]", "bad_counter", detail)
            names.append(name if good else "")
        return [name for _, name in self._distinct(key, names)]

    def _tag_name(self, place: str, tag: object) -> str:
        name = tag.get("name") if isinstance(tag, Mapping) else tag
        if isinstance(name, str) and 0 < len(name) <= _LONGEST_TAG and _storable(name):
            return name
        self.fault(place, "bad_tag", f"must name a tag, a text of 1 to {_LONGEST_TAG} characters, and is {told(name)}")
        return ""

    def _priority(self, place: str, tag: object) -> int:
        if not isinstance(tag, Mapping):
            return 0
        for key in tag:
            if key not in ("name", "priority"):
                self.note(f"{place}.{key}", "left out: resalloc ignores it")
        priority = tag.get("priority")
        if priority is None:
            return 0
        if isinstance(priority, int) and not isinstance(priority, bool) and abs(priority) <= _HIGHEST_PRIORITY:
            return priority
        detail = f"must be a whole number, -{_HIGHEST_PRIORITY} to {_HIGHEST_PRIORITY}, and is {told(priority)}"
        self.fault(f"{place}.priority", "wrong_type", detail)
        return 0

    def _list(self, key: str, most: int) -> list[Any]:
        value = self.said.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault(key, "not_a_list", f"must be a list, and is {told(value)}")
        elif len(value) > most:
            self.fault(key, "too_many", f"can have {most} at most, and has {len(value)}")
        else:
            return value
        return []

    def _distinct(self, key: str, names: Iterable[str]) -> Iterator[tuple[int, str]]:
        """Names with their places, each once, without empty ones."""
        seen: set[str] = set()
        for place, name in enumerate(names):
            if name in seen:
                self.note(f"{key}[{place}]", f"left out: {name} is there twice")
            elif name:
                seen.add(name)
                yield place, name


def told(value: object) -> str:
    """A value in an error: a short one as it is, of others what they are."""
    if isinstance(value, Mapping):
        return "a table of keys"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()}, which in quotes is a text"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a huge number"
    return repr(value)[:60]


def _storable(text: str) -> bool:
    """Whether a text can be stored, and be in an environment."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
