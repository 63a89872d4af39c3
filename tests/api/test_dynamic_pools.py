"""Pools that make their resources, as they are seen: over HTTP, in figures, on the command line, and in their logs."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.api.commands import commands
from tests.api.stack import PATIENCE_S, Json, Stack, fail

SECRET = "the-secret-of"


@dataclass(frozen=True)
class Cloud:
    """Machines are folders; what hooks do to them is told by files: `broken`, `stuck`."""

    stack: Stack
    folder: Path
    pools: list[str] = field(default_factory=list)

    @property
    def machines(self) -> list[str]:
        """The names of all machines there are."""
        return sorted(path.name for path in (self.folder / "machines").iterdir())

    def hooks(self) -> dict[str, Json]:
        """Hooks that make, check, list and delete machines."""
        there = f"{self.folder}/machines"
        mine = f"{there}/$LEASEHOLD_RESOURCE"
        create = (
            f"echo making $RESALLOC_NAME >&2; if [ -e {self.folder}/broken ]; then echo no room >&2; exit 7; fi; "
            # What a holder needs may be any bytes.
            f"mkdir {mine} && printf '{SECRET} %s\\377\\000\\n' $LEASEHOLD_RESOURCE"
        )
        delete = f"if [ -e {self.folder}/stuck ]; then echo in use >&2; exit 3; fi; rm -rf {mine}; echo gone"
        return {"create": {"run": create}, "delete": {"run": delete}}

    async def pool(self, **settings: Any) -> str:
        """Make a pool of such machines."""
        name = f"p{uuid.uuid4().hex[:10]}"
        body = {"name": name, **self.hooks(), "name_pattern": "{pool_name}-{id}", **settings}
        answer = await self.stack.http.put(f"/v1/pools/{name}", json=body)
        assert answer.status_code == 200, fail(answer)
        self.pools.append(name)
        return name

    def livecheck(self, **more: Any) -> Json:
        """A check each second that a machine is there."""
        return {"run": f"test -d {self.folder}/machines/$LEASEHOLD_RESOURCE", "every": "1s", "attempts": 1, **more}

    async def shown(self, pool: str) -> Json:
        """A pool as it is now."""
        found: Json = await get(self.stack, f"/v1/pools/{pool}")
        return found

    async def until(self, pool: str, true: Callable[[Json], bool]) -> Json:
        """Wait until something holds of a pool, and return that."""
        found: Json = await until(lambda: self.shown(pool), true)
        return found

    async def resources(self, pool: str) -> list[Json]:
        """What there is in a pool."""
        found: list[Json] = (await get(self.stack, f"/v1/resources?pool={pool}"))["items"]
        return found

    async def log(self, pool: str, name: str | None = None, **part: Any) -> str:
        """What was printed without a lease in a pool, or on one resource."""
        address = f"/v1/pools/{pool}/log" if name is None else f"/v1/pools/{pool}/resources/{name}/log"
        answer = await self.stack.http.get(address, params=part)
        assert answer.status_code == 200, fail(answer)
        return answer.text

    async def empty(self) -> None:
        """Have everything deleted."""
        for mark in ("broken", "stuck"):
            (self.folder / mark).unlink(missing_ok=True)
        for lease in (await get(self.stack, "/v1/leases?state=queued,preparing,active&limit=1000"))["items"]:
            if {item["pool"] for item in lease["items"]} & set(self.pools):
                await self.stack.steer(lease, "cancel")
        for pool in self.pools:
            await self.stack.http.post(f"/v1/pools/{pool}/pause", json={"reason": "over", "drain": True})
            for one in await self.resources(pool):
                await self.stack.http.post(f"/v1/pools/{pool}/resources/{one['name']}/repair")
        for pool in self.pools:
            await self.until(pool, lambda pool: pool["total"] == 0)


async def get(stack: Stack, address: str) -> Any:
    answer = await stack.http.get(address)
    assert answer.status_code == 200, fail(answer)
    return answer.json()


async def until(look: Callable[[], Awaitable[Any]], true: Callable[[Any], bool]) -> Any:
    """Wait until something holds, and return what it holds of."""
    found = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await look()
                if true(found):
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"still so: {found}") from None


@pytest_asyncio.fixture(loop_scope="package")
async def cloud(stack: Stack, tmp_path: Path) -> AsyncIterator[Cloud]:
    (tmp_path / "machines").mkdir()
    cloud = Cloud(stack, tmp_path)
    yield cloud
    await cloud.empty()


async def figures(stack: Stack) -> dict[tuple[str, ...], float]:
    """All that `/metrics` says: the name, then the values of the labels in the order of their names."""
    answer = await stack.http.get("/metrics")
    assert answer.status_code == 200, fail(answer)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


SIZE = {"max": 4, "max_creating": 2, "min_free": 2}


class TestAPool:
    async def test_its_settings_are_shown_as_they_were_put(self, cloud: Cloud) -> None:
        settings: dict[str, Any] = {
            "size": {**SIZE, "min_free": 0, "create_delay": "5s", "idle": "15m", "age": "12h", "keep_broken": 1},
            "tags": [{"name": "x86_64", "priority": 10}, "cloud"],
            "tags_on_demand": ["gpu"],
            "properties": {"ram": 64},
            "name_pattern": "{pool_name}-{id}-{datetime}",
            "named_counters": ["port"],
            "livecheck": {"run": "true", "every": "5m", "timeout": "1m", "attempts": 2, "parallel": 3},
            "list": {"run": "true", "every": "15m"},
            "cost_per_hour": 0.05,
            "policy": {"reuse": "anyone", "reuse_count": 3, "reuse_time": None, "on_degraded": "end"},
        }
        shown = await cloud.shown(await cloud.pool(**settings))

        assert shown["dynamic"]
        assert shown["size"] == {**settings["size"], "keep_broken_for": "1d"}
        assert shown["tags"] == [{"name": "x86_64", "priority": 10}, {"name": "cloud", "priority": 0}]
        assert shown["tags_on_demand"] == [{"name": "gpu", "priority": 0}]
        for key in ("properties", "name_pattern", "named_counters", "cost_per_hour"):
            assert shown[key] == settings[key]
        assert shown["livecheck"] == {"every": "5m", "attempts": 2, "parallel": 3}
        assert shown["list"] == {"every": "15m"}
        usual = {"run": "true", "attempts": 1, "scope": "resource", "limit": None}
        assert shown["stages"]["livecheck"] == [{**usual, "timeout": "1m"}]
        assert shown["stages"]["list"] == [{**usual, "timeout": "15m"}]
        assert {"create", "delete"} <= set(shown["stages"])
        told = {key: shown["policy"][key] for key in settings["policy"]}
        assert (told, shown["policy"]["reuse_window"]) == (settings["policy"], None)

    async def test_it_grows_and_a_lease_gets_what_create_printed_to_the_byte(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size=SIZE, cost_per_hour=0.5, tags=["x86"], properties={"ram": 64})
        grown = await cloud.until(pool, lambda pool: pool["free"] == 2)
        assert grown["states"] == {"free": 2}
        statistics = grown["statistics"]
        assert (statistics["starts"], statistics["successes"], statistics["success_rate"]) == (2, 2, 1.0)
        assert (statistics["failures"], statistics["circuit"], statistics["retry_at"]) == (0, "closed", None)
        assert statistics["start_seconds"] > 0
        assert statistics["last_attempt_at"] < statistics["last_success_at"]
        assert (statistics["first_grant_seconds"], statistics["cost_per_hour"]) == (None, 1.0)

        lease = await stack.take(pool)
        (mine,) = lease["resources"]
        assert mine["name"] in cloud.machines
        delivery = await get(stack, f"/v1/leases/{lease['id']}/delivery")
        (delivered,) = delivery["resources"]
        assert delivered["data"] is None
        assert base64.b64decode(delivered["data_base64"]) == f"{SECRET} {mine['name']}".encode() + b"\xff\x00\n"

        held = await get(stack, f"/v1/pools/{pool}/resources/{mine['name']}")
        assert (held["state"], held["tags"], held["properties"]) == ("leased", ["x86"], {"ram": 64})
        instance = held["instance"]
        assert (instance["uses"], instance["trouble"], instance["counters"]) == (1, None, {})
        assert mine["name"] == f"{pool}-{instance['id']:08}"
        assert instance["id_in_pool"] in {0, 1}
        assert instance["created_at"] < instance["ready_at"]
        # Another one is made in its place.
        again = await cloud.until(pool, lambda pool: pool["states"] == {"free": 2, "leased": 1})
        assert again["statistics"]["first_grant_seconds"] > 0
        assert again["statistics"]["cost_per_hour"] == 1.5

        await stack.release(lease)
        await cloud.until(pool, lambda pool: pool["states"] == {"free": 2})
        assert mine["name"] not in cloud.machines

    async def test_one_that_cannot_create_says_why_and_when_it_tries_again(self, cloud: Cloud) -> None:
        (cloud.folder / "broken").touch()
        pool = await cloud.pool(size={**SIZE, "min_free": 1})
        shown = await cloud.until(pool, lambda pool: pool["statistics"]["failures"] > 0)
        statistics = shown["statistics"]
        assert statistics["trouble"] == "create: exited with status 7"
        assert (statistics["successes"], statistics["success_rate"], statistics["start_seconds"]) == (0, 0.0, None)
        assert statistics["circuit"] in {"pausing", "open"}
        assert statistics["retry_at"] > statistics["last_attempt_at"]
        told = await figures(cloud.stack)
        assert told["leasehold_creations_total", pool, "failure"] >= 1
        assert told["leasehold_pool_circuit", pool, "closed"] == 0
        (cloud.folder / "broken").unlink()
        mended = await cloud.until(pool, lambda pool: pool["free"] == 1)
        assert (mended["statistics"]["circuit"], mended["statistics"]["trouble"]) == ("closed", None)

    async def test_a_drained_one_is_emptied_and_grows_again_when_it_is_resumed(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size=SIZE)
        await cloud.until(pool, lambda pool: pool["free"] == 2)
        lease = await stack.take(pool)
        await cloud.until(pool, lambda pool: pool["states"] == {"free": 2, "leased": 1})
        answer = await stack.http.post(f"/v1/pools/{pool}/pause", json={"reason": "new network", "drain": True})
        assert answer.status_code == 200, fail(answer)
        assert (answer.json()["drain"], answer.json()["paused"]["reason"]) == (True, "new network")

        # Its holder keeps what it has.
        await cloud.until(pool, lambda pool: pool["states"] == {"leased": 1})
        assert cloud.machines == [lease["resources"][0]["name"]]
        await stack.release(lease)
        emptied = await cloud.until(pool, lambda pool: pool["total"] == 0)
        assert (cloud.machines, emptied["drain"]) == ([], True)
        events = (await get(stack, f"/v1/pools/{pool}/events"))["items"]
        assert [e["data"] for e in events if e["kind"] == "pool_paused"] == [{"drain": True}]

        resumed = (await stack.http.post(f"/v1/pools/{pool}/resume")).json()
        assert (resumed["drain"], resumed["paused"]) == (False, None)
        await cloud.until(pool, lambda pool: pool["free"] == 2)

    async def test_a_paused_one_keeps_what_it_has(self, cloud: Cloud) -> None:
        pool = await cloud.pool(size=SIZE)
        await cloud.until(pool, lambda pool: pool["free"] == 2)
        answer = await cloud.stack.http.post(f"/v1/pools/{pool}/pause", json={"reason": "x"})
        assert (answer.json()["drain"], answer.json()["total"]) == (False, 2)

    async def test_drain_is_true_or_false(self, cloud: Cloud) -> None:
        pool = await cloud.pool()
        answer = await cloud.stack.http.post(f"/v1/pools/{pool}/pause", json={"reason": "x", "drain": "yes"})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "drain"), fail(answer)


class TestWhatItHasMade:
    async def test_one_that_cannot_be_deleted_says_why_and_is_tried_again_when_told(self, cloud: Cloud) -> None:
        pool = await cloud.pool(size={**SIZE, "min_free": 0})
        lease = await cloud.stack.take(pool)
        (cloud.folder / "stuck").touch()
        await cloud.stack.release(lease)
        name = lease["resources"][0]["name"]
        address = f"/v1/pools/{pool}/resources/{name}"
        stuck = await until(lambda: get(cloud.stack, address), lambda one: bool((one["instance"] or {})["trouble"]))
        assert (stuck["state"], "delete: exited with status 3" in stuck["instance"]["trouble"]) == ("deleting", True)
        (cloud.folder / "stuck").unlink()
        assert (await cloud.stack.http.post(f"{address}/repair")).status_code == 200
        await cloud.until(pool, lambda pool: pool["total"] == 0)
        kinds = [event["kind"] for event in (await get(cloud.stack, f"{address}/events"))["items"]]
        assert {"resource_creating", "resource_deleting", "deletion_failed", "deletion_hurried"} <= set(kinds)
        assert kinds[-1] == "resource_removed"

    async def test_one_that_is_kept_for_a_key_says_until_when(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size={**SIZE, "min_free": 0}, policy={"reuse_window": "5m"})
        lease = await stack.take(pool, share_key="nightly")
        assert lease["share_key"] == "nightly"
        await stack.release(lease)
        kept = await cloud.until(pool, lambda pool: pool["states"] == {"kept": 1})
        assert kept["free"] == 0
        (one,) = await cloud.resources(pool)
        assert (one["state"], one["kept_until"] > lease["created_at"]) == ("free", True)
        assert (await figures(stack))["leasehold_resources", pool, "kept"] == 1

        again = await stack.take(pool, share_key="nightly")
        assert [r["name"] for r in again["resources"]] == [one["name"]]
        (mine,) = await cloud.resources(pool)
        assert (mine["kept_until"], mine["instance"]["uses"]) == (None, 2)

    async def test_one_that_dies_is_told_of_in_its_lease(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size={**SIZE, "min_free": 0}, livecheck=cloud.livecheck())
        lease = await stack.take(pool)
        assert lease["degraded"] == []
        name = lease["resources"][0]["name"]
        machine = cloud.folder / "machines" / name
        machine.rmdir()
        dead = await until(lambda: stack.get(lease), lambda lease: bool(lease["degraded"]))
        (told,) = dead["degraded"]
        assert (told["pool"], told["name"], told["reason"]) == (pool, name, "livecheck: exited with status 1")
        assert told["since"] > lease["active_at"]
        address = f"/v1/pools/{pool}/resources/{name}"
        assert (await get(stack, address))["suspect"]
        async with commands(stack) as leasehold:
            said = (await leasehold("show", lease["id"])).decode()
            assert f"  degraded: {pool}/{name}: livecheck: exited with status 1 (since " in said
        machine.mkdir()
        await until(lambda: stack.get(lease), lambda lease: lease["degraded"] == [])
        assert not (await get(stack, address))["suspect"]


class TestFigures:
    async def test_they_are_those_of_the_pool(self, cloud: Cloud) -> None:
        stack = cloud.stack
        before = await figures(stack)
        pool = await cloud.pool(size=SIZE, cost_per_hour=0.5)
        await cloud.until(pool, lambda pool: pool["free"] == 2)
        lease = await stack.take(pool)
        shown = await cloud.until(pool, lambda pool: pool["states"] == {"free": 2, "leased": 1})
        told = await figures(stack)

        mine = {key[0].removeprefix("leasehold_"): value for key, value in told.items() if key[1:] == (pool,)}
        assert (mine["pool_waiting"], mine["pool_max"], mine["pool_cost_per_hour"]) == (0, 4, 1.5)
        assert mine["creation_seconds_count"] == shown["statistics"]["successes"] == 3
        mean = mine["creation_seconds_sum"] / mine["creation_seconds_count"]
        assert round(mean, 3) == shown["statistics"]["start_seconds"]
        assert mine["first_grant_seconds_count"] == 1
        assert round(mine["first_grant_seconds_sum"], 3) == shown["statistics"]["first_grant_seconds"]
        assert told["leasehold_creations_total", pool, "success"] == 3
        assert told["leasehold_creations_total", pool, "failure"] == 0
        states = {key[2]: value for key, value in told.items() if key[:2] == ("leasehold_resources", pool)}
        assert {state: many for state, many in states.items() if many} == {"free": 2, "leased": 1}
        assert set(states) == {
            *("creating", "free", "leased", "recycling", "broken", "deleting"),
            *("offline", "kept", "suspect"),
        }
        circuit = {key[2]: value for key, value in told.items() if key[:2] == ("leasehold_pool_circuit", pool)}
        assert circuit == {"closed": 1, "pausing": 0, "open": 0}
        assert told["leasehold_leases", "active"] == before["leasehold_leases", "active"] + 1
        await stack.release(lease)
        after = await figures(stack)
        over = {state: after["leasehold_leases", state] for state in ("releasing", "ended")}
        assert sum(over.values()) == sum(before["leasehold_leases", state] for state in over) + 1

    async def test_a_pool_of_registered_resources_has_fewer(self, stack: Stack) -> None:
        pool = await stack.pool(2)
        told = await figures(stack)
        assert told["leasehold_resources", pool, "free"] == 2
        assert {key[0] for key in told if pool in key} == {"leasehold_resources", "leasehold_pool_waiting"}

    async def test_who_waits_is_counted(self, stack: Stack) -> None:
        pool = await stack.pool(1)
        leases = [await stack.submit(pool) for _ in range(3)]
        assert (await figures(stack))["leasehold_pool_waiting", pool] == 2
        for lease in leases:
            await stack.steer(lease, "cancel")


class TestLogs:
    async def test_what_was_printed_without_a_lease_can_be_read_also_afterwards(self, cloud: Cloud) -> None:
        stack = cloud.stack
        checked = cloud.livecheck(run="printf alive")
        listed = {"run": f"echo listed; ls {cloud.folder}/machines", "every": "1s"}
        pool = await cloud.pool(size={**SIZE, "min_free": 1}, livecheck=checked, list=listed)
        await cloud.until(pool, lambda pool: pool["free"] == 1)
        ((name, epoch),) = [(one["name"], one["epoch"]) for one in await cloud.resources(pool)]
        assert epoch > 0
        created = await cloud.log(pool, name, stage="create")
        assert created == f"[{pool}/{name} create#1 stderr] making {name}\n"
        # Each check is told by itself, whether it ends its line or not.
        line = f"[{pool}/{name} livecheck#1 stdout] alive\n"
        alive = await until(lambda: cloud.log(pool, name, stage="livecheck"), lambda log: log.count("\n") > 1)
        assert set(alive.splitlines(keepends=True)) == {line}
        said = await until(lambda: cloud.log(pool, stage="list"), lambda log: name in log)
        assert f"[{pool}/ list#1 stdout] listed\n" in said
        assert f"[{pool}/ list#1 stdout] {name}\n" in said

        following = asyncio.create_task(cloud.log(pool, name, follow="true"))
        await stack.http.post(f"/v1/pools/{pool}/pause", json={"reason": "over", "drain": True})
        await cloud.until(pool, lambda pool: pool["total"] == 0)
        async with asyncio.timeout(PATIENCE_S):
            followed = await following
        deleted = f"[{pool}/{name} delete#1 stdout] gone\n"
        assert followed.startswith(created)
        assert deleted in followed.splitlines(keepends=True)
        assert await cloud.log(pool, name, stage="delete") == deleted
        assert await cloud.log(pool, name, stage="delete", follow="true") == deleted
        assert await cloud.log(pool, stage="delete", tail="1") == deleted
        # What all of it says of the pool as a whole is in one place.
        assert {created, deleted} <= set((await cloud.log(pool)).splitlines(keepends=True))

        runs = (await get(stack, f"/v1/pools/{pool}/resources/{name}/runs"))["items"]
        assert [(run["stage"], run["lease"]) for run in runs] == [("create", ""), ("delete", "")]
        assert await cloud.log(pool, name, run=runs[1]["id"]) == deleted
        assert await cloud.log(pool, name, run=runs[1]["id"], follow="true") == deleted

    async def test_there_is_nothing_of_what_there_never_was(self, cloud: Cloud) -> None:
        pool = await cloud.pool()
        for follow in ("false", "true"):
            assert await cloud.log(pool, "nope", follow=follow) == ""
            assert await cloud.log("nope", follow=follow) == ""
        answer = await cloud.stack.http.get(f"/v1/pools/{pool}/resources/nope/log?run=1")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), fail(answer)

    async def test_what_was_printed_for_a_lease_is_not_among_it(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size={**SIZE, "min_free": 0}, validate={"run": "echo validated"})
        lease = await stack.take(pool)
        name = lease["resources"][0]["name"]
        assert "validated" not in await cloud.log(pool, name)
        run = next(run for run in (await get(stack, f"/v1/leases/{lease['id']}/runs"))["items"])
        answer = await stack.http.get(f"/v1/pools/{pool}/resources/{name}/log", params={"run": run["id"]})
        assert answer.status_code == 404, fail(answer)
        assert "validated" in (await stack.http.get(f"/v1/leases/{lease['id']}/log")).text

    async def test_what_create_printed_is_for_the_holder_alone(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size={**SIZE, "min_free": 1})
        await cloud.until(pool, lambda pool: pool["free"] == 1)
        lease = await stack.take(pool)
        name = lease["resources"][0]["name"]
        seen = [await cloud.log(pool), await cloud.log(pool, name)]
        for address in (
            f"/v1/pools/{pool}/resources/{name}",
            f"/v1/pools/{pool}/resources/{name}/events",
            f"/v1/pools/{pool}/resources/{name}/runs",
            f"/v1/pools/{pool}/events",
            f"/v1/leases/{lease['id']}",
            f"/v1/leases/{lease['id']}/events",
            f"/v1/leases/{lease['id']}/runs",
            f"/v1/leases/{lease['id']}/log",
            "/metrics",
        ):
            answer = await stack.http.get(address)
            assert answer.status_code == 200, fail(answer)
            seen.append(answer.text)
        for text in seen:
            # The hook itself, with its words, is shown in the pool alone.
            assert f"{SECRET} {name}" not in text
            assert base64.b64encode(SECRET.encode()).decode()[:16] not in text
        assert f"making {name}" in seen[0]


class TestCommands:
    async def test_they_show_all_of_it(self, cloud: Cloud) -> None:
        stack = cloud.stack
        pool = await cloud.pool(size=SIZE, cost_per_hour=0.5, livecheck=cloud.livecheck(attempts=3))
        await cloud.until(pool, lambda pool: pool["free"] == 2)
        name = (await cloud.resources(pool))[0]["name"]
        async with commands(stack) as leasehold:
            listed = (await leasehold("pool", "ls")).decode().splitlines()
            (row,) = [line.split("\t") for line in listed if line.startswith(pool)]
            assert row[:6] == [pool, "2", "2", "0", "0", "4"]

            told = (await leasehold("pool", "show", pool)).decode().splitlines()
            assert told[0] == f"Pool {pool}: lending, 2 of 2 free, 0 waiting"
            assert "  size: at most 4, 2 kept free, 2 created at once" in told
            assert "  livecheck: every 1s, dead after 3 failures in a row" in told
            assert "  cost: 0.5 an hour for each, 1 for all there is" in told
            assert "  circuit: closed" in told
            assert any(line.startswith("  so far: 2 of 2 went well (100%), ") for line in told)

            story = (await leasehold("resource", "show", f"{pool}/{name}")).decode()
            assert "  leases so far: 0" in story.splitlines()
            assert "being created" in story
            assert f"{SECRET} {name}" not in story
            printed = await leasehold("resource", "logs", f"{pool}/{name}", "--stage", "create")
            assert printed.decode() == f"[{pool}/{name} create#1 stderr] making {name}\n"

            taken = json.loads(await leasehold("take", pool, "--share-key", "nightly", "--json"))
            assert taken["share_key"] == "nightly"
            data = base64.b64decode(taken["delivery"]["resources"][0]["data_base64"])
            assert data == f"{SECRET} {taken['resources'][0]['name']}".encode() + b"\xff\x00\n"
            assert "  share key: nightly" in (await leasehold("show", taken["id"])).decode().splitlines()

            drained = (await leasehold("pool", "drain", pool, "--reason", "new network")).decode()
            said = f"{pool}: paused by admin: new network, and what it has made is deleted, "
            assert drained.startswith(said)
            await leasehold("release", taken["id"])
            await cloud.until(pool, lambda pool: pool["total"] == 0)
            assert (await leasehold("pool", "logs", pool, "--stage", "delete")).count(b"] gone\n") >= 3
