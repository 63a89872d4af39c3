"""Users' tokens in the store: looked up by id, ended for good, noted when used; their strings are kept nowhere."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from leasehold.access import EVERYTHING, NewToken, Role, Scopes, Token
from leasehold.errors import Refused, TokenUnknown, Unauthenticated, Unavailable
from leasehold.model import Event
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.tokens import SqlTokens
from tests.contract.store_lab import NINE, Lab

_ids = itertools.count(1)


@pytest.fixture
def tokens(lab: Lab) -> SqlTokens:
    return SqlTokens(lab.store.database)


async def make(tokens: SqlTokens, **fields: Any) -> Token:
    """A token of alice's, made by an admin."""
    number = next(_ids)
    given = {
        "id": f"token{number:07}",
        "digest": f"{number:064}",
        "user": "alice",
        "role": Role.USER,
        "scopes": EVERYTHING,
        "label": None,
        "lasts": None,
        "created_by": "admin",
    }
    return await tokens.create(NewToken(**{**given, **fields}))


async def happened(lab: Lab) -> list[Event]:
    return [event for event in await lab.store.events() if event.kind.startswith("token_")]


async def test_a_token_is_found_by_its_id_with_what_it_is_checked_against(lab: Lab, tokens: SqlTokens) -> None:
    scopes = Scopes(pools=("r640", "vm"), read=True)
    made = await make(tokens, digest="d" * 64, scopes=scopes, label="nightly", lasts=timedelta(days=3))
    assert (made.user, made.role, made.scopes, made.label) == ("alice", Role.USER, scopes, "nightly")
    assert (made.created_at, made.expires_at) == (NINE, NINE + timedelta(days=3))
    assert (made.revoked_at, made.last_used_at) == (None, None)

    lab.clock.forward(days=2)
    credential = await tokens.credential(made.id)
    assert credential is not None
    assert (credential.token, credential.digest, credential.left_s) == (made, "d" * 64, 86400)
    assert await tokens.token(made.id) == made


@pytest.mark.parametrize("unknown", ["nobody", "", "x" * 5000, "'; --"])
async def test_a_token_that_there_is_not(tokens: SqlTokens, unknown: str) -> None:
    assert await tokens.credential(unknown) is None
    with pytest.raises(TokenUnknown):
        await tokens.token(unknown)
    with pytest.raises(TokenUnknown):
        await tokens.revoke(unknown, actor="admin", by="admin")


async def test_a_token_that_says_nothing_of_it_lasts_90_days(tokens: SqlTokens) -> None:
    assert (await make(tokens)).expires_at == NINE + timedelta(days=90)


async def test_an_expired_one_has_no_time_left(lab: Lab, tokens: SqlTokens) -> None:
    made = await make(tokens, lasts=timedelta(hours=1))
    lab.clock.forward(hours=1)
    credential = await tokens.credential(made.id)
    assert credential is not None
    assert credential.left_s == 0


async def test_no_two_tokens_share_an_id(tokens: SqlTokens) -> None:
    made = await make(tokens)
    with pytest.raises(Unavailable):
        await make(tokens, id=made.id)


async def test_revoking_is_for_good_and_is_told_once(lab: Lab, tokens: SqlTokens) -> None:
    boss = await make(tokens, user="boss", role=Role.ADMIN)
    made = await make(tokens, created_by="boss", made_with=boss.id)
    lab.clock.forward(minutes=5)
    for _ in range(2):
        assert await tokens.revoke(made.id, actor="otto", by="token:abc") == [made.id]
        lab.clock.forward(minutes=5)
    revoked = await tokens.token(made.id)
    assert (revoked.revoked_at, revoked.revoked_by) == (NINE + timedelta(minutes=5), "otto")
    credential = await tokens.credential(made.id)
    assert credential is not None
    assert credential.token == revoked

    _, created, ended = await happened(lab)
    assert (created.kind, created.actor, created.at) == ("token_created", "boss", NINE)
    assert created.data == {
        "token": made.id,
        "user": "alice",
        "role": "user",
        "scopes": {"pools": None, "read": False},
        "made_with": boss.id,
        "expires_at": "2026-04-05T09:00:00Z",
    }
    assert (ended.kind, ended.actor, ended.reason) == ("token_revoked", "otto", None)
    assert ended.data == {"token": made.id, "user": "alice", "role": "user", "by": "token:abc"}


