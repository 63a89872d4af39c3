"""Instances of EC2 as `examples/ec2` makes, checks, lists and deletes them, whatever happens to its hooks and EC2."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from activities.drivers.command import minimal_environment
from leasehold import config
from leasehold.model import Hook, PoolSpec, StageName
from tests.aws import Aws, aws_emulator, example

PATIENCE_S = 60.0
"""No test says how fast something is; this only ends those that hang."""

SOON = {"give_up_after = 540": "give_up_after = 3"}

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Aws]:
    with aws_emulator() as aws:
        yield aws


@pytest.fixture
def aws(emulator: Aws) -> Iterator[Aws]:
    yield emulator
    emulator.works()


class Cloud:
    """The example's pool in an account of the emulator's; its hooks are run as the pools file says."""

    def __init__(self, aws: Aws, folder: Path, more: Mapping[str, str] | None = None) -> None:
        self.aws = aws
        self.pool = f"p{uuid.uuid4().hex[:10]}"
        self.folder = example(aws, folder, pool=self.pool, more=more)

    @property
    def spec(self) -> PoolSpec:
        """The pool, as its file describes it."""
        file = (self.folder / "pools.yaml").read_bytes()
        ((spec, _),) = config.load_yaml(file, str(self.folder)).pools
        return spec

    def hook(self, stage: str) -> Hook:
        """The hook of a stage."""
        (hook,) = self.spec.stages[StageName.LIVECHECK if stage == "check" else StageName(stage)]
        return hook

    def start(self, stage: str, name: str = "", data: bytes = b"", **more: str) -> subprocess.Popen[str]:
        """Start a hook for a resource of the pool."""
        told = {
            "LEASEHOLD_POOL": self.pool,
            "LEASEHOLD_RESOURCE": name,
            "LEASEHOLD_RESOURCE_DATA": b64encode(data).decode(),
            "RESALLOC_POOL_ID": self.pool,
            "RESALLOC_NAME": name,
            "RESALLOC_RESOURCE_DATA": b64encode(data).decode(),
        }
        run = self.hook(stage).run
        assert isinstance(run, tuple), "a line for a shell"
        return subprocess.Popen(
            run,
            cwd=self.folder,
            env={**minimal_environment(), **told, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, stage: str, name: str = "", data: bytes = b"", **more: str) -> Done:
        """Run a hook to its end."""
        with self.start(stage, name, data, **more) as process:
            out, log = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, log)

    def works(self, stage: str, name: str = "", data: bytes = b"") -> str:
        """Run a hook that succeeds, and return what it printed."""
        done = self.run(stage, name, data)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, stage: str, name: str = "", data: bytes = b"", **more: str) -> str:
        """Run a hook that fails without a result, and return its log, which is no traceback."""
        done = self.run(stage, name, data, **more)
        assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def begin(self, name: str) -> None:
        """Kill a create once it has had an instance made, before it is told so."""
        self.aws.holds("RunInstances")
        with self.start("create", name) as process:
            end = time.monotonic() + PATIENCE_S
            while self.aws.alive(self.pool) != [name]:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end
                time.sleep(0.05)
            process.kill()
        self.aws.works()


@pytest.fixture
def cloud(aws: Aws, tmp_path: Path) -> Cloud:
    return Cloud(aws, tmp_path)


def test_the_pools_file_describes_a_dynamic_pool_whose_names_never_come_twice(cloud: Cloud) -> None:
    spec = cloud.spec
    assert spec.dynamic
    assert {StageName.CREATE, StageName.DELETE, StageName.LIVECHECK, StageName.LIST} == set(spec.stages)
    assert "{id}" in spec.name_pattern
    assert spec.cost_per_hour


def test_an_instances_holder_is_told_its_id_and_its_address(cloud: Cloud) -> None:
    printed = json.loads(cloud.works("create", "vm1"))
    (made,) = cloud.aws.instances(cloud.pool)
    assert printed == {"id": made["InstanceId"], "address": made["PublicIpAddress"]}
    assert made["State"]["Name"] == "running"


def test_an_instance_and_its_volumes_carry_their_name_and_their_pool(cloud: Cloud) -> None:
    cloud.works("create", "vm1")
    (made,) = cloud.aws.instances(cloud.pool)
    (disk,) = made["BlockDeviceMappings"]
    (volume,) = cloud.aws.ec2.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
    wanted = {"Name": "vm1", "leasehold-pool": cloud.pool, "service": "leasehold"}
    for tagged in (made, volume):
        assert {tag["Key"]: tag["Value"] for tag in tagged["Tags"]} == wanted


def test_an_instance_is_what_the_settings_say(cloud: Cloud) -> None:
    cloud.works("create", "vm1")
    (made,) = cloud.aws.instances(cloud.pool)
    assert (made["ImageId"], made["InstanceType"], made["SubnetId"], made["KeyName"]) == (
        cloud.aws.image,
        "t3.medium",
        cloud.aws.subnet,
        "leasehold",
    )
    assert made["MetadataOptions"]["HttpTokens"] == "required"


def test_create_that_runs_twice_makes_one_instance(cloud: Cloud) -> None:
    first = cloud.works("create", "vm1")
    assert cloud.works("create", "vm1") == first
    assert cloud.aws.alive(cloud.pool) == ["vm1"]


def test_create_makes_no_second_instance_while_ec2_does_not_show_the_first(cloud: Cloud) -> None:
    first = cloud.works("create", "vm1")
    cloud.aws.shows_nothing(times=3)
    assert cloud.works("create", "vm1") == first
    assert cloud.aws.alive(cloud.pool) == ["vm1"]


def test_create_goes_on_with_what_one_that_was_killed_has_begun(cloud: Cloud) -> None:
    cloud.begin("vm1")
    printed = json.loads(cloud.works("create", "vm1"))
    (made,) = cloud.aws.instances(cloud.pool)
    assert printed["id"] == made["InstanceId"]


def test_delete_leaves_nothing_of_a_create_that_was_killed(cloud: Cloud) -> None:
    cloud.begin("vm1")
    cloud.works("delete", "vm1")
    assert cloud.aws.alive(cloud.pool) == []


def test_instances_of_two_pools_may_have_the_same_name(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Cloud(cloud.aws, tmp_path / "other")
    data = cloud.works("create", "vm1").encode()
    assert other.works("create", "vm1").encode() != data

    # Not even with what another pool's holder was told.
    other.works("delete", "vm1", data)

    assert (cloud.aws.alive(cloud.pool), cloud.aws.alive(other.pool)) == (["vm1"], [])


def test_delete_ends_all_that_carry_the_name_and_nothing_else(cloud: Cloud) -> None:
    for name in ("vm1", "vm1", "vm10", "VM1"):
        cloud.aws.put(cloud.pool, name)
    cloud.works("delete", "vm1")
    assert cloud.aws.alive(cloud.pool) == ["VM1", "vm10"]


def test_delete_finds_an_instance_that_somebody_has_renamed(cloud: Cloud) -> None:
    data = cloud.works("create", "vm1").encode()
    renamed = {"Resources": [json.loads(data)["id"]], "Tags": [{"Key": "Name", "Value": "mine!"}]}
    cloud.aws.ec2.create_tags(**renamed)
    cloud.works("check", "vm1", data)
    cloud.works("delete", "vm1", data)
    assert cloud.aws.alive(cloud.pool) == []


def test_delete_twice_is_fine(cloud: Cloud) -> None:
    data = cloud.works("create", "vm1").encode()
    for _ in range(2):
        cloud.works("delete", "vm1", data)
    assert cloud.aws.alive(cloud.pool) == []


def test_delete_has_ended_only_when_the_instance_has(aws: Aws, tmp_path: Path) -> None:
    cloud = Cloud(aws, tmp_path, SOON)
    aws.put(cloud.pool, "vm1")
    aws.says("DescribeInstances", "<name>terminated</name>", "<name>shutting-down</name>")
    assert "delete: gave up after 3 s" in cloud.fails("delete", "vm1")


def test_list_shows_what_nobody_knows_and_nothing_that_has_ended(cloud: Cloud) -> None:
    for name in ("vm1", "vm2", "forgotten"):
        cloud.aws.put(cloud.pool, name)
    cloud.works("delete", "vm2")
    assert sorted(cloud.works("list").splitlines()) == ["forgotten", "vm1"]


def test_list_shows_stopped_instances_too_and_no_other_pools(cloud: Cloud) -> None:
    stopped = cloud.aws.put(cloud.pool, "vm1")
    cloud.aws.ec2.stop_instances(InstanceIds=[stopped])
    cloud.aws.put(f"{cloud.pool}-2", "vm2")
    assert cloud.works("list") == "vm1\n"


def test_list_of_an_empty_pool_is_empty(cloud: Cloud) -> None:
    assert cloud.works("list") == ""


def test_list_shows_all_however_many_there_are(cloud: Cloud) -> None:
    names = [f"vm{number:03}" for number in range(101)]
    for name in names:
        cloud.aws.put(cloud.pool, name)
    assert sorted(cloud.works("list").splitlines()) == names


def test_list_tells_the_log_of_names_that_are_none(cloud: Cloud) -> None:
    for name in ("vm1", "two\nlines", "bücher", ""):
        cloud.aws.put(cloud.pool, name)
    done = cloud.run("list")
    assert (done.returncode, done.stdout) == (0, "vm1\n")
    assert "'two\\nlines'" in done.stderr


def test_an_instance_that_runs_passes_its_check(cloud: Cloud) -> None:
    data = cloud.works("create", "vm1").encode()
    cloud.works("check", "vm1", data)
    cloud.aws.says("DescribeInstanceStatus", "<status>ok</status>", "<status>initializing</status>")
    cloud.works("check", "vm1", data)


def test_an_instance_that_is_gone_fails_its_check(cloud: Cloud) -> None:
    data = cloud.works("create", "vm1").encode()
    cloud.aws.ec2.terminate_instances(InstanceIds=[json.loads(data)["id"]])
    assert "check: there is no instance any more" in cloud.fails("check", "vm1", data)


def test_an_instance_that_was_stopped_fails_its_check_with_the_reason(cloud: Cloud) -> None:
    made = json.loads(cloud.works("create", "vm1"))["id"]
    cloud.aws.ec2.stop_instances(InstanceIds=[made])
    assert f"check: {made} is stopped: Client.UserInitiatedShutdown" in cloud.fails("check", "vm1")


def test_an_instance_that_ec2_finds_ill_fails_its_check(cloud: Cloud) -> None:
    made = json.loads(cloud.works("create", "vm1"))["id"]
    cloud.aws.says("DescribeInstanceStatus", "<status>ok</status>", "<status>impaired</status>")
    told = cloud.fails("check", "vm1")
    assert f"check: {made}: the instance is impaired, the system below it impaired" in told


def test_being_throttled_now_and_then_is_waited_out(cloud: Cloud) -> None:
    cloud.aws.refuses("RunInstances", "RequestLimitExceeded", "Request limit exceeded.", status=503, times=2)
    cloud.works("create", "vm1")
    assert cloud.aws.alive(cloud.pool) == ["vm1"]


def test_being_throttled_for_good_fails_with_the_reason(cloud: Cloud) -> None:
    cloud.aws.refuses("DescribeInstances", "RequestLimitExceeded", "Request limit exceeded.", status=503)
    told = cloud.fails("list")
    assert "list: An error occurred (RequestLimitExceeded)" in told
    assert "Request limit exceeded." in told


@pytest.mark.parametrize("stage", ["create", "check", "delete", "list"])
def test_what_ec2_refuses_is_told_with_its_reason(cloud: Cloud, stage: str) -> None:
    cloud.aws.put(cloud.pool, "vm1")
    for action in ("DescribeInstances", "DescribeInstanceStatus", "RunInstances", "TerminateInstances"):
        cloud.aws.refuses(action, "UnauthorizedOperation", "You are not authorized.", status=403)
    told = cloud.fails(stage, "vm1")
    assert told.startswith(f"{stage}: An error occurred (UnauthorizedOperation)")
    assert "You are not authorized." in told


def test_an_image_that_is_not_there_fails_create_with_the_reason(aws: Aws, tmp_path: Path) -> None:
    cloud = Cloud(aws, tmp_path, {aws.image: "ami-00000000000000000"})
    assert "InvalidAMIID.NotFound" in cloud.fails("create", "vm1")


def test_an_instance_that_ends_while_it_starts_fails_create_with_the_reason(cloud: Cloud) -> None:
    cloud.begin("vm1")
    (made,) = cloud.aws.instances(cloud.pool)
    cloud.aws.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])
    told = cloud.fails("create", "vm1")
    assert f"create: {made['InstanceId']} is terminated: Client.UserInitiatedShutdown" in told


def test_create_gives_up_an_instance_that_never_runs_before_the_hook_is_killed(aws: Aws, tmp_path: Path) -> None:
    cloud = Cloud(aws, tmp_path, SOON)
    aws.says("DescribeInstances", "<name>running</name>", "<name>pending</name>")
    assert "create: gave up after 3 s" in cloud.fails("create", "vm1")


def test_the_example_gives_up_before_its_hooks_are_killed(cloud: Cloud) -> None:
    (limit,) = [line for line in (cloud.folder / "settings.toml").read_text().splitlines() if "give_up_after" in line]
    for stage in ("create", "delete"):
        assert int(limit.partition(" = ")[2]) < cloud.hook(stage).timeout.total_seconds()


def test_a_server_that_does_not_answer_is_given_up(aws: Aws, tmp_path: Path) -> None:
    cloud = Cloud(aws, tmp_path, SOON)
    aws.holds("DescribeInstances")
    assert "list: gave up after 3 s" in cloud.fails("list")


NOT_SET_UP: Mapping[str, tuple[str, str, str]] = {
    "no such profile": ('profile = "leasehold"', 'profile = "nobody"', "profile (nobody) could not be found"),
    "no region": ('region = "eu-central-1"', "", "You must specify a region"),
    "a typo": ("look_every", "look_evry", "there is no look_evry"),
    "no TOML": ("region =", "region", "Expected '='"),
    "the pool is missing": ("[pools.", "[pools.other-", "has no [pools."),
    "not the pool's to choose": ("KeyName =", 'ClientToken = "x"\nKeyName =', "cannot choose ClientToken"),
    "an argument that is none": ("KeyName =", "KeyNam =", 'Unknown parameter in input: "KeyNam"'),
}


@pytest.mark.parametrize("mistake", NOT_SET_UP)
def test_a_mistake_in_the_settings_is_told(cloud: Cloud, mistake: str) -> None:
    file = cloud.folder / "settings.toml"
    written, instead, told = NOT_SET_UP[mistake]
    file.write_text(file.read_text().replace(written, instead))
    assert told in cloud.fails("create", "vm1")
    assert cloud.aws.alive(cloud.pool) == []


HOSTILE = [
    "$(touch attacked)",
    "`touch attacked`",
    "a; touch attacked",
    "a\ntouch attacked",
    "*",
    "?????",
    "bücher",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_none_reaches_neither_a_shell_nor_ec2(cloud: Cloud, name: str) -> None:
    cloud.aws.put(cloud.pool, "vm1")
    before = sorted(os.listdir(cloud.folder))
    for stage in ("create", "check", "delete", "list"):
        assert "LEASEHOLD_POOL is no name" in cloud.fails(stage, "vm1", LEASEHOLD_POOL=name)
    for stage in ("create", "check", "delete"):
        assert "LEASEHOLD_RESOURCE is no name" in cloud.fails(stage, name)
    assert cloud.aws.alive(cloud.pool) == ["vm1"]
    assert sorted(os.listdir(cloud.folder)) == before
