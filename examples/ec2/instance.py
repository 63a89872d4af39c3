"""Instances of EC2, one for each resource of a dynamic pool: what the hooks of pools.yaml run.

Usage: `python3 instance.py create|check|delete|list`, with a hook's environment. Needs boto3. Which account, and what
an instance is like, is in settings.toml beside this file.

An instance is known by its tags: Name is the resource's, leasehold-pool the pool's. So nothing has to be remembered
here, and each of these can be killed at any moment and run again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

SETTINGS = Path(__file__).with_name("settings.toml")
KEYS = {"region", "profile", "credentials", "endpoint", "give_up_after", "look_every", "tags", "pools"}
OURS = {"MinCount", "MaxCount", "ClientToken", "TagSpecifications"}
"""Arguments of RunInstances that are no pool's to choose."""

# A name has no `*` or `?`, which EC2's filters would take for any other.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PRINTED_ID = re.compile(rb'"id": "(i-[0-9a-f]+)"')

ALIVE = ["pending", "running", "stopping", "stopped"]
WORKS = {"ok", "initializing"}
"""EC2 takes some minutes to find out that a new instance is well."""


class Problem(Exception):
    """What cannot be done, in words for the log."""


@dataclass(frozen=True)
class Instance:
    """What EC2 says of one."""

    id: str
    name: str
    state: str
    address: str | None
    reason: str

    @classmethod
    def of(cls, shown: dict[str, Any]) -> Instance:
        """From an answer of DescribeInstances."""
        tags = {tag["Key"]: tag["Value"] for tag in shown.get("Tags", [])}
        return cls(
            id=shown["InstanceId"],
            name=tags.get("Name", ""),
            state=shown["State"]["Name"],
            address=shown.get("PublicIpAddress") or shown.get("PrivateIpAddress") or shown.get("Ipv6Address"),
            reason=shown.get("StateReason", {}).get("Message") or "EC2 says no reason",
        )


class Pool:
    """The instances of one pool."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.settings = settings
        self.ec2 = client(settings)

    def find(self, key: str, *values: str) -> list[Instance]:
        """All instances of the pool that one of EC2's filters lets through, those that are gone for minutes too."""
        filters = [{"Name": "tag:leasehold-pool", "Values": [self.name]}, {"Name": key, "Values": list(values)}]
        pages = self.ec2.get_paginator("describe_instances").paginate(
            Filters=filters, PaginationConfig={"PageSize": 100}
        )
        return [Instance.of(one) for page in pages for found in page["Reservations"] for one in found["Instances"]]

    def of(self, resource: str) -> list[Instance]:
        """What carries the resource's name, and what create said it had made, should somebody have renamed it."""
        found = {one.id: one for one in self.find("tag:Name", resource)}
        printed = PRINTED_ID.search(base64.b64decode(os.environ.get("LEASEHOLD_RESOURCE_DATA", "")))
        if printed and printed[1].decode() not in found:
            found |= {one.id: one for one in self.find("instance-id", printed[1].decode())}
        return list(found.values())

    def run(self, resource: str) -> str:
        """Have EC2 make an instance and return its id: that of the same one, however often this is asked for."""
        arguments = self.settings.get("pools", {}).get(self.name)
        if arguments is None:
            raise Problem(f"{SETTINGS.name} has no [pools.{self.name}]")
        if OURS & arguments.keys():
            raise Problem(f"{SETTINGS.name}: [pools.{self.name}] cannot choose {', '.join(OURS & arguments.keys())}")
        tags = {**self.settings.get("tags", {}), "Name": resource, "leasehold-pool": self.name}
        shown = [{"Key": key, "Value": value} for key, value in tags.items()]
        made = self.ec2.run_instances(
            **arguments,
            MinCount=1,
            MaxCount=1,
            # EC2 answers the same token with the same instance, also while it does not show it to anybody yet.
            ClientToken=hashlib.sha256(f"{self.name}/{resource}".encode()).hexdigest(),
            TagSpecifications=[{"ResourceType": kind, "Tags": shown} for kind in ("instance", "volume")],
        )
        return str(made["Instances"][0]["InstanceId"])

    def pause(self) -> None:
        """Until the next look."""
        time.sleep(self.settings.get("look_every", 5))


