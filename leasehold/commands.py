"""Commands that run on leased resources: what is asked for, who may ask for it, and how one ended.

Pure; standard library only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from fnmatch import fnmatchcase

from leasehold.access import Role
from leasehold.errors import Fault, Invalid

SILENCE = timedelta(seconds=30)
"""A runner that nothing was heard of for so long is taken to be dead; it ends its commands by itself before that."""

FENCE_AFTER = SILENCE - timedelta(seconds=10)
"""So long after it last heard of Temporal a runner ends its commands: soon it will be taken for dead."""

REGISTER_EVERY = timedelta(seconds=5)
"""How often a runner says that it is there."""

OUTPUT_LIMIT = 64 * 1024 * 1024
"""Bytes of output that are kept of one command where no pool says otherwise."""

KILL_GRACE = timedelta(seconds=10)
"""From SIGTERM to SIGKILL where no pool says otherwise."""

LONGEST_GRACE = timedelta(seconds=30)
"""After that a command is dead that nobody expects any more: the sweep counts on it."""

OWNER = "{owner}"
"""Stands for the owner's name where a rule says as whom commands run."""

DUPLICATE_OF = "duplicate_of"
"""The code of the fault that names the lease of which a request is a duplicate."""

RESERVED = ("LEASEHOLD_", "DCI_QUEUE")
"""How the variables begin that tell a command what it has; nobody else sets them."""

STAGE = "command"
"""What the output of commands is filed under, beside that of stages."""


class CommandState(StrEnum):
    """Where a command is in its life: it waits for its lease or a runner, has one, runs there, has ended."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class CommandEnding(StrEnum):
    """How a command ended; each is told apart everywhere."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    NOT_STARTED = "not_started"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"


class OnEnd(StrEnum):
    """What becomes of a lease's first item when it ends: others may have it, or nobody until it is put online."""

    FREE = "free"
    OFFLINE = "offline"


@dataclass(frozen=True, kw_only=True)
class CommandSpec:
    """A command as requested, without its environment and other secrets.

    `argv` is what runs; with `shell` its only element is a line for `/bin/sh -c`. `timeout` is a duration as people
    write it. `role` is that of whoever submitted it. With `unique` a second one like it is not queued.
    """

    argv: tuple[str, ...]
    shell: bool = False
    folder: str | None = None
    variables: tuple[str, ...] = ()
    """The names of what its environment has."""
    secrets: bool = False
    """Whether the request came with secrets, which it is told too."""
    runner: str | None = None
    labels: tuple[str, ...] = ()
    timeout: str | None = None
    retry: int = 0
    unique: bool = False
    role: str = Role.USER

    @property
    def line(self) -> str:
        """It as people write it."""
        return self.argv[0] if self.shell else shlex.join(self.argv)


class Misfit(IntEnum):
    """What of a command a rule does not let pass, in the order in which it is looked at."""

    USER = 1
    ROLE = 2
    WORDS = 3
    FOLDER = 4
    VARIABLES = 5


@dataclass(frozen=True, kw_only=True)
class CommandRule:
    """Whose commands may run, and as whom.

    `users` are patterns of owners, `role` the least role of whoever submits. `run` are patterns of what may run, word
    by word, any if there are none; `folders` those of where it may start; `env` those of the variables that may be set,
    None being all where anything may run and none otherwise. `account` None is the runner's own, `OWNER` in it the
    owner's name.
    """

    users: tuple[str, ...] = ("*",)
    role: Role = Role.USER
    run: tuple[str, ...] = ()
    shell: bool = False
    folders: tuple[str, ...] = ()
    env: tuple[str, ...] | None = None
    account: str | None = None

    def fits(self, owner: str, command: CommandSpec) -> bool:
        """Whether a command of this owner may run by this rule."""
        return self.misfit(owner, command) is None

    def misfit(self, owner: str, command: CommandSpec) -> Misfit | None:
        """The first of a command of this owner that does not fit this rule; None if all of it does."""
        if not any(fnmatchcase(owner, pattern) for pattern in self.users):
            return Misfit.USER
        if not Role(command.role).reaches(self.role):
            return Misfit.ROLE
        if not self._may_run(command):
            return Misfit.WORDS
        if not self._may_start(command):
            return Misfit.FOLDER
        return None if self._may_set(command.variables) else Misfit.VARIABLES

    def _may_run(self, command: CommandSpec) -> bool:
        if not self.run:
            return True
        if command.shell:
            return self.shell
        if not self.folders and "/" in command.argv[0] and not command.argv[0].startswith("/"):
            # Whoever chooses the folder would choose the program.
            return False
        return any(_is_like(command.argv, shlex.split(pattern)) for pattern in self.run)

    def _may_start(self, command: CommandSpec) -> bool:
        folder = command.folder
        if not self.folders:
            return True
        return folder is not None and any(_is_path_like(folder, pattern) for pattern in self.folders)

    def _may_set(self, variables: Sequence[str]) -> bool:
        if self.env is None:
            return not self.run or not variables
        return all(any(fnmatchcase(name, pattern) for pattern in self.env) for name in variables)


def _is_like(argv: Sequence[str], words: Sequence[str]) -> bool:
    if list(words) == ["*"]:
        return True
    if words and words[-1] == "*":
        words, argv = words[:-1], argv[: len(words) - 1]
    if len(argv) != len(words) or not words:
        return False
    rest = zip(argv[1:], words[1:], strict=True)
    return _is_path_like(argv[0], words[0]) and all(fnmatchcase(arg, word) for arg, word in rest)


