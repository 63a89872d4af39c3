"""Bare metal with environments, networks and roles, as `examples/baremetal` lends it without any hardware."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from tests.api.stack import PATIENCE_S, Json, Stack, fail

EXAMPLE = Path(__file__).parents[2] / "examples" / "baremetal"
EMPTY = {"name": "baremetal", "pools": []}


class Metal:
    """The example's pools on the stack, with a folder of hosts and a switch of the test's own."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder

    async def apply(self, file: str | Json) -> None:
        """Apply a pools file."""
        content = file if isinstance(file, str) else json.dumps(file)
        answer = await self.stack.http.post(
            "/v1/apply",
            content=content,
            headers={"Content-Type": "application/yaml"},
            params={"folder": str(self.folder)},
        )
        assert answer.status_code == 200, fail(answer)

    async def submit(self, *items: Json, http: httpx.AsyncClient | None = None, **params: Any) -> Json:
        """Request these items, as somebody else where `http` is given, and return the lease as it is then."""
        answer = await (http or self.stack.http).post("/v1/leases", json={"items": list(items)}, params=params)
        assert answer.status_code == 201, fail(answer)
        lease: Json = answer.json()
        return lease

    async def take(self, *items: Json, http: httpx.AsyncClient | None = None) -> Json:
        """Request these items, and wait until they are delivered."""
        lease = await self.submit(*items, http=http, wait="active", timeout=PATIENCE_S)
        assert lease["state"] == "active", (lease["state"], lease["error"], lease["queue"])
        return lease

    async def release(self, lease: Json) -> None:
        """Give a lease back, and wait until all that it had is free."""
        await self.stack.release(lease)
        await self.until_free([one for one in lease["resources"] if one["state"] == "ready"])

    async def until_free(self, resources: list[Json]) -> None:
        """Wait until these are free again."""
        async with asyncio.timeout(PATIENCE_S):
            for one in resources:
                while (await self.resource(one["pool"], one["name"]))["state"] != "free":
                    await asyncio.sleep(0.02)

    async def resource(self, pool: str, name: str) -> Json:
        """A resource as it is now."""
        answer = await self.stack.http.get("/v1/resources", params={"pool": pool, "limit": "1000"})
        assert answer.status_code == 200, fail(answer)
        (found,) = (one for one in answer.json()["items"] if one["name"] == name)
        return dict(found)

    async def runs(self, lease: Json) -> list[Json]:
        """The runs of hooks for a lease."""
        answer = await self.stack.http.get(f"/v1/leases/{lease['id']}/runs")
        assert answer.status_code == 200, fail(answer)
        found: list[Json] = answer.json()["items"]
        return found

    async def stages(self, lease: Json, host: str) -> list[str]:
        """The stages that a lease ran on a host, in order; a stage of two hooks is there twice."""
        return [run["stage"] for run in await self.runs(lease) if run["resource"] == host]

    async def inventory(self, lease: Json) -> Json:
        """What was delivered for the lease as a whole."""
        answer = await self.stack.http.get(f"/v1/leases/{lease['id']}/delivery")
        assert answer.status_code == 200, fail(answer)
        (shared,) = answer.json()["shared"]
        found: Json = json.loads(shared["data"])
        return found

    def host(self, name: str) -> Path:
        """The folder that stands for a host."""
        return self.folder / ".state" / "hosts" / name

    def ports(self) -> dict[str, Json]:
        """What the switch's ports are set to, by their hosts."""
        found = [json.loads(file.read_text()) for file in (self.folder / ".state" / "switch").iterdir()]
        return {port["host"]: port for port in found}


@pytest_asyncio.fixture(loop_scope="package")
async def metal(stack: Stack, tmp_path: Path) -> AsyncIterator[Metal]:
    folder = shutil.copytree(EXAMPLE, tmp_path / "baremetal", ignore=shutil.ignore_patterns(".state", "__pycache__"))
    metal = Metal(stack, folder)
    await metal.apply((folder / "pools.yaml").read_text())
    await metal.until_free([{"pool": "metal-ready", "name": f"ready{n:02}"} for n in (1, 2)])
    yield metal
    answer = await stack.http.get("/v1/leases", params={"state": "queued,preparing,active", "limit": "1000"})
    for lease in answer.json()["items"]:
        if any(item["pool"] in ("metal", "metal-ready", "cloud") for item in lease["items"]):
            await stack.steer(lease, "cancel")
            await stack.ended(lease)
    await metal.apply(EMPTY)
    async with asyncio.timeout(PATIENCE_S):
        while {"metal", "metal-ready", "cloud"} & {p["name"] for p in await pools(stack)}:
            await asyncio.sleep(0.02)


