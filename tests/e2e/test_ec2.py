"""Instances of EC2 from end to end: leased from the example's pool, checked, deleted, and found when forgotten."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from leasehold.client import Client
from tests.aws import Aws, aws_emulator, example
from tests.e2e.lab import ENOUGH, until
from tests.stack import Stack

OFTEN = {
    "every: 5m, timeout: 1m, attempts: 3": "every: 2s, timeout: 20s, attempts: 1",
    "every: 15m, timeout: 1m": "every: 2s, timeout: 20s",
}


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with aws_emulator() as aws:
        yield aws


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def pool(aws: Aws, client: Client, tmp_path: Path) -> Iterator[str]:
    """The example's pool, whose machines are looked at often."""
    name = f"ec2{uuid.uuid4().hex[:8]}"
    folder = example(aws, tmp_path, pool=name)
    file = folder / "pools.yaml"
    text = file.read_text()
    for plain, often in OFTEN.items():
        assert plain in text
        text = text.replace(plain, often)
    client.apply(text.encode(), folder=str(folder))
    yield name
    client.apply({"name": name, "pools": []})
    until(lambda: not aws.alive(name), "no instance is left")
    # As long as the cloud can be asked: a pool whose machines cannot be deleted would trouble whoever comes next.
    until(lambda: name not in {pool["name"] for pool in client.pools()}, "and the pool is gone")


def test_an_instance_is_made_for_a_lease_and_is_gone_after_it(aws: Aws, client: Client, pool: str) -> None:
    lease = client.submit([{"pool": pool}], wait="active", timeout=ENOUGH)
    assert lease["state"] == "active", lease
    (resource,) = lease["resources"]
    assert aws.alive(pool) == [resource["name"]]
    (delivered,) = client.delivery(lease["id"])["resources"]
    assert json.loads(delivered["data"] or "")["id"] == aws.instances(pool)[0]["InstanceId"]
    client.release(lease["id"])
    until(lambda: aws.alive(pool) == [], "it is terminated")
    until(lambda: not list(client.resources(pool=pool)), "and forgotten")


def test_one_that_nobody_knows_is_terminated(aws: Aws, client: Client, pool: str) -> None:
    lease = client.submit([{"pool": pool}], wait="active", timeout=ENOUGH)
    (mine,) = lease["resources"]
    aws.put(pool, f"{pool}-00000000-20200101_000000")
    aws.put(pool, "by-hand")
    until(lambda: sorted(aws.alive(pool)) == sorted([mine["name"], "by-hand"]), "the stray is gone, and nothing else")
    assert client.lease(lease["id"])["state"] == "active"
    client.release(lease["id"])
    until(lambda: aws.alive(pool) == ["by-hand"], "what was leased is gone too")
    aws.ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in aws.instances(pool)])


def test_the_holder_of_one_that_was_terminated_elsewhere_is_told(aws: Aws, client: Client, pool: str) -> None:
    lease = client.submit([{"pool": pool}], wait="active", timeout=ENOUGH)
    (mine,) = lease["resources"]
    aws.ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in aws.instances(pool)])
    until(lambda: client.lease(lease["id"])["degraded"], "it says so in the lease")
    (dead,) = client.lease(lease["id"])["degraded"]
    assert (dead["pool"], dead["name"]) == (pool, mine["name"])
    assert dead["reason"].startswith("livecheck: exited with status")
    client.release(lease["id"])
