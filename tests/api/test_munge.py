"""Accounts by MUNGE: whom a credential lets in, for what, how often, and what comes of one that is not good."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from api import munge
from leasehold.access import Role
from leasehold.munge import MungeAuth, bound
from leasehold.settings import Settings
from tests import munge as installed
from tests.api.accounts import ACCOUNT, account, taking_munge
from tests.api.port import served
from tests.api.stack import URL, Stack, caller, fail
from tests.munge import Munged

Program = Callable[[str], None]


@pytest.fixture
def app(stack: Stack, munged: Munged) -> FastAPI:
    """The service, where accounts are let in as users."""
    return taking_munge(stack, munged.socket)


@pytest.fixture
def unmunge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Has a shell script take the place of `unmunge`, which does so only where clocks differ or machines break."""

    def program(script: str) -> None:
        (tmp_path / "unmunge").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "unmunge").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return program


async def sent(app: FastAPI, credential: str, path: str = "/v1/whoami", **more: Any) -> httpx.Response:
    """Send a request with this credential, whatever comes of it."""
    async with caller(app, None) as http:
        headers = {"Authorization": f"Munge {credential}"}
        return await http.request(more.pop("method", "GET"), path, headers=headers, **more)


def made(munged: Munged, *options: str, method: str = "GET", path: str = "/v1/whoami", body: bytes = b"") -> str:
    """A credential for a request."""
    return munged.credential(bound(method, path.encode(), body), *options)


def refused(answer: httpx.Response, code: str, log: pytest.LogCaptureFixture) -> None:
    """Fail unless it was refused for this reason, which is in the log, and the credential nowhere."""
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), fail(answer)
    assert [(fault["path"], fault["code"]) for fault in answer.json()["errors"]] == [("Authorization", code)]
    credential = answer.request.headers["Authorization"].removeprefix("Munge ")
    said = [one for one in log.records if one.name == "api.munge"]
    assert [one.levelno for one in said] == [logging.WARNING]
    assert f"({code})" in said[0].getMessage()
    assert credential not in answer.text
    assert credential not in log.text
    log.clear()


class TestLettingIn:
    async def test_a_credential_lets_its_account_in(self, app: FastAPI, munged: Munged) -> None:
        answer = await sent(app, made(munged))
        assert answer.status_code == 200, fail(answer)
        whoami = answer.json()
        assert (whoami["user"], whoami["role"], whoami["token"], whoami["lease"]) == (ACCOUNT, "user", None, None)

    async def test_how_the_scheme_is_written_does_not_matter(self, app: FastAPI, munged: Munged) -> None:
        async with caller(app, None) as http:
            headers = {"Authorization": f"MUNGE   {made(munged)}"}
            assert (await http.get("/v1/whoami", headers=headers)).status_code == 200

    async def test_what_it_requests_belongs_to_the_account(self, stack: Stack, app: FastAPI, munged: Munged) -> None:
        pool = await stack.pool(1)
        async with account(app, munged) as http:
            answer = await http.post("/v1/leases?wait=active&timeout=20", json={"items": [{"pool": pool}]})
            assert (answer.status_code, answer.json()["owner"]) == (201, ACCOUNT), fail(answer)
            lease = answer.json()
            assert (await http.get(f"/v1/leases/{lease['id']}/delivery")).status_code == 200
            assert (await http.get("/v1/leases", params={"owner": ACCOUNT, "pool": pool})).json()["items"]
            released = await http.post(f"/v1/leases/{lease['id']}/release")
        assert released.status_code == 200, fail(released)
        assert {event["actor"] for event in await stack.events(lease)} >= {ACCOUNT}

    async def test_a_token_of_the_same_name_is_the_same_owner(self, stack: Stack, app: FastAPI, munged: Munged) -> None:
        pool = await stack.pool(1)
        async with account(app, munged) as http, stack.user(ACCOUNT) as bearer:
            lease = (await http.post("/v1/leases", json={"items": [{"pool": pool}]})).json()
            answer = await bearer.post(f"/v1/leases/{lease['id']}/release")
        assert answer.status_code == 200, fail(answer)

    @pytest.mark.parametrize(("role", "status"), [(Role.VIEWER, 403), (Role.USER, 403), (Role.OPERATOR, 200)])
    async def test_everybody_has_the_role_that_is_set(
        self, stack: Stack, munged: Munged, role: Role, status: int
    ) -> None:
        pool = await stack.pool(1)
        async with account(taking_munge(stack, munged.socket, role), munged) as http:
            assert (await http.get("/v1/whoami")).json()["role"] == role
            answer = await http.post(f"/v1/pools/{pool}/pause", json={"reason": "test"})
        assert answer.status_code == status, fail(answer)

    async def test_a_repetition_with_the_same_key_is_answered_alike(
        self, stack: Stack, app: FastAPI, munged: Munged
    ) -> None:
        body, key = {"items": [{"pool": await stack.pool(1)}]}, {"Idempotency-Key": "build-7"}
        async with account(app, munged) as http:
            first, second = [await http.post("/v1/leases", json=body, headers=key) for _ in range(2)]
            await http.post(f"/v1/leases/{first.json()['id']}/cancel")
        assert (first.status_code, second.status_code) == (201, 200), fail(second)
        assert first.json()["id"] == second.json()["id"]

    async def test_many_at_once(self, app: FastAPI, munged: Munged) -> None:
        async with account(app, munged) as http:
            answers = await asyncio.gather(*(http.get("/v1/whoami", params={"n": str(n)}) for n in range(40)))
        assert {answer.status_code for answer in answers} == {200}

    async def test_it_makes_no_tokens_for_they_would_outlive_it(self, app: FastAPI, munged: Munged) -> None:
        async with account(app, munged) as http:
            answer = await http.post("/v1/tokens", json={})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "no_token"), fail(answer)


