"""Bad input: a clear error with its code and place, nothing lost, nothing hung."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.api.stack import Stack, fail

JSON = {"Content-Type": "application/json"}
YAML = {"Content-Type": "application/yaml"}
PROBLEM = {"type", "title", "status", "code", "detail", "errors"}


def check(answer: httpx.Response, status: int, code: str, *places: str) -> None:
    """The answer is a problem document (RFC 9457) with this code, and names these places with their codes."""
    assert answer.status_code == status, fail(answer)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == PROBLEM
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:leasehold:error:{code}")
    assert problem["title"]
    assert problem["detail"]
    assert [f"{e['path']} {e['code']}" for e in problem["errors"]] == list(places)
    assert all(e["detail"] for e in problem["errors"])
    assert len(answer.content) < 5000, "an error must not repeat a whole book"


async def untouched(stack: Stack, pool: str) -> None:
    """Fail if the pool has lost anything, or anybody waits for it."""
    found = (await stack.http.get(f"/v1/pools/{pool}")).json()
    assert (found["free"], found["total"], found["waiting"]) == (2, 2, 0)


# The item (POOL stands for the pool of the test, which has 2 resources), and what the error says.
ITEMS: dict[str, tuple[dict[str, Any], int, str, tuple[str, ...]]] = {
    "unknown pool": ({"pool": "nope"}, 422, "unsatisfiable", ("items[0].pool pool_unknown",)),
    "count 0": ({"count": 0}, 422, "invalid", ("items[0].count greater_than_equal",)),
    "negative count": ({"count": -1}, 422, "invalid", ("items[0].count greater_than_equal",)),
    "absurd count": ({"count": 10**30}, 422, "invalid", ("items[0].count less_than_equal",)),
    "true for a count": ({"count": True}, 422, "invalid", ("items[0].count int_type",)),
    "text for a count": ({"count": "1"}, 422, "invalid", ("items[0].count int_type",)),
    "a fraction for a count": ({"count": 1.5}, 422, "invalid", ("items[0].count int_type",)),
    "null for a count": ({"count": None}, 422, "invalid", ("items[0].count int_type",)),
    "more than the pool has": ({"count": 3}, 422, "unsatisfiable", ("items[0] too_many",)),
    "names that are not there": ({"names": ["r9"]}, 422, "unsatisfiable", ("items[0] too_many",)),
    "tags that nothing has": ({"tags": ["gpu"]}, 422, "unsatisfiable", ("items[0] too_many",)),
    "unknown field": ({"cuont": 1}, 422, "invalid", ("items[0].cuont unknown_field",)),
    "a number for a pool": ({"pool": 1}, 422, "invalid", ("items[0].pool string_type",)),
    "a name with a slash": ({"pool": "a/b"}, 422, "invalid", ("items[0].pool string_pattern_mismatch",)),
    "a name that ends a line": ({"pool": "a\n"}, 422, "invalid", ("items[0].pool string_pattern_mismatch",)),
    "a filter without a value": ({"match": ["model"]}, 400, "bad_filter", ("items[0].match[0] bad_filter",)),
    "an unknown operator": ({"match": ["n=1", "n__zz=1"]}, 400, "bad_filter", ("items[0].match[1] bad_filter",)),
    "a filter that is none": ({"match": [""]}, 422, "invalid", ("items[0].match[0] string_too_short",)),
    "NUL in a filter": ({"match": ["model__ne=\0"]}, 422, "invalid", ("items[0].match[0] nul",)),
    "NUL in a tag": ({"tags": ["\0"]}, 422, "invalid", ("items[0].tags[0] nul",)),
    "NUL in a role": ({"role": "\0"}, 422, "invalid", ("items[0].role nul",)),
    "NUL in a parameter": ({"params": {"a": ["\0"]}}, 422, "invalid", ("items[0].params not_storable",)),
    "half a character in a filter": ({"match": ["a=\ud800"]}, 422, "invalid", ("items[0].match[0] string_unicode",)),
    "half a character in a parameter": ({"params": {"a": "\ud800"}}, 422, "invalid", ("items[0].params not_json",)),
    "half a character in a key": ({"params": {"\ud800": 1}}, 422, "invalid", ("items[0].params not_json",)),
    "a list for parameters": ({"params": []}, 422, "invalid", ("items[0].params dict_type",)),
    "large parameters": ({"params": {"a": "x" * 70_000}}, 422, "invalid", ("items[0].params not_storable",)),
    "an unknown stage to skip": ({"skip": ["reboot"]}, 422, "invalid", ("items[0].skip[0] enum",)),
    "a stage that follows a lease": ({"skip": ["release"]}, 422, "invalid", ("items[0].skip not_skippable",)),
    "a text for stages to skip": ({"skip": "wipe"}, 422, "invalid", ("items[0].skip not_a_list",)),
    "not a number": ({"params": {"a": float("nan")}}, 422, "invalid", ("items[0].params not_json",)),
}


@pytest.mark.parametrize("case", ITEMS)
async def test_an_item_that_cannot_be(stack: Stack, case: str) -> None:
    item, status, code, places = ITEMS[case]
    pool = await stack.pool(2)
    body = json.dumps({"items": [{"pool": pool, **item}]}).encode()
    answer = await stack.http.post("/v1/leases", content=body, headers=JSON)
    check(answer, status, code, *places)
    await untouched(stack, pool)


BODIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no items": ({"items": []}, ("items too_short",)),
    "items that are no list": ({"items": "x"}, ("items not_a_list",)),
    "an item that is no object": ({"items": ["x"]}, ("items[0] not_an_object",)),
    "too many items": ({"items": [{}] * 51}, ("items too_long",)),
    "unknown field": ({"surprise": 1}, ("surprise unknown_field",)),
    "a field of a later version": ({"surety": {"password": "hunter2"}}, ("surety unknown_field",)),
    "negative duration": ({"duration": "-5m"}, ("duration duration",)),
    "no duration at all": ({"duration": "0s"}, ("duration duration",)),
    "absurd duration": ({"duration": "99999d"}, ("duration duration",)),
    "a number for a duration": ({"duration": 3600}, ("duration duration",)),
    "true for a duration": ({"duration": True}, ("duration duration",)),
    "a list for a duration": ({"duration": ["1h"]}, ("duration duration",)),
    "a book for a duration": ({"duration": "9" * 100_000}, ("duration duration",)),
    "no time for a heartbeat": ({"heartbeat": "0s"}, ("heartbeat duration",)),
    "a heartbeat that never comes": ({"heartbeat": "366d"}, ("heartbeat duration",)),
    "a number for a heartbeat": ({"heartbeat": 60}, ("heartbeat duration",)),
    "true for a priority": ({"priority": True}, ("priority int_type",)),
    "a huge priority": ({"priority": 2**63}, ("priority less_than_equal",)),
    "NUL in the description": ({"description": "a\0b"}, ("description nul",)),
    "half a character": ({"description": "\udfff"}, ("description string_unicode",)),
    "a book for a description": ({"description": "x" * 5000}, ("description string_too_long",)),
    "an empty name in cc": ({"cc": [""]}, ("cc[0] string_too_short",)),
    "two mistakes": ({"duration": "x", "priority": "y"}, ("duration duration", "priority int_type")),
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_request_that_cannot_be(stack: Stack, case: str) -> None:
    body, places = BODIES[case]
    pool = await stack.pool(2)
    whole = json.dumps({"items": [{"pool": pool}], **body}).encode()
    check(await stack.http.post("/v1/leases", content=whole, headers=JSON), 422, "invalid", *places)
    await untouched(stack, pool)


@pytest.mark.parametrize("content", [b"[]", b'"x"', b"1", b"true", b"null"])
async def test_a_body_that_is_no_object(stack: Stack, content: bytes) -> None:
    answer = await stack.http.post("/v1/leases", content=content, headers=JSON)
    check(answer, 422, "invalid", " not_an_object")


async def test_no_body(stack: Stack) -> None:
    check(await stack.http.post("/v1/leases", headers=JSON), 422, "invalid", " missing")


@pytest.mark.parametrize(
    "content",
    [b"{", b"{}}", b"\xff", b'{"items": "\xff"}', b'{"items": \x00}', b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"],
    ids=lambda content: repr(content[:10]),
)
async def test_a_body_that_cannot_be_parsed(stack: Stack, content: bytes) -> None:
    check(await stack.http.post("/v1/leases", content=content, headers=JSON), 400, "malformed")


async def test_what_is_no_json_is_answered_with_its_place(stack: Stack) -> None:
    answer = await stack.http.post("/v1/leases", content=b'{"items": [\n  oops\n]}', headers=JSON)
    check(answer, 400, "malformed")
    assert "line 2" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["text/plain", None])
async def test_a_body_of_another_type_is_told_which_one_is_needed(stack: Stack, kind: str | None) -> None:
    pool = await stack.pool(2)
    content = json.dumps({"items": [{"pool": pool}]}).encode()
    answer = await stack.http.post("/v1/leases", content=content, headers={"Content-Type": kind} if kind else {})
    check(answer, 422, "invalid", " not_an_object")
    assert "application/json" in answer.json()["detail"]
    await untouched(stack, pool)


@pytest.mark.parametrize("depth", [10, 60, 150, 250, 275, 300, 600, 900, 10_000])
async def test_deep_json_is_taken_or_refused(stack: Stack, depth: int) -> None:
    pool = await stack.pool(2)
    nested = "[" * depth + "]" * depth
    content = f'{{"items": [{{"pool": "{pool}", "params": {{"a": {nested}}}}}]}}'.encode()
    answer = await stack.http.post("/v1/leases", content=content, headers=JSON)
    assert answer.status_code in {201, 400, 422}, fail(answer)
    if answer.status_code == 201:
        assert (await stack.get(answer.json()))["items"][0]["params"] == json.loads(f'{{"a": {nested}}}')
        await stack.release(answer.json())
    await untouched(stack, pool)


class TestTooLarge:
    @pytest.mark.parametrize("size", [1024 * 1024 + 1, 10_000_000])
    async def test_a_body_that_says_how_large_it_is(self, stack: Stack, size: int) -> None:
        check(await stack.http.post("/v1/leases", content=b" " * size, headers=JSON), 413, "too_large")

    async def test_a_body_that_does_not_say_it(self, stack: Stack) -> None:
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 100_000

        check(await stack.http.post("/v1/leases", content=endless(), headers=JSON), 413, "too_large")

    async def test_a_pools_file_may_be_larger_but_not_endless(self, stack: Stack) -> None:
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"#" * 100_000

        several = b"#" * 2_000_000 + b"\npools: []"
        answer = await stack.http.post("/v1/apply?dry_run=true", content=several, headers=YAML)
        assert answer.status_code == 200, fail(answer)
        check(await stack.http.post("/v1/apply", content=b"#" * 10_000_000, headers=YAML), 413, "too_large")
        check(await stack.http.post("/v1/apply", content=endless(), headers=YAML), 413, "too_large")

    async def test_a_length_that_is_no_number(self, stack: Stack) -> None:
        answer = await stack.http.post("/v1/leases", content=b"{}", headers={**JSON, "Content-Length": "many"})
        assert answer.status_code in {400, 413}, fail(answer)


# What is asked, and what the error says.
QUERIES: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "/nowhere": (404, "not_found", ()),
    "/v1/leases/nobody": (404, "lease_unknown", ()),
    "/v1/leases/0": (404, "lease_unknown", ()),
    "/v1/leases/99999999999999999999": (404, "lease_unknown", ()),
    f"/v1/leases/{'9' * 63}": (404, "lease_unknown", ()),
    f"/v1/leases/{'9' * 5000}": (404, "lease_unknown", ()),
    "/v1/leases/-1": (404, "lease_unknown", ()),
    "/v1/leases/%00": (404, "lease_unknown", ()),
    "/v1/leases/%ff": (404, "lease_unknown", ()),
    "/v1/leases?state=lost": (400, "malformed", ()),
    "/v1/leases?cursor=x": (400, "malformed", ()),
    "/v1/leases?cursor=99999999999999999999": (400, "malformed", ()),
    "/v1/leases?limit=0": (422, "invalid", ("limit greater_than_equal",)),
    "/v1/leases?limit=1001": (422, "invalid", ("limit less_than_equal",)),
    "/v1/leases?limit=many": (422, "invalid", ("limit int_parsing",)),
    "/v1/pools/nowhere": (404, "pool_unknown", ()),
    "/v1/pools/nowhere/queue": (404, "pool_unknown", ()),
    "/v1/pools/nowhere/resources/r0": (404, "resource_unknown", ()),
    "/v1/available?pool=nowhere": (404, "pool_unknown", ()),
    "/v1/available?count=0": (422, "invalid", ("count greater_than_equal",)),
    "/v1/available?model__zz=1": (400, "bad_filter", ()),
    "/v1/resources?model__zz=1": (400, "bad_filter", ()),
    "/v1/resources?mo del=1": (400, "bad_filter", ()),
    "/v1/resources?=1": (400, "bad_filter", ()),
    "/v1/resources?cores__gt=": (400, "bad_filter", ()),
    "/v1/resources?tags=a,,b": (400, "bad_filter", ()),
    "/v1/resources?state=lost": (400, "malformed", ()),
    "/v1/resources?cursor=x": (400, "malformed", ()),
    "/v1/resources?limit=0": (422, "invalid", ("limit greater_than_equal",)),
}


@pytest.mark.parametrize("address", QUERIES)
async def test_a_question_that_cannot_be_answered(stack: Stack, address: str) -> None:
    status, code, places = QUERIES[address]
    check(await stack.http.get(address), status, code, *places)


@pytest.mark.parametrize("call", ["", "/events", "/log", "/log?follow=true", "/delivery"])
async def test_a_lease_that_never_was_is_unknown_to_every_call(stack: Stack, call: str) -> None:
    check(await stack.http.get(f"/v1/leases/l{'a' * 25}{call}"), 404, "lease_unknown")


@pytest.mark.parametrize("call", ["release", "cancel", "extend"])
async def test_a_lease_that_never_was_cannot_be_steered(stack: Stack, call: str) -> None:
    body = {"by": "1h"} if call == "extend" else None
    check(await stack.http.post(f"/v1/leases/l{'a' * 25}/{call}", json=body), 404, "lease_unknown")


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"wait": "never"}, "wait literal_error"),
        ({"wait": "active", "timeout": "61"}, "timeout less_than_equal"),
        ({"wait": "active", "timeout": "-1"}, "timeout greater_than_equal"),
        ({"wait": "active", "timeout": "soon"}, "timeout float_parsing"),
    ],
)
async def test_a_wait_that_cannot_be_starts_nothing(stack: Stack, parameters: dict[str, str], place: str) -> None:
    pool = await stack.pool(2)
    check(await stack.post({"items": [{"pool": pool}]}, **parameters), 422, "invalid", place)
    await untouched(stack, pool)


async def test_a_wait_for_not_a_number_of_seconds_starts_nothing(stack: Stack) -> None:
    pool = await stack.pool(2)
    answer = await stack.post({"items": [{"pool": pool}]}, wait="active", timeout="nan")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    await untouched(stack, pool)


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_cannot_be_starts_nothing(stack: Stack, key: str) -> None:
    pool = await stack.pool(2)
    code = "string_too_long" if key else "string_too_short"
    check(await stack.post({"items": [{"pool": pool}]}, key), 422, "invalid", f"Idempotency-Key {code}")
    await untouched(stack, pool)


@pytest.mark.parametrize(
    ("method", "address"),
    [("PATCH", "/v1/leases"), ("DELETE", "/v1/leases/1"), ("POST", "/v1/pools"), ("PUT", "/healthz")],
)
async def test_a_call_that_there_is_not(stack: Stack, method: str, address: str) -> None:
    check(await stack.http.request(method, address), 405, "method_not_allowed")


class TestInventory:
    """A bad file, pool or resource changes nothing."""

    @pytest.mark.parametrize(
        ("content", "status", "code", "place", "said"),
        [
            (b"pools:\n- name: a\n  polcy: {}\n", 422, "invalid", "pools[0].polcy unknown_field", "line 3"),
            (b"pools:\n- name: a\n- name: a\n", 422, "invalid", " duplicate", "twice"),
            (b"pools: [\n", 400, "malformed", None, "line 2"),
            (b"pools: \xff", 400, "malformed", None, ""),
            (b"pools: 2026-99-99", 400, "malformed", None, ""),
            (b"pools: " + b"[" * 50_000, 400, "malformed", None, ""),
            (b"", 422, "invalid", " not_an_object", ""),
        ],
    )
    async def test_a_pools_file_with_a_mistake(
        self, stack: Stack, content: bytes, status: int, code: str, place: str | None, said: str
    ) -> None:
        before = (await stack.http.get("/v1/pools")).json()
        answer = await stack.http.post("/v1/apply", content=content, headers=YAML)
        check(answer, status, code, *([place] if place else []))
        assert said in answer.json()["detail"]
        assert (await stack.http.get("/v1/pools")).json() == before

    @pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"pools": ' + b"1" * 5000 + b"}"])
    async def test_a_pools_file_that_is_no_json(self, stack: Stack, content: bytes) -> None:
        check(await stack.http.post("/v1/apply", content=content, headers=JSON), 400, "malformed")

    @pytest.mark.parametrize("folder", ["lab", "", "/%00"])
    async def test_a_folder_that_cannot_be(self, stack: Stack, folder: str) -> None:
        answer = await stack.http.post(f"/v1/apply?folder={folder}&dry_run=true", content=b"pools: []", headers=YAML)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), fail(answer)
        assert answer.json()["errors"][0]["path"] == "folder"

    async def test_a_pool_whose_name_is_not_that_of_its_address(self, stack: Stack) -> None:
        check(await stack.http.put("/v1/pools/a", json={"name": "b"}), 422, "invalid", "name mismatch")

    async def test_a_pool_with_a_relative_hook_and_no_folder(self, stack: Stack) -> None:
        body = {"name": "a", "wipe": {"run": "./wipe.sh"}}
        answer = await stack.http.put("/v1/pools/a", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "folder_missing"), fail(answer)

    @pytest.mark.parametrize("name", ["a b", "-a", "a" * 129, "%00", "ä"])
    async def test_a_resource_whose_name_cannot_be(self, stack: Stack, name: str) -> None:
        pool = await stack.pool(2)
        check(await stack.http.put(f"/v1/pools/{pool}/resources/{name}", json={}), 422, "invalid", "name bad_name")
        await untouched(stack, pool)

    @pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "a\0"}, {"reason": 1}])
    async def test_offline_without_a_reason(self, stack: Stack, body: dict[str, Any]) -> None:
        pool = await stack.pool(2)
        answer = await stack.http.post(f"/v1/pools/{pool}/resources/r0/offline", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), fail(answer)
        await untouched(stack, pool)

    async def test_a_huge_number_in_a_resource_harms_nobody(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        for value in (10**30, 10**400):
            body = {"properties": {"big": value}}
            answer = await stack.http.put(f"/v1/pools/{pool}/resources/extra", json=body)
            assert answer.status_code in {200, 422}, fail(answer)
        for address in (f"/v1/resources?pool={pool}&big__gt=5", f"/v1/available?pool={pool}&big=5"):
            answer = await stack.http.get(address)
            assert answer.status_code == 200, fail(answer)
        lease = await stack.post({"items": [{"pool": pool, "match": ["n__gte=0", "big__ne=5"]}]})
        assert lease.status_code == 201, fail(lease)


async def test_after_all_of_that_the_service_works(stack: Stack) -> None:
    await stack.works()
