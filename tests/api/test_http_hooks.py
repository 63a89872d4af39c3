"""Pools whose hooks are requests over HTTP: shown as they were put, refused with their lines, run for real."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from tests.api.stack import Json, Stack, fail
from tests.contract.http_hooks import Asked, answer, answers, one_after_another, serving


class Foreman:
    """A server that provisions hosts in the background, and hands out what is needed to log in."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.looks: dict[str, int] = {}

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asked)
        await {"POST": self.provision, "GET": self.look, "DELETE": self.release}[asked.method](asked, writer)

    async def provision(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = asked.target.split("/")[2]
        writer.write(answer(202, json.dumps({"task": f"task-{name}"}).encode()))

    async def look(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.target.startswith("/secrets/"):
            writer.write(answer(200, f"root:{asked.target.rpartition('/')[2]}\n".encode()))
            return
        self.looks[asked.target] = self.looks.get(asked.target, 0) + 1
        writer.write(answer(200, json.dumps({"state": "done" if self.looks[asked.target] > 1 else "busy"}).encode()))

    async def release(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(204))

    def was_asked(self, method: str, target: str) -> Asked:
        """The one request of this kind."""
        (found,) = (asked for asked in self.asked if (asked.method, asked.target) == (method, target))
        return found


def hooks(url: str) -> dict[str, Any]:
    host = url + "/hosts/{{ resource.name }}"
    return {
        "provision": {
            "http": {
                "url": host + "/provision",
                "headers": {"X-Lease": "{{ lease.id }}"},
                "json": {"image": "{{ resource.params.image | default('el9') }}", "for": "{{ lease.owner }}"},
                "until": {"url": url + "/tasks/{{ json.task }}", "every": "1s", "holds": "json.state == 'done'"},
            },
            "timeout": "1m",
        },
        "deliver": {"http": {"url": url + "/secrets/{{ resource.name }}"}},
        "release": {"http": {"url": host, "method": "DELETE"}},
    }


async def log(stack: Stack, lease: Json) -> str:
    found = await stack.http.get(f"/v1/leases/{lease['id']}/log")
    assert found.status_code == 200, fail(found)
    return found.text


async def test_a_lease_is_prepared_delivered_and_released_by_requests(stack: Stack) -> None:
    async with serving() as server:
        server.handler = foreman = Foreman()
        pool = await stack.pool(2, **hooks(server.url))
        lease = await stack.take(pool, 2)

        delivered = (await stack.http.get(f"/v1/leases/{lease['id']}/delivery")).json()["resources"]
        assert [d["data"] for d in delivered] == ["root:r0\n", "root:r1\n"]
        provisioned = foreman.was_asked("POST", "/hosts/r0/provision")
        assert provisioned.json() == {"image": "el9", "for": lease["owner"]}
        assert provisioned.header("x-lease") == lease["id"]
        assert foreman.looks == {"/tasks/task-r0": 2, "/tasks/task-r1": 2}

        await stack.release(lease)
        await stack.until(
            lambda: {a.target for a in foreman.asked if a.method == "DELETE"} == {"/hosts/r0", "/hosts/r1"}
        )
        await stack.ended(lease)

        text = await log(stack, lease)
        assert f"POST {server.url}/hosts/r0/provision: 202 in " in text
        assert '{"state": "done"}' in text
        assert "root:" not in text


async def test_a_pool_with_such_hooks_is_shown_as_it_was_put(stack: Stack) -> None:
    settings = hooks("http://foreman.lab")
    pool = await stack.pool(1, **settings)
    shown = (await stack.http.get(f"/v1/pools/{pool}")).json()["stages"]
    common = {"attempts": 1, "scope": "resource", "limit": None}
    assert shown["provision"] == [{**settings["provision"], **common}]
    assert shown["deliver"] == [{**settings["deliver"], "timeout": "30m", **common}]


async def test_a_request_that_fails_all_its_attempts_fails_the_lease_with_the_reason(stack: Stack) -> None:
    async with serving() as server:
        server.handler = one_after_another(answers(500), answers(503, b"maintenance\n"))
        http = {"url": f"{server.url}/wipe?token=hunter2", "method": "PUT", "body": "now"}
        pool = await stack.pool(1, wipe={"http": http, "attempts": 2})
        lease = await stack.ended(await stack.submit(pool))
        assert lease["outcome"] == "failed"
        told = json.dumps([lease, await stack.events(lease)])
        assert f"PUT {server.url}/wipe: 500, expected 2xx" in told
        assert f"PUT {server.url}/wipe: 503, expected 2xx" in told
        assert "maintenance" in await log(stack, lease)
        assert "hunter2" not in told + await log(stack, lease)
        assert len(server.asked) == 2


async def test_cancelling_a_lease_ends_the_request_at_once(stack: Stack) -> None:
    async def slowly(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving() as server:
        server.handler = slowly
        lease = await stack.submit(await stack.pool(1, wipe={"http": {"url": server.url}, "timeout": "1h"}))
        await stack.until(lambda: server.connections == 1)
        assert (await stack.steer(lease, "cancel")).status_code == 200
        assert (await stack.ended(lease))["outcome"] == "cancelled"
        await stack.until(lambda: server.connections == 0)


async def test_a_broken_template_is_refused_with_its_line(stack: Stack) -> None:
    name = f"p{uuid.uuid4().hex[:8]}"
    text = f"""
name: {name}
pools:
- name: {name}
  wipe:
    http:
      url: http://h/{{{{ resource.name }}
"""
    refused = await stack.http.post("/v1/apply", content=text, headers={"Content-Type": "application/yaml"})
    assert refused.status_code == 422, fail(refused)
    (fault,) = refused.json()["errors"]
    assert (fault["path"], fault["code"]) == ("pools[0].wipe[0].http.url", "template")
    assert fault["detail"].startswith("line 7: ")
    assert (await stack.http.get(f"/v1/pools/{name}")).status_code == 404
