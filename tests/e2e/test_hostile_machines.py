"""Hooks of dynamic pools of the worst kind: each is contained, seen, and leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cloud import Cloud
from tests.e2e.lab import until
from tests.e2e.test_hostile_hooks import MOST_GROWTH_MIB, PAGE_CACHES_MIB, Peak
from tests.stack import Stack, marked

GIGABYTE = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Evil:
    """A hook, and what is told of its failure; None if it succeeds all the same."""

    run: str
    told: str | None = None


HANGS = "killed at its timeout of 2s"
CREATES = {
    "hangs": Evil(run="sleep 1000", told=f"create: {HANGS}"),
    "ignores": Evil(run="trap '' TERM INT HUP; while :; do sleep 1; done", told=f"create: {HANGS}"),
    "signal": Evil(run="kill -SEGV $$", told="create: ended by signal 11 (Segmentation fault)"),
    "silent": Evil(run=":"),
    "no-text": Evil(run=r"printf '\377\376\000\n'; head -c 3000 /dev/urandom >&2"),
    "gigabyte": Evil(run=f"yes 1234567 | head -c {GIGABYTE}"),
    "grandchild": Evil(run="(trap '' TERM; exec sleep 1000) & (exec env -i sleep 1001) & :"),
}


@pytest.fixture
def cloud(stack: Stack, tmp_path: Path) -> Iterator[Cloud]:
    client = stack.client()
    cloud = Cloud(client, tmp_path / "cloud")
    yield cloud
    cloud.apply()
    client.close()


def statistics(cloud: Cloud, pool: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.client.pool(pool)["statistics"]
    return found


def gone(cloud: Cloud, *pools: str) -> None:
    """Wait until nothing is left of pools that have left their file, in the inventory, as machines, or as processes."""
    left = set(pools)
    until(lambda: left.isdisjoint({one["name"] for one in cloud.client.pools()}), f"{pools} are gone")
    assert cloud.machines == set()
    until(lambda: not any(marked("LEASEHOLD_POOL", pool) for pool in pools), "no process is left")


def test_creations_of_the_worst_kind(stack: Stack, cloud: Cloud) -> None:
    (worker,) = [pid for pid, command in stack.processes().items() if "-m worker " in command]
    memory = Peak(worker)
    size = {"max": 1, "min_free": 1}
    pools = {f"{cloud.name}{name}": evil for name, evil in CREATES.items()}
    made = 'touch "machines/$LEASEHOLD_RESOURCE"\n'
    cloud.apply(
        *(
            cloud.pool(
                pool,
                size,
                create={"run": f"cd {cloud.folder}\n{made}{evil.run}", "timeout": "2s" if evil.told else "1m"},
                livecheck={"run": "true"},
            )
            for pool, evil in pools.items()
        )
    )
    for pool, evil in pools.items():
        if evil.told is None:
            until(lambda pool=pool: cloud.states(pool) == {"free": 1}, f"{pool} has made one")  # type: ignore[misc]
        else:
            until(lambda pool=pool: statistics(cloud, pool)["starts"], f"{pool} has tried")  # type: ignore[misc]
            assert statistics(cloud, pool)["trouble"] == evil.told
        memory.look()
    assert memory.most - memory.before < MOST_GROWTH_MIB + PAGE_CACHES_MIB
    cut = next(pool for pool in pools if pool.endswith("gigabyte"))
    (held,) = cloud.client.resources(pool=cut)
    lease = cloud.client.submit([{"pool": cut}], wait="active")
    (delivered,) = cloud.client.delivery(lease["id"])["resources"]
    assert held["name"] == delivered["name"]
    assert len(delivered["data"] or "") == 64 * 1024 // 8 * 8
    cloud.client.release(lease["id"])
    cloud.apply()
    gone(cloud, *pools)


def test_deletions_of_the_worst_kind(cloud: Cloud) -> None:
    evils = {"hangs": HANGS, "signal": "ended by signal 9 (Killed)", "fails": "exited with status 3"}
    does = {"hangs": "trap '' TERM; sleep 1000", "signal": "kill -KILL $$", "fails": "exit 3"}
    pools = {f"{cloud.name}{name}": told for name, told in evils.items()}
    size = {"max": 1, "min_free": 1}
    until_told = "test -e may-go || { %s\n}\n"
    cloud.apply(
        *(
            cloud.pool(
                pool,
                size,
                delete={
                    "run": f"cd {cloud.folder}\n{until_told % does[pool.removeprefix(cloud.name)]}"
                    'rm -f "machines/$LEASEHOLD_RESOURCE"; echo "gone $LEASEHOLD_RESOURCE" >>ledger',
                    "timeout": "2s",
                },
            )
            for pool in pools
        )
    )
    for pool in pools:
        cloud.until(pool, free=1)
    cloud.apply()
    for pool, told in pools.items():
        says = re.compile(f"try .*: delete: {re.escape(told)}")
        until(lambda pool=pool, says=says: says.match(cloud.trouble(pool)), f"{pool} says why")  # type: ignore[misc]
    (cloud.folder / "may-go").touch()
    for pool in pools:
        for resource in cloud.client.resources(pool=pool):
            cloud.client.repair(pool, resource["name"])
    gone(cloud, *pools)


def test_a_livecheck_that_hangs_holds_up_nobody_and_counts_as_dead(cloud: Cloud) -> None:
    pool = f"{cloud.name}hangs"
    check = f'trap "" TERM; test -e "{cloud.folder}/hang.$LEASEHOLD_RESOURCE" && sleep 1000; true'
    cloud.apply(
        cloud.pool(
            pool,
            {"max": 3, "max_creating": 3, "min_free": 2},
            livecheck={"run": check, "every": "1s", "timeout": "2s", "attempts": 2},
        )
    )
    cloud.until(pool, free=2)
    first, second = sorted(cloud.machines)
    (cloud.folder / f"hang.{first}").touch()
    until(lambda: first not in cloud.machines, "the one that hangs is replaced")
    cloud.until(pool, free=2)
    assert second in cloud.machines
    cloud.apply()
    gone(cloud, pool)


def test_a_listing_that_prints_nonsense_harms_nobody(cloud: Cloud) -> None:
    pool = f"{cloud.name}lists"
    listing = {"run": r"printf '\377\000 ../../etc \n'; head -c 300000 /dev/urandom; kill -KILL $$", "every": "1s"}
    cloud.apply(cloud.pool(pool, {"max": 2, "min_free": 2, "max_creating": 2}, list=listing))
    cloud.until(pool, free=2)
    until(lambda: statistics(cloud, pool)["list_trouble"] == "ended by signal 9 (Killed)", "it says that it failed")
    listing = {**listing, "run": listing["run"].removesuffix("; kill -KILL $$")}
    cloud.apply(cloud.pool(pool, {"max": 2, "min_free": 2, "max_creating": 2}, list=listing))
    until(lambda: statistics(cloud, pool)["list_trouble"] is None, "it works again")
    cloud.until(pool, free=2)
