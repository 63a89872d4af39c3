"""Who is calling: bearer tokens, and what each kind of caller may do."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from leasehold.errors import Refused, Unauthenticated


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A caller: `id` is what its idempotency keys are scoped to, `name` owns what it makes.

    `lease` is set for the token of one lease, which reaches that lease alone.
    """

    id: str
    name: str
    lease: str | None = None

    def check_reaches(self, lease: str) -> None:
        """Raise `Refused` unless the caller may see and steer this lease."""
        if self.lease is not None and self.lease != lease:
            raise Refused("this token is good for another lease")

    def check_operator(self) -> None:
        """Raise `Refused` unless the caller may see and change more than one lease."""
        if self.lease is not None:
            raise Refused("the token of a lease is good for that lease alone")


class Tokens:
    """Knows the admin's token, and makes and checks the tokens of leases.

    A lease's token is an HMAC of the lease's id: it is stored nowhere, and every API process with the same key accepts
    it.
    """

    def __init__(self, key: bytes, admin_token: str) -> None:
        self._key = key
        self._admin = hashlib.sha256(admin_token.encode()).digest()

    def for_lease(self, lease: str) -> str:
        """The token that is good for this lease alone."""
        mac = hmac.new(self._key, f"lease:{lease}".encode(), hashlib.sha256).hexdigest()
        return f"{lease}.{mac}"

    def principal(self, token: str) -> Principal:
        """Who bears this token; raise `Unauthenticated` if nobody does."""
        if hmac.compare_digest(hashlib.sha256(token.encode()).digest(), self._admin):
            return Principal(id="admin", name="admin")
        lease, dot, _ = token.partition(".")
        if dot and hmac.compare_digest(self.for_lease(lease).encode(), token.encode()):
            return Principal(id=f"lease:{lease}", name=f"lease:{lease}", lease=lease)
        raise Unauthenticated("the token is not valid")


_BEARER = HTTPBearer(auto_error=False, description="The admin's token, or that of a lease")


def authenticate(request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> Principal:
    """The caller of a request (a FastAPI dependency)."""
    if sent is None or not sent.credentials:
        raise Unauthenticated("send a token: Authorization: Bearer …")
    tokens: Tokens = request.app.state.tokens
    return tokens.principal(sent.credentials.strip())


def secret_file(path: Path) -> str:
    """Read a secret, or make it: the file is never readable for others, and two processes agree on it."""
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        try:
            # A link, unlike a rename, never replaces what another process made meanwhile.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    return path.read_text().strip()
