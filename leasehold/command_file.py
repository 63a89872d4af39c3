"""What a pools file says of commands that run on leased resources: whose, where, as whom, within which bounds."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from leasehold.access import Role
from leasehold.commands import KILL_GRACE, LONGEST_GRACE, OUTPUT_LIMIT, CommandPolicy, CommandRule
from leasehold.fields import Duration, Name, Strict, Tag, Word

_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE = r"^[1-9][0-9]{0,5}(KiB|MiB|GiB)$"
_LARGEST = 100 * 1024**3
_ACCOUNT = r"^([a-z_][a-z0-9_.-]{0,31}\$?|\{owner\})$"


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
        return value
    found = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    size = int(found[0].removesuffix(found[1])) * _UNITS[found[1]] if found else 0
    if not 0 < size <= _LARGEST:
        raise PydanticCustomError("size", "must be a size like 64MiB, at most 100GiB")
    return size


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=Annotated[str, Field(pattern=_SIZE)])]


def _pattern(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise PydanticCustomError("pattern", "is no line of words: {reason}", {"reason": str(error)}) from None
    if not words:
        raise PydanticCustomError("pattern", "has no word")
    return value


Line = Annotated[Word, Field(max_length=1024), AfterValidator(_pattern)]
"""A pattern of commands, word by word."""


class CommandRuleFile(Strict):
    """Whose commands run, and as whom. The first rule that fits a command holds."""

    users: list[Tag] = Field(default=["*"], min_length=1, max_length=100, description="Patterns of owners, like ci-*")
    role: Literal["user", "operator", "admin"] = Field(default="user", description="At least, of who submits it")
    run: list[Line] = Field(
        default=[],
        max_length=100,
        description="Patterns of commands, word by word: `make *` is make with any arguments. None: any command",
    )
    shell: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="With `run`: whether a line for a shell is one of them"
    )
    folders: list[Annotated[Word, Field(max_length=1024, pattern="^/")]] = Field(
        default=[], max_length=100, description="Patterns of where they start, like /srv/builds/*; none: anywhere"
    )
    env: list[Tag] | None = Field(
        default=None,
        max_length=100,
        description="Patterns of variables that may be set; all by default, none where `run` says what may run",
    )
    account: Annotated[str, Field(pattern=_ACCOUNT)] | None = Field(
        default=None, alias="as", description="The account; {owner}: the owner's name. None: the runner's own"
    )

    def rule(self) -> CommandRule:
        """The rule it describes."""
        return CommandRule(
            users=tuple(self.users),
            role=Role(self.role),
            run=tuple(self.run),
            shell=self.shell,
            folders=tuple(self.folders),
            env=None if self.env is None else tuple(self.env),
            account=self.account,
        )


class CommandsFile(Strict):
    """What the pool's leases may run, where, and within which bounds."""

    runner: Name | None = Field(default=None, description="The runner that runs them; None: any that has the labels")
    labels: list[Tag] = Field(default=[], max_length=50, description="What a runner must have")
    allow: list[CommandRuleFile] = Field(
        default=[CommandRuleFile(role="operator")], max_length=100, description="Whose commands; operators' by default"
    )
    output: Size = Field(default=OUTPUT_LIMIT, description="How much output of one command is kept")
    grace: Annotated[Duration, Field(le=LONGEST_GRACE)] = Field(
        default=KILL_GRACE, description="From SIGTERM to SIGKILL; at most 30s"
    )
    timeout: Duration | None = Field(default=None, description="The longest that a command may run")

    def policy(self) -> CommandPolicy:
        """The policy it describes."""
        return CommandPolicy(
            runner=self.runner,
            labels=tuple(self.labels),
            rules=tuple(rule.rule() for rule in self.allow),
            output=self.output,
            grace=self.grace,
            timeout=self.timeout,
        )
