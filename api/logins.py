"""Logging in with a password: hashed with Argon2, tried only so often, and answered alike whoever there is."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from api.auth import Principal, Tokens, new_token
from leasehold.access import EVERYTHING, USER_PATTERN, Role, Token, User
from leasehold.errors import Fault, TooManyRequests, Unauthenticated
from leasehold.ports import UserStore

log = logging.getLogger(__name__)

LASTS = timedelta(hours=12)
"""How long the token of a login is good."""
FAILURES_FROM_AN_ADDRESS = RateLimitItemPerMinute(10)
"""For one user, from one address."""
FAILURES_FROM_ANYWHERE = RateLimitItemPerMinute(60)
"""For one user."""
FAILURES_OF_AN_ADDRESS = RateLimitItemPerMinute(100)
"""For all users together, from one address."""
MOST_WAITING = 20
"""So many wait for their password to be looked at; the next one is sent away."""
LONGEST_PASSWORD = 1024
AT_ONCE = 2
"""So many passwords are hashed at the same time: each takes 64 MiB and all of a core."""
LABEL = "login"


class Logins:
    """Users with passwords, and the tokens that their passwords open.

    How often somebody failed is counted in this process alone.
    """

    def __init__(self, store: UserStore, tokens: Tokens) -> None:
        self.store = store
        self._tokens = tokens
        self._hasher = PasswordHasher(parallelism=1)
        # Of nobody: whether there is such a user must not show in the time that the answer takes.
        self._nobody = self._hasher.hash("nobody")
        self._hashing = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._failures = FixedWindowRateLimiter(MemoryStorage())

    async def login(self, name: str, password: str, address: str) -> tuple[Token, str]:
        """The token of a login, and its string; raise `Unauthenticated`, or `TooManyRequests` after too many of those.

        `address` is where the call comes from.
        """
        if not re.fullmatch(USER_PATTERN, name) or len(password) > LONGEST_PASSWORD:
            raise _wrong()
        places = (
            (FAILURES_FROM_AN_ADDRESS, name, address),
            (FAILURES_FROM_ANYWHERE, name),
            (FAILURES_OF_AN_ADDRESS, address),
        )
        if self._waiting >= MOST_WAITING:
            raise _too_many()
        self._check(places)
        known = await self.store.password(name)
        async with self._turn():
            # Here, so that many at once are not all let through before the first has failed.
            self._check(places)
            good = await asyncio.to_thread(self._is, known or self._nobody, password)
            if known is None or not good:
                for limit, *place in places:
                    self._failures.hit(limit, *place)
                log.warning("a login failed from %s", address)
                raise _wrong()
        # The role is the user's; it is read when the token is kept.
        new, text = new_token(user=name, role=Role.VIEWER, scopes=EVERYTHING, label=LABEL, lasts=LASTS, created_by=name)
        token = await self.store.login(name, known, new)
        if token is None:
            raise _wrong()
        return token, text

    def _check(self, places: Iterable[tuple[Any, ...]]) -> None:
        """Raise `TooManyRequests` where one of these limits is reached."""
        if not all(self._failures.test(limit, *place) for limit, *place in places):
            raise _too_many()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of those who hash now."""
        self._waiting += 1
        try:
            async with self._hashing:
                yield
        finally:
            self._waiting -= 1

    def _is(self, known: str, password: str) -> bool:
        try:
            return self._hasher.verify(known, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _hashed(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def create(self, name: str, role: Role, password: str, caller: Principal) -> User:
        """Make a user; raise `UserExists`."""
        return await self.store.create(name, role, await self._hashed(password), actor=caller.name)

    async def set_password(self, name: str, password: str, caller: Principal) -> User:
        """Change a password, and end what the old one opened; raise `UserUnknown`."""
        await self.store.user(name)
        self._tokens.revoked(await self.store.set_password(name, await self._hashed(password), actor=caller.name))
        return await self.store.user(name)

    async def disable(self, name: str, caller: Principal) -> User:
        """Let a user log in no more, and end all of this user's tokens; raise `UserUnknown`."""
        self._tokens.revoked(await self.store.disable(name, actor=caller.name))
        return await self.store.user(name)

    async def enable(self, name: str, caller: Principal) -> User:
        """Let a user log in again; raise `UserUnknown`."""
        await self.store.enable(name, actor=caller.name)
        return await self.store.user(name)

    async def remove(self, name: str, caller: Principal) -> User:
        """Forget a user, who is returned, and end all of this user's tokens; raise `UserUnknown`."""
        user = await self.store.user(name)
        self._tokens.revoked(await self.store.remove(name, actor=caller.name))
        return user


def _too_many() -> TooManyRequests:
    return TooManyRequests("too many failed logins: try again in a minute")


def _wrong() -> Unauthenticated:
    detail = "the name or the password is wrong"
    return Unauthenticated(detail, [Fault(path="Authorization", code="wrong", detail=detail)])
