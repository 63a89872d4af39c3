"""Users with passwords in the store: who may log in, and what ends with them."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from leasehold.access import EVERYTHING, NewToken, Role, Token
from leasehold.errors import UserExists, UserUnknown
from leasehold.store.tokens import SqlTokens
from leasehold.store.users import SqlUsers
from tests.contract.store_lab import NINE, Lab

_ids = itertools.count(1)


@pytest.fixture
def users(lab: Lab) -> SqlUsers:
    return SqlUsers(lab.store.database)


@pytest.fixture
def tokens(lab: Lab) -> SqlTokens:
    return SqlTokens(lab.store.database)


def new_token(user: str, **more: object) -> NewToken:
    number = next(_ids)
    about = {"role": Role.VIEWER, "scopes": EVERYTHING, "label": "login", "lasts": timedelta(hours=12)}
    given = {"id": f"login{number:07}", "digest": f"{number:064}", "user": user, "created_by": user, **about, **more}
    return NewToken(**given)  # type: ignore[arg-type]


async def login(users: SqlUsers, name: str, password: str) -> Token | None:
    return await users.login(name, password, new_token(name))


async def kinds(lab: Lab) -> list[str]:
    return [event.kind for event in await lab.store.events() if event.kind.startswith("user_")]


async def test_a_user_is_found_by_name_and_logs_in_with_its_own_role(lab: Lab, users: SqlUsers) -> None:
    made = await users.create("joe", Role.OPERATOR, "hash of joe", actor="admin")
    assert (made.name, made.role, made.created_at, made.created_by) == ("joe", Role.OPERATOR, NINE, "admin")
    assert await users.user("joe") == made
    assert await users.password("joe") == "hash of joe"
    token = await login(users, "joe", "hash of joe")
    assert token is not None
    assert (token.user, token.role, token.of_login) == ("joe", Role.OPERATOR, True)
    assert token.expires_at == NINE + timedelta(hours=12)


async def test_there_is_one_user_of_a_name(users: SqlUsers) -> None:
    await users.create("joe", Role.USER, "first", actor="admin")
    with pytest.raises(UserExists):
        await users.create("joe", Role.ADMIN, "second", actor="admin")
    assert await users.password("joe") == "first"


async def test_a_password_that_was_changed_while_it_was_checked_opens_nothing(lab: Lab, users: SqlUsers) -> None:
    await users.create("joe", Role.USER, "old", actor="admin")
    lab.clock.forward(days=1)
    await users.set_password("joe", "new", actor="admin")
    assert await login(users, "joe", "old") is None
    assert await login(users, "joe", "new") is not None
    assert (await users.user("joe")).password_at == NINE + timedelta(days=1)


async def test_a_new_password_ends_what_the_old_one_opened_and_nothing_else(users: SqlUsers, tokens: SqlTokens) -> None:
    await users.create("joe", Role.USER, "old", actor="admin")
    opened = await login(users, "joe", "old")
    assert opened is not None
    made = await tokens.create(new_token("joe", made_with=opened.id, bounded=True))
    of_ci = await tokens.create(new_token("joe", created_by="admin"))
    of_ann = await tokens.create(new_token("ann"))
    assert set(await users.set_password("joe", "new", actor="admin")) == {opened.id, made.id}
    assert [(await tokens.token(t.id)).revoked_by for t in (opened, made, of_ci, of_ann)] == ["admin"] * 2 + [None] * 2


@pytest.mark.parametrize("end", ["disable", "remove"])
async def test_one_who_is_disabled_or_forgotten_has_no_token_and_gets_none(
    users: SqlUsers, tokens: SqlTokens, end: str
) -> None:
    await users.create("joe", Role.USER, "hash", actor="admin")
    opened = await login(users, "joe", "hash")
    of_ci = await tokens.create(new_token("joe", created_by="admin"))
    assert opened is not None
    how: Callable[..., Awaitable[list[str]]] = getattr(users, end)
    assert set(await how("joe", actor="anna")) == {opened.id, of_ci.id}
    assert await users.password("joe") is None
    assert await login(users, "joe", "hash") is None
    assert (await tokens.token(of_ci.id)).revoked_by == "anna"


async def test_one_who_is_enabled_again_logs_in_and_the_old_tokens_stay_revoked(
    lab: Lab, users: SqlUsers, tokens: SqlTokens
) -> None:
    await users.create("joe", Role.USER, "hash", actor="admin")
    opened = await login(users, "joe", "hash")
    assert opened is not None
    for _ in range(2):
        await users.disable("joe", actor="anna")
    assert (await users.user("joe")).disabled_by == "anna"
    for _ in range(2):
        await users.enable("joe", actor="anna")
    assert (await users.user("joe")).disabled_at is None
    assert await login(users, "joe", "hash") is not None
    assert (await tokens.token(opened.id)).revoked_at is not None
    assert await kinds(lab) == ["user_created", "user_disabled", "user_enabled"], "what changes nothing is no event"


@pytest.mark.parametrize("name", ["nobody", "", "'; --", "x" * 5000])
async def test_a_user_that_there_is_not(users: SqlUsers, name: str) -> None:
    assert await users.password(name) is None
    assert await login(users, name, "hash") is None
    with pytest.raises(UserUnknown):
        await users.user(name)
    for change in (users.disable, users.enable, users.remove):
        with pytest.raises(UserUnknown):
            await change(name, actor="admin")
    with pytest.raises(UserUnknown):
        await users.set_password(name, "hash", actor="admin")


async def test_they_are_listed_page_by_page(users: SqlUsers) -> None:
    for name in ("carl", "ann", "bob"):
        await users.create(name, Role.USER, "hash", actor="admin")
    first = await users.users(after="", limit=2)
    assert ([user.name for user in first.users], first.next_cursor) == (["ann", "bob"], "bob")
    rest = await users.users(after="bob", limit=2)
    assert ([user.name for user in rest.users], rest.next_cursor) == (["carl"], None)


async def test_no_event_has_the_hash_of_a_password(lab: Lab, users: SqlUsers) -> None:
    await users.create("joe", Role.USER, "secret hash", actor="admin")
    await users.set_password("joe", "other secret hash", actor="admin")
    await users.remove("joe", actor="admin")
    assert await kinds(lab) == ["user_created", "user_password_set", "user_removed"]
    assert "hash" not in repr(await lab.store.events())
