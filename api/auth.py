"""Who is calling: the admin's token, users' tokens, the tokens of leases, and accounts by MUNGE."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b32encode
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fastapi import Request
from fastapi.security import HTTPBearer

from api.credentials import Credentials
from api.munge import Munge
from leasehold.access import EVERYTHING, LOCAL_RUNNER, Credential, NewToken, Role, Scopes, Token
from leasehold.errors import Fault, Refused, Unauthenticated
from leasehold.ports import Store, TokenStore

BEARER = HTTPBearer(auto_error=False, description="A user's token, the admin's, or that of a lease")

_LEASE_TOKEN = re.compile(r"([^.]{1,64})(?:\.([1-9][0-9]{0,8}))?\.[0-9a-f]{64}")
_USER_TOKEN = re.compile(r"lh_([a-z2-7]{12})_[a-z2-7]{52}")


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A caller: `id` is what its idempotency keys are scoped to, `name` owns what it makes.

    `lease` is set for the token of one lease, which has no role and reaches that lease alone, as long as its owner is
    the one after so many `transfers`; `token` is the id of a user's token. Who is `anonymous` has said no name. An
    `account` is one by MUNGE: what it came with is over with its request.
    """

    id: str
    name: str
    role: Role | None
    scopes: Scopes = EVERYTHING
    lease: str | None = None
    transfers: int = 0
    token: str | None = None
    expires_at: datetime | None = None
    anonymous: bool = False
    account: bool = False

    def role_in(self, pools: Collection[str] | None) -> Role | None:
        """The role where these pools are concerned, None being every pool there is and will be."""
        if self.role is None or self.scopes.cover(pools):
            return self.role
        return Role.VIEWER

    @property
    def is_admin(self) -> bool:
        """Whether it is an admin of everything."""
        return self.role_in(None) is Role.ADMIN


class Tokens:
    """Makes tokens, and says who bears one.

    A lease's token is an HMAC of the lease's id: it is stored nowhere, and every API process with the same key accepts
    it. A user's token is a random secret behind its id; the store has its digest.
    """

    def __init__(self, key: bytes, admin_token: str, store: TokenStore, runner_token: str | None = None) -> None:
        """`runner_token` is that of the embedded runner, if there is one."""
        self._key = key
        self._admin = hashlib.sha256(admin_token.encode()).digest()
        self._runner = None if runner_token is None else hashlib.sha256(runner_token.encode()).digest()
        self._credentials = Credentials(store)
        self.store = store

    def for_lease(self, lease: str, transfers: int = 0) -> str:
        """The token that is good for this lease alone, and for the owner that it has after so many transfers."""
        named = f"{lease}.{transfers}" if transfers else lease
        mac = hmac.new(self._key, f"lease:{named}".encode(), hashlib.sha256).hexdigest()
        return f"{named}.{mac}"

    def sealed(self, text: str) -> str:
        """What is the same for the same text in every API process, and tells nothing of it to whoever has no key."""
        return hmac.new(self._key, f"digest:{text}".encode(), hashlib.sha256).hexdigest()

    async def principal(self, token: str) -> Principal:
        """Who bears this token; raise `Unauthenticated` if nobody does, or not any more."""
        if hmac.compare_digest(hashlib.sha256(token.encode()).digest(), self._admin):
            return Principal(id="admin", name="admin", role=Role.ADMIN)
        if self._runner and hmac.compare_digest(hashlib.sha256(token.encode()).digest(), self._runner):
            return Principal(id=f"runner:{LOCAL_RUNNER}", name=LOCAL_RUNNER, role=Role.RUNNER)
        if match := _USER_TOKEN.fullmatch(token):
            return await self._user(match[1], token)
        if match := _LEASE_TOKEN.fullmatch(token):
            lease, transfers = match[1], int(match[2] or 0)
            if hmac.compare_digest(self.for_lease(lease, transfers).encode(), token.encode()):
                name = f"lease:{lease}"
                return Principal(id=name, name=name, role=None, lease=lease, transfers=transfers)
        raise _unauthenticated("unknown", "the token is not valid")

    async def _user(self, token: str, text: str) -> Principal:
        credential = await self._credentials.of(token)
        if credential is None or not hmac.compare_digest(_digest(text), credential.digest):
            raise _unauthenticated("unknown", "the token is not valid")
        found = credential.token
        if error := self._fault(credential):
            raise error
        self._credentials.note_use(token)
        return Principal(
            id=f"token:{found.id}",
            name=found.user,
            role=found.role,
            scopes=found.scopes,
            token=found.id,
            expires_at=found.expires_at,
        )

    @staticmethod
    def _fault(credential: Credential) -> Unauthenticated | None:
        token = credential.token
        if token.revoked_at is not None:
            return _unauthenticated("revoked", f"token {token.id} of {token.user} was revoked")
        if credential.left_s <= 0:
            return _unauthenticated("expired", f"token {token.id} of {token.user} has expired")
        return None

    async def lost(self, caller: Principal) -> Unauthenticated | None:
        """Why a caller who was let in would not be let in now, if that is so."""
        if caller.token is None:
            return None
        credential = await self._credentials.of(caller.token)
        return _unauthenticated("unknown", "the token is gone") if credential is None else self._fault(credential)

    async def create(
        self, *, user: str, role: Role, scopes: Scopes, label: str | None, lasts: timedelta | None, maker: Principal
    ) -> tuple[Token, str]:
        """Make a token, and return it with its string, which is known to nobody else from here on.

        Raises `Refused` where what the maker came with is no token: what is made must end with that.
        """
        if maker.account:
            detail = "MUNGE's credentials make no tokens: ask an admin for one"
            raise Refused(detail, [Fault(path="Authorization", code="no_token", detail=detail)])
        new, text = new_token(
            user=user,
            role=role,
            scopes=scopes,
            label=label,
            lasts=lasts,
            created_by=maker.name,
            made_with=maker.token,
            bounded=not maker.is_admin,
        )
        return await self.store.create(new), text

    async def revoke(self, token: str, caller: Principal) -> Token:
        """Make a token good for nothing, here at once and in every other process within `credentials.FRESH_S`."""
        self.revoked(await self.store.revoke(token, actor=caller.name, by=caller.id))
        return await self.store.token(token)

    def revoked(self, tokens: Iterable[str]) -> None:
        """Believe nothing that was known of tokens that were just revoked."""
        for token in tokens:
            self._credentials.forget(token)

    async def close(self) -> None:
        """Write down which tokens were in use."""
        await self._credentials.close()


