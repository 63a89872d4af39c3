"""Users with passwords: an admin makes them, they log in as QUADS's users do, and their passwords are never seen."""

from __future__ import annotations

import asyncio
import time
import uuid
from base64 import b64encode

import httpx
import pytest
from limits import RateLimitItemPerMinute

from api import logins
from api.logins import FAILURES_FROM_AN_ADDRESS
from tests.api.stack import Stack, caller, fail

PASSWORD = "correct horse battery"
LOGIN = "/api/v3/login/"


async def new_user(stack: Stack, role: str = "user", password: str = PASSWORD) -> str:
    """Make a user, and return the name."""
    name = f"{uuid.uuid4().hex[:8]}@example.com"
    answer = await stack.http.post("/v1/users", json={"name": name, "role": role, "password": password})
    assert answer.status_code == 201, fail(answer)
    assert answer.json()["role"] == role
    return name


async def login(stack: Stack, name: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
    """Try to log in, whatever comes of it."""
    async with caller(stack.app, None) as http:
        if headers:
            return await http.post(LOGIN, headers=headers)
        return await http.post(LOGIN, auth=(name, password))


async def opened(stack: Stack, name: str, password: str = PASSWORD) -> str:
    """The token that a login opens."""
    answer = await login(stack, name, password)
    assert answer.status_code == 200, fail(answer)
    token: str = answer.json()["auth_token"]
    return token


async def status(stack: Stack, token: str, address: str = "/v1/whoami") -> int:
    """What a token is answered."""
    async with caller(stack.app, token) as http:
        return (await http.get(address)).status_code


async def test_a_login_opens_a_token_of_the_user_with_the_users_role(stack: Stack) -> None:
    name = await new_user(stack, "operator")
    answer = await login(stack, name)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    body = answer.json()
    assert (body["status_code"], body["status"], body["message"]) == (201, "success", "Successful login")
    # There are scripts that cut the token out of the text.
    cut = answer.text.split(":")[1].split(",")[0].strip('"')
    assert cut == body["auth_token"]
    async with caller(stack.app, cut) as http:
        me = (await http.get("/v1/whoami")).json()
    assert (me["user"], me["role"]) == (name, "operator")


@pytest.mark.parametrize("password", ["pässwörter", "with:a:colon", "日本語日本語日本語", "spaces and\ttabs"])
async def test_any_password_works_as_clients_send_it(stack: Stack, password: str) -> None:
    name = await new_user(stack, password=password)
    encodings = ["utf-8", *(["latin-1"] if password.encode("latin-1", "ignore").decode("latin-1") == password else [])]
    for encoding in encodings:
        coded = b64encode(f"{name}:{password}".encode(encoding)).decode()
        answer = await login(stack, "", Authorization=f"Basic {coded}")
        assert answer.status_code == 200, fail(answer)


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Bearer abc", "Basic " + b64encode(b"\xff:\xfe").decode()],
)
async def test_what_is_no_name_and_password_opens_nothing(stack: Stack, header: str) -> None:
    answer = await login(stack, "", Authorization=header)
    assert (answer.status_code, answer.json()["status_code"]) == (401, 401), fail(answer)
    assert answer.json()["error"] == "Unauthorized"


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(stack: Stack) -> None:
    name = await new_user(stack)
    wrong, unknown = await login(stack, name, "wrong password"), await login(stack, f"not-{name}", PASSWORD)
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json()) == (401, wrong.json())


async def test_the_time_of_an_answer_does_not_tell_whether_there_is_such_a_user(stack: Stack) -> None:
    async def took(name: str) -> float:
        began = time.perf_counter()
        assert (await login(stack, name, "wrong password")).status_code == 401
        return time.perf_counter() - began

    names = [await new_user(stack) for _ in range(5)]
    # The fastest of each: whatever else the machine does makes them slower alone.
    known = min([await took(name) for name in names])
    unknown = min([await took(f"not-{name}") for name in names])
    # Hashing takes many times as long as everything else.
    assert 0.4 < known / unknown < 2.5