class TestMadeWithAnother:
    async def test_it_must_not_outlive_its_maker(self, tokens: SqlTokens) -> None:
        maker = await make(tokens, lasts=timedelta(days=10))
        made = {"made_with": maker.id, "bounded": True}
        assert (await make(tokens, **made)).expires_at == maker.expires_at
        assert (await make(tokens, lasts=timedelta(days=10), **made)).expires_at == maker.expires_at
        assert (await make(tokens, lasts=timedelta(days=9), **made)).expires_at == NINE + timedelta(days=9)
        with pytest.raises(Refused) as refusal:
            await make(tokens, lasts=timedelta(days=11), **made)
        assert [(f.path, f.code) for f in refusal.value.faults] == [("expires", "outlives")]
        assert "until 2026-01-15T09:00:00Z" in refusal.value.detail

    async def test_a_maker_that_is_over_makes_nothing(self, lab: Lab, tokens: SqlTokens) -> None:
        revoked, expired = await make(tokens), await make(tokens, lasts=timedelta(hours=1))
        await tokens.revoke(revoked.id, actor="admin", by="admin")
        lab.clock.forward(hours=1)
        for maker in (revoked.id, expired.id, "nobody"):
            with pytest.raises(Unauthenticated):
                await make(tokens, made_with=maker, bounded=True)
        assert len((await tokens.tokens(user=None, before=None, limit=10)).tokens) == 2

    async def test_all_that_came_of_a_token_ends_with_it(self, lab: Lab, tokens: SqlTokens) -> None:
        root = await make(tokens)
        first = await make(tokens, made_with=root.id, bounded=True)
        second = await make(tokens, made_with=root.id, bounded=True)
        grandchild = await make(tokens, made_with=second.id, bounded=True)
        beside = await make(tokens)
        await tokens.revoke(second.id, actor="alice", by="token:x")

        assert set(await tokens.revoke(root.id, actor="admin", by="admin")) == {
            root.id,
            first.id,
            second.id,
            grandchild.id,
        }

        assert (await tokens.token(beside.id)).revoked_at is None
        assert (await tokens.token(grandchild.id)).revoked_by == "alice"
        told = [(event.data["token"], event.reason) for event in await happened(lab) if event.kind == "token_revoked"]
        assert told == [
            (second.id, None),
            (grandchild.id, f"made with token {second.id}"),
            (root.id, None),
            (first.id, f"made with token {root.id}"),
        ]

    @pytest.mark.parametrize(("scopes", "ends"), [(EVERYTHING, False), (Scopes(pools=("r640",)), True)])
    async def test_what_an_admin_made_stays_unless_that_was_an_admin_of_some_pools(
        self, tokens: SqlTokens, scopes: Scopes, ends: bool
    ) -> None:
        admin = await make(tokens, role=Role.ADMIN, scopes=scopes)
        made = await make(tokens, made_with=admin.id)
        await tokens.revoke(admin.id, actor="admin", by="admin")
        assert ((await tokens.token(made.id)).revoked_at is not None) is ends

    async def test_making_and_revoking_at_once_leaves_nothing_behind(self, tokens: SqlTokens) -> None:
        for _ in range(5):
            maker = await make(tokens)
            making = [make(tokens, made_with=maker.id, bounded=True) for _ in range(4)]
            results = await asyncio.gather(
                *making, tokens.revoke(maker.id, actor="admin", by="admin"), return_exceptions=True
            )
            for made in results:
                if isinstance(made, Token):
                    assert (await tokens.token(made.id)).revoked_at is not None


async def test_a_list_goes_on_where_it_ended_the_newest_first(tokens: SqlTokens) -> None:
    alices = [(await make(tokens)).id for _ in range(5)]
    bobs = [(await make(tokens, user="bob")).id for _ in range(2)]

    async def listed(user: str | None, limit: int) -> list[str]:
        found: list[str] = []
        before: int | None = None
        while True:
            page = await tokens.tokens(user=user, before=before, limit=limit)
            assert len(page.tokens) <= limit
            found += [token.id for token in page.tokens]
            if page.next_cursor is None:
                return found
            before = page.next_cursor

    assert await listed("alice", 2) == alices[::-1]
    assert await listed("bob", 2) == bobs[::-1]
    assert await listed("nobody", 2) == []
    assert await listed(None, 7) == [*bobs[::-1], *alices[::-1]]


async def test_a_use_is_noted_once_a_minute(lab: Lab, tokens: SqlTokens) -> None:
    made, other = await make(tokens), await make(tokens)

    async def noted_after(**span: float) -> float:
        lab.clock.forward(**span)
        await tokens.used([made.id, "nobody"])
        at = (await tokens.token(made.id)).last_used_at
        assert at is not None
        return (at - NINE).total_seconds()

    assert await noted_after(seconds=1) == 1
    assert await noted_after(seconds=59) == 1
    assert await noted_after(seconds=1) == 61
    assert (await tokens.token(other.id)).last_used_at is None


async def test_a_token_can_be_named_in_plain_sql(lab: Lab, tokens: SqlTokens) -> None:
    # `user` is a function in PostgreSQL: a column of that name would answer with the wrong thing.
    await make(tokens, user="carol")
    rows = await lab.store.database.read(lambda c: c.execute(text("SELECT owner, role FROM tokens")).all())
    assert [tuple(row) for row in rows] == [("carol", "user")]


async def test_ids_of_pages_are_never_given_out_again(lab: Lab, tokens: SqlTokens) -> None:
    await make(tokens)
    first = await lab.store.database.read(lambda c: c.execute(select(t.tokens)).one())

    def again(tx: Tx) -> int:
        tx.execute(t.tokens.delete())
        row = {**first._mapping, "id": "another"}
        del row["number"]
        number: int = tx.execute(insert(t.tokens).values(row).returning(t.tokens.c.number)).scalar_one()
        return number

    number, _ = await lab.store.database.write(again)
    assert number == first.number + 1


async def test_an_admins_token_that_was_revoked_meanwhile_makes_no_other(tokens: SqlTokens) -> None:
    boss = await make(tokens, user="boss", role=Role.ADMIN)
    await tokens.revoke(boss.id, actor="otto", by="token:abc")
    with pytest.raises(Unauthenticated):
        await make(tokens, created_by="boss", made_with=boss.id)


async def test_what_a_login_made_ends_with_it_that_of_an_admin_too(tokens: SqlTokens) -> None:
    login = await make(tokens, user="anna", role=Role.ADMIN, created_by="anna")
    made = await make(tokens, user="ci", created_by="anna", made_with=login.id)
    assert await tokens.revoke(login.id, actor="otto", by="token:abc") == [login.id, made.id]
