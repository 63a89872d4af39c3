"""Pools and resources over HTTP: applied, put, listed in pages, filtered, taken out of service and back."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.api.stack import Json, Stack, fail

YAML = {"Content-Type": "application/yaml"}


def new_name() -> str:
    """A name that no number looks like."""
    return f"p{uuid.uuid4().hex[:8]}"


async def get(stack: Stack, address: str, **params: Any) -> Any:
    answer = await stack.http.get(address, params=params or None)
    assert answer.status_code == 200, fail(answer)
    return answer.json()


async def names(stack: Stack, pool: str, *filters: str, **params: Any) -> list[str]:
    """The names of a pool's resources that a query finds."""
    query = "&".join([f"pool={pool}", *filters])
    return [r["name"] for r in (await get(stack, f"/v1/resources?{query}", **params))["items"]]


class TestApply:
    def text(self, name: str, count: int, file: str) -> bytes:
        resources = "\n".join(f"  - name: r{n}\n    properties: {{n: {n}}}" for n in range(count))
        return f"name: {file}\npools:\n- name: {name}\n  resources:\n{resources}\n".encode()

    async def apply(self, stack: Stack, content: bytes, **params: Any) -> list[str]:
        answer = await stack.http.post("/v1/apply", content=content, headers=YAML, params=params)
        assert answer.status_code == 200, fail(answer)
        return [f"{c['action']} {c['kind']} {c['name']}" for c in answer.json()["changes"]]

    async def test_a_dry_run_says_what_it_would_do_and_does_it_not(self, stack: Stack) -> None:
        name, file = new_name(), new_name()
        planned = await self.apply(stack, self.text(name, 2, file), dry_run=True)
        assert planned == [f"add pool {name}", "add resource r0", "add resource r1"]
        assert (await stack.http.get(f"/v1/pools/{name}")).status_code == 404
        assert await self.apply(stack, self.text(name, 2, file)) == planned
        assert await self.apply(stack, self.text(name, 2, file)) == []
        assert await names(stack, name) == ["r0", "r1"]

    async def test_what_is_leased_drains(self, stack: Stack) -> None:
        name, file = new_name(), new_name()
        await self.apply(stack, self.text(name, 2, file))
        lease = await stack.take(name)
        changes = await self.apply(stack, f"name: {file}\npools: []".encode())
        assert changes == ["drain resource r0", "remove resource r1", f"drain pool {name}"]
        assert (await get(stack, f"/v1/pools/{name}"))["draining"]
        await stack.release(lease)
        assert (await stack.http.get(f"/v1/pools/{name}")).status_code == 404

    async def test_a_change_shows_old_and_new(self, stack: Stack) -> None:
        name, file = new_name(), new_name()
        await self.apply(stack, self.text(name, 1, file))
        changed = self.text(name, 1, file).replace(b"n: 0", b"n: 5")
        answer = await stack.http.post("/v1/apply", content=changed, headers=YAML)
        (change,) = answer.json()["changes"]
        assert change == {
            "action": "change",
            "kind": "resource",
            "pool": name,
            "name": "r0",
            "diff": {"properties": [{"n": 0}, {"n": 5}]},
        }

    async def test_the_same_in_json(self, stack: Stack) -> None:
        name = new_name()
        body = {"name": name, "pools": [{"name": name, "resources": [{"name": "a"}]}]}
        answer = await stack.http.post("/v1/apply", json=body)
        assert [c["action"] for c in answer.json()["changes"]] == ["add", "add"], fail(answer)

    async def test_what_another_file_made_is_left_alone(self, stack: Stack) -> None:
        name = new_name()
        await self.apply(stack, self.text(name, 1, new_name()))
        content = self.text(name, 2, new_name())
        answer = await stack.http.post("/v1/apply", content=content, headers=YAML)
        assert (answer.status_code, answer.json()["code"]) == (409, "owned_elsewhere"), fail(answer)
        assert await names(stack, name) == ["r0"]


