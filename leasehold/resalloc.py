"""Taking pools over from resalloc: what its configuration says of them, as a pools file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from leasehold import durations, naming
from leasehold.errors import Fault, Invalid
from leasehold.model import DEFAULT_NAME_PATTERN, LONGEST, NAME_PATTERN
from leasehold.resalloc_file import Json, Keys, told
from leasehold.yaml_text import below, plain

FILE = "resalloc"
"""The name of the pools file: applied again, it changes what it made, and nothing else."""
PORT = 49100
"""Where resalloc's clients ask, if nothing else is said."""

_EVERY_ROUND = timedelta(seconds=10)
"""How often its watcher comes round: a period of 0."""
_LIST_EVERY = timedelta(minutes=30)
"""Not more often does it list a pool."""
_LONG, _SHORT = "30m", "2m"
"""Time limits of commands. It has one alone: listing may take two minutes."""
_MOST_RESOURCES, _MOST_CREATING, _MOST_CHECKS, _MOST_REUSES = 100_000, 10_000, 100, 1_000_000
_LONGEST_DESCRIPTION, _LONGEST_PATTERN, _LONGEST_MADE_NAME = 4096, 200, 80

_NOT_NEEDED: Mapping[str, str] = {
    "db_url": "Leasehold has a database of its own, LEASEHOLD_DATABASE_URL",
    "logdir": "what commands print is kept with each resource, as long as the policy's keep_logs says",
    "loglevel": "there are no levels",
    "sleeptime": "nothing waits for a next round",
}
"""Keys of `server.yaml`, and why."""

