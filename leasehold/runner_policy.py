"""What a runner runs at all, whatever the service says: the second line of defence. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from leasehold.commands import Begun, CommandRule, CommandSpec

ROOT = "root"


@dataclass(frozen=True, kw_only=True)
class RunnerPolicy:
    """As which accounts it runs commands, of which pools and owners, and which ones.

    `accounts` None: as its own account, and root's runner as any that the pools say, but not mapped to root. `pools`,
    `owners` are patterns; `run`, `shell`, `folders` and `env` say which commands, as in a pool's rules.
    """

    accounts: tuple[str, ...] | None = None
    pools: tuple[str, ...] = ("*",)
    owners: tuple[str, ...] = ("*",)
    run: tuple[str, ...] = ()
    shell: bool = False
    folders: tuple[str, ...] = ()
    env: tuple[str, ...] | None = None

    def refusal(self, begun: Begun, own: str) -> str | None:
        """Why a command is not run by a runner whose `own` account this is; None if it may be."""
        if not self._has(begun.account, own):
            return f"this runner runs no commands as {begun.account or own}"
        if not any(fnmatchcase(begun.pool, pattern) for pattern in self.pools):
            return f"this runner runs no commands of pool {begun.pool}"
        if not any(fnmatchcase(begun.owner, pattern) for pattern in self.owners):
            return f"this runner runs no commands of {begun.owner}"
        rule = CommandRule(run=self.run, shell=self.shell, folders=self.folders, env=self.env)
        command = CommandSpec(argv=begun.argv, shell=begun.shell, folder=begun.folder, variables=begun.given)
        if not rule.fits(begun.owner, command):
            return "this runner does not run such commands"
        return None

    def _has(self, account: str | None, own: str) -> bool:
        if self.accounts is not None:
            return (account or own) in self.accounts
        # Whoever starts a runner decides as whom it runs; a name that happens to be root's does not.
        return account is None or (account != ROOT and own in (ROOT, account))