class TestByHand:
    async def test_a_pool_is_shown_as_it_was_put(self, stack: Stack) -> None:
        settings: dict[str, Any] = {
            "description": "Dell",
            "priority": 7,
            "wipe": {"run": ["wipe", "-x"], "timeout": "90s", "attempts": 2},
            "policy": {"default_duration": "2h", "max_duration": "1d", "on_release": ["wipe"], "keep_logs": "90d"},
        }
        usual: dict[str, Any] = {
            "max_total": None,
            "extend": "always",
            "auto_extend": None,
            "warn_before": [],
            "grace": None,
            "on_failure": "replace",
            "replacements": 3,
            "on_degraded": "tell",
            "reuse": "same_key",
            "reuse_window": None,
            "reuse_count": None,
            "reuse_time": "1h",
            "prepare": "on_demand",
            "prepare_timeout": "2h",
            "keep_logs": "30d",
            "fair_share": False,
            "overtakes": 16,
            "starve_after": "1h",
            "per_owner": {"leases": None, "resources": None},
            "at_once": {"leases": None, "resources": None},
            "per_lease": None,
            "over_quota": "queue",
            "auto_extend_free": "0%",
            "cc_may": [],
            "holder_may": [],
            "self_service": None,
        }
        pool = await stack.pool(2, **settings)
        shown = await get(stack, f"/v1/pools/{pool}")
        assert shown == {
            "name": pool,
            "description": "Dell",
            "priority": 7,
            "folder": str(stack.folder),
            "site": None,
            "policy": {**usual, **settings["policy"]},
            "stages": {
                "wipe": [{"run": ["wipe", "-x"], "timeout": "90s", "attempts": 2, "scope": "resource", "limit": None}]
            },
            "admit": [],
            "notices": {},
            "tags": [],
            "tags_on_demand": [],
            "properties": {},
            "size": None,
            "name_pattern": None,
            "named_counters": [],
            "livecheck": None,
            "list": None,
            "cost_per_hour": None,
            "file": None,
            "draining": False,
            "paused": None,
            "drain": False,
            "dynamic": False,
            "total": 2,
            "free": 2,
            "states": {"free": 2},
            "waiting": 0,
            "statistics": None,
        }
        assert shown in (await get(stack, "/v1/pools"))["items"]

    async def test_a_rule_for_self_service_is_shown_as_it_was_put(self, stack: Stack) -> None:
        rule = {
            "enabled": "auto",
            "open_when": {"free": "20%", "free_by": {"model": "30%"}},
            "per_owner": {"leases": 2, "resources": None},
            "per_lease": 25,
            "default_duration": "1d",
            "max_duration": "2d",
            "max_total": None,
            "deadline": {"day": "sunday", "at": "21:00", "zone": "Europe/Berlin"},
            "show": 20,
            "open_requests": False,
        }
        policy = {"self_service": rule, "auto_extend_free": "40%", "cc_may": ["extend"]}
        pool = await stack.pool(1, policy=policy)
        shown = (await get(stack, f"/v1/pools/{pool}"))["policy"]
        assert {key: shown[key] for key in policy} == policy

    async def test_a_resource_is_put_shown_and_deleted(self, stack: Stack) -> None:
        pool = await stack.pool(0)
        address = f"/v1/pools/{pool}/resources/host.example-1_a"
        body = {"tags": ["metal"], "properties": {"disks": [{"type": "nvme"}]}}
        assert (await stack.http.put(address, json=body)).json()["changes"][0]["action"] == "add"
        shown = await get(stack, address)
        assert shown == {
            **body,
            "pool": pool,
            "name": "host.example-1_a",
            "state": "free",
            "stage": None,
            "offline": None,
            "broken": None,
            "lease": None,
            "epoch": shown["epoch"],
            "suspect": False,
            "kept_until": None,
            "instance": None,
        }
        assert (await stack.http.delete(address)).json()["changes"][0]["action"] == "remove"
        assert (await stack.http.get(address)).status_code == 404
        assert (await stack.http.delete(address)).status_code == 404

    async def test_a_leased_resource_is_deleted_when_it_is_given_back(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        lease = await stack.take(pool)
        answer = await stack.http.delete(f"/v1/pools/{pool}/resources/r0")
        assert answer.json()["changes"][0]["action"] == "drain", fail(answer)
        await stack.release(lease)
        assert await names(stack, pool) == []


class TestOutOfService:
    async def post(self, stack: Stack, pool: str, call: str, body: Any = None) -> Json:
        answer = await stack.http.post(f"/v1/pools/{pool}/resources/r0/{call}", json=body)
        assert answer.status_code == 200, fail(answer)
        shown: Json = answer.json()
        return shown

    async def test_offline_and_online(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        shown = await self.post(stack, pool, "offline", {"reason": "PSU"})
        assert (shown["state"], shown["offline"]["reason"], shown["offline"]["by"]) == ("free", "PSU", "admin")
        lease = await stack.submit(pool)
        assert (lease["state"], "1 offline" in lease["queue"]["reason"]) == ("queued", True)
        assert (await self.post(stack, pool, "online"))["offline"] is None
        assert (await stack.get(lease, wait="active"))["state"] == "active"

    async def test_broken_and_repaired(self, stack: Stack) -> None:
        mark = stack.new_path()
        pool = await stack.pool(1, validate={"run": f"[ -e {mark} ]"})
        failed = await stack.ended(await stack.submit(pool))
        assert failed["outcome"] == "failed"
        shown = await get(stack, f"/v1/pools/{pool}/resources/r0")
        assert (shown["state"], "validate" in shown["broken"]["reason"]) == ("broken", True)
        waiting = await stack.submit(pool)
        mark.touch()
        assert (await self.post(stack, pool, "repair"))["broken"] is None
        assert (await stack.get(waiting, wait="active", timeout=30))["state"] == "active"
        again = await stack.http.post(f"/v1/pools/{pool}/resources/r0/repair")
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        events = (await get(stack, f"/v1/pools/{pool}/resources/r0/events"))["items"]
        kinds = [e["kind"] for e in events if e["kind"].startswith("resource_")]
        assert kinds[:4] == ["resource_added", "resource_leased", "resource_broken", "resource_repaired"]

    @pytest.mark.parametrize("call", ["offline", "online", "repair"])
    async def test_what_is_not_there_is_told(self, stack: Stack, call: str) -> None:
        pool = await stack.pool(0)
        body = {"reason": "x"} if call == "offline" else None
        answer = await stack.http.post(f"/v1/pools/{pool}/resources/r0/{call}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "resource_unknown"), fail(answer)


class TestFinding:
    async def lab(self, stack: Stack) -> str:
        """A pool of three resources with different properties."""
        pool = await stack.pool(0)
        for name, tags, disks in (
            ("a", ["metal", "x86"], [{"type": "nvme", "size": 2000}, {"type": "ssd", "size": 100}]),
            ("b", ["metal"], [{"type": "nvme", "size": 100}, {"type": "ssd", "size": 2000}]),
            ("c", [], []),
        ):
            body = {"tags": tags, "properties": {"disks": disks, "pool": "own", "rank": name}}
            assert (await stack.http.put(f"/v1/pools/{pool}/resources/{name}", json=body)).status_code == 200
        return pool

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ((), ["a", "b", "c"]),
            (("disks.type=nvme",), ["a", "b"]),
            (("disks.type=nvme", "disks.size__gte=1000"), ["a"]),
            (("disks.type__ne=nvme",), ["c"]),
            (("tags=metal,x86",), ["a"]),
            (("tags=metal", "rank__in=b,c"), ["b"]),
            (("rank__like=%25",), ["a", "b", "c"]),
            (("state=free", "rank=c"), ["c"]),
            (("state=leased",), []),
            # The API's own names win; the prefix means the property.
            (("properties.pool=own", "properties.rank=b"), ["b"]),
            (("properties.pool=other",), []),
        ],
    )
    async def test_filters(self, stack: Stack, filters: tuple[str, ...], found: list[str]) -> None:
        pool = await self.lab(stack)
        assert await names(stack, pool, *filters) == found
        answer = await get(
            stack, f"/v1/available?{'&'.join([f'pool={pool}', *(f for f in filters if 'state' not in f)])}"
        )
        if not any("state" in f for f in filters):
            assert [r["name"] for r in answer["resources"]] == found

    async def test_pages(self, stack: Stack) -> None:
        pool = await stack.pool(5)
        first = await get(stack, "/v1/resources", pool=pool, limit=2)
        assert [r["name"] for r in first["items"]] == ["r0", "r1"]
        second = await get(stack, "/v1/resources", pool=pool, limit=2, cursor=first["next_cursor"])
        third = await get(stack, "/v1/resources", pool=pool, limit=2, cursor=second["next_cursor"])
        assert [r["name"] for r in (*second["items"], *third["items"])] == ["r2", "r3", "r4"]
        assert third["next_cursor"] is None
        whole = await get(stack, "/v1/resources", pool=pool, limit=5)
        assert (len(whole["items"]), whole["next_cursor"]) == (5, None)

    async def test_leases_come_in_pages_newest_first(self, stack: Stack) -> None:
        pool = await stack.pool(5)
        numbers = [(await stack.submit(pool))["number"] for _ in range(5)]
        seen: list[int] = []
        cursor: dict[str, str] = {}
        for _ in range(3):
            page = await get(stack, "/v1/leases", pool=pool, limit=2, **cursor)
            seen += [lease["number"] for lease in page["items"]]
            cursor = {"cursor": page["next_cursor"]}
        assert seen == numbers[::-1]
        assert page["next_cursor"] is None

    async def test_leases_by_state_owner_and_pool(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        ended = await stack.take(pool)
        await stack.release(ended)
        active, queued = await stack.take(pool), await stack.submit(pool)

        async def listed(**params: Any) -> list[str]:
            return [lease["id"] for lease in (await get(stack, "/v1/leases", pool=pool, **params))["items"]]

        assert await listed() == [queued["id"], active["id"], ended["id"]]
        assert await listed(state="active") == [active["id"]]
        assert await listed(state="ended,queued") == [queued["id"], ended["id"]]
        assert await listed(owner="admin") == await listed()
        assert await listed(owner="nobody") == []
        assert [x["id"] for x in (await get(stack, f"/v1/pools/{pool}/queue"))["items"]] == [queued["id"]]

    async def test_what_is_available_and_what_is_not(self, stack: Stack) -> None:
        pool = await stack.pool(3)
        lease = await stack.take(pool, duration="1h")
        await stack.http.post(f"/v1/pools/{pool}/resources/r2/offline", json={"reason": "PSU"})
        one = await get(stack, "/v1/available", pool=pool)
        assert (one["open"], one["reason"], one["free"], one["total"]) == (True, None, 1, 3)
        assert [r["name"] for r in one["resources"]] == ["r1"]
        assert one["next_free_at"] == lease["expires_at"]
        two = await get(stack, "/v1/available", pool=pool, count=2)
        assert (two["open"], two["reason"]) == (False, "2 wanted, 1 of 3 free")


async def test_whether_it_lives_and_is_ready(stack: Stack) -> None:
    await stack.works()
    assert await get(stack, "/healthz") == {"ok": True}
    assert await get(stack, "/readyz") == {
        "ready": True,
        "database": True,
        "temporal": True,
        "worker": True,
        "alerts": [],
    }
