"""What `deliver` prints reaches the lease's holder, and nobody else by any other way."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.bmcs import USER, emulated
from tests.e2e.lab import Gate, Lab, until
from tests.stack import Stack, all_processes

DEPTH = 4
"""So many wrappings of base64 are looked into: payloads are in base64, and may carry some themselves."""


def test_a_delivered_secret_is_nowhere_but_with_its_holder(stack: Stack, lab: Lab) -> None:
    secret = f"canary-{uuid.uuid4().hex}"
    (lab.folder / "secret").write_text(f"PASSWORD={secret}\n")
    delivering, releasing = Gate(lab), Gate(lab)
    pool = lab.pool(deliver=f"cat secret; echo delivered >&2; {delivering.hook}", release=releasing.hook)
    lease = lab.take(pool, wait=None)
    until(lambda: delivering.runs == 1, "deliver runs")
    check_processes(secret)
    delivering.open()
    lab.comes_to(lease, "active")

    assert lab.client.delivery(lease["id"])["resources"][0]["data"] == f"PASSWORD={secret}\n"

    lab.client.release(lease["id"])
    until(lambda: releasing.runs == 1, "release runs")
    check_processes(secret)
    releasing.open()
    lab.all_free(pool)
    log = b"".join(lab.client.log(lease["id"])).decode()
    assert "delivered" in log
    assert secret not in log
    check_histories(stack, secret, lease["id"], pool, recyclings=1)
    check_files(stack, secret)


def test_what_a_failing_deliver_printed_is_kept_nowhere(stack: Stack, lab: Lab) -> None:
    secret = f"canary-{uuid.uuid4().hex}"
    (lab.folder / "secret").write_text(f"PASSWORD={secret}\n")
    pool = lab.pool(deliver={"run": "cat secret; exit 7", "attempts": 2}, release="true")

    lease = lab.take(pool, wait="ended")

    assert lease["outcome"] == "failed"
    told = json.dumps([lease, *lab.client.events(lease["id"]), *lab.client.resources(pool=pool)])
    assert "exited with status 7" in told
    assert not inside(told, secret)
    assert secret not in b"".join(lab.client.log(lease["id"])).decode()
    check_histories(stack, secret, lease["id"], pool, recyclings=0)
    check_files(stack, secret, kept=False)


def test_what_an_http_hook_sends_and_gets_is_as_secret(stack: Stack, lab: Lab) -> None:
    token, secret = f"canary-{uuid.uuid4().hex}", f"canary-{uuid.uuid4().hex}"
    (lab.folder / "token").write_text(f"{token}\n")
    with answering(f"PASSWORD={secret}\n", token) as url:
        authorized = {"files": {"token": "token"}, "headers": {"Authorization": "Bearer {{ files.token }}"}}
        good = lab.pool(deliver={"http": {"url": f"{url}/login?token={{{{ files.token }}}}", **authorized}})
        bad = lab.pool(deliver={"http": {"url": f"{url}/login", "expect": 201, **authorized}})

        lease = lab.take(good)
        failed = lab.take(bad, wait="ended")

    assert lab.client.delivery(lease["id"])["resources"][0]["data"] == f"PASSWORD={secret}\n"
    assert failed["outcome"] == "failed"
    told = json.dumps([failed, *lab.client.events(failed["id"])])
    assert f"GET {url}/login: 200, expected 201" in told
    log = b"".join([*lab.client.log(lease["id"]), *lab.client.log(failed["id"])]).decode()
    assert f"GET {url}/login: 200 in" in log
    for canary in (token, secret):
        assert not inside(told, canary)
        assert canary not in log
        check_processes(canary)
        check_histories(stack, canary, lease["id"], good, recyclings=0)
        check_histories(stack, canary, failed["id"], bad, recyclings=0)
    check_files(stack, secret)
    check_files(stack, token, kept=False)


def test_the_password_of_a_bmc_is_as_secret(stack: Stack, lab: Lab) -> None:
    password = f"canary-{uuid.uuid4().hex}"
    (lab.folder / "password").write_text(f"{password}\n")
    with emulated(lab.folder / "bmc", ["host1"], password=password) as bmc:
        login = {"address": bmc.url, "user": USER, "password": {"file": "password"}}
        good = lab.pool(wipe={"redfish": {**login, "do": [{"boot": "pxe"}, {"power": "on"}]}})
        bad = lab.pool(wipe={"redfish": {**login, "user": "nobody", "do": {"power": "off"}}})

        lease = lab.take(good)
        failed = lab.take(bad, wait="ended")
        assert bmc.power("host1") == "On"

    assert failed["outcome"] == "failed"
    told = json.dumps([failed, *lab.client.events(lease["id"]), *lab.client.events(failed["id"])])
    assert "the BMC refuses this user and password: 401" in told
    log = b"".join([*lab.client.log(lease["id"]), *lab.client.log(failed["id"])]).decode()
    assert "boot: pxe: accepted" in log
    assert not inside(told, password)
    assert password not in log
    check_processes(password)
    check_histories(stack, password, lease["id"], good, recyclings=0)
    check_histories(stack, password, failed["id"], bad, recyclings=0)
    check_files(stack, password, kept=False)


@contextlib.contextmanager
def answering(text: str, token: str) -> Iterator[str]:
    """A server that tells whoever has the token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == f"Bearer {token}"
            body = text.encode() if allowed else b""
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def check_processes(secret: str) -> None:
    """No command line shows it to everyone on this machine."""
    commands = [process.command for process in all_processes()]
    assert any("supervisor" in command for command in commands)
    assert [command for command in commands if inside(command, secret)] == []


