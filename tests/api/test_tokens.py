"""Users' tokens: made, used, narrowed, ended; what each is good for is in `test_access`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.auth import Tokens
from api.credentials import FRESH_S
from leasehold.access import Credential
from leasehold.store.store import SqlStore
from leasehold.store.tokens import SqlTokens
from tests.api.stack import ADMIN, PATIENCE_S, Json, Stack, caller, fail

SHAPE = r"lh_[a-z2-7]{12}_[a-z2-7]{52}"


def lasts(token: Json) -> timedelta:
    """How long a token is good from its making."""
    return datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["created_at"])


def places(answer: httpx.Response) -> list[str]:
    return [f"{fault['path']} {fault['code']}" for fault in answer.json()["errors"]]


async def refused(stack: Stack, token: str, reason: str) -> httpx.Response:
    """Fail unless a token is refused for this reason."""
    async with caller(stack.app, token) as http:
        answer = await http.get("/v1/whoami")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), fail(answer)
    assert places(answer) == [f"Authorization {reason}"]
    assert token not in answer.text
    return answer


class TestMaking:
    async def test_a_token_is_shown_once_and_belongs_to_its_user(self, stack: Stack) -> None:
        answer = await stack.http.post("/v1/tokens", json={"user": "ci@lab.example", "label": "nightly"})
        assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store"), fail(answer)
        made = answer.json()
        text = made.pop("token")

        assert re.fullmatch(SHAPE, text)
        assert text.split("_")[1] == made["id"]
        assert (made["user"], made["role"], made["label"]) == ("ci@lab.example", "user", "nightly")
        assert (made["created_by"], made["made_with"], made["revoked_at"]) == ("admin", None, None)
        assert lasts(made) == timedelta(days=90)
        assert (await stack.http.get(f"/v1/tokens/{made['id']}")).json() == made
        async with caller(stack.app, text) as ci:
            whoami = (await ci.get("/v1/whoami")).json()
            assert whoami == {
                "user": "ci@lab.example",
                "role": "user",
                "scopes": {"pools": None, "read": False},
                "expires_at": made["expires_at"],
                "token": made["id"],
                "lease": None,
            }
            lease = (await ci.post("/v1/leases", json={"items": [{"pool": await stack.pool(1)}]})).json()
            assert lease["owner"] == "ci@lab.example"
            assert [x["id"] for x in (await ci.get("/v1/leases?owner=ci@lab.example")).json()["items"]] == [lease["id"]]
        assert (await stack.events(lease))[0]["actor"] == "ci@lab.example"

    async def test_no_two_are_alike(self, stack: Stack) -> None:
        made = [await stack.token("ci") for _ in range(20)]
        assert len({token["id"] for token in made}) == 20
        assert len({token["token"].rpartition("_")[2] for token in made}) == 20

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            ({"expires": "366d"}, "expires duration"),
            ({"expires": "0s"}, "expires duration"),
            ({"expires": 3600}, "expires duration"),
            ({"role": "root"}, "role enum"),
            ({"user": ""}, "user string_pattern_mismatch"),
            ({"user": "lease:x"}, "user string_pattern_mismatch"),
            ({"user": "two words"}, "user string_pattern_mismatch"),
            ({"user": "a\n"}, "user string_pattern_mismatch"),
            ({"scopes": {"pools": []}}, "scopes.pools too_short"),
            ({"scopes": {"pools": ["a/b"]}}, "scopes.pools[0] string_pattern_mismatch"),
            ({"scopes": {"read": 1}}, "scopes.read bool_type"),
            ({"scopes": {"write": True}}, "scopes.write unknown_field"),
            ({"role": "runner", "scopes": {"pools": ["r640"]}}, "scopes.pools not_for_runners"),
            ({"role": "runner", "scopes": {"read": True}}, "scopes.read not_for_runners"),
            ({"label": "x" * 201}, "label string_too_long"),
            ({"secret": "mine"}, "secret unknown_field"),
        ],
        ids=lambda value: str(value)[:40],
    )
    async def test_a_token_that_cannot_be(self, stack: Stack, body: Json, place: str) -> None:
        answer = await stack.http.post("/v1/tokens", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), fail(answer)
        assert places(answer) == [place]

    async def test_a_user_makes_no_stronger_one_than_its_own(self, stack: Stack) -> None:
        async with stack.user("ulla", "user", scopes={"pools": ["a", "b"]}, expires="10d") as ulla:
            for body, place in (
                ({"user": "uwe"}, "user other_user"),
                ({"role": "operator"}, "role role_too_small"),
                ({"scopes": {"read": True}}, "scopes.pools other_pool"),
                ({"scopes": {"pools": ["a", "c"]}}, "scopes.pools other_pool"),
                ({"expires": "11d"}, "expires outlives"),
            ):
                answer = await ulla.post("/v1/tokens", json={"scopes": {"pools": ["a"]}, **body})
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), fail(answer)
                assert places(answer) == [place]

            own = (await ulla.get("/v1/whoami")).json()
            made = (await ulla.post("/v1/tokens", json={"scopes": {"pools": ["a"]}})).json()
            assert (made["user"], made["role"], made["created_by"]) == ("ulla", "user", "ulla")
            assert (made["made_with"], made["expires_at"]) == (own["token"], own["expires_at"])
            short = await ulla.post("/v1/tokens", json={"scopes": {"pools": ["b"]}, "expires": "1d", "role": "viewer"})
            assert lasts(short.json()) == timedelta(days=1)


class TestListing:
    async def test_an_admin_sees_all_and_others_their_own(self, stack: Stack) -> None:
        mine, theirs = [(await stack.token(user))["id"] for user in ("lena", "leo")]
        for user in ("lena", "leo"):
            found = (await stack.http.get(f"/v1/tokens?user={user}")).json()["items"]
            assert [token["id"] for token in found] == [mine if user == "lena" else theirs]
        async with stack.user("lena") as lena:
            used = (await lena.get("/v1/whoami")).json()["token"]
            assert [t["id"] for t in (await lena.get("/v1/tokens")).json()["items"]] == [used, mine]
            assert (await lena.get("/v1/tokens?user=lena")).status_code == 200
            assert places(await lena.get("/v1/tokens?user=leo")) == ["user other_user"]
            assert (await lena.get(f"/v1/tokens/{theirs}")).json()["code"] == "token_unknown"
            assert (await lena.delete(f"/v1/tokens/{theirs}")).json()["code"] == "token_unknown"
        assert (await stack.http.get(f"/v1/tokens/{theirs}")).json()["revoked_at"] is None

    async def test_page_by_page_the_newest_first(self, stack: Stack) -> None:
        made = [(await stack.token("page"))["id"] for _ in range(5)]
        found, cursor = [], ""
        while True:
            page = (await stack.http.get(f"/v1/tokens?user=page&limit=2{cursor}")).json()
            found += [token["id"] for token in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == made[::-1]
        assert (await stack.http.get("/v1/tokens?cursor=x")).json()["code"] == "malformed"

    async def test_nothing_that_is_shown_is_a_secret(self, stack: Stack) -> None:
        made = await stack.token("shown")
        secret = made["token"].rpartition("_")[2]
        async with caller(stack.app, made["token"]) as shown:
            for address in ("/v1/tokens", f"/v1/tokens/{made['id']}", "/v1/whoami"):
                assert secret not in (await shown.get(address)).text
            assert secret not in (await shown.delete(f"/v1/tokens/{made['id']}")).text


class TestEnding:
    async def test_an_expired_one_is_refused_and_says_so(self, stack: Stack) -> None:
        made = await stack.token("short", expires="1s")
        async with caller(stack.app, made["token"]) as http, asyncio.timeout(PATIENCE_S):
            while (await http.get("/v1/whoami")).status_code == 200:
                await asyncio.sleep(0.05)
        answer = await refused(stack, made["token"], "expired")
        assert answer.json()["detail"] == f"token {made['id']} of short has expired"

    async def test_a_revoked_one_is_refused_at_once_and_says_so(self, stack: Stack) -> None:
        made = await stack.token("gone")
        async with caller(stack.app, made["token"]) as http:
            assert (await http.get("/v1/whoami")).status_code == 200
            revoked = (await stack.http.delete(f"/v1/tokens/{made['id']}")).json()
            assert (await http.get("/v1/whoami")).status_code == 401
        assert revoked["revoked_by"] == "admin"
        answer = await refused(stack, made["token"], "revoked")
        assert answer.json()["detail"] == f"token {made['id']} of gone was revoked"
        assert (await stack.http.delete(f"/v1/tokens/{made['id']}")).json() == revoked

    async def test_one_can_revoke_itself(self, stack: Stack) -> None:
        made = await stack.token("self")
        async with caller(stack.app, made["token"]) as http:
            assert (await http.delete(f"/v1/tokens/{made['id']}")).status_code == 200
        await refused(stack, made["token"], "revoked")

    async def test_who_does_not_know_the_secret_learns_nothing_of_its_end(self, stack: Stack) -> None:
        made = await stack.token("guess")
        await stack.http.delete(f"/v1/tokens/{made['id']}")
        await refused(stack, f"lh_{made['id']}_{'a' * 52}", "unknown")

    async def test_another_process_knows_once_it_asks_again(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A second, so that it knows within two.
        assert FRESH_S == 1
        monkeypatch.setattr("api.credentials.FRESH_S", 0.2)
        made = await stack.token("far")
        async with another_process(stack) as other, caller(other.app, made["token"]) as http:
            assert (await http.get("/v1/whoami")).status_code == 200
            await stack.http.delete(f"/v1/tokens/{made['id']}")
            async with asyncio.timeout(PATIENCE_S):
                while (await http.get("/v1/whoami")).status_code == 200:
                    await asyncio.sleep(0.01)

    async def test_what_it_made_for_its_user_ends_with_it(self, stack: Stack) -> None:
        first = await stack.token("tree")
        made = [first]
        for _ in range(3):
            async with caller(stack.app, made[-1]["token"]) as http:
                made.append((await http.post("/v1/tokens", json={})).json())
        beside = await stack.token("tree")

        await stack.http.delete(f"/v1/tokens/{made[1]['id']}")

        for token in made[1:]:
            await refused(stack, token["token"], "revoked")
        for token in (first, beside):
            async with caller(stack.app, token["token"]) as http:
                assert (await http.get("/v1/whoami")).status_code == 200

    async def test_what_an_admin_made_for_others_stays(self, stack: Stack) -> None:
        admin = await stack.token("boss", "admin")
        async with caller(stack.app, admin["token"]) as http:
            made = (await http.post("/v1/tokens", json={"user": "ci"})).json()
        assert (made["created_by"], made["made_with"]) == ("boss", admin["id"])
        await stack.http.delete(f"/v1/tokens/{admin['id']}")
        await refused(stack, admin["token"], "revoked")
        async with caller(stack.app, made["token"]) as http:
            assert (await http.get("/v1/whoami")).status_code == 200

    async def test_a_held_answer_is_not_given_to_a_token_that_was_revoked_meanwhile(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        await stack.take(pool)
        waiting = await stack.submit(pool)
        made = await stack.token("held")
        async with caller(stack.app, made["token"]) as http:
            held = asyncio.create_task(http.get(f"/v1/leases/{waiting['id']}?wait=active&timeout=2"))
            await asyncio.sleep(0.2)
            await stack.http.delete(f"/v1/tokens/{made['id']}")
            answer = await held
        assert (answer.status_code, places(answer)) == (401, ["Authorization revoked"])
        await stack.steer(waiting, "cancel")

    async def test_a_lease_outlives_the_token_that_requested_it(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        made = await stack.token("owner")
        async with caller(stack.app, made["token"]) as http:
            lease = (await http.post("/v1/leases", json={"items": [{"pool": pool}]})).json()
        await stack.http.delete(f"/v1/tokens/{made['id']}")
        async with caller(stack.app, lease["token"]) as holder, stack.user("owner") as owner:
            assert (await holder.get(f"/v1/leases/{lease['id']}")).json()["state"] == "active"
            assert (await owner.post(f"/v1/leases/{lease['id']}/release")).status_code == 200


class TestUse:
    async def test_when_it_was_used_last_is_written_down(self, stack: Stack) -> None:
        made = await stack.token("used")
        assert made["last_used_at"] is None
        async with caller(stack.app, made["token"]) as http, asyncio.timeout(PATIENCE_S):
            while (await http.get(f"/v1/tokens/{made['id']}")).json()["last_used_at"] is None:
                await asyncio.sleep(0.05)

    async def test_what_is_not_written_yet_is_at_the_end(self, stack: Stack) -> None:
        made = await stack.token("last")
        async with another_process(stack) as other, caller(other.app, made["token"]) as http:
            await http.get("/v1/whoami")
        assert (await stack.http.get(f"/v1/tokens/{made['id']}")).json()["last_used_at"] is not None

    async def test_a_use_that_cannot_be_written_down_harms_nobody(self, stack: Stack) -> None:
        class NoRoom(Counted):
            async def used(self, tokens: list[str]) -> None:
                raise OSError("the disk is full")

        made = await stack.token("full")
        async with another_process(stack, NoRoom) as other, caller(other.app, made["token"]) as http:
            assert (await http.get("/v1/whoami")).status_code == 200

    async def test_callers_who_come_at_once_share_one_look(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        # However long it takes to ask so often.
        monkeypatch.setattr("api.credentials.FRESH_S", 60)
        made = await stack.token("busy")
        async with another_process(stack) as other, caller(other.app, made["token"]) as http:
            answers = await asyncio.gather(*(http.get("/v1/whoami") for _ in range(30)))
            assert {answer.status_code for answer in answers} == {200}
            assert counted(other).looks == 1

    async def test_a_caller_who_goes_away_takes_nothing_from_the_others(self, stack: Stack) -> None:
        class Slow(Counted):
            async def credential(self, token: str) -> Credential | None:
                await asyncio.sleep(0.2)
                return await super().credential(token)

        made = await stack.token("crowd")
        async with another_process(stack, Slow) as other, caller(other.app, made["token"]) as http:
            first, second = (asyncio.create_task(http.get("/v1/whoami")) for _ in range(2))
            await asyncio.sleep(0.05)
            first.cancel()
            assert (await second).status_code == 200
            assert counted(other).looks == 1

    async def test_a_database_that_fails_once_is_asked_again(self, stack: Stack) -> None:
        class Failing(Counted):
            async def credential(self, token: str) -> Credential | None:
                if self.looks == 0:
                    self.looks += 1
                    raise OSError("no database")
                return await super().credential(token)

        made = await stack.token("again")
        async with another_process(stack, Failing) as other, caller(other.app, made["token"]) as http:
            assert (await http.get("/v1/whoami")).status_code == 500
            assert (await http.get("/v1/whoami")).status_code == 200


class Counted(SqlTokens):
    """The store, which counts how often it is asked for a credential."""

    looks = 0

    async def credential(self, token: str) -> Credential | None:
        self.looks += 1
        return await super().credential(token)


def counted(other: Stack) -> Counted:
    store = other.services.tokens.store
    assert isinstance(store, Counted)
    return store


@asynccontextmanager
async def another_process(stack: Stack, kind: type[Counted] = Counted) -> AsyncIterator[Stack]:
    """What another API process would be: it knows of this one by the database alone."""
    store: Any = stack.services.store
    assert isinstance(store, SqlStore)
    tokens = Tokens(b"a key of the tests", ADMIN, kind(store.database))
    services = replace(stack.services, tokens=tokens)
    yield replace(stack, app=create_app(services), services=services)
    await tokens.close()