async def pools(stack: Stack) -> list[Json]:
    found: list[Json] = (await stack.http.get("/v1/pools")).json()["items"]
    return found


def names(lease: Json, pool: str) -> list[str]:
    """What a lease has of a pool."""
    return [one["name"] for one in lease["resources"] if one["pool"] == pool and one["state"] != "released"]


def metal_and(*pools: str, count: int = 2, **item: Any) -> list[Json]:
    """Hosts, with one of each of these pools."""
    return [{"pool": "metal", "count": count, **item}, *({"pool": pool} for pool in pools)]


async def test_hosts_an_environment_and_networks_are_leased_together_or_not_at_all(metal: Metal) -> None:
    everything = metal_and("cloud", "vlan", "public-vlan", count=3)
    first, _ = await asyncio.gather(metal.take(*everything), metal.take(*everything))

    third = await metal.submit(*everything)

    assert third["state"] == "queued"
    assert third["resources"] == [], "it holds no host while it waits for a network"
    assert "public-vlan" in third["queue"]["reason"]
    assert len((await metal.stack.http.get("/v1/available", params={"pool": "metal"})).json()["resources"]) == 18
    await metal.stack.release(first)
    assert (await metal.stack.get(third, wait="active", timeout=PATIENCE_S))["state"] == "active"


async def test_two_requests_at_once_get_two_environments_and_networks_of_their_own(metal: Metal) -> None:
    wanted = metal_and("cloud", "vlan", "public-vlan")

    leases = await asyncio.gather(metal.take(*wanted), metal.take(*wanted))

    for pool in ("cloud", "vlan", "public-vlan"):
        assert len({name for lease in leases for name in names(lease, pool)}) == 2, (
            f"one {pool} for each, picked for it"
        )
    ports = metal.ports()
    for lease in leases:
        mine = [ports[host] for host in names(lease, "metal")]
        assert {port["environment"] for port in mine} == set(names(lease, "cloud"))
        assert {f"vlan{vlan}" for port in mine for vlan in port["private"]} == set(names(lease, "vlan"))
        assert {f"vlan{vlan}" for port in mine for vlan in port["public"]} == set(names(lease, "public-vlan"))


async def test_the_environment_that_a_request_names_is_the_one_it_gets(metal: Metal) -> None:
    lease = await metal.take({"pool": "metal"}, {"pool": "cloud", "names": ["cloud03"]})

    assert (await metal.inventory(lease))["common"]["environment"] == "cloud03"


async def test_q_in_q_is_an_option_of_the_request_that_the_network_hook_sees(metal: Metal) -> None:
    hosts: Json = {"pool": "metal", "params": {"qinq": True}}
    plain: Json = {"pool": "metal"}

    lease = await metal.take(hosts, plain, {"pool": "vlan", "count": 2})

    ports = metal.ports()
    tagged, access = (ports[host] for host in names(lease, "metal"))
    assert (tagged["mode"], tagged["private"]) == ("q-in-q", [1101, 1102])
    assert (access["mode"], access["private"]) == ("access", [1101])


async def test_one_bastion_three_workers_and_18_more_of_which_only_the_bastion_is_deployed(metal: Metal) -> None:
    bare = ["provision", "validate"]
    lease = await metal.take(
        {"pool": "metal", "role": "bastion", "params": {"os": "fedora42"}},
        {"pool": "metal", "count": 3, "role": "worker", "skip": bare},
        {"pool": "metal", "count": 18, "skip": bare},
        {"pool": "cloud"},
    )

    inventory = await metal.inventory(lease)
    assert {role: len(hosts) for role, hosts in inventory.items()} == {
        "bastion": 1,
        "worker": 3,
        "hosts": 18,
        "common": 4,
    }
    (bastion,) = inventory["bastion"]
    assert inventory["common"]["installed"] == [bastion]
    assert (metal.host(bastion) / "disk" / "os").read_text() == "fedora42\n"
    others = inventory["worker"] + inventory["hosts"]
    assert not any((metal.host(host) / "disk" / "os").exists() for host in others)
    stages = Counter(run["stage"] for run in await metal.runs(lease) if run["resource"] in others)
    assert stages == {"wipe": 21, "deliver": 21}, "they were somebody else's before, and are this holder's now"
    # What is run once for all of them sees each with its role.
    roles = Counter(port["role"] for port in metal.ports().values())
    assert roles == {"bastion": 1, "worker": 3, None: 18}


