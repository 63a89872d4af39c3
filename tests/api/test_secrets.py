"""Secrets of a request: they reach its hooks and its command, and nobody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import select

from leasehold.store import tables as t
from leasehold.store.store import SqlStore
from tests.api.stack import PATIENCE_S, Json, Stack, fail

SECRETS = {"SITE_KEY": "correct-horse", "PEM": "-----BEGIN\nstäple\n-----END"}
EVERYBODY = {"allow": [{"role": "user"}]}


async def kept(stack: Stack, lease: Json) -> list[Any]:
    """What is kept of a lease's secrets."""
    store = stack.services.store
    assert isinstance(store, SqlStore)
    query = select(t.envelopes.c.env, t.envelopes.c.secrets).where(t.envelopes.c.lease == lease["id"])
    return [tuple(row) for row in await store.database.read(lambda c: c.execute(query).all())]


async def until_free(stack: Stack, pool: str) -> None:
    """Wait until what was released is recycled."""
    async with asyncio.timeout(PATIENCE_S):
        while (await stack.http.get(f"/v1/pools/{pool}")).json()["free"] != 1:
            await asyncio.sleep(0.02)


def prints(stack: Stack) -> tuple[Json, Any]:
    """A hook that writes its secrets into a file, and what is in that."""
    path = stack.new_path()
    return {"run": f'printf %s "$LEASEHOLD_SECRETS" >{path}'}, lambda: json.loads(path.read_text())


async def test_hooks_get_them_before_during_and_after_the_lease(stack: Stack) -> None:
    made = {stage: prints(stack) for stage in ("provision", "deliver", "release")}
    hooks: Json = {stage: hook for stage, (hook, _) in made.items()}
    pool = await stack.pool(1, **hooks)
    lease = await stack.take(pool, secrets=SECRETS)
    await stack.release(lease)
    await until_free(stack, pool)
    assert {stage: read() for stage, (_, read) in made.items()} == dict.fromkeys(made, SECRETS)


async def test_hooks_of_a_request_without_any_get_none(stack: Stack) -> None:
    hook, read = prints(stack)
    pool = await stack.pool(1, provision=hook)
    await stack.release(await stack.take(pool, secrets=SECRETS))
    await stack.release(await stack.take(pool))
    assert read() == {}


async def test_what_asks_whether_it_may_be_admitted_gets_none(stack: Stack) -> None:
    hook, read = prints(stack)
    pool = await stack.pool(1, admit={**hook, "run": hook["run"] + "; echo '{}'"})
    await stack.release(await stack.take(pool, secrets=SECRETS))
    assert read() == {}


async def test_its_command_gets_them(stack: Stack) -> None:
    pool, path = await stack.pool(1, commands=EVERYBODY), stack.new_path()
    command = {"run": f'printf %s "$LEASEHOLD_SECRETS" >{path}'}
    answer = await stack.post({"items": [{"pool": pool}], "command": command, "secrets": SECRETS})
    ended = await stack.ended(answer.json())
    assert ended["command"]["result"] == "exited", ended
    assert ended["command"]["env"] == []
    assert json.loads(path.read_text()) == SECRETS


async def test_nobody_can_read_them(stack: Stack) -> None:
    """Not the holder, not an admin, and not who looks into Temporal."""
    pool = await stack.pool(1, provision={"run": "true"}, commands=EVERYBODY)
    body = {"items": [{"pool": pool}], "command": {"run": ["true"]}, "secrets": SECRETS}
    answer = await stack.post(body, wait="ended", timeout=PATIENCE_S)
    lease = answer.json()
    told = [answer.text]
    for what in ("", "/events", "/log", "/runs", "/delivery", "/output"):
        told.append((await stack.http.get(f"/v1/leases/{lease['id']}{what}")).text)
    told.append((await stack.http.get("/v1/leases", params={"limit": "1000"})).text)
    told.append((await stack.temporal.get_workflow_handle(lease["id"]).fetch_history()).to_json())
    assert lease["state"] == "ended", fail(answer)
    assert "secrets" not in lease
    for secret in ("correct-horse", "stäple", json.dumps("stäple")[1:-1]):
        assert [text for text in told if secret in text] == []


async def test_they_are_kept_until_what_it_had_is_recycled_and_no_longer(stack: Stack) -> None:
    gate = stack.gate()
    pool = await stack.pool(1, release=gate.hook)
    lease = await stack.take(pool, secrets=SECRETS)
    await stack.services.store.prune()
    assert await kept(stack, lease) == [({}, SECRETS)]
    await stack.release(lease)
    await stack.until(gate.reached)
    await stack.services.store.prune()
    assert await kept(stack, lease) == [({}, SECRETS)]
    gate.open()
    await until_free(stack, pool)
    await stack.services.store.prune()
    assert await kept(stack, lease) == []


async def test_those_of_a_request_that_was_refused_are_not_kept(stack: Stack) -> None:
    pool = await stack.pool(1)
    key = {"Idempotency-Key": pool}
    body = {"items": [{"pool": pool, "count": 2}], "secrets": SECRETS}
    answer = await stack.http.post("/v1/leases", json=body, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "unsatisfiable"), fail(answer)
    store = stack.services.store
    assert isinstance(store, SqlStore)
    await store.prune()
    query = select(t.envelopes.c.secrets)
    assert SECRETS not in await store.database.read(lambda c: c.execute(query).scalars().all())


async def test_a_key_that_is_used_again_with_other_secrets_is_refused(stack: Stack) -> None:
    hook, read = prints(stack)
    pool = await stack.pool(1, release=hook)
    body = {"items": [{"pool": pool}], "secrets": SECRETS}
    first = await stack.post(body, key=pool)
    again = await stack.post(body, key=pool)
    other = await stack.post({**body, "secrets": {**SECRETS, "SITE_KEY": "battery"}}, key=pool)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422), fail(other)
    assert (again.json()["id"], other.json()["code"]) == (first.json()["id"], "idempotency_key_reused")
    await stack.release(first.json())
    await until_free(stack, pool)
    assert read() == SECRETS


@pytest.mark.parametrize(
    ("secrets", "path", "code"),
    [
        ({"1X": "hunter2"}, "secrets.1X", "variable"),
        ({"A-B": "hunter2"}, "secrets.A-B", "variable"),
        ({"": "hunter2"}, "secrets.", "variable"),
        ({"X": 2}, "secrets.X", "string_type"),
        ({"X": "hunter2\0"}, "secrets.X", None),
        ({"X": "hunter2" * 10_000}, "secrets", "too_long"),
        ({"X": "\n" * 40_000}, "secrets", "too_long"),
        ({f"X{n}": "hunter2" for n in range(101)}, "secrets", "too_long"),
        ("hunter2", "secrets", "dict_type"),
    ],
)
async def test_what_none_can_be_is_refused_without_a_word_of_it(
    stack: Stack, secrets: Any, path: str, code: str | None
) -> None:
    answer = await stack.post({"items": [{"pool": "any"}], "secrets": secrets})
    assert answer.status_code == 422, fail(answer)
    (fault,) = answer.json()["errors"]
    assert fault["path"].startswith(path)
    assert code is None or fault["code"] == code
    assert "hunter2" not in answer.text
