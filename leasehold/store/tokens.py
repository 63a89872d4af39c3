"""Users' tokens: made, looked up by their public id, revoked. A token's string never gets here, only its digest."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update

from leasehold.access import DEFAULT_LIFE, Credential, NewToken, Role, Scopes, Token, TokenPage
from leasehold.errors import Fault, Refused, TokenUnknown, Unauthenticated
from leasehold.store import events
from leasehold.store import tables as t
from leasehold.store.engine import Database, Tx

USE_NOTED_EVERY = timedelta(minutes=1)

_BY_ID = select(t.tokens).where(t.tokens.c.id == bindparam("id"))


class SqlTokens:
    """Tokens on SQLite or PostgreSQL; see `leasehold.ports.TokenStore` for what each call means."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewToken) -> Token:
        return (await self._database.write(create, new))[0]

    async def credential(self, token: str) -> Credential | None:
        return await self._database.read(lambda c: _credential(c, token, self._database.now(c)))

    async def token(self, token: str) -> Token:
        return await self._database.read(lambda c: _token(_known(c, token)))

    async def tokens(self, *, user: str | None, before: int | None, limit: int) -> TokenPage:
        return await self._database.read(_page, user, before, limit)

    async def revoke(self, token: str, *, actor: str, by: str) -> list[str]:
        return (await self._database.write(revoke, token, actor, by))[0]

    async def used(self, tokens: list[str]) -> None:
        await self._database.write(_used, tokens)


def create(tx: Tx, new: NewToken) -> Token:
    """Keep a new token."""
    expires_at = tx.now + (new.lasts or DEFAULT_LIFE)
    maker = _good(tx, new.made_with) if new.made_with is not None else None
    if new.bounded and maker is not None:
        expires_at = _bounded(maker, expires_at, chosen=new.lasts is not None)
    scopes = _scopes_to_json(new.scopes)
    row = {
        "id": new.id,
        "digest": new.digest,
        "owner": new.user,
        "role": new.role,
        "scopes": scopes,
        "label": new.label,
        "created_at": tx.now,
        "created_by": new.created_by,
        "made_with": new.made_with,
        "expires_at": expires_at,
    }
    made = _token(tx.execute(insert(t.tokens).values(row).returning(t.tokens)).one())
    about = {"token": new.id, "user": new.user, "role": new.role, "scopes": scopes, "made_with": new.made_with}
    events.record(tx, "token_created", actor=new.created_by, data={**about, "expires_at": _written(expires_at)})
    return made


def _good(tx: Tx, maker: str) -> Row[Any]:
    """The token that another is made with; raise `Unauthenticated` where it is good no more.

    Whoever let the call in may have read it before it was revoked: nothing may slip away from that.
    """
    row: Row[Any] | None = tx.execute(_BY_ID, {"id": maker}).one_or_none()
    if row is None or row.revoked_at is not None or row.expires_at <= tx.now:
        raise Unauthenticated("the token is not valid any more")
    return row


def _bounded(row: Row[Any], wanted: datetime, *, chosen: bool) -> datetime:
    """The end of a token that must not outlive its maker: an end that was chosen is kept or refused."""
    if chosen and wanted > row.expires_at:
        detail = f"it must not outlive the token that it is made with, which is good until {_written(row.expires_at)}"
        raise Refused(detail, [Fault(path="expires", code="outlives", detail=detail)])
    ends: datetime = min(wanted, row.expires_at)
    return ends


def _written(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _credential(connection: Connection, token: str, now: datetime) -> Credential | None:
    row = connection.execute(_BY_ID, {"id": token}).one_or_none()
    if row is None:
        return None
    return Credential(token=_token(row), digest=row.digest, left_s=(row.expires_at - now).total_seconds())


def _known(connection: Connection, token: str) -> Row[Any]:
    row = connection.execute(_BY_ID, {"id": token}).one_or_none()
    if row is None:
        raise TokenUnknown(f"there is no token {token[:64]}")
    return row


def _page(connection: Connection, user: str | None, before: int | None, limit: int) -> TokenPage:
    query = select(t.tokens).order_by(t.tokens.c.number.desc()).limit(limit + 1)
    if user is not None:
        query = query.where(t.tokens.c.owner == user)
    if before is not None:
        query = query.where(t.tokens.c.number < before)
    rows = connection.execute(query).all()
    more = rows[limit - 1].number if len(rows) > limit else None
    return TokenPage(tokens=tuple(_token(row) for row in rows[:limit]), next_cursor=more)


def revoke(tx: Tx, token: str, actor: str, by: str) -> list[str]:
    """Make a token good for nothing, with those that end with it."""
    row = _known(tx.connection, token)
    revoked: list[str] = []
    reason, unseen = None, [row]
    while unseen:
        for one in unseen:
            revoked.append(one.id)
            if one.revoked_at is None:
                _mark_revoked(tx, one, actor, by, reason)
        heirs = t.tokens.c.made_with.in_([one.id for one in unseen if _has_heirs(one)])
        unseen = list(tx.execute(select(t.tokens).where(heirs)).all())
        reason = f"made with token {token}"
    return revoked


def _has_heirs(row: Row[Any]) -> bool:
    """Whether what was made with this token ends with it: what an admin makes for others outlives the admin's token."""
    of_login = row.made_with is None and row.created_by == row.owner
    return of_login or not (row.role == Role.ADMIN and row.scopes["pools"] is None)


def _mark_revoked(tx: Tx, row: Row[Any], actor: str, by: str, reason: str | None) -> None:
    tx.execute(update(t.tokens).where(t.tokens.c.id == row.id).values(revoked_at=tx.now, revoked_by=actor))
    about = {"token": row.id, "user": row.owner, "role": row.role, "by": by}
    events.record(tx, "token_revoked", actor=actor, reason=reason, data=about)


def _used(tx: Tx, tokens: list[str]) -> None:
    noted = t.tokens.c.last_used_at
    stale = or_(noted.is_(None), noted <= tx.now - USE_NOTED_EVERY)
    tx.execute(update(t.tokens).where(t.tokens.c.id.in_(tokens), stale).values(last_used_at=tx.now))


def _scopes_to_json(scopes: Scopes) -> dict[str, Any]:
    return {**asdict(scopes), "pools": None if scopes.pools is None else list(scopes.pools)}


def _token(row: Row[Any]) -> Token:
    pools = row.scopes["pools"]
    return Token(
        id=row.id,
        user=row.owner,
        role=Role(row.role),
        scopes=Scopes(pools=None if pools is None else tuple(pools), read=row.scopes["read"]),
        label=row.label,
        created_at=row.created_at,
        created_by=row.created_by,
        made_with=row.made_with,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
        last_used_at=row.last_used_at,
    )