async def authenticate(request: Request) -> Principal:
    """The caller of a request; raise `Unauthenticated`."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "munge":
        return await _by_munge(request, credential.strip())
    sent = await BEARER(request)
    if sent is None or not sent.credentials:
        return await _anonymous(request)
    tokens: Tokens = request.app.state.tokens
    return await tokens.principal(sent.credentials.strip())


async def check_account(request: Request, caller: Principal) -> None:
    """Raise `Unauthenticated` where a caller by MUNGE who was let in would not be let in now."""
    munge: Munge | None = request.app.state.services.munge
    if caller.account and munge is not None:
        await munge.check(caller.name)


def new_token(**about: Any) -> tuple[NewToken, str]:
    """A token with a new id and secret, about which all else is given, and its string."""
    public = _random(8)[:12]
    text = f"lh_{public}_{_random(32)}"
    return NewToken(id=public, digest=_digest(text), **about), text


async def _by_munge(request: Request, credential: str) -> Principal:
    munge: Munge | None = request.app.state.services.munge
    if munge is None:
        raise _unauthenticated("munge_not_accepted", "this service takes no credentials of MUNGE")
    name = await munge.account(credential, request)
    return Principal(id=f"munge:{name}", name=name, role=munge.role, account=True)


async def _anonymous(request: Request) -> Principal:
    """A caller who says nothing of who they are, where that is enough; raise `Unauthenticated`."""
    store: Store = request.app.state.services.store
    lab, policies = await store.lab(), await store.policies()
    rules = (lab.self_service, *(policy.self_service for policy in policies.values()))
    if not lab.open_reading and not any(rule.open_requests for rule in rules if rule is not None):
        raise missing()
    return Principal(id="anonymous", name="", role=Role.VIEWER if lab.open_reading else None, anonymous=True)


def missing() -> Unauthenticated:
    """The error for who should say who they are."""
    return _unauthenticated("missing", "send a token: Authorization: Bearer …")


def _unauthenticated(code: str, detail: str) -> Unauthenticated:
    return Unauthenticated(detail, [Fault(path="Authorization", code=code, detail=detail)])


def _digest(text: str) -> str:
    # No salt, no slow hash: there is nothing to guess in 256 random bits.
    return hashlib.sha256(text.encode()).hexdigest()


def _random(size: int) -> str:
    """Random bytes, in small letters and digits that no one mistakes for another."""
    return b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower()