def check_histories(stack: Stack, secret: str, lease: str, pool: str, recyclings: int) -> None:
    """Neither the lease's history in Temporal has it, nor those of its recyclings."""
    query = f'WorkflowId STARTS_WITH "recycle:{pool}:"'
    listed = json.loads(stack.temporal("workflow", "list", "--query", query, "--output", "json") or "[]")
    recycled = [workflow["execution"]["workflowId"] for workflow in listed]
    assert len(recycled) == recyclings
    for workflow in (lease, *recycled):
        for command in ("show", "describe"):
            shown = stack.temporal("workflow", command, "--workflow-id", workflow, "--output", "json")
            texts = list(strings(json.loads(shown)))
            assert any(inside(text, pool) for text in texts), "this looks at the wrong thing"
            assert [text for text in texts if inside(text, secret)] == []


def check_files(stack: Stack, secret: str, kept: bool = True) -> None:
    """Of all the stack's files its database alone has it: not the logs, not the log store, not Temporal's database."""
    files = [stack.log, *(file for file in stack.data.rglob("*") if file.is_file())]
    assert {"up.log", "logs.db", "temporal.db", "leasehold.db"} <= {file.name for file in files}
    found = {file.name.removesuffix("-wal") for file in files if has(file, secret)}
    assert found == ({"leasehold.db"} if kept else set())
    assert stack.data.stat().st_mode & 0o077 == 0


def has(file: Path, secret: str) -> bool:
    """Whether a file contains the secret, as it is or in base64, whose writing depends on where it begins."""
    content = file.read_bytes()
    written = {secret.encode()}
    for offset in range(3):
        encoded = base64.b64encode(b"-" * offset + secret.encode())
        written.add(encoded[4 : len(encoded) // 4 * 4 - 4])
    return any(form in content for form in written)


def inside(text: str, secret: str, depth: int = DEPTH) -> bool:
    """Whether a text is, contains or encodes the secret."""
    if secret in text:
        return True
    if depth > 0:
        with contextlib.suppress(binascii.Error, UnicodeDecodeError, ValueError):
            decoded = base64.b64decode(text, validate=True).decode()
            return bool(decoded) and inside(decoded, secret, depth - 1)
    return False


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
