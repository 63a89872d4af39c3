"""The OpenAPI document: valid, complete, with examples that hold, and true of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from pydantic import BaseModel, TypeAdapter

from api import schemas
from leasehold.config import PoolsFile, load_yaml
from tests.api.stack import Json, Stack
from tests.api.test_auth import LOGIN, OPEN_TO_ALL, calls

VERBS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture
def document(stack: Stack) -> Json:
    found: Json = stack.app.openapi()
    return found


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, item in document["paths"].items():
        for verb in VERBS & set(item):
            yield f"{verb.upper()} {path}", item[verb]


def parts(value: Any) -> Iterator[Json]:
    """Every object within a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


async def test_it_is_served_to_everybody(stack: Stack, document: Json) -> None:
    answer = await stack.http.get("/openapi.json", headers={"Authorization": ""})
    assert (answer.status_code, answer.json()) == (200, json.loads(json.dumps(document)))


async def test_it_is_a_document_of_openapi_3_1(document: Json) -> None:
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))


async def test_everything_it_refers_to_is_in_it(document: Json) -> None:
    for part in parts(document):
        if "$ref" in part:
            at: Any = document
            assert part["$ref"].startswith("#/"), part
            for step in part["$ref"].removeprefix("#/").split("/"):
                at = at[step.replace("~1", "/").replace("~0", "~")]


async def test_it_lists_every_call_there_is(stack: Stack, document: Json) -> None:
    undocumented = {f"GET {path}" for path in OPEN_TO_ALL - {"/healthz", "/readyz", LOGIN}}
    assert {f"{m} {p}" for m, p in calls(stack.app.routes)} - undocumented == {name for name, _ in operations(document)}


async def test_every_call_says_what_it_does_and_how_it_fails(document: Json) -> None:
    for name, operation in operations(document):
        assert operation["description"], name
        if "/api/v3/" in name:
            schema = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert {"status_code", "error", "message", "code"} == set(schema["required"]), name
        elif "/v1/" in name:
            failure = operation["responses"]["4XX"]["content"]
            assert set(failure) == {"application/problem+json"}, name
            assert failure["application/problem+json"]["schema"]["$ref"].endswith("/ProblemAnswer"), name


async def test_every_call_that_needs_a_token_says_so(document: Json) -> None:
    schemes = document.get("components", {}).get("securitySchemes", {})
    assert any(scheme.get("scheme") == "bearer" for scheme in schemes.values())
    for name, operation in operations(document):
        assert bool(operation.get("security")) is (name.partition(" ")[2] not in OPEN_TO_ALL), name


async def test_every_parameter_of_an_address_is_described(document: Json) -> None:
    for name, operation in operations(document):
        described = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert described == {word.strip("{}") for word in name.split("/") if word.startswith("{")}, name


def models() -> list[type[BaseModel]]:
    found = [kind for kind in vars(schemas).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sorted(set(found) - {BaseModel}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_an_example_is_what_its_schema_says(model: type[BaseModel]) -> None:
    for example in model.model_json_schema().get("examples", ()):
        checked = model.model_validate_json(json.dumps(example), strict=model.__name__.endswith("Answer"))
        assert set(example) <= {field.alias or name for name, field in model.model_fields.items()}
        if model.__name__.endswith("Answer"):
            assert set(example) == set(model.model_fields), "an unknown value is null, never absent"
        assert checked


async def test_the_calls_that_people_make_first_have_examples(document: Json) -> None:
    shown = {name for name, operation in operations(document) if "example" in json.dumps(operation)}
    by_schema = {name for name, schema in document["components"]["schemas"].items() if "examples" in schema}
    assert "POST /v1/apply" in shown
    assert {"LeaseBody", "LeaseAnswer", "ExtendBody", "OfflineBody"} <= by_schema


def test_the_example_of_a_pools_file_is_a_good_one(document: Json) -> None:
    body = document["paths"]["/v1/apply"]["post"]["requestBody"]["content"]
    assert load_yaml(body["application/yaml"]["example"].encode()).pools
    reference = body["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][reference]["title"] == PoolsFile.model_json_schema()["title"]


async def test_a_request_like_the_example_is_taken(stack: Stack) -> None:
    name = "r640"
    resources = [{"name": f"host{n}", "properties": {"disks": [{"disk_type": "nvme"}]}} for n in (1, 2)]
    await stack.http.put(f"/v1/pools/{name}", json={"name": name, "resources": resources})
    answer = await stack.post(schemas.EXAMPLE_REQUEST)
    assert answer.status_code == 201
    await stack.release(answer.json())


class TestAnswers:
    """What is really answered has the fields that the document promises, all of them and no others."""

    def check(self, model: type[BaseModel], answered: Json) -> None:
        TypeAdapter(model).validate_json(json.dumps(answered), strict=True)
        assert set(answered) == set(model.model_fields)

    async def test_leases(self, stack: Stack) -> None:
        pool = await stack.pool(1, validate={"run": "true"})
        taken, queued = await stack.take(pool), await stack.submit(pool)
        self.check(schemas.NewLeaseAnswer, taken)
        self.check(schemas.NewLeaseAnswer, queued)
        self.check(schemas.LeaseAnswer, await stack.get(taken))
        await stack.steer(queued, "cancel")
        self.check(schemas.LeaseAnswer, await stack.ended(queued))
        delivery = (await stack.http.get(f"/v1/leases/{taken['id']}/delivery")).json()
        self.check(schemas.DeliveryAnswer, delivery)

    async def test_lists(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        lease = await stack.take(pool)
        for address in (
            f"/v1/leases?pool={pool}",
            "/v1/pools",
            f"/v1/resources?pool={pool}",
            f"/v1/pools/{pool}/queue",
            f"/v1/pools/{pool}/resources/r0/events",
            f"/v1/leases/{lease['id']}/events",
        ):
            self.check(schemas.ListAnswer, (await stack.http.get(address)).json())

    async def test_inventory(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        address = f"/v1/pools/{pool}/resources/r0"
        self.check(schemas.ResourceAnswer, (await stack.http.get(address)).json())
        self.check(schemas.ResourceAnswer, (await stack.http.post(f"{address}/offline", json={"reason": "x"})).json())
        available = (await stack.http.get("/v1/available", params={"pool": pool})).json()
        self.check(schemas.AvailableAnswer, available)
        self.check(schemas.ResourceAnswer, available["resources"][0])
        self.check(schemas.ChangesAnswer, (await stack.http.put(address, json={"tags": ["x"]})).json())

    async def test_errors(self, stack: Stack) -> None:
        self.check(schemas.ProblemAnswer, (await stack.post({"items": []})).json())
