"""Taking pools over from dci-queue: what its folders have of them, as a pools file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from leasehold import durations
from leasehold.errors import Invalid
from leasehold.model import LONGEST, NAME_PATTERN
from leasehold.yaml_text import plain

FILE = "dci-queue"
"""The name of the pools file: applied again, it changes what it made, and nothing else."""
RUNS = ".exec"
"""How the names of commands end that run."""

_LONGEST_REASON = 1000
_NAMES = "a name may have 1 to 128 of A-Z a-z 0-9 . _ - alone, and begins with a letter or digit"
_HEADER = """\
# From dci-queue. Commands of every user run here, as the runner's own account and with what that may do: see
# `commands` in the reference of this file before others than those who used dci-queue can reach the service.
"""
_TERMS = f"""\
  commands:
    allow:
    - {{role: user}}
  policy:
    default_duration: {durations.render(LONGEST)}  # a command has no end of its own: this is as long as a lease can be
    holder_may: [offline]  # schedule -r
"""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """What dci-queue has of one pool: names of files in `pool` and `available`, and the JSON of those in others.

    `queue` has them by number, with `.exec` after that of a command that runs. None is what is no JSON.
    """

    pool: str
    resources: Sequence[str]
    available: Sequence[str] = ()
    reasons: Mapping[str, object] = field(default_factory=dict)
    queue: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Pools with their resources, those that were removed with why, and what could not be taken over, and why."""

    pools: dict[str, list[str]] = field(default_factory=dict)
    removed: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read(found: Sequence[Folders]) -> Imported:
    """Take over what the folders of pools have; raise `Invalid` where there is none."""
    if not found:
        raise Invalid("there is no pool in it")
    made = Imported()
    for one in found:
        if re.fullmatch(NAME_PATTERN, one.pool):
            _read_pool(one, made)
        else:
            made.left_out.append(f"pool {one.pool}: {_NAMES}")
    return made


def _read_pool(found: Folders, made: Imported) -> None:
    names = []
    for name in sorted({*found.resources, *found.reasons}):
        if re.fullmatch(NAME_PATTERN, name):
            names.append(name)
        else:
            made.left_out.append(f"resource {found.pool}/{name}: {_NAMES}")
    made.pools[found.pool] = names
    for name, said in sorted(found.reasons.items()):
        # One that was added again has both for a moment.
        if name in names and name not in found.resources:
            made.removed.append((found.pool, name, _reason(said)))
    made.left_out.extend(_leaked(found, names))
    made.left_out.extend(_commands(found))


def _reason(said: object) -> str:
    """Why a resource was removed, and when."""
    reason, date = (said.get("reason"), said.get("date")) if isinstance(said, Mapping) else (None, None)
    since = f" (since {date[:19]})" if isinstance(date, str) and date else ""
    text = reason.strip() if isinstance(reason, str) else ""
    written = (text or "removed in dci-queue")[: _LONGEST_REASON - len(since)] + since
    return "".join(char if char.isprintable() else " " for char in written)


def _leaked(found: Folders, names: Sequence[str]) -> Iterator[str]:
    """Resources that nothing has, and that are not available all the same."""
    running = {name for number, said in found.queue.items() if number.endswith(RUNS) for name in _booked(said)}
    for name in found.resources:
        if name in names and name not in found.available and name not in running:
            yield f"resource {found.pool}/{name}: no command has it, and it was not available; here it is free"


def _booked(said: object) -> Iterator[str]:
    if isinstance(said, Mapping):
        booked = said.get("booked")
        pairs = booked if isinstance(booked, list) else []
        for one in (said.get("resource"), *(pair[0] for pair in pairs if isinstance(pair, list) and pair)):
            if isinstance(one, str):
                yield one


def _commands(found: Folders) -> Iterator[str]:
    """What becomes of the commands: none of them is taken over, and for each there is what does it here."""
    for number, said in sorted(found.queue.items(), key=_order):
        name = f"command {found.pool} {number.removesuffix(RUNS)}"
        line = _line(found.pool, said)
        if line is None:
            yield f"{name}: its file cannot be read"
        elif number.endswith(RUNS):
            yield f"{name}: it runs; let it end first, or it has its resource twice"
        else:
            yield f"{name}: to queue it here: {line}"


def _order(command: tuple[str, object]) -> tuple[float, str]:
    number = command[0].removesuffix(RUNS)
    return float(number) if number.isascii() and number.isdecimal() else float("inf"), number


def _line(pool: str, said: object) -> str | None:
    """What queues a command; None where it is none."""
    if not isinstance(said, Mapping):
        return None
    cmd, folder, priority = said.get("cmd"), said.get("wd"), said.get("priority", 0)
    extra = said.get("extra_pools") or []
    if not _are_texts(cmd) or not _are_texts(extra) or not isinstance(folder, str) or not isinstance(priority, int):
        return None
    options = [
        *(["--remove"] if said.get("remove") else []),
        *([f"--priority={int(priority)}"] if priority else []),
        *(f"--extra={name}" for name in extra),
        f"--folder={folder}",
    ]
    return shlex.join(["leasehold", "queue", "add", pool, *options, "--", *cmd])


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def pool(name: str, resources: Sequence[str] = ()) -> dict[str, Any]:
    """A pool as the API takes it, as `dci-queue add-pool` makes one: for commands of every user."""
    # A command has no end of its own.
    policy = {"default_duration": durations.render(LONGEST), "holder_may": ["offline"]}
    made = {"name": name, "commands": {"allow": [{"role": "user"}]}, "policy": policy}
    return {**made, "resources": [{"name": one} for one in resources]}


def to_yaml(pools: Mapping[str, Sequence[str]]) -> str:
    """A pools file, for people to go on with."""
    text = f"{_HEADER}name: {FILE}\npools:\n"
    for pool, resources in pools.items():
        text += f"- name: {plain(pool)}\n{_TERMS}"
        text += "  resources:\n" if resources else "  resources: []\n"
        text += "".join(f"  - name: {plain(name)}\n" for name in resources)
    return text
