"""The policy file of a runner: what it runs at all."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from leasehold.command_file import Line
from leasehold.config import as_invalid, read_yaml
from leasehold.fields import Strict, Tag
from leasehold.runner_policy import RunnerPolicy


class RunnerFile(Strict):
    """What a runner runs, on top of what the pools allow."""

    accounts: list[Tag] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="As which accounts; by default its own, and root's runner as all but root",
    )
    pools: list[Tag] = Field(default=["*"], min_length=1, max_length=1000, description="Patterns of pools")
    owners: list[Tag] = Field(default=["*"], min_length=1, max_length=1000, description="Patterns of leases' owners")
    run: list[Line] = Field(
        default=[], max_length=1000, description="Patterns of commands, word by word; none: any command"
    )
    shell: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="With `run`: whether a line for a shell is one of them"
    )

    folders: list[Line] = Field(default=[], max_length=1000, description="Patterns of where they start; none: anywhere")
    env: list[Tag] | None = Field(
        default=None, max_length=1000, description="Patterns of variables that may be set; all, none with `run`"
    )

    def policy(self) -> RunnerPolicy:
        """The policy it describes."""
        return RunnerPolicy(
            accounts=None if self.accounts is None else tuple(self.accounts),
            pools=tuple(self.pools),
            owners=tuple(self.owners),
            run=tuple(self.run),
            shell=self.shell,
            folders=tuple(self.folders),
            env=None if self.env is None else tuple(self.env),
        )


def load_policy(text: bytes) -> RunnerPolicy:
    """Read a policy file; raise `Malformed` if it is no YAML, `Invalid` with all faults and their lines otherwise."""
    return read_yaml(text, _read)


def _read(plain: object) -> RunnerPolicy:
    try:
        # A file that says nothing has no keys.
        return RunnerFile.model_validate({} if plain is None else plain).policy()
    except ValidationError as error:
        raise as_invalid(error.errors(include_url=False, include_context=False, include_input=False)) from None