def _is_path_like(path: str, pattern: str) -> bool:
    """Whether a path is like a pattern, part by part, and leads nowhere else."""
    parts, wanted = path.split("/"), pattern.split("/")
    return ".." not in parts and len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


@dataclass(frozen=True, kw_only=True)
class CommandPolicy:
    """Where the commands of a pool's leases run, whose, and with which bounds.

    The first of the `rules` that fits says as whom. `output` are the bytes that are kept of one command, `grace` passes
    from SIGTERM to SIGKILL, `timeout` is the longest that one may run.
    """

    runner: str | None = None
    labels: tuple[str, ...] = ()
    rules: tuple[CommandRule, ...] = (CommandRule(role=Role.OPERATOR),)
    output: int = OUTPUT_LIMIT
    grace: timedelta = KILL_GRACE
    timeout: timedelta | None = None

    def rule_for(self, owner: str, command: CommandSpec) -> CommandRule | None:
        """The rule by which a command may run; None if it may not."""
        return next((rule for rule in self.rules if rule.fits(owner, command)), None)


ADMINS_ONLY = CommandPolicy(rules=(CommandRule(role=Role.ADMIN),))
"""What holds in a pool that says nothing of commands: an admin decides what workers run anyway."""


def home_of(pool: str | None) -> str:
    """The pool by whose policy a command runs, given that of its lease's first item; raise `Invalid` without one."""
    if pool is None:
        detail = "the first item of a lease with a command names its pool"
        raise Invalid(detail, [Fault(path="items[0].pool", code="missing", detail=detail)])
    return pool


def account_of(rule: CommandRule, owner: str) -> str | None:
    """As whom a command of this owner runs by a rule; None: as the runner itself."""
    return None if rule.account is None else rule.account.replace(OWNER, owner)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A lease's command as it stands.

    `on` is the runner that has it, `started` whether it may have begun to run. `ending` tells how it ended: `code` is
    the exit status or the signal's number.
    """

    spec: CommandSpec
    account: str | None
    state: CommandState
    reason: str | None
    on: str | None
    attempt: int
    started: bool
    started_at: datetime | None
    ended_at: datetime | None
    ending: CommandEnding | None
    code: int | None
    detail: str | None
    output_limit: int
    output_bytes: int | None
    dropped: int | None


@dataclass(frozen=True, kw_only=True)
class RunnerHost:
    """One process that takes commands, by the name of its runner, with how many at once, and where it is.

    `locks`, `boot` and `processes` are those of `ports.Place`.
    """

    instance: str
    labels: tuple[str, ...]
    slots: int
    host: str
    locks: str
    boot: str
    processes: str


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a runner is told to run. `argv` has the names of resources in it, `env` is all that the command gets."""

    lease: str
    number: int
    owner: str
    pool: str
    argv: tuple[str, ...]
    shell: bool
    env: Mapping[str, str]
    folder: str | None
    account: str | None
    timeout_s: float | None
    grace_s: float
    output_limit: int
    given: tuple[str, ...] = ()
    """The names of what of `env` was requested; the rest the service itself says."""


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PLACEHOLDER = re.compile(rf"@RESOURCE(?::({_NAME}))?")


def filled(argv: Sequence[str], first: Sequence[str], pools: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Arguments with the names of granted resources in the place of `@RESOURCE` and `@RESOURCE:POOL`.

    `first` are those of the first item, `pools` those of each of the lease's pools; several are joined by commas. What
    follows a colon and is none of the pools stays as it is: `@RESOURCE:8080`. Each argument is filled by itself.
    """

    def fill(found: re.Match[str]) -> str:
        pool = found[1]
        if pool in pools:
            return ",".join(pools[pool])
        return ",".join(first) + ("" if pool is None else f":{pool}")

    return tuple(_PLACEHOLDER.sub(fill, argument) for argument in argv)


class Stream:
    """Which stream a frame of output is of."""

    END, STDOUT, STDERR, SERVICE = range(4)
    NAMES = ("end", "stdout", "stderr", "service")


FRAME_HEAD = 13
"""Bytes before the data of a frame: microseconds since 1970 (8), the stream (1), the length of the data (4)."""

FRAME_LIMIT = 32 * 1024
"""Bytes of data in a frame, at most."""

BATCH_LIMIT = 1024 * 1024
"""Bytes of frames that are handed over at once, at most."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A piece of output: which stream of it, and when it came, in microseconds since 1970."""

    at_us: int
    stream: int
    data: bytes

    def packed(self) -> bytes:
        """It as it travels and is spooled."""
        head = self.at_us.to_bytes(8, "big") + bytes([self.stream]) + len(self.data).to_bytes(4, "big")
        return head + self.data

    @property
    def size(self) -> int:
        """Its bytes, packed."""
        return FRAME_HEAD + len(self.data)


def frames(packed: bytes) -> list[Frame]:
    """The frames in these bytes, without one at the end that is not whole; raise `ValueError` where it is none."""
    return [
        Frame(at_us=int.from_bytes(packed[at : at + 8], "big"), stream=stream, data=packed[at + FRAME_HEAD : end])
        for at, end, stream in places(packed)
    ]


def places(packed: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each whole frame begins and ends in these bytes, and its stream; raise `ValueError` where there is none."""
    at = 0
    while at + FRAME_HEAD <= len(packed):
        stream, size = packed[at + 8], int.from_bytes(packed[at + 9 : at + FRAME_HEAD], "big")
        if stream > Stream.SERVICE or size > FRAME_LIMIT:
            raise ValueError(f"no frame begins at byte {at}")
        end = at + FRAME_HEAD + size
        if end > len(packed):
            return
        yield at, end, stream
        at = end
