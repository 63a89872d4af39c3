"""Who may do what, in words: roles, what narrows a token, the records of users' tokens, and users with passwords.

Standard library only. Which call needs what is declared in `api.access`; a token's secret is known here as its digest
alone, and so is a password.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

USER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$"
"""Names of users: what people are called, or their mail address."""

LOCAL_RUNNER = "local"
"""The name of the embedded stack's own runner."""

DEFAULT_LIFE = timedelta(days=90)
"""How long a token is good that says nothing of it; none is good for longer than `model.LONGEST`."""


class Role(StrEnum):
    """What kind of caller somebody is; each role can do all that the one before it can, but for `RUNNER`.

    That is a process that runs leased commands, and has no right besides.
    """

    VIEWER = "viewer"
    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"
    RUNNER = "runner"

    def reaches(self, least: Role) -> bool:
        """Whether this role can do what needs at least that one."""
        if Role.RUNNER in (self, least):
            return self is least or self is Role.ADMIN
        return _RANK[self] >= _RANK[least]


_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, kw_only=True)
class Scopes:
    """What narrows a token: with `read` it changes nothing; outside of `pools` (None: all) it can what a viewer can."""

    pools: tuple[str, ...] | None = None
    read: bool = False

    def cover(self, pools: Collection[str] | None) -> bool:
        """Whether all of these pools are within, None being every pool there is and will be."""
        return self.pools is None or (pools is not None and set(pools) <= set(self.pools))


EVERYTHING = Scopes()
"""The scopes of a token that nothing narrows."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A user's token, without its secret. `made_with` is the id of the token that it was made with."""

    id: str
    user: str
    role: Role
    scopes: Scopes
    label: str | None
    created_at: datetime
    created_by: str
    made_with: str | None
    expires_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None

    @property
    def of_login(self) -> bool:
        """Whether a password opened it: its own user made it, and with no other token."""
        return self.made_with is None and self.created_by == self.user


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """A token to be stored, as the SHA-256 of its string; `lasts` None is `DEFAULT_LIFE`.

    `bounded`: it must not outlive the token that it is made with, and ends with it.
    """

    id: str
    digest: str
    user: str
    role: Role
    scopes: Scopes
    label: str | None
    lasts: timedelta | None
    created_by: str
    made_with: str | None = None
    bounded: bool = False


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What a token's string is checked against, and for how many seconds the token is still good."""

    token: Token
    digest: str
    left_s: float


@dataclass(frozen=True, kw_only=True)
class TokenPage:
    """One page of tokens, newest first; `next_cursor` is where the next one begins."""

    tokens: tuple[Token, ...]
    next_cursor: int | None


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody who has a password, and logs in with it; tokens have users who have none."""

    name: str
    role: Role
    created_at: datetime
    created_by: str
    password_at: datetime
    disabled_at: datetime | None
    disabled_by: str | None


@dataclass(frozen=True, kw_only=True)
class UserPage:
    """One page of users by name; `next_cursor` is the name after which the next one begins."""

    users: tuple[User, ...]
    next_cursor: str | None
