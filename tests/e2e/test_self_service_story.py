"""A CI script takes bare metal by itself: from what is there to giving it back, over HTTP and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.lab import PATIENCE_S, Lab, until

FILTERS = {
    "model": "R640",
    "interfaces.vendor": "Mellanox Technologies",
    "disks.disk_type": "nvme",
}
BAD = "host02"


def _host(number: int) -> dict[str, Any]:
    fits = number < 7
    return {
        "name": f"host{number:02}",
        "properties": {
            "model": "R640" if fits else "R750",
            "interfaces": [{"name": "em1", "vendor": "Mellanox Technologies", "speed": 25}],
            "disks": [{"disk_type": "nvme" if number else "sata", "size_gb": 2000, "count": 2}],
        },
    }


@pytest.fixture
def pools(lab: Lab) -> tuple[str, str]:
    """A pool of hosts of which one fails its validation, and one of environments."""
    name = uuid.uuid4().hex[:8]
    metal, cloud = f"metal-{name}", f"cloud-{name}"
    hosts = {
        "name": metal,
        "resources": [_host(number) for number in range(10)],
        "wipe": {"run": "true"},
        "provision": {"run": "true", "timeout": "1m"},
        "configure": {"run": f'grep -q {cloud} "$LEASEHOLD_LEASE_FILE"', "scope": "lease"},
        "validate": {"run": f'test "$LEASEHOLD_RESOURCE" != {BAD} || {{ echo no link on em1 >&2; exit 1; }}'},
        "deliver": {"run": 'echo "ssh root@$LEASEHOLD_RESOURCE"'},
        "release": {"run": "true"},
        "policy": {
            "default_duration": "10m",
            "warn_before": ["9m"],
            "self_service": {"enabled": "auto", "open_when": {"free": "20%"}, "per_owner": {"leases": 1}, "show": 5},
        },
    }
    clouds = {"name": cloud, "resources": [{"name": "cloud01"}, {"name": "cloud02"}]}
    lab.client.apply({"name": name, "pools": [hosts, clouds]}, folder=str(lab.folder))
    return metal, cloud


@pytest.fixture
def script(lab: Lab) -> Iterator[httpx.Client]:
    """The CI script's way to the service: a user's token, and httpx."""
    made = lab.client.create_token(user="ci", role="user")
    headers = {"Authorization": f"Bearer {made['token']}"}
    with httpx.Client(base_url=f"{lab.client.url}/v1", headers=headers, timeout=PATIENCE_S) as http:
        yield http


def test_a_ci_script_takes_bare_metal_by_itself(lab: Lab, pools: tuple[str, str], script: httpx.Client) -> None:
    metal, cloud = pools
    # It sees what is there: some of it, and only what fits.
    seen = script.get("/available", params={"pool": metal, "count": 4, **FILTERS}).json()
    assert (seen["open"], seen["free"], len(seen["resources"])) == (True, 6, 5)
    assert {host["properties"]["model"] for host in seen["resources"]} == {"R640"}
    # It requests four hosts and an environment, and gets an id, and a token for this lease alone.
    match = [f"{key}={value}" for key, value in FILTERS.items()]
    body = {
        "items": [{"pool": cloud}, {"pool": metal, "count": 4, "match": match}],
        "description": "nightly upgrade",
        "cc": ["team"],
    }
    asked = script.post("/leases", json=body, headers={"Idempotency-Key": "build-7"})
    assert asked.status_code == 201, asked.text
    lease, token = asked.json()["id"], asked.json()["token"]
    with httpx.Client(base_url=str(script.base_url), headers={"Authorization": f"Bearer {token}"}) as http:
        # It polls until all of it is validated; the host that fails is replaced meanwhile.
        until(lambda: http.get(f"/leases/{lease}").json()["state"] == "active", "all hosts are validated")
        shown = http.get(f"/leases/{lease}").json()
        ready = [r for r in shown["resources"] if r["state"] == "ready"]
        assert sorted({r["pool"] for r in ready}) == sorted(pools)
        assert len([r for r in ready if r["pool"] == metal]) == 4
        assert BAD not in {r["name"] for r in ready}
        bad = script.get(f"/pools/{metal}/resources/{BAD}").json()
        assert bad["broken"]["reason"].startswith("validate: ")
        assert "no link on em1" in http.get(f"/leases/{lease}/log").text
        # It runs its job with what it was delivered.
        delivered = http.get(f"/leases/{lease}/delivery").json()["resources"]
        assert {d["data"] for d in delivered if d["pool"] == metal} == {
            f"ssh root@{r['name']}\n" for r in ready if r["pool"] == metal
        }
        # A second lease would be more than one user may have.
        second = script.post("/leases", json={"items": [{"pool": metal}]})
        assert (second.status_code, second.json()["code"]) == (403, "limit_reached")
        # It is warned before its end, extends, and gives everything back.
        before = shown["expires_at"]
        extended = http.post(f"/leases/{lease}/extend", json={"by": "5m"}).json()
        assert extended["expires_at"] > before
        released = http.post(f"/leases/{lease}/release").json()
        assert released["outcome"] in {None, "released"}
        until(lambda: http.get(f"/leases/{lease}").json()["state"] == "ended", "the lease is over")
        kinds = [event["kind"] for event in http.get(f"/leases/{lease}/events").json()["items"]]
    assert [kinds.index(k) for k in ("lease_preparing", "lease_replaced", "lease_active", "lease_extended")] == sorted(
        kinds.index(k) for k in ("lease_preparing", "lease_replaced", "lease_active", "lease_extended")
    )
    free = {"free", "broken"}
    until(lambda: {r["state"] for r in lab.client.resources(pool=metal)} <= free, "the hosts are clean again")
    # The same request again is the same lease, whatever became of it.
    again = script.post("/leases", json=body, headers={"Idempotency-Key": "build-7"})
    assert again.json()["id"] == lease


def test_the_holder_is_warned_before_the_end(lab: Lab, pools: tuple[str, str], script: httpx.Client) -> None:
    metal, cloud = pools
    body = {"items": [{"pool": cloud}, {"pool": metal}], "duration": "9m"}
    answer = script.post("/leases", json=body, params={"wait": "active", "timeout": 40})
    lease = answer.json()["id"]
    # Nine minutes before the end were over at delivery; after an extension they are to come.
    script.post(f"/leases/{lease}/extend", json={"by": "2s"})

    def warned() -> bool:
        return any(e["kind"] == "lease_expiring" for e in script.get(f"/leases/{lease}/events").json()["items"])

    until(warned, "the holder is warned")
    script.post(f"/leases/{lease}/release")