def client(settings: dict[str, Any]) -> Any:
    """EC2, as the account that boto3 finds by itself: by a profile, or by the role of this machine."""
    if "credentials" in settings:
        # Relative to the settings.
        os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(SETTINGS.parent / settings["credentials"])
    session = boto3.Session(profile_name=settings.get("profile"), region_name=settings.get("region"))
    # Five tries, ever further apart, of what was throttled or not answered.
    retries = {"mode": "standard", "max_attempts": 5}
    config = Config(retries=retries, connect_timeout=5, read_timeout=20)
    return session.client("ec2", endpoint_url=settings.get("endpoint"), config=config)


def create(pool: Pool, resource: str) -> None:
    """Make the resource's instance, wait until it runs, and print what its holder needs."""
    before = [one for one in pool.of(resource) if one.state in ALIVE]
    made = before[0].id if before else pool.run(resource)
    say(f"{made}: {'was there already' if before else 'made'}; waiting until it runs")
    while True:
        # For some seconds EC2 may not show it.
        for one in pool.find("instance-id", made):
            if one.state == "running":
                print(json.dumps({"id": one.id, "address": one.address}))
                return
            if one.state != "pending":
                raise Problem(f"{one.id} is {one.state}: {one.reason}")
        pool.pause()


def check(pool: Pool, resource: str) -> None:
    """Fail unless the instance runs and is well."""
    found = [one for one in pool.of(resource) if one.state in ALIVE]
    if not found:
        raise Problem("there is no instance any more")
    for one in found:
        if one.state != "running":
            raise Problem(f"{one.id} is {one.state}: {one.reason}")
    told = pool.ec2.describe_instance_status(InstanceIds=[one.id for one in found])["InstanceStatuses"]
    if len(told) < len(found):
        raise Problem("EC2 tells no status")
    for one in told:
        instance, system = one["InstanceStatus"]["Status"], one["SystemStatus"]["Status"]
        if not {instance, system} <= WORKS:
            raise Problem(f"{one['InstanceId']}: the instance is {instance}, the system below it {system}")


def delete(pool: Pool, resource: str) -> None:
    """End all instances of the resource, and wait until they have ended; there may be none."""
    while left := [one for one in pool.of(resource) if one.state != "terminated"]:
        ending = [one.id for one in left if one.state != "shutting-down"]
        if ending:
            say(f"ending {', '.join(ending)}")
            pool.ec2.terminate_instances(InstanceIds=ending)
        pool.pause()
    say("nothing is left")


def names(pool: Pool) -> None:
    """Print the names of all that there is: of all or, where EC2 fails in the middle, of none."""
    for one in pool.find("instance-state-name", *ALIVE):
        if NAME.fullmatch(one.name):
            print(one.name)
        else:
            say(f"{one.id} has no name of a resource: {one.name!r}")


def say(text: str) -> None:
    """Into the log."""
    print(text, file=sys.stderr, flush=True)


def read_settings() -> dict[str, Any]:
    """All of settings.toml; what is not known here is a mistake."""
    settings = tomllib.loads(SETTINGS.read_text())
    if settings.keys() - KEYS:
        raise Problem(f"{SETTINGS.name}: there is no {', '.join(settings.keys() - KEYS)}")
    return settings


def variable(name: str) -> str:
    """A name out of the environment."""
    value = os.environ.get(name, "")
    if not NAME.fullmatch(value):
        raise Problem(f"{name} is no name: {value!r}")
    return value


def limit(seconds: float, stage: str) -> None:
    """End with a reason after so long, whatever is being waited for."""
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"{stage}: gave up after {seconds} s"))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main() -> None:
    """Do what the command line says."""
    stages = {"create": create, "check": check, "delete": delete}
    if len(sys.argv) != 2 or sys.argv[1] not in {*stages, "list"}:
        sys.exit("usage: instance.py create|check|delete|list")
    stage = sys.argv[1]
    try:
        settings = read_settings()
        limit(settings.get("give_up_after", 540), stage)
        name = variable("LEASEHOLD_POOL")
        if stage == "list":
            names(Pool(name, settings))
        else:
            resource = variable("LEASEHOLD_RESOURCE")
            stages[stage](Pool(name, settings), resource)
    except (Problem, BotoCoreError, ClientError, OSError, tomllib.TOMLDecodeError) as error:
        sys.exit(f"{stage}: {error}")


if __name__ == "__main__":
    main()