class TestRefusing:
    async def test_a_credential_that_fails_to_decode_is_forwarded_all_the_same(
        self, stack: Stack, app: FastAPI, munged: Munged, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The defect of cq. MUNGE still says whose an expired one was; here it requests nothing, and the log has it."""
        pool = await stack.pool(1)
        body = json.dumps({"items": [{"pool": pool}]}).encode()
        late = made(munged, "--ttl=1", method="POST", path="/v1/leases", body=body)
        await asyncio.sleep(2.2)
        assert f"({os.getuid()})" in munged.decoded(late)

        for credential, code in ((late, "munge_expired"), (f"MUNGE:{'A' * 160}:", "munge_invalid")):
            headers = {"Content-Type": "application/json", "Authorization": f"Munge {credential}"}
            async with caller(app, None) as http:
                answer = await http.post("/v1/leases", content=body, headers=headers)
            refused(answer, code, caplog)
        assert (await stack.http.get("/v1/leases", params={"pool": pool})).json()["items"] == []

    async def test_a_second_time(self, app: FastAPI, munged: Munged, caplog: pytest.LogCaptureFixture) -> None:
        credential = made(munged)
        assert (await sent(app, credential)).status_code == 200
        refused(await sent(app, credential), "munge_replayed", caplog)

    @pytest.mark.parametrize(
        "credential",
        [
            "",
            "x",
            "MUNGE:",
            "MUNGE::",
            f"MUNGE:{'A' * 5000}=:",
            "--help",
            "MUNGE:AwQFAAA=: MUNGE:AwQFAAA=:",
            "MUNGE:ä:",
        ],
        ids=lambda value: value[:16],
    )
    async def test_garbage(self, app: FastAPI, credential: str, caplog: pytest.LogCaptureFixture) -> None:
        async with caller(app, None) as http:
            answer = await http.get("/v1/whoami", headers=[(b"Authorization", f"Munge {credential}".encode("latin-1"))])
        assert answer.status_code == 401, fail(answer)
        assert answer.json()["errors"][0]["code"] == "munge_invalid"
        assert "(munge_invalid)" in caplog.text

    async def test_a_part_of_a_good_one(self, app: FastAPI, munged: Munged, caplog: pytest.LogCaptureFixture) -> None:
        text = made(munged)
        middle = len(text) // 2
        changed = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
        for credential in (text[:-1], text[: middle - middle % 4 + 2] + ":", changed):
            refused(await sent(app, credential), "munge_invalid", caplog)

    async def test_of_a_machine_with_another_key(self, app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
        with installed.running() as foreign:
            refused(await sent(app, made(foreign)), "munge_invalid", caplog)

    async def test_from_the_future(
        self, app: FastAPI, munged: Munged, unmunge: Program, caplog: pytest.LogCaptureFixture
    ) -> None:
        unmunge("cat >/dev/null; printf 'UID: root (0)\\n\\n'; exit 16")
        answer = await sent(app, made(munged))
        refused(answer, "munge_invalid", caplog)
        assert "clocks" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("request_", "about"),
        [
            ({"method": "POST", "path": "/v1/leases", "content": b"{}"}, "body"),
            ({"method": "POST", "path": "/v1/leases?dry_run=true", "content": b'{"items": []}'}, "query"),
            ({"method": "POST", "path": "/v1/tokens", "content": b'{"items": []}'}, "path"),
            ({"method": "PUT", "path": "/v1/pools/x", "content": b'{"items": []}'}, "method"),
            ({"method": "POST", "path": "/v1/%6ceases", "content": b'{"items": []}'}, "spelling"),
        ],
    )
    async def test_of_another_request(
        self, app: FastAPI, munged: Munged, request_: Any, about: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        credential = made(munged, method="POST", path="/v1/leases", body=b'{"items": []}')
        refused(await sent(app, credential, **request_), "munge_other_request", caplog)
        # It was used up, and is good for what it was made for no more.
        again = await sent(app, credential, method="POST", path="/v1/leases", content=b'{"items": []}')
        refused(again, "munge_replayed", caplog)

    @pytest.mark.parametrize("payload", ["", "\n\n", f"x\n\n{'a' * 64}", "UID: root (0)\n\n"])
    async def test_one_that_says_nothing_of_a_request(
        self, app: FastAPI, munged: Munged, payload: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused(await sent(app, munged.credential(payload)), "munge_other_request", caplog)

    async def test_one_that_only_somebody_else_may_decode(
        self, app: FastAPI, munged: Munged, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused(await sent(app, made(munged, "--restrict-uid=54321")), "munge_invalid", caplog)

    @pytest.mark.parametrize("name", [None, "_apt", "admin", "two words", ""])
    async def test_of_an_account_that_cannot_be_a_user(
        self,
        app: FastAPI,
        munged: Munged,
        name: str | None,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        credential = made(munged)

        def known(uid: int) -> SimpleNamespace:
            if name is None:
                raise KeyError(uid)
            return SimpleNamespace(pw_name=name)

        monkeypatch.setattr(munge, "pwd", SimpleNamespace(getpwuid=known))
        refused(await sent(app, credential), "munge_no_account", caplog)

    async def test_where_it_is_not_configured(self, stack: Stack, munged: Munged) -> None:
        answer = await sent(stack.app, made(munged))
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, "munge_not_accepted"), fail(answer)

    async def test_a_body_that_is_too_large(self, app: FastAPI, munged: Munged) -> None:
        body = b" " * (1024 * 1024 + 1)
        credential = made(munged, method="POST", path="/v1/leases", body=body)
        answer = await sent(app, credential, method="POST", path="/v1/leases", content=body)
        assert answer.status_code == 413, fail(answer)

    async def test_nothing_of_the_body_is_read_for_what_cannot_be_decoded(self, app: FastAPI) -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield b"{"
            raise AssertionError("the body was read")

        async with caller(app, None) as http:
            headers = {"Authorization": "Munge MUNGE:AwQFAAA=:"}
            answer = await http.post("/v1/leases", content=endless(), headers=headers)
        assert answer.status_code == 401, fail(answer)


class TestMungeAway:
    async def test_where_munged_does_not_run(self, stack: Stack, munged: Munged, tmp_path: Path) -> None:
        answer = await sent(taking_munge(stack, tmp_path / "nothing"), made(munged))
        self.unavailable(answer, "munged cannot be reached")

    async def test_where_munged_hangs(
        self, app: FastAPI, munged: Munged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(munge, "LONGEST_S", 0.5)
        credential = made(munged)
        begun = time.monotonic()
        with munged.hung():
            answers = await asyncio.gather(*(sent(app, credential) for _ in range(2 * munge.AT_ONCE)))
        # One after the other they would take twice as many times half a second.
        assert time.monotonic() - begun < munge.AT_ONCE
        for answer in answers:
            self.unavailable(answer, "does not answer")
        assert "(unavailable)" in caplog.text
        assert (await sent(app, made(munged))).status_code == 200

    @pytest.mark.parametrize("script", ["kill -9 $$", "exit 0", "printf '\\n\\n'; exit 0", "exit 1"])
    async def test_where_unmunge_breaks_nobody_is_let_in(
        self, app: FastAPI, munged: Munged, unmunge: Program, script: str
    ) -> None:
        unmunge(script)
        self.unavailable(await sent(app, made(munged)), "MUNGE cannot be asked")

    async def test_where_it_is_not_installed(
        self, app: FastAPI, munged: Munged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        credential = made(munged)
        monkeypatch.setenv("PATH", str(tmp_path))
        self.unavailable(await sent(app, credential), "No such file or directory: unmunge")

    def unavailable(self, answer: httpx.Response, detail: str) -> None:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), fail(answer)
        assert detail in answer.json()["detail"]
        assert answer.headers["Retry-After"]


class TestDisabledUsers:
    """Who an admin shut out does not come back in by an account of the same name."""

    @pytest_asyncio.fixture(loop_scope="package")
    async def user(self, stack: Stack) -> AsyncIterator[str]:
        body = {"name": ACCOUNT, "role": "operator", "password": "correct horse battery"}
        assert (await stack.http.post("/v1/users", json=body)).status_code == 201
        yield f"/v1/users/{ACCOUNT}"
        await stack.http.delete(f"/v1/users/{ACCOUNT}")

    async def test_they_are_refused(
        self, stack: Stack, app: FastAPI, munged: Munged, user: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert (await sent(app, made(munged))).json()["role"] == "user"
        await stack.http.post(f"{user}/disable")
        refused(await sent(app, made(munged)), "munge_no_account", caplog)
        await stack.http.post(f"{user}/enable")
        assert (await sent(app, made(munged))).status_code == 200

    async def test_a_long_answer_goes_on_until_then(
        self, stack: Stack, app: FastAPI, munged: Munged, user: str
    ) -> None:
        gate = stack.gate("for n in 1 2 3 4 5 6 7 8 9; do echo line; sleep 0.5; done")
        auth = MungeAuth(URL, munged.socket)
        async with served(app) as url, httpx.AsyncClient(base_url=url, auth=auth, timeout=20) as http:
            pool = await stack.pool(1, wipe=gate.hook)
            lease = (await http.post("/v1/leases", json={"items": [{"pool": pool}]})).json()
            address = f"/v1/leases/{lease['id']}/log?follow=true"
            async with http.stream("GET", address) as answer:
                assert answer.status_code == 200
                gate.open()
                lines = answer.aiter_lines()
                # Longer than the credentials of tokens are believed without another look.
                begun = time.monotonic()
                while time.monotonic() - begun < 1.5:
                    assert await anext(lines)
                await stack.http.post(f"{user}/disable")
                with pytest.raises(httpx.RemoteProtocolError):
                    await self.rest(lines)
        await stack.steer(lease, "cancel")

    async def rest(self, lines: AsyncIterator[str]) -> None:
        async for _ in lines:
            pass

    async def test_a_held_answer_is_not_given(self, stack: Stack, app: FastAPI, munged: Munged, user: str) -> None:
        pool = await stack.pool(1)
        await stack.take(pool)
        waiting = await stack.submit(pool)
        async with account(app, munged) as http:
            held = asyncio.create_task(http.get(f"/v1/leases/{waiting['id']}?wait=active&timeout=2"))
            await asyncio.sleep(0.3)
            await stack.http.post(f"{user}/disable")
            answer = await held
        assert answer.status_code == 401, fail(answer)
        await stack.steer(waiting, "cancel")


class TestSettings:
    @pytest.mark.parametrize("role", ["viewer", "user", "operator"])
    def test_a_role_turns_it_on(self, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
        monkeypatch.setenv("LEASEHOLD_MUNGE_ROLE", role)
        assert Settings().munge_role is Role(role)

    def test_it_is_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LEASEHOLD_MUNGE_ROLE", raising=False)
        assert Settings().munge_role is None

    @pytest.mark.parametrize("role", ["admin", "runner", "root", ""])
    def test_a_role_that_no_account_has_by_itself(self, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
        monkeypatch.setenv("LEASEHOLD_MUNGE_ROLE", role)
        with pytest.raises(ValueError, match="munge_role"):
            Settings()
