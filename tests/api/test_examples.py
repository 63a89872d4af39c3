"""The examples for bare metal, with a lab's own addresses put in, prepare leases: every hook of theirs is run."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.api.stack import Stack, fail
from tests.bmcs import PASSWORD, ROOT, Bmcs, certificate, emulated
from tests.contract.command_hooks import names as entries
from tests.foreman import Foreman, Host, serving

EXAMPLES = ROOT / "examples"


async def apply(stack: Stack, example: str, folder: Path, lab: Mapping[str, str]) -> None:
    """Apply an example's pools file as it is, but for what belongs to the reader's lab."""
    text = (EXAMPLES / example / "pools.yaml").read_text()
    for written, here in lab.items():
        assert written in text, written
        text = text.replace(written, here)
    answer = await stack.http.post(
        "/v1/apply", content=text, params={"folder": str(folder)}, headers={"Content-Type": "application/yaml"}
    )
    assert answer.status_code == 200, fail(answer)


@dataclass(frozen=True)
class Metal:
    """The lab of examples/foreman."""

    pool: str
    foreman: Foreman
    bmcs: Mapping[str, Bmcs]

    def host(self, name: str) -> Host:
        """What Foreman knows of a machine."""
        return self.foreman.hosts[f"{name}.lab.example.com"]


NAMED = (("name: ", "foreman"), ("name: ", "metal"), ("limits: {", "foreman"), ("limit: ", "foreman"))
"""Where the example says names that another test must not have."""


@asynccontextmanager
async def foreman_lab(stack: Stack, folder: Path) -> AsyncIterator[Metal]:
    """Foreman, the BMCs of its machines, and the pool."""
    names = ("host01", "host02")
    (folder / "bmc").mkdir()
    (folder / "foreman-login").write_text("leasehold:a-token-of-foreman\n")
    ca, key = certificate(folder)
    pair = (ca.rename(folder / "bmc-ca.pem"), key)
    with ExitStack() as running:
        bmcs = {}
        foreman = running.enter_context(serving(Foreman("leasehold:a-token-of-foreman")))
        for name in names:
            password = f"{PASSWORD}-{name}"
            (folder / "bmc" / name).write_text(f"{password}\n")
            bmc = running.enter_context(emulated(folder / f"{name}-bmc", [name], password=password, certificate=pair))
            bmcs[name] = bmc
            foreman.hosts[f"{name}.lab.example.com"] = Host(partial(starts, bmc, name))
        # Each test has a pool of its own.
        pool = f"p{uuid.uuid4().hex[:10]}"
        own = {f"{before}{name}": f"{before}{pool}" for before, name in NAMED}
        lab = own | {
            "https://foreman.lab.example.com": foreman.url,
            "/etc/leasehold": str(folder),
            "every: 15s": "every: 1s",
            **{f"{name}-bmc.lab.example.com": bmc.host for name, bmc in bmcs.items()},
        }
        await apply(stack, "foreman", folder, lab)
        yield Metal(pool, foreman, bmcs)


def starts(bmc: Bmcs, name: str) -> bool:
    """Whether a machine is on, and was started from the network."""
    return bmc.power(name) == "On" and bmc.boots_from(name) == "Pxe"


async def test_foreman_installs_both_machines_anew_and_they_are_switched_off_afterwards(
    stack: Stack, tmp_path: Path
) -> None:
    async with foreman_lab(stack, tmp_path) as metal:
        lease = await stack.take(metal.pool, 2)
        for name, bmc in metal.bmcs.items():
            assert (bmc.power(name), bmc.boots_from(name)) == ("On", "Pxe")
            host = metal.host(name)
            assert (host.builds, host.build, host.installed) == (1, False, True)
            assert host.comment == f"lease {lease['number']} of {lease['owner']}"
        text = (await stack.http.get(f"/v1/leases/{lease['id']}/log")).text
        assert "/status/build: 200, and until.holds" in text
        assert "a-token-of-foreman" not in text
        await stack.release(lease)
        await stack.ended(lease)
        async with asyncio.timeout(30):
            for name, bmc in metal.bmcs.items():
                while await asyncio.to_thread(bmc.power, name) != "Off":
                    await asyncio.sleep(0.1)


async def test_a_machine_that_foreman_fails_to_install_is_replaced(stack: Stack, tmp_path: Path) -> None:
    async with foreman_lab(stack, tmp_path) as metal:
        metal.host("host01").works = False
        lease = await stack.get(await stack.submit(metal.pool), wait="active", timeout=60)
        assert (lease["state"], lease["resources"][-1]["name"]) == ("active", "host02")
        shown = (await stack.http.get("/v1/resources", params={"pool": metal.pool})).json()["items"]
        (broken,) = [one for one in shown if one["broken"]]
        assert broken["name"] == "host01"
        assert "until.holds is not true" in broken["broken"]["reason"]
        await stack.release(lease)
        await stack.ended(lease)


async def test_ansible_sets_up_all_machines_of_a_lease_and_runs_nothing_that_people_typed(
    stack: Stack, tmp_path: Path
) -> None:
    folder = tmp_path / "ansible"
    shutil.copytree(EXAMPLES / "ansible", folder, ignore=shutil.ignore_patterns(".state"))
    playbook = Path(sys.executable).with_name("ansible-playbook")
    await apply(stack, "ansible", folder, {"[ansible-playbook,": f"[{playbook},"})
    attack = f"{{{{ lookup('pipe', 'touch {tmp_path}/template') }}}}"
    described = f"{attack} $(touch {tmp_path}/shell) `touch {tmp_path}/shell`"
    tagged = {"__ansible_type": "TrustedAsTemplate", "value": attack}
    items = [
        {"pool": "fleet", "count": 1, "role": "bastion", "params": {"a": attack, "b": tagged}},
        {"pool": "fleet", "count": 1, "role": attack},
    ]
    answer = await stack.post({"items": items, "description": described}, wait="active", timeout=60)
    lease = answer.json()
    assert (answer.status_code, lease["state"]) == (201, "active"), fail(answer)

    roles = {one["name"]: one["role"] for one in lease["resources"]}
    for name, role in roles.items():
        motd = (folder / ".state" / name / "motd").read_text()
        about = f"Lease {lease['number']} of {lease['owner']}: {described}"
        assert motd == f"{about}\n{role}, of node1, node2\n"
    (bastion,) = [name for name, role in roles.items() if role == "bastion"]
    (other,) = set(roles) - {bastion}
    assert (folder / ".state" / bastion / "behind").read_text() == f"{other}\n"

    await stack.release(lease)
    await stack.ended(lease)
    await stack.until(lambda: not list((folder / ".state").iterdir()))
    assert entries(tmp_path) == ["ansible"]
