"""Dynamic pools come to the size that they are told from wherever they are, and stay within bounds on the way."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cloud import Cloud
from tests.e2e.lab import PATIENCE_S, until
from tests.stack import Stack, marked

SIZE = {"max": 6, "max_creating": 2, "min_free": 3}


@pytest.fixture
def cloud(stack: Stack, tmp_path: Path) -> Iterator[Cloud]:
    client = stack.client()
    cloud = Cloud(client, tmp_path / "cloud")
    yield cloud
    if stack.running:
        cloud.is_to("refuse-deletion", be=False)
        cloud.apply()
    client.close()


@pytest.fixture
def pool() -> str:
    return f"vm{uuid.uuid4().hex[:8]}"


def take(cloud: Cloud, pool: str, many: int) -> list[str]:
    """Have so many leases of one machine each."""
    leases = [cloud.client.submit([{"pool": pool}])["id"] for _ in range(many)]
    for lease in leases:
        until(lambda lease=lease: cloud.client.lease(lease)["state"] == "active", "it is active")  # type: ignore[misc]
    return leases


def release(cloud: Cloud, leases: list[str]) -> None:
    for lease in leases:
        cloud.client.release(lease)


def test_from_empty(cloud: Cloud, pool: str) -> None:
    cloud.apply(cloud.pool(pool, SIZE))
    cloud.until(pool, free=3)
    cloud.check(pool, most=3, most_creating=2)


def test_from_full(cloud: Cloud, pool: str) -> None:
    cloud.apply(cloud.pool(pool, SIZE))
    leases = take(cloud, pool, 6)
    cloud.until(pool, leased=6)
    release(cloud, leases)
    cloud.until(pool, free=3)
    cloud.check(pool, most=6, most_creating=2)


def test_while_half_of_all_creations_fail(cloud: Cloud, pool: str) -> None:
    cloud.is_to("fail-every-other")
    cloud.apply(cloud.pool(pool, SIZE))
    cloud.until(pool, free=3)
    leases = take(cloud, pool, 2)
    cloud.until(pool, free=3, leased=2)
    release(cloud, leases)
    cloud.until(pool, free=3)
    cloud.check(pool, most=6, most_creating=2)
    statistics = cloud.client.pool(pool)["statistics"]
    assert statistics["failures"] < statistics["starts"]
    assert 0.3 < statistics["success_rate"] < 0.8


def test_after_its_file_shrinks_it_and_makes_it_larger_again(cloud: Cloud, pool: str) -> None:
    cloud.apply(cloud.pool(pool, SIZE))
    leases = take(cloud, pool, 2)
    cloud.until(pool, free=3, leased=2)
    cloud.apply(cloud.pool(pool, {"max": 3, "max_creating": 2, "min_free": 1}))
    cloud.until(pool, free=1, leased=2)
    cloud.apply(cloud.pool(pool, {"max": 1, "max_creating": 2, "min_free": 1}))
    cloud.until(pool, leased=2)
    release(cloud, leases)
    cloud.until(pool, free=1)
    cloud.apply(cloud.pool(pool, SIZE))
    cloud.until(pool, free=3)
    cloud.check(pool, most=6, most_creating=2)


def test_after_its_file_renames_it(cloud: Cloud, pool: str) -> None:
    cloud.apply(cloud.pool(pool, SIZE))
    (lease,) = take(cloud, pool, 1)
    cloud.until(pool, free=3, leased=1)
    renamed = f"{pool}new"
    cloud.apply(cloud.pool(renamed, SIZE))
    cloud.until(renamed, free=3)
    cloud.until(pool, leased=1)
    release(cloud, [lease])
    until(lambda: pool not in {one["name"] for one in cloud.client.pools()}, "the old one is gone")
    assert {machine.split("_")[0] for machine in cloud.machines} == {renamed}
    cloud.check(pool, most=6, most_creating=2)
    cloud.check(renamed, most=6, most_creating=2)


@pytest.mark.parametrize("victim", ["-m worker", "-m api", "temporal", ""], ids=["worker", "api", "temporal", "all"])
def test_after_a_kill(stack: Stack, cloud: Cloud, pool: str, victim: str) -> None:
    cloud.apply(cloud.pool(pool, SIZE, slow=1.5))
    until(lambda: cloud.states(pool)["creating"] == 2 and len(cloud.machines) == 2, "two are being created")

    assert stack.kill(victim)
    stack.ended()
    until(lambda: not marked("LEASEHOLD_POOL", pool), "no hook runs")
    stack.start()

    cloud.until(pool, free=3)
    cloud.check(pool, most=6, most_creating=2)
    assert cloud.half_made <= cloud.gone, "what nobody finished was deleted"
    if victim in {"-m worker", ""}:
        assert len(cloud.half_made) == 2


def test_a_machine_that_cannot_be_deleted_is_seen_until_it_is(cloud: Cloud, pool: str) -> None:
    cloud.apply(cloud.pool(pool, {"max": 2, "min_free": 1}))
    cloud.until(pool, free=1)
    cloud.is_to("refuse-deletion")
    (lease,) = take(cloud, pool, 1)
    release(cloud, [lease])
    until(lambda: cloud.trouble(pool), "it says why it is not deleted")
    assert "delete: exited with status 1" in cloud.trouble(pool)
    (stuck,) = [one for one in cloud.client.resources(pool=pool) if one["state"] == "deleting"]
    cloud.is_to("refuse-deletion", be=False)
    cloud.client.repair(pool, stuck["name"])
    cloud.until(pool, free=1)


def test_what_died_is_replaced_and_what_nobody_made_is_deleted(cloud: Cloud, pool: str) -> None:
    cloud.apply(cloud.pool(pool, {"max": 3, "min_free": 2}))
    cloud.until(pool, free=2)
    dead = sorted(cloud.machines)[0]
    cloud.lose(dead)
    stray, foreign = f"{pool}_00000000_20200101_000000", f"{pool}-by-hand"
    cloud.plant(stray)
    cloud.plant(foreign)
    end = time.monotonic() + PATIENCE_S
    while not (cloud.machines.isdisjoint({dead, stray}) and len(cloud.machines) == 3):
        assert time.monotonic() < end, sorted(cloud.machines)
        time.sleep(0.1)
    cloud.until(pool, free=2)
    assert foreign in cloud.machines
