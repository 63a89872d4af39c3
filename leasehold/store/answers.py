"""What was answered to the calls that steer a lease, so that a repetition of a call is answered alike.

A `request` is what tells a call from its repetition: a key, and after the first point what the key was used for. An
empty one says that the call cannot be repeated.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, insert, select

from leasehold.errors import Fault, KeyReused, LeaseholdError, Unavailable
from leasehold.messages import Refusal
from leasehold.ports import Answer
from leasehold.store import tables as t
from leasehold.store.engine import Tx

_KNOWN = select(t.answers).where(t.answers.c.lease == bindparam("lease"), t.answers.c.key == bindparam("key"))


def find(connection: Connection, lease: str, request: str) -> Answer | None:
    """Return what was answered to this call before, if anything; raise `KeyReused` where its key was another call's."""
    if not request:
        return None
    key, use = _parts(request)
    row = connection.execute(_KNOWN, {"lease": lease, "key": key}).one_or_none()
    if row is None:
        return None
    if row.use != use:
        detail = "this Idempotency-Key came with another request before"
        raise KeyReused(detail, [Fault(path="Idempotency-Key", code="reused", detail=detail)])
    if row.refusal is None:
        return Answer(refusal=None)
    return Answer(refusal=Refusal(**{**row.refusal, "faults": tuple(Fault(**f) for f in row.refusal["faults"])}))


def keep(tx: Tx, lease: str, request: str, refusal: Refusal | None) -> Answer:
    """Remember how a call is answered; one that could not be carried out for now may be tried again."""
    if request and (refusal is None or refusal.code != Unavailable.code):
        key, use = _parts(request)
        plain = None if refusal is None else asdict(refusal)
        tx.execute(insert(t.answers), {"lease": lease, "key": key, "use": use, "refusal": plain, "at": tx.now})
    return Answer(refusal=refusal)


def as_refusal(error: LeaseholdError) -> Refusal:
    """An error as an answer."""
    return Refusal(code=error.code, detail=error.detail, faults=error.faults)


def _parts(request: str) -> tuple[str, str]:
    """Digests, because what a signal brings can be any text of any length."""
    key, _, use = request.partition(".")
    return _digest(key), _digest(use)


def _digest(part: str) -> str:
    return hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest()[:32]