_HEADER = """\
# From resalloc's configuration. Commands see a plain environment here, and not that of resalloc's server: what one
# needs of it is written into it, or read from a file. Each has a time limit, where resalloc lets it run for ever: make
# it longer where that is too short.
"""
_COMMENTS: Mapping[str, str] = {
    "default_duration": "a ticket has no end: this is as long as a lease can be",
    "on_degraded": "a ticket fails with its resource",
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Pools as a pools file has them, and what people must know: what was changed or left out, and why."""

    pools: list[Json] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(configured: object, server: object = None) -> Imported:
    """Take over what `pools.yaml` says, and `server.yaml` if that is there.

    Raises `Invalid` with all places that resalloc itself would refuse, or that no pools file can have.
    """
    if not configured:
        raise _invalid([Fault(path="", code="no_pools", detail="there is no pool in it")])
    if not isinstance(configured, Mapping):
        detail = f"this is no configuration of resalloc: it must have pools by their names, and is {told(configured)}"
        raise _invalid([Fault(path="", code="not_of_resalloc", detail=detail)])
    made, faults = Imported(), list[Fault]()
    names = list(_names(configured, made.notes, faults))
    for (called, name), said in zip(names, configured.values(), strict=True):
        if isinstance(said, Mapping):
            made.pools.append(_pool(name, Keys(called, said, faults, made.notes)))
        else:
            faults.append(Fault(path=called, code="wrong_type", detail=f"must have keys, and is {told(said)}"))
    faults += _mixed([(called, said) for (called, _), said in zip(names, configured.values(), strict=True)])
    made.notes.extend(_of_all(made.pools))
    if server is not None:
        made.notes.extend(_of_server(server, faults))
    if faults:
        raise _invalid(faults)
    return made


def _invalid(faults: Sequence[Fault]) -> Invalid:
    if len(faults) > 1:
        return Invalid(f"{len(faults)} places are wrong", faults)
    detail = ": ".join(part for part in (faults[0].path, faults[0].detail) if part)
    return Invalid(detail, [replace(faults[0], detail=detail)])


def _names(configured: Mapping[Any, Any], notes: list[str], faults: list[Fault]) -> Iterator[tuple[str, str]]:
    """What each pool is called there, and here, where names have fewer letters."""
    taken = {called for called in configured if isinstance(called, str) and re.fullmatch(NAME_PATTERN, called)}
    for called in configured:
        name = str(called)
        if not isinstance(called, str):
            detail = f"a pool's name must be a text, and is {told(called)}"
            faults.append(Fault(path=name, code="wrong_type", detail=detail))
        elif called not in taken:
            name = _other_name(called, taken)
            taken.add(name)
            notes.append(f"{called}: the pool is called {name} here, in RESALLOC_POOL_ID and names of resources too")
        yield str(called), name


def _other_name(name: str, taken: Collection[str]) -> str:
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:_LONGEST_MADE_NAME] or "pool"
    found, number = word, 1
    while found in taken:
        number += 1
        found = f"{word}-{number}"
    return found


def _pool(name: str, keys: Keys) -> Json:
    """A pool, with everything that its keys say."""
    keys.needs("cmd_new")
    keys.needs("cmd_delete")
    livecheck, listing, on_demand = _livecheck(keys), _hook(keys, "cmd_list", _SHORT), keys.tags("tags_on_demand")
    wanted = {
        "name": name,
        "description": keys.text("description", _LONGEST_DESCRIPTION),
        "create": _hook(keys, "cmd_new", _LONG),
        "delete": _hook(keys, "cmd_delete", _LONG),
        "livecheck": livecheck,
        "release": _hook(keys, "cmd_release", _LONG),
        "list": listing and {**listing, "every": durations.render(_LIST_EVERY)},
        "size": _size(keys, bool(on_demand)),
        "tags": keys.tags("tags"),
        "tags_on_demand": on_demand,
        "name_pattern": _name_pattern(keys),
        "named_counters": keys.counters("named_counters"),
        "policy": _policy(keys, livecheck is not None),
    }
    return {key: value for key, value in wanted.items() if value}


def _hook(keys: Keys, key: str, timeout: str) -> Json | None:
    """A hook that runs a command in `/bin/sh`, as resalloc does."""
    line = keys.text(key)
    return {"run": line, "timeout": timeout} if line else None


def _livecheck(keys: Keys) -> Json | None:
    hook = _hook(keys, "cmd_livecheck", _SHORT)
    if hook is None:
        for key in ("livecheck_period", "livecheck_attempts"):
            if key in keys.said:
                keys.note(key, "not needed: there is no cmd_livecheck")
        return None
    every = keys.seconds("livecheck_period")
    if every is None:
        every = _EVERY_ROUND
        keys.note("livecheck_period", f"{durations.render(every)} here: so often resalloc looks")
    # 0 is 1 in resalloc, which looks at those alone that have failed.
    attempts = max(1, keys.whole("livecheck_attempts", _MOST_CHECKS))
    return {**hook, "every": durations.render(every), "attempts": attempts}


def _size(keys: Keys, on_demand: bool) -> Json:
    most, creating = keys.whole("max", _MOST_RESOURCES), keys.whole("max_starting", _MOST_CREATING)
    ahead = None if on_demand else keys.whole("max_prealloc", _MOST_RESOURCES)
    if on_demand and "max_prealloc" in keys.said:
        keys.note("max_prealloc", "not needed: with tags_on_demand resalloc makes nothing ahead")
    for key, value in (("max_starting", creating), ("max_prealloc", ahead)):
        if value == 0 and most:
            # Left as it is the pool would make resources for all who ask, whatever they cost.
            keys.note(key, f"with 0 resalloc makes nothing in this pool: so size.max is 0 here, and not {most}")
            most = 0
    size: Json = {"max": most, "max_creating": max(1, creating)}
    if ahead is not None:
        size["min_free"] = ahead
    delay = keys.seconds("start_delay")
    return {**size, "create_delay": durations.render(delay)} if delay else size


def _name_pattern(keys: Keys) -> str | None:
    """The pattern where it is not the usual one, and makes names that can be used."""
    pattern = keys.text("name_pattern")
    if not pattern or pattern == DEFAULT_NAME_PATTERN:
        return None
    try:
        naming.check(pattern)
        if len(pattern) > _LONGEST_PATTERN:
            raise ValueError(f"has more than {_LONGEST_PATTERN} characters")
    except ValueError as error:
        keys.note("name_pattern", f"{DEFAULT_NAME_PATTERN} here: {pattern[:_LONGEST_PATTERN]} {error}")
        return None
    return pattern


def _policy(keys: Keys, checked: bool) -> Json:
    policy: Json = {"default_duration": durations.render(LONGEST)}
    if checked:
        policy["on_degraded"] = "end"
    window, time = keys.seconds("reuse_opportunity_time"), keys.seconds("reuse_max_time")
    # resalloc deletes what was given back more often than this: after the first time it is lent so often again.
    count = keys.whole("reuse_max_count", _MOST_REUSES)
    if window:
        policy["reuse_window"] = durations.render(window)
    if count:
        policy["reuse_count"] = count
    if window or "reuse_max_time" in keys.said:
        policy["reuse_time"] = durations.render(time) if time else None
    return policy


def _mixed(pools: Sequence[tuple[str, object]]) -> Iterator[Fault]:
    """Tags on demand of one pool that are plain tags of another, or of the same: resalloc does not start with them."""
    on_demand = {tag: pool for pool, said in pools for _, tag in _tags(said, "tags_on_demand")}
    for pool, said in pools:
        for place, tag in _tags(said, "tags"):
            if tag in on_demand:
                why = f"{tag} is on demand in {on_demand[tag]}, and can be no plain tag: resalloc does not start so"
                yield Fault(path=f"{pool}.tags[{place}]", code="on_demand", detail=why)


def _tags(said: object, key: str) -> Iterator[tuple[int, str]]:
    tags = said.get(key) if isinstance(said, Mapping) else None
    for place, tag in enumerate(tags if isinstance(tags, list) else ()):
        name = tag.get("name") if isinstance(tag, Mapping) else tag
        if isinstance(name, str):
            yield place, name


def _of_all(pools: Sequence[Json]) -> Iterator[str]:
    """What holds for the file as a whole."""
    yield "commands see a plain environment here (PATH, HOME, LANG), and not that of resalloc's server"
    yield f"each command has a time limit, which resalloc has not: {_LONG}, livechecks and lists {_SHORT}"
    yield f"a ticket has no end, a lease has one: after {durations.render(LONGEST)}, the longest there is"
    if any("list" in pool for pool in pools):
        yield "stop resalloc before this is applied: with cmd_list each would delete what the other has made"


def _of_server(server: object, faults: list[Fault]) -> Iterator[str]:
    """What becomes of the keys of `server.yaml`. What they say is not repeated: there may be passwords in it."""
    if not isinstance(server, Mapping):
        faults.append(Fault(path="server.yaml", code="wrong_type", detail=f"must have keys, and is {told(server)}"))
        return
    port = server.get("port", PORT)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        faults.append(Fault(path="server.yaml.port", code="wrong_type", detail=f"must be a port, and is {told(port)}"))
        return
    yield f"server.yaml.port: LEASEHOLD_RESALLOC_PORT={port} in the API's environment: resalloc's clients go on with it"
    for key in server:
        if key in ("hostname", "host"):
            yield f"server.yaml.{key}: where the API listens is LEASEHOLD_API_HOST"
        elif key in _NOT_NEEDED:
            yield f"server.yaml.{key}: not needed: {_NOT_NEEDED[key]}"
        elif key != "port":
            yield f"server.yaml.{key}: left out: resalloc has no such key"


def to_yaml(pools: Sequence[Json]) -> str:
    """A pools file, with the reasons for what resalloc does not have, so that people can go on with it."""
    # Its service starts commands there, and so a relative path means the same.
    lines = [f"{_HEADER}name: {FILE}", "folder: /", "pools:"]
    for pool in pools:
        first, *others = _lines(pool, 2)
        lines += [f"- {first.lstrip()}", *others]
    return "\n".join([*lines, ""])


def _lines(table: Json, column: int) -> Iterator[str]:
    for key, value in table.items():
        before = f"{'':{column}}{key}:"
        if isinstance(value, dict):
            yield before
            yield from _lines(value, column + 2)
        elif isinstance(value, list):
            yield before
            yield from (f"{'':{column}}- {_item(one)}" for one in value)
        else:
            comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
            yield f"{before} {below(value, column)}{comment}"


def _item(one: str | Json) -> str:
    if isinstance(one, str):
        return plain(one)
    return "{" + ", ".join(f"{key}: {plain(value)}" for key, value in one.items()) + "}"
