"""AWS for tests: moto's emulator as a process of its own, which fails as it is told to.

`python -m tests.aws PORT` is that process.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import boto3
import httpx

from tests.servers import Server, free_port, running

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "ec2"
REGION, PROFILE = "eu-central-1", "leasehold"
READY_S = 60.0
_FAULTS = "/leasehold-faults"

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Aws:
    """A running emulator. What was put into it is gone with it."""

    def __init__(self, server: Server, url: str) -> None:
        self.url = url
        self._server = server
        self._faults: list[dict[str, Any]] = []

    @cached_property
    def ec2(self) -> Any:
        """A client of its EC2."""
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client("ec2", region_name=REGION, endpoint_url=self.url, **keys)

    @cached_property
    def image(self) -> str:
        """An image that it has."""
        return str(self.ec2.describe_images()["Images"][0]["ImageId"])

    @cached_property
    def subnet(self) -> str:
        """A subnet that it has."""
        return str(self.ec2.describe_subnets()["Subnets"][0]["SubnetId"])

    @cached_property
    def group(self) -> str:
        """A security group that it has."""
        return str(self.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"])

    def instances(self, pool: str) -> list[dict[str, Any]]:
        """All instances of a pool, as EC2 describes them, those that have ended too."""
        mine = [{"Name": "tag:leasehold-pool", "Values": [pool]}]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=mine)
        return [one for page in pages for found in page["Reservations"] for one in found["Instances"]]

    def alive(self, pool: str) -> list[str]:
        """The names of a pool's instances that have not ended."""
        ended = {"shutting-down", "terminated"}
        living = [one for one in self.instances(pool) if one["State"]["Name"] not in ended]
        return sorted(tag["Value"] for one in living for tag in one["Tags"] if tag["Key"] == "Name")

    def put(self, pool: str, name: str) -> str:
        """Make an instance with these tags, and return its id."""
        tags = [{"Key": "Name", "Value": name}, {"Key": "leasehold-pool", "Value": pool}]
        made = self.ec2.run_instances(
            ImageId=self.image,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        return str(made["Instances"][0]["InstanceId"])

    def refuses(self, action: str, code: str, message: str, *, status: int = 400, times: int | None = None) -> None:
        """From now on an action is answered with this error, always or so many times."""
        error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
        self._fault(action, status=status, body=f"<Response><Errors>{error}</Errors></Response>", times=times)

    def shows_nothing(self, times: int) -> None:
        """So many times EC2 shows no instance, as it does for some seconds after one was made."""
        body = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
        self._fault("DescribeInstances", status=200, body=body, times=times)

    def holds(self, action: str) -> None:
        """From now on an action is carried out and never answered."""
        self._fault(action, hold=True)

    def says(self, action: str, instead: str, said: str) -> None:
        """From now on an answer to an action says something else."""
        self._fault(action, replace=[instead, said])

    def works(self) -> None:
        """From now on nothing goes wrong."""
        self._faults = []
        self._tell()

    def _fault(self, action: str, **fault: Any) -> None:
        self._faults.append({"action": action, **fault})
        self._tell()

    def _tell(self) -> None:
        httpx.put(f"{self.url}{_FAULTS}", json=self._faults, trust_env=False).raise_for_status()

    def wait(self) -> None:
        """Return once it answers."""
        end = time.monotonic() + READY_S
        while True:
            self._server.check()
            with suppress(httpx.TransportError):
                self._tell()
                return
            assert time.monotonic() < end, "the emulator of AWS does not answer"
            time.sleep(0.05)


@contextmanager
def aws_emulator() -> Iterator[Aws]:
    """An emulator until the block ends; `url` of it is its endpoint."""
    folder, port = Path(tempfile.mkdtemp(prefix="leasehold-aws-")), free_port()
    settings = {"PYTHONPATH": str(ROOT), "MOTO_ENABLE_AMI_VALIDATION": "true"}
    command = ["env", *(f"{name}={value}" for name, value in settings.items())]
    command += [sys.executable, "-m", "tests.aws", str(port)]
    with running(command, folder=folder, stop="KILL") as server:
        aws = Aws(server, f"http://127.0.0.1:{port}")
        aws.wait()
        yield aws


def example(aws: Aws, folder: Path, *, pool: str = "ec2", more: Mapping[str, str] | None = None) -> Path:
    """A copy of examples/ec2 as its reader has it: with an account of this emulator's, and their own pool.

    `more` replaces what else stands in settings.toml.
    """
    copy = folder / "ec2"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    login = f"[{PROFILE}]\naws_access_key_id = test\naws_secret_access_key = test\n"
    (copy / "credentials").write_text(login)
    _replace(
        copy / "settings.toml",
        {
            "ami-0123456789abcdef0": aws.image,
            "subnet-0123456789abcdef0": aws.subnet,
            "sg-0123456789abcdef0": aws.group,
            '# endpoint = "https://ec2.cloud.example.com"': f'endpoint = "{aws.url}"',
            '# credentials = "/etc/leasehold/aws-credentials"': 'credentials = "credentials"',
            "look_every = 5": "look_every = 0.1",
            "[pools.ec2]": f"[pools.{pool}]",
            **(more or {}),
        },
    )
    _replace(copy / "pools.yaml", {"[python3,": f"[{sys.executable},", "name: ec2": f"name: {pool}"})
    return copy


def _replace(file: Path, texts: Mapping[str, str]) -> None:
    text = file.read_text()
    for written, here in texts.items():
        assert written in text, written
        text = text.replace(written, here)
    file.write_text(text)


class _Failing:
    """The emulator, with what it was told to get wrong."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app
        self._faults: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == _FAULTS:
            self._faults = json.loads(body)
            start("204 No Content", [])
            return []
        environ["wsgi.input"] = io.BytesIO(body)
        (action,) = parse_qs(body.decode()).get("Action", [""])
        fault = next((one for one in self._faults if one["action"] == action and one.get("times") != 0), {})
        if fault.get("times") is not None:
            fault["times"] -= 1
        if "body" in fault:
            start(f"{fault['status']} As told", [("Content-Type", "text/xml")])
            return [fault["body"].encode()]
        return self._answer(environ, start, fault)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any], fault: dict[str, Any]) -> Iterable[bytes]:
        said: list[Any] = []
        answer = b"".join(self._app(environ, lambda *head: said.extend(head)))
        if fault.get("hold"):
            threading.Event().wait()
        if "replace" in fault:
            instead, told = fault["replace"]
            answer = answer.replace(instead.encode(), told.encode())
        status, headers = said[:2]
        start(status, [(key, value) for key, value in headers if key.lower() != "content-length"])
        return [answer]


def _one_for_each_token() -> None:
    """Have it answer a client token again with what it made for it, as EC2 does; by itself it makes another."""
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.models.instances import InstanceBackend

    run, made, lock = InstanceBackend.run_instances, dict[str, Any](), threading.Lock()

    def run_instances(self: InstanceBackend, *args: Any, **kwargs: Any) -> Any:
        with lock:
            token = kwargs["client_token"]
            if token not in made:
                made[token] = (args, kwargs), run(self, *args, **kwargs)
            asked, reservation = made[token]
            if asked != (args, kwargs):
                raise EC2ClientError("IdempotentParameterMismatch", f"{token} stood for something else")
            return reservation

    InstanceBackend.run_instances = run_instances  # type: ignore[method-assign]


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    os.environ["MOTO_PORT"] = str(port)
    _one_for_each_token()
    run_simple("127.0.0.1", port, _Failing(DomainDispatcherApplication(create_backend_app)), threaded=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
