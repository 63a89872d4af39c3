"""Pools whose machines have BMCs: switched for each lease, shown as they were put, refused with their lines."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.stack import Json, Stack, fail
from tests.bmcs import PASSWORD, USER, Bmcs, emulated, machine_id


@pytest.fixture(scope="module")
def bmcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bmcs]:
    names = [f"host{number}" for number in range(8)]
    with emulated(tmp_path_factory.mktemp("bmcs"), names, on=names) as bmcs:
        yield bmcs


async def log(stack: Stack, lease: Json) -> str:
    found = await stack.http.get(f"/v1/leases/{lease['id']}/log")
    assert found.status_code == 200, fail(found)
    return found.text


async def metal(stack: Stack, bmcs: Bmcs, *machines: str, password: str = PASSWORD, **more: Any) -> str:
    """Make a pool of these machines that starts each from the network to wipe it, and switches it off again."""
    name = f"p{uuid.uuid4().hex[:10]}"
    (stack.folder / f"{name}.password").write_text(f"{password}\n")
    common = {
        "address": "http://{{ resource.properties.bmc }}",
        "user": USER,
        "password": {"file": f"{name}.password"},
        "system": "{{ resource.properties.system }}",
    }
    pool = {
        "name": name,
        "resources": [
            {"name": machine, "properties": {"bmc": bmcs.host, "system": machine_id(machine)}} for machine in machines
        ],
        "wipe": {"redfish": {**common, "do": [{"boot": "pxe"}, {"power": "cycle"}]}, "timeout": "1m"},
        "release": {"redfish": {**common, "do": {"power": "off"}}, "timeout": "1m"},
        **more,
    }
    answer = await stack.http.put(f"/v1/pools/{name}", json=pool, params={"folder": str(stack.folder)})
    assert answer.status_code == 200, fail(answer)
    return name


async def test_machines_are_wiped_by_a_start_from_the_network_and_switched_off_afterwards(
    stack: Stack, bmcs: Bmcs
) -> None:
    lease = await stack.take(await metal(stack, bmcs, "host0", "host1"), 2)
    for machine in ("host0", "host1"):
        assert (bmcs.power(machine), bmcs.boots_from(machine)) == ("On", "Pxe")
    await stack.release(lease)
    await stack.ended(lease)
    async with asyncio.timeout(30):
        while {await asyncio.to_thread(bmcs.power, machine) for machine in ("host0", "host1")} != {"Off"}:
            await asyncio.sleep(0.1)
    text = await log(stack, lease)
    assert "power: cycle: asking for ForceOff: accepted" in text
    assert PASSWORD not in text


async def test_cancelling_a_lease_in_the_middle_of_a_power_cycle_leaves_the_machine_off(
    stack: Stack, bmcs: Bmcs, tmp_path: Path
) -> None:
    with emulated(tmp_path / "slow", ["host1"], on=["host1"], delay=4) as slow:
        lease = await stack.submit(await metal(stack, slow, "host1"))
        await stack.until(lambda: slow.asked("host1") == ["PATCH", "POST ComputerSystem.Reset"])
        assert (await stack.steer(lease, "cancel")).status_code == 200
        assert (await stack.ended(lease))["outcome"] == "cancelled"
        async with asyncio.timeout(30):
            while await asyncio.to_thread(slow.power, "host1") != "Off":
                await asyncio.sleep(0.1)
        assert "stopped here: power: cycle: " in await log(stack, lease)


async def test_a_wrong_password_fails_the_lease_with_the_reason(stack: Stack, bmcs: Bmcs) -> None:
    pool = await metal(stack, bmcs, "host2", password="hunter2", policy={"on_failure": "fail"})
    lease = await stack.ended(await stack.submit(pool))
    told = json.dumps([lease, await stack.events(lease)])
    assert lease["outcome"] == "failed"
    assert "the BMC refuses this user and password: 401" in told
    assert "hunter2" not in told + await log(stack, lease)
    assert bmcs.asked("host2") == []


async def test_a_pool_with_such_hooks_is_shown_as_it_was_put(stack: Stack, bmcs: Bmcs) -> None:
    pool = await metal(stack, bmcs, "host3")
    (wipe,) = (await stack.http.get(f"/v1/pools/{pool}")).json()["stages"]["wipe"]
    assert wipe == {
        "redfish": {
            "address": "http://{{ resource.properties.bmc }}",
            "user": USER,
            "password": {"file": f"{pool}.password"},
            "system": "{{ resource.properties.system }}",
            "do": [{"boot": "pxe"}, {"power": "cycle"}],
        },
        "timeout": "1m",
        "attempts": 1,
        "scope": "resource",
        "limit": None,
    }


async def test_an_unknown_device_is_refused_with_its_line(stack: Stack) -> None:
    text = """
pools:
- name: metal
  wipe:
    redfish:
      address: bmc.lab
      user: root
      password: {env: BMC_PASSWORD}
      do:
      - power: "off"
      - boot: floppy
"""
    refused = await stack.http.post("/v1/apply", content=text, headers={"Content-Type": "application/yaml"})
    assert refused.status_code == 422, fail(refused)
    (fault,) = refused.json()["errors"]
    assert (fault["path"], fault["code"]) == ("pools[0].wipe[0].redfish.do[1].boot", "literal_error")
    assert fault["detail"].startswith("line 11: ")
    assert "'pxe'" in fault["detail"]