async def test_what_is_on_the_disks_is_kept_for_the_same_holder_and_for_nobody_else(metal: Metal) -> None:
    again: Json = {"pool": "metal", "names": ["metal05"], "skip": ["wipe", "provision", "validate"]}
    async with metal.stack.user("alice") as alice, metal.stack.user("bob") as bob:
        notes = metal.host("metal05") / "disk" / "notes"
        await metal.release(await metal.take({"pool": "metal", "names": ["metal05"]}, http=alice))
        notes.write_text("alice's")

        await metal.release(await metal.take(again, http=alice))
        assert notes.read_text() == "alice's"

        await metal.release(await metal.take(again, http=bob))
        assert not notes.exists()
        notes.write_text("bob's")

        await metal.release(await metal.take(again, http=alice))
        assert not notes.exists(), "she had it before, but not last"


async def test_a_host_that_fails_is_replaced_and_none_of_the_others_is_prepared_again(metal: Metal) -> None:
    metal.host("metal02").mkdir(parents=True)
    (metal.host("metal02") / "unplugged").touch()

    lease = await metal.take(*metal_and("cloud", count=4))

    assert names(lease, "metal") == ["metal01", "metal03", "metal04", "metal05"]
    assert (await metal.resource("metal", "metal02"))["broken"]["reason"] == "wipe: exited with status 1"
    for host in names(lease, "metal"):
        assert await metal.stages(lease, host) == ["wipe", "provision", "provision", "validate", "deliver"]
    assert set(metal.ports()) == set(names(lease, "metal")), "what failed is in no network of the lease"


async def test_a_lease_is_active_and_delivered_only_when_every_host_is_ready(metal: Metal) -> None:
    # Given one host of four that takes its time.
    gate = metal.folder / "gate"
    slow = f'test "$LEASEHOLD_RESOURCE" != metal03 || until test -e {gate}; do sleep 0.05; done\n'
    script = metal.folder / "check.sh"
    script.write_text(script.read_text().replace("answers ||", f"{slow}answers ||"))
    lease = await metal.submit(*metal_and("cloud", count=4))
    async with asyncio.timeout(PATIENCE_S):
        while [run["ok"] for run in await metal.runs(lease) if run["stage"] == "validate"].count(True) < 3:
            await asyncio.sleep(0.02)

    found = await metal.stack.get(lease)
    assert found["state"] == "preparing"
    delivery = await metal.stack.http.get(f"/v1/leases/{lease['id']}/delivery")
    assert (delivery.status_code, delivery.json()["code"]) == (409, "not_delivered")
    assert {run["stage"] for run in await metal.runs(lease)} == {"wipe", "provision", "validate"}

    gate.touch()
    assert (await metal.stack.get(lease, wait="active", timeout=PATIENCE_S))["state"] == "active"
    last = [run["stage"] for run in await metal.runs(lease) if not run["resource"]]
    assert last == ["configure", "validate", "deliver"], "what is for the lease as a whole came after all of them"


async def test_hosts_that_do_not_reach_each_other_are_not_delivered(metal: Metal) -> None:
    script = metal.folder / "network.py"
    script.write_text(script.read_text().replace("lease.environment,", 'host["name"],', 1))

    lease = await metal.stack.ended(await metal.submit(*metal_and("cloud")))

    assert (lease["outcome"], lease["error"]["code"]) == ("failed", "stage_failed")
    assert lease["error"]["detail"] == "metal, for the whole lease: validate: exited with status 1"
    log = (await metal.stack.http.get(f"/v1/leases/{lease['id']}/log", params={"stage": "validate"})).text
    assert "do not reach each other: metal01 and metal02" in log
    await metal.until_free([{"pool": "metal", "name": name} for name in ("metal01", "metal02")])
    assert metal.ports() == {}, "its ports are taken out of its networks"


async def test_hosts_that_were_prepared_ahead_are_delivered_with_what_the_lease_needs_and_nothing_else(
    metal: Metal,
) -> None:
    assert (metal.host("ready01") / "disk" / "os").exists(), "before anybody has asked"

    lease = await metal.take({"pool": "metal-ready", "count": 2}, {"pool": "cloud"}, {"pool": "vlan"})

    for host in ("ready01", "ready02"):
        assert await metal.stages(lease, host) == ["deliver"]
    assert [run["stage"] for run in await metal.runs(lease) if not run["resource"]] == [
        "configure",
        "validate",
        "deliver",
    ]
    assert (await metal.inventory(lease))["common"]["environment"] in names(lease, "cloud")
    await metal.release(lease)
    assert (metal.host("ready01") / "up").exists(), "and is ready for the next one"
