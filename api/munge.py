"""Accounts for which MUNGE vouches: `unmunge` says whose a credential is, and it is good for one request alone.

What cannot be decoded is refused, and never taken for anybody's: an expired or repeated credential still names an
account, so the exit status of `unmunge` is looked at before anything that it prints.
"""

from __future__ import annotations

import asyncio
import logging
import pwd
import re
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

from fastapi import Request
from starlette.requests import ClientDisconnect

from leasehold.access import USER_PATTERN, Role
from leasehold.errors import Fault, Malformed, Unauthenticated, Unavailable, UserUnknown
from leasehold.munge import bound, reason
from leasehold.ports import UserStore

log = logging.getLogger(__name__)

LONGEST_S = 5.0
"""How long a credential may take to be decoded, from when it came; `unmunge` tries for ten seconds by itself."""
AT_ONCE = 8
"""So many are decoded at the same time; the others wait."""
ADMIN = "admin"
"""Whom the admin's token is for. Systems have accounts of this name, and what is the admin's is not theirs."""

_CREDENTIAL = re.compile(r"MUNGE:[A-Za-z0-9+/]+={0,2}:")
_UID = re.compile(rb"^UID:.*\(([0-9]+)\)$", re.MULTILINE)

# The exit statuses of `unmunge` are the errors of libmunge, `munge_err_t` in munge.h.
_EXPIRED, _REWOUND, _REPLAYED = 15, 16, 17
_NO_ANSWER = {1: "an internal error", 5: "out of memory", 6: "munged cannot be reached", 7: "munged does not answer"}
_REFUSED = {
    _EXPIRED: ("munge_expired", "the credential has expired"),
    _REWOUND: ("munge_invalid", "the credential is from the future: the clocks of the machines differ"),
    _REPLAYED: ("munge_replayed", "the credential was used before: each request needs one of its own"),
}


class Munge:
    """Says whose a credential is. Everybody let in so has the same `role`; `socket` is munged's, if not the usual one.

    Accounts are named as on this machine, so the machines that share the key must agree on their numbers.
    """

    def __init__(self, role: Role, users: UserStore, socket: Path | None = None) -> None:
        self.role = role
        self._users = users
        self._command = ["unmunge", "--keys=UID", *([] if socket is None else [f"--socket={socket}"])]
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def account(self, credential: str, request: Request) -> str:
        """The name of the account that a request comes from.

        Raises `Unauthenticated` unless the credential is good, and for this request; `Unavailable` where that cannot be
        known. The body is read only once the credential was decoded.
        """
        try:
            uid, said = await self._decode(credential)
            await _check_is_of(request, said)
            name = await asyncio.to_thread(_name, uid)
            await self.check(name)
        except (Unauthenticated, Unavailable) as error:
            code = error.faults[0].code if error.faults else error.code
            address = request.client.host if request.client else "somewhere"
            log.warning("a credential of MUNGE from %s was refused: %s (%s)", address, error.detail, code)
            raise
        return name

    async def check(self, name: str) -> None:
        """Raise `Unauthenticated` where a user of the account's name was disabled."""
        try:
            user = await self._users.user(name)
        except UserUnknown:
            return
        if user.disabled_at is not None:
            raise _refused("munge_no_account", f"the user {name} is disabled")

    async def _decode(self, credential: str) -> tuple[int, bytes]:
        """The number of the account that made a credential, and what it put in."""
        if not _CREDENTIAL.fullmatch(credential):
            raise _refused("munge_invalid", "this is no credential of MUNGE")
        try:
            async with asyncio.timeout(LONGEST_S), self._turns:
                status, out, err = await self._run(credential)
        except TimeoutError:
            raise Unavailable("MUNGE does not answer") from None
        except OSError as error:
            raise Unavailable(f"MUNGE cannot be asked: {error.strerror}: unmunge") from error
        if status < 0 or status in _NO_ANSWER:
            raise Unavailable(f"MUNGE cannot be asked: {_NO_ANSWER.get(status, 'unmunge was killed')}")
        if status != 0:
            raise _refused(*_REFUSED.get(status, ("munge_invalid", f"the credential is not valid: {reason(err)}")))
        about, _, said = out.partition(b"\n\n")
        uid = _UID.search(about)
        if uid is None:
            raise Unavailable("MUNGE cannot be asked: unmunge names no account")
        return int(uid[1]), said

    async def _run(self, credential: str) -> tuple[int, bytes, bytes]:
        """Exit status, output and error output of `unmunge`, which reads the credential where nobody else sees it."""
        process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        try:
            out, err = await process.communicate(credential.encode())
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, out, err


async def _check_is_of(request: Request, said: bytes) -> None:
    """Raise `Unauthenticated` unless this is what the credential for this request carries."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise Malformed("the body did not come to its end") from None
    query = request.scope["query_string"]
    target = request.scope["raw_path"] + (b"?" + query if query else b"")
    if said.strip() != bound(request.method, target, body).encode():
        raise _refused("munge_other_request", "the credential is for another request")


def _name(uid: int) -> str:
    """The name of an account; raise `Unauthenticated` where it has none that somebody may have here."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        raise _refused("munge_no_account", f"there is no account {uid} on the service's machine") from None
    if name == ADMIN or not re.fullmatch(USER_PATTERN, name):
        raise _refused("munge_no_account", f"the account {uid} has a name that no user may have: {name!r}")
    return name


def _refused(code: str, detail: str) -> Unauthenticated:
    return Unauthenticated(detail, [Fault(path="Authorization", code=code, detail=detail)])
