"""Users' tokens on a real stack: from the command line to their end in every process, and nowhere to be found."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from leasehold.client import Client
from leasehold.errors import LeaseholdError, Unauthenticated
from tests.e2e.lab import Lab, until
from tests.e2e.test_secrets import check_files, check_histories, check_processes
from tests.stack import COMMAND_WITHIN_S, LEASEHOLD, ROOT, STOPPED_WITHIN_S, Stack, free_ports

TOKEN = re.compile(r"lh_([a-z2-7]{12})_([a-z2-7]{52})")
KNOWN_WITHIN_S = 2.0


def leasehold(stack: Stack, token: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as whoever bears a token, or as the admin of this machine."""
    return subprocess.run(
        [str(LEASEHOLD), *arguments],
        env=stack.environment if token is None else {**stack.environment, "LEASEHOLD_TOKEN": token},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
    )


def new_token(stack: Stack, *arguments: str) -> tuple[str, str, str]:
    """Make a token as the admin; its string, its id and its secret."""
    done = leasehold(stack, None, "token", "create", *arguments)
    assert done.returncode == 0, done.stderr
    found = TOKEN.fullmatch(done.stdout.removesuffix("\n"))
    assert found, done.stdout
    return found[0], found[1], found[2]


def statuses(stack: Stack, token: str, *commands: Sequence[str]) -> list[int]:
    return [leasehold(stack, token, *command).returncode for command in commands]


def test_a_pipeline_works_with_its_own_token_and_nobody_elses(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(2, deliver="echo welcome")
    ci, ci_id, _ = new_token(stack, "--user", "ci", "--pool", pool)
    bob, _, _ = new_token(stack, "--user", "bob")

    taken = leasehold(stack, ci, "take", pool)
    assert taken.returncode == 0, taken.stderr
    assert "welcome" in taken.stdout
    (lease,) = lab.client.leases(owner="ci", pool=pool)
    number = str(lease["number"])

    forbidden = (["release", number], ["delivery", number], ["extend", number, "--by", "1m"], ["logs", number])
    assert statuses(stack, bob, *forbidden, ["show", number]) == [3, 3, 3, 3, 0]
    assert statuses(stack, ci, ["take", lab.pool()], ["apply", "-f", "examples/lab/pools.yaml"]) == [3, 3]
    assert statuses(stack, ci, ["delivery", number], ["release", number]) == [0, 0]
    assert f"token: {ci_id}" in leasehold(stack, ci, "token", "whoami").stdout

    assert leasehold(stack, None, "token", "revoke", ci_id).returncode == 0
    refused = leasehold(stack, ci, "ls")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "was revoked (unauthenticated)" in refused.stderr


@contextlib.contextmanager
def another_api(stack: Stack) -> Iterator[str]:
    """A second API process on the same data; its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with stack.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api"],
            env={**stack.environment, "LEASEHOLD_API_PORT": str(port), "TEMPORAL_ADDRESS": stack.temporal_address},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: answers(url), "the second API answers")
        yield url
    finally:
        process.terminate()
        process.wait(STOPPED_WITHIN_S)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=2, verify=False, trust_env=False).status_code == 200
    return False


def knows(client: Client) -> bool:
    with contextlib.suppress(Unauthenticated):
        return client.whoami()["user"] == "ci"
    return False


def test_a_revoked_token_is_refused_by_every_process_within_two_seconds(stack: Stack) -> None:
    token, token_id, _ = new_token(stack, "--user", "ci")
    with another_api(stack) as url, Client(url, token) as far, stack.client(token) as near, stack.client() as admin:
        assert (far.whoami()["user"], near.whoami()["user"]) == ("ci", "ci")
        until(lambda: admin.token(token_id)["last_used_at"], "its use is noted")
        admin.revoke_token(token_id)
        begun = time.monotonic()
        with pytest.raises(Unauthenticated):
            near.whoami()
        while knows(far):
            assert time.monotonic() - begun < KNOWN_WITHIN_S
            time.sleep(0.01)


def test_a_log_that_is_followed_breaks_off_when_its_token_is_revoked(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(validate="while :; do echo tick; sleep 0.2; done")
    lease = lab.take(pool, wait=None)
    token, token_id, _ = new_token(stack, "--user", "olga", "--role", "operator")
    pieces: list[bytes] = []

    def follow() -> None:
        with stack.client(token) as client:
            for piece in client.log(lease["id"], follow=True):
                pieces.append(piece)

    with ThreadPoolExecutor(1) as pool_of_one:
        following = pool_of_one.submit(follow)
        until(lambda: b"tick" in b"".join(pieces), "the log is followed")
        lab.client.revoke_token(token_id)
        with pytest.raises(LeaseholdError):
            following.result(timeout=COMMAND_WITHIN_S)
    assert lab.look(lease)["state"] == "preparing"


def test_a_log_that_is_followed_breaks_off_when_the_lease_goes_to_another_owner(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(validate="while :; do echo tick; sleep 0.2; done")
    token, _, _ = new_token(stack, "--user", "olga", "--role", "user")
    with stack.client(token) as olga:
        lease = olga.submit([{"pool": pool}])
    pieces: dict[str, list[bytes]] = {token: [], str(lease["token"]): []}

    def follow(bearer: str) -> None:
        with stack.client(bearer) as client:
            for piece in client.log(lease["id"], follow=True):
                pieces[bearer].append(piece)

    with ThreadPoolExecutor(2) as pool_of_two:
        following = [pool_of_two.submit(follow, bearer) for bearer in pieces]
        until(lambda: all(b"tick" in b"".join(seen) for seen in pieces.values()), "the log is followed")
        lab.client.transfer(lease["id"], "tom")
        for one in following:
            with pytest.raises(LeaseholdError):
                one.result(timeout=COMMAND_WITHIN_S)
    assert lab.look(lease)["state"] == "preparing"
    lab.client.cancel(lease["id"])


def test_the_secret_of_a_token_is_nowhere_but_with_its_bearer(stack: Stack, lab: Lab) -> None:
    token, token_id, secret = new_token(stack, "--user", f"ci-{uuid.uuid4().hex[:8]}")
    pool = lab.pool(validate="env", release="true")
    command = [str(LEASEHOLD), "run", "--pool", pool, "--", "sh", "-c", "echo running; read line"]
    with subprocess.Popen(
        command,
        env={**stack.environment, "LEASEHOLD_TOKEN": token},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "running\n"
        check_processes(secret)
        run.communicate("\n", timeout=COMMAND_WITHIN_S)
    (lease,) = lab.client.leases(pool=pool)
    assert lab.comes_to(lease, "ended")["outcome"] == "released"
    lab.all_free(pool)
    # One that is wrong by its last letter, and one that is not valid any more, are told about nowhere either.
    for wrong in (token[:-1] + ("a" if token[-1] != "a" else "b"), token):
        if wrong == token:
            lab.client.revoke_token(token_id)
        refused = leasehold(stack, wrong, "ls", "--json")
        assert refused.returncode == 1
        assert wrong.rpartition("_")[2] not in refused.stdout + refused.stderr
    assert secret not in b"".join(lab.client.log(lease["id"])).decode()
    check_histories(stack, secret, lease["id"], pool, recyclings=1)
    check_files(stack, secret, kept=False)
