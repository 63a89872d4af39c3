"""Whatever is sent, the answer is one of ours: never a 500, never a hang, and the lab is as it was."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.stack import Json, Stack, fail

ANSWERS = {200, 201, 400, 403, 404, 409, 413, 422}
FUZZ = settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
POOL = "fuzz"

TEXT = st.text(max_size=30) | st.sampled_from(["\0", "\ud800", "\N{ROCKET}", "a" * 5000, "nan", "-0", "1e999"])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.integers(10**300, 10**310)
JSON = st.recursive(SCALAR, lambda x: st.lists(x, max_size=4) | st.dictionaries(TEXT, x, max_size=4), max_leaves=12)
KEY = st.sampled_from(
    ["n", "n__gt", "disks.type", "disks.type__ne", "n__like", "n__in", "x", "x__zz", "", ".", "__", "pool"]
)
FILTER = st.builds("{}={}".format, KEY, TEXT | st.integers()) | TEXT
NAME = st.sampled_from([POOL, "r0", "r1", "nope", "", "a b"]) | TEXT


def near(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what is asked for, sometimes anything."""
    return st.one_of(good, good, good, JSON)


def item(pool: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(
        {"pool": near(pool)},
        optional={
            "count": near(st.integers(-1, 4)),
            "match": near(st.lists(near(FILTER), max_size=3)),
            "tags": near(st.lists(near(st.sampled_from(["metal", "gpu"])), max_size=2)),
            "names": near(st.lists(near(NAME), max_size=3)),
            "role": near(TEXT),
            "params": near(st.dictionaries(TEXT, JSON, max_size=3)),
            "skip": near(st.lists(near(st.sampled_from(["wipe", "deliver", "release", "reboot"])), max_size=3)),
        },
    )


LEASE = st.fixed_dictionaries(
    {"items": near(st.lists(near(item(st.sampled_from([POOL, POOL, None, "nope"]))), max_size=3))},
    optional={
        "duration": near(st.sampled_from(["1h", "365d", "366d", "0s", "-1h", "1", "99999999999h"])),
        "priority": near(st.integers(-(2**40), 2**40)),
        "description": near(TEXT),
        "cc": near(st.lists(near(TEXT), max_size=2)),
        "heartbeat": near(st.sampled_from(["10s", "5m", "365d", "366d", "0s", "1"])),
        "surprise": JSON,
    },
)


async def ensure_pool(stack: Stack) -> None:
    resources = [
        {"name": f"r{n}", "tags": ["metal"], "properties": {"n": n, "disks": [{"type": "nvme"}]}} for n in (0, 1)
    ]
    answer = await stack.http.put(f"/v1/pools/{POOL}", json={"name": POOL, "resources": resources})
    assert answer.status_code == 200, fail(answer)


@FUZZ
@given(body=LEASE)
async def test_requests_for_leases(stack: Stack, body: Json) -> None:
    await ensure_pool(stack)
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = await stack.http.post("/v1/leases", content=content, headers=headers)
    assert answer.status_code in ANSWERS - {404}, fail(answer)
    if answer.is_success:
        shown = await stack.get(answer.json())
        assert shown["items"], fail(answer)
        await stack.release(shown)
    else:
        assert answer.json()["code"] not in {"internal", "unavailable"}
    assert (await stack.http.get(f"/v1/pools/{POOL}")).json()["waiting"] == 0


@FUZZ
@given(content=st.binary(max_size=300) | st.text(alphabet='{}[]":,items1e\\u', max_size=60).map(str.encode))
async def test_bytes(stack: Stack, content: bytes) -> None:
    for address, kind in (
        ("/v1/leases", "json"),
        ("/v1/apply?dry_run=true", "json"),
        ("/v1/apply?dry_run=true", "yaml"),
    ):
        headers = {"Content-Type": f"application/{kind}"}
        answer = await stack.http.post(address, content=content, headers=headers)
        assert answer.status_code in ANSWERS, fail(answer)


RESOURCE = st.fixed_dictionaries(
    {},
    optional={
        "tags": near(st.lists(near(TEXT), max_size=3)),
        "properties": near(st.dictionaries(TEXT, JSON, max_size=4)),
    },
)


@FUZZ
@given(body=RESOURCE, asked=st.lists(st.tuples(KEY, TEXT), max_size=3))
async def test_resources_and_filters_on_them(stack: Stack, body: Json, asked: list[tuple[str, str]]) -> None:
    await ensure_pool(stack)
    content, address = json.dumps(body).encode(), f"/v1/pools/{POOL}/resources/{uuid.uuid4().hex}"
    put = await stack.http.put(address, content=content, headers={"Content-Type": "application/json"})
    assert put.status_code in {200, 422}, fail(put)
    query = [(key, value.encode(errors="replace").decode()) for key, value in asked if key != "pool"]
    for call in ("/v1/resources", "/v1/available"):
        answer = await stack.http.get(call, params=[("pool", POOL), *query])
        assert answer.status_code in {200, 400}, fail(answer)
    if put.is_success:
        shown = await stack.http.get(address)
        assert shown.json()["properties"] == body.get("properties", {}), fail(shown)
        assert (await stack.http.delete(address)).status_code == 200


@FUZZ
@given(
    call=st.sampled_from(["", "/events", "/log", "/delivery", "/queue", "/resources/{}"]),
    name=st.text(min_size=1, max_size=80) | st.integers(0, 10**80).map(str),
    root=st.sampled_from(["leases", "pools", "tokens"]),
)
async def test_names_in_addresses(stack: Stack, root: str, name: str, call: str) -> None:
    text = quote(name.encode(errors="replace"), safe="")
    if text in {".", ".."}:
        return
    answer = await stack.http.get(f"/v1/{root}/{text}{call.format(text)}")
    assert answer.status_code in ANSWERS | {307, 405}, fail(answer)


TOKEN = st.fixed_dictionaries(
    {},
    optional={
        "user": near(st.sampled_from(["ci", "a@b.example", "-", "a b", ""]) | TEXT),
        "role": near(st.sampled_from(["viewer", "user", "operator", "admin", "root"])),
        "expires": near(st.sampled_from(["90d", "365d", "366d", "1s", "0s"])),
        "scopes": near(
            st.fixed_dictionaries(
                {}, optional={"pools": near(st.lists(near(NAME), max_size=2)), "read": near(st.booleans())}
            )
        ),
        "label": near(TEXT),
        "surprise": JSON,
    },
)


@FUZZ
@given(body=TOKEN)
async def test_tokens(stack: Stack, body: Json) -> None:
    content = json.dumps(body).encode()
    answer = await stack.http.post("/v1/tokens", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in {201, 400, 422}, fail(answer)
    if answer.is_success:
        made = answer.json()
        revoked = (await stack.http.delete(f"/v1/tokens/{made['id']}")).json()
        assert revoked["revoked_at"] is not None
        changed = {"revoked_at": revoked["revoked_at"], "revoked_by": "admin"}
        assert {**revoked, "token": made["token"]} == {**made, **changed}


QUADS_KEY = st.sampled_from(
    [
        "model",
        "model__ne",
        "disks.size_gb__gt",
        "cloud",
        "broken",
        "name__like",
        "disks.x",
        "x__zz",
        "",
        ".",
        "__",
        "start",
    ]
)
QUADS_BODY = st.fixed_dictionaries(
    {},
    optional={
        "description": near(TEXT),
        "cloud": near(st.sampled_from(["cloud02", "cloud01", ""]) | TEXT),
        "hostname": near(NAME),
        "vlan": near(st.sampled_from([620, "620", True, None, "none"])),
        "qinq": near(st.sampled_from([0, 1, "0", "yes", ""])),
        "wipe": near(st.sampled_from([True, "true", "false", "n", ""])),
        "cc_user": near(st.sampled_from(["a, b", ["a"], ""]) | TEXT),
        "ostype": near(TEXT),
        "ticket": near(st.integers() | TEXT),
        "surprise": JSON,
    },
)


@FUZZ
@given(body=QUADS_BODY, asked=st.lists(st.tuples(QUADS_KEY, TEXT), max_size=3))
async def test_calls_of_quads(stack: Stack, body: Json, asked: list[tuple[str, str]]) -> None:
    await ensure_pool(stack)
    headers = {"Content-Type": "application/json"}
    for call in ("assignments/self", "schedules"):
        answer = await stack.http.post(f"/api/v3/{call}", content=json.dumps(body).encode(), headers=headers)
        assert answer.status_code == 400, fail(answer)
    query = httpx.QueryParams([(key, value.encode(errors="replace").decode()) for key, value in asked])
    for call in ("hosts", "available", "clouds", "assignments", "schedules/current"):
        answer = await stack.http.get(f"/api/v3/{call}", params=query)
        assert answer.status_code in {200, 400}, fail(answer)


async def test_after_all_of_that_the_service_works(stack: Stack) -> None:
    await stack.works()