async def test_after_some_failures_nobody_may_try_for_a_while(stack: Stack) -> None:
    name, other = await new_user(stack), await new_user(stack)
    most = FAILURES_FROM_AN_ADDRESS.amount
    answers = await asyncio.gather(*(login(stack, name, "wrong password") for _ in range(most + 5)))
    failed = sum(answer.status_code == 401 for answer in answers)
    assert most <= failed < most + logins.AT_ONCE
    refused = await login(stack, name)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests"), fail(refused)
    assert (await login(stack, other)).status_code == 200, "others are not locked out"


async def test_many_logins_at_once_hash_two_at_a_time(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0
    really = stack.services.logins._is

    def counted(known: str, password: str) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return really(known, password)
        finally:
            at_once -= 1

    monkeypatch.setattr(stack.services.logins, "_is", counted)
    name = await new_user(stack)
    answers = await asyncio.gather(*(login(stack, name) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert most <= logins.AT_ONCE


class TestLoggingOut:
    """It ends the session's token, and no other."""

    async def test_the_token_is_revoked_with_what_was_made_with_it(self, stack: Stack) -> None:
        token = await opened(stack, await new_user(stack))
        async with caller(stack.app, token) as http:
            made = (await http.post("/v1/tokens", json={})).json()["token"]
            answer = await http.post("/api/v3/logout/")
        assert answer.json() == {
            "message": "Successfully logged out.", "status": "success", "status_code": 200,
        }  # fmt: skip
        assert [await status(stack, one) for one in (token, made)] == [401, 401]

    async def test_another_session_of_the_user_goes_on(self, stack: Stack) -> None:
        name = await new_user(stack)
        first, second = await opened(stack, name), await opened(stack, name)
        async with caller(stack.app, first) as http:
            await http.post("/api/v3/logout")
        assert [await status(stack, one) for one in (first, second)] == [401, 200]

    async def test_a_token_of_a_pipeline_stays(self, stack: Stack) -> None:
        async with stack.user("ci") as ci:
            assert (await ci.post("/api/v3/logout")).status_code == 200
            assert (await ci.get("/v1/whoami")).status_code == 200

    async def test_nobody_logs_out(self, stack: Stack) -> None:
        async with caller(stack.app, None) as http:
            answer = await http.post("/api/v3/logout")
        assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized")


class TestAdministration:
    """An admin makes, disables, enables and forgets users."""

    async def test_a_user_is_shown_without_the_password(self, stack: Stack) -> None:
        name = await new_user(stack)
        shown = await stack.http.get(f"/v1/users/{name}")
        assert (shown.status_code, shown.json()["created_by"], shown.json()["disabled_at"]) == (200, "admin", None)
        listed = await stack.http.get("/v1/users", params={"limit": 1000})
        assert shown.json() in listed.json()["items"]
        assert "argon2" not in shown.text + listed.text

    async def test_the_list_goes_on_where_the_cursor_says(self, stack: Stack) -> None:
        names = sorted([await new_user(stack) for _ in range(3)])
        seen: list[str] = []
        cursor = ""
        while cursor is not None:
            page = (await stack.http.get("/v1/users", params={"limit": 1, "cursor": cursor})).json()
            seen += [one["name"] for one in page["items"]]
            cursor = page["next_cursor"]
        assert [name for name in seen if name in names] == names

    @pytest.mark.parametrize("end", ["disable", "delete", "password"])
    async def test_a_session_ends_at_once(self, stack: Stack, end: str) -> None:
        name = await new_user(stack)
        token = await opened(stack, name)
        assert await status(stack, token) == 200
        address = f"/v1/users/{name}"
        if end == "delete":
            answer = await stack.http.delete(address)
        else:
            answer = await stack.http.post(f"{address}/{end}", json={"password": "another password"})
        assert answer.is_success, fail(answer)
        assert await status(stack, token) == 401
        assert (await login(stack, name)).status_code == 401

    async def test_the_new_password_opens(self, stack: Stack) -> None:
        name = await new_user(stack)
        await stack.http.post(f"/v1/users/{name}/password", json={"password": "another password"})
        assert (await login(stack, name, "another password")).status_code == 200

    async def test_one_who_is_enabled_again_logs_in(self, stack: Stack) -> None:
        name = await new_user(stack)
        assert (await stack.http.post(f"/v1/users/{name}/disable")).json()["disabled_by"] == "admin"
        assert (await stack.http.post(f"/v1/users/{name}/enable")).json()["disabled_at"] is None
        assert (await login(stack, name)).status_code == 200

    @pytest.mark.parametrize(
        ("body", "path", "code"),
        [
            ({"name": "joe", "password": "hunter2"}, "password", "too_short"),
            ({"name": "joe", "password": "x" * 2000}, "password", "too_long"),
            ({"name": "a b", "password": PASSWORD}, "name", "string_pattern_mismatch"),
            ({"name": "joe", "password": PASSWORD, "role": "root"}, "role", "enum"),
            ({"name": "joe"}, "password", "missing"),
            ({"name": "joe", "password": PASSWORD, "x": 1}, "x", "unknown_field"),
        ],
    )
    async def test_what_is_wrong_is_named_and_not_repeated(
        self, stack: Stack, body: dict[str, object], path: str, code: str
    ) -> None:
        answer = await stack.http.post("/v1/users", json=body)
        assert answer.status_code == 422, fail(answer)
        (error,) = answer.json()["errors"]
        assert (error["path"], error["code"]) == (path, code)
        assert str(body.get("password", "?")) not in answer.text

    async def test_what_is_there_or_not_there(self, stack: Stack) -> None:
        name = await new_user(stack)
        again = await stack.http.post("/v1/users", json={"name": name, "password": PASSWORD})
        assert (again.status_code, again.json()["code"]) == (409, "user_exists"), fail(again)
        for method, call in (("GET", ""), ("DELETE", ""), ("POST", "/disable"), ("POST", "/enable")):
            answer = await stack.http.request(method, f"/v1/users/nobody{call}")
            assert (answer.status_code, answer.json()["code"]) == (404, "user_unknown"), fail(answer)
        answer = await stack.http.post("/v1/users/nobody/password", json={"password": PASSWORD})
        assert answer.status_code == 404, fail(answer)


async def test_what_was_leased_stays_the_users_whoever_the_session(stack: Stack) -> None:
    name, pool = await new_user(stack), await stack.pool(1)
    async with caller(stack.app, await opened(stack, name)) as first:
        lease = (await first.post("/v1/leases", json={"items": [{"pool": pool}]})).json()
        await first.post("/api/v3/logout")
    async with caller(stack.app, await opened(stack, name)) as second:
        answer = await second.post(f"/v1/leases/{lease['id']}/release")
        assert answer.status_code == 200, fail(answer)


@pytest.mark.parametrize("name", ["x" * 5000, "no\nname", "nul\0", ""])
async def test_what_cannot_be_a_name_is_looked_up_nowhere(stack: Stack, name: str) -> None:
    answer = await login(stack, name, "a" * 20)
    assert answer.status_code == 401, fail(answer)


async def test_one_address_cannot_try_one_password_on_everybody(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "FAILURES_OF_AN_ADDRESS", RateLimitItemPerMinute(3))
    answers = [await login(stack, f"{uuid.uuid4().hex[:8]}@example.com", "Winter2026!") for _ in range(5)]
    assert [answer.status_code for answer in answers[:1]] == [401]
    assert answers[-1].status_code == 429


async def test_a_user_who_is_disabled_holds_leases_by_no_token(stack: Stack) -> None:
    name = await new_user(stack)
    async with caller(stack.app, await opened(stack, name)) as http:
        pool = await stack.pool(1)
        lease = (await http.post("/v1/leases", json={"items": [{"pool": pool}]}, params={"wait": "active"})).json()
    assert await status(stack, lease["token"], f"/v1/leases/{lease['id']}") == 200
    assert (await stack.http.post(f"/v1/users/{name}/disable")).status_code == 200
    assert await status(stack, lease["token"], f"/v1/leases/{lease['id']}") == 401
