"""Users with passwords: made, looked up to log in, disabled, forgotten. A password never gets here, only its hash."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from leasehold.access import NewToken, Role, Token, User, UserPage
from leasehold.errors import UserExists, UserUnknown
from leasehold.store import events, tokens
from leasehold.store import tables as t
from leasehold.store.engine import Database, Tx


class SqlUsers:
    """Users on SQLite or PostgreSQL; see `leasehold.ports.UserStore` for what each call means."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, role: Role, password: str, *, actor: str) -> User:
        return (await self._database.write(_create, name, role, password, actor))[0]

    async def user(self, name: str) -> User:
        return await self._database.read(lambda c: _user(_known(c, name)))

    async def users(self, *, after: str, limit: int) -> UserPage:
        return await self._database.read(_page, after, limit)

    async def password(self, name: str) -> str | None:
        return await self._database.read(_password, name)

    async def login(self, name: str, password: str, new: NewToken) -> Token | None:
        return (await self._database.write(_login, name, password, new))[0]

    async def set_password(self, name: str, password: str, *, actor: str) -> list[str]:
        return (await self._database.write(_set_password, name, password, actor))[0]

    async def disable(self, name: str, *, actor: str) -> list[str]:
        return (await self._database.write(_disable, name, actor))[0]

    async def enable(self, name: str, *, actor: str) -> None:
        await self._database.write(_enable, name, actor)

    async def remove(self, name: str, *, actor: str) -> list[str]:
        return (await self._database.write(_remove, name, actor))[0]


def _create(tx: Tx, name: str, role: Role, password: str, actor: str) -> User:
    if _find(tx.connection, name) is not None:
        raise UserExists(f"there is a user {name} already")
    row = {"name": name, "role": role, "password": password, "created_at": tx.now, "password_at": tx.now}
    made = tx.execute(insert(t.users).values(**row, created_by=actor).returning(t.users)).one()
    events.record(tx, "user_created", actor=actor, data={"user": name, "role": role})
    return _user(made)


def _find(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(t.users).where(t.users.c.name == name)).one_or_none()


def _known(connection: Connection, name: str) -> Row[Any]:
    row = _find(connection, name)
    if row is None:
        raise UserUnknown(f"there is no user {name[:128]}")
    return row


def _page(connection: Connection, after: str, limit: int) -> UserPage:
    query = select(t.users).where(t.users.c.name > after).order_by(t.users.c.name).limit(limit + 1)
    rows = connection.execute(query).all()
    more = rows[limit - 1].name if len(rows) > limit else None
    return UserPage(users=tuple(_user(row) for row in rows[:limit]), next_cursor=more)


def _password(connection: Connection, name: str) -> str | None:
    row = _find(connection, name)
    return None if row is None or row.disabled_at is not None else str(row.password)


def _login(tx: Tx, name: str, password: str, new: NewToken) -> Token | None:
    # Checking a password takes long enough for it to be changed meanwhile, or its user disabled.
    if _password(tx.connection, name) != password:
        return None
    return tokens.create(tx, replace(new, role=Role(_known(tx.connection, name).role)))


def _set_password(tx: Tx, name: str, password: str, actor: str) -> list[str]:
    _change(tx, name, "user_password_set", actor, password=password, password_at=tx.now)
    return _revoke(tx, name, actor, of_login=True)


def _disable(tx: Tx, name: str, actor: str) -> list[str]:
    if _known(tx.connection, name).disabled_at is None:
        _change(tx, name, "user_disabled", actor, disabled_at=tx.now, disabled_by=actor)
    _replace_lease_tokens(tx, name)
    return _revoke(tx, name, actor)


def _enable(tx: Tx, name: str, actor: str) -> None:
    if _known(tx.connection, name).disabled_at is not None:
        _change(tx, name, "user_enabled", actor, disabled_at=None, disabled_by=None)


def _remove(tx: Tx, name: str, actor: str) -> list[str]:
    _known(tx.connection, name)
    tx.execute(delete(t.users).where(t.users.c.name == name))
    events.record(tx, "user_removed", actor=actor, data={"user": name})
    _replace_lease_tokens(tx, name)
    return _revoke(tx, name, actor)


def _replace_lease_tokens(tx: Tx, name: str) -> None:
    """Make the tokens of a user's leases good for nothing, as if each had gone to another owner."""
    mine = (t.leases.c.owner == name, t.leases.c.ended_at.is_(None), ~t.leases.c.unverified)
    tx.execute(update(t.leases).where(*mine).values(transfers=t.leases.c.transfers + 1))


def _change(tx: Tx, name: str, event: str, actor: str, **values: Any) -> None:
    _known(tx.connection, name)
    tx.execute(update(t.users).where(t.users.c.name == name).values(**values))
    events.record(tx, event, actor=actor, data={"user": name})


def _revoke(tx: Tx, name: str, actor: str, *, of_login: bool = False) -> list[str]:
    """Make the tokens of a user good for nothing, all of them or those that a password opened; the ids of all."""
    mine = select(t.tokens.c.id).where(t.tokens.c.owner == name, t.tokens.c.revoked_at.is_(None))
    if of_login:
        mine = mine.where(t.tokens.c.made_with.is_(None), t.tokens.c.created_by == name)
    revoked: dict[str, None] = {}
    for token in tx.execute(mine).scalars().all():
        if token not in revoked:
            revoked |= dict.fromkeys(tokens.revoke(tx, token, actor, by=actor))
    return list(revoked)


def _user(row: Row[Any]) -> User:
    return User(
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at,
        created_by=row.created_by,
        password_at=row.password_at,
        disabled_at=row.disabled_at,
        disabled_by=row.disabled_by,
    )
