"""The command line and the Python client as an account by MUNGE: a credential for each request, repeated ones too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from leasehold.client import Client
from leasehold.errors import Unavailable
from leasehold.munge import MungeAuth, bound
from leasehold.wire import never_sent
from tests.api.accounts import ACCOUNT, taking_munge
from tests.api.commands import AnyCommands, any_commands
from tests.api.port import served
from tests.api.stack import URL, Stack
from tests.munge import Munged

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "access.md"


@pytest.fixture
def app(stack: Stack, munged: Munged) -> FastAPI:
    return taking_munge(stack, munged.socket)


class TestCommands:
    @pytest_asyncio.fixture(loop_scope="package")
    async def leasehold(
        self, stack: Stack, app: FastAPI, munged: Munged, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[AnyCommands]:
        """Commands as the account; the admin's token, which is there too, is not sent."""
        monkeypatch.setenv("LEASEHOLD_AUTH", "munge")
        monkeypatch.setenv("LEASEHOLD_MUNGE_SOCKET", str(munged.socket))
        async with any_commands(replace(stack, app=app)) as run:
            yield run

    async def test_they_come_as_the_account(self, stack: Stack, leasehold: AnyCommands) -> None:
        pool = await stack.pool(1)
        status, out, err = await leasehold("take", pool, "--json")
        assert status == 0, err
        lease = json.loads(out)
        assert lease["owner"] == ACCOUNT
        status, _, err = await leasehold("release", lease["id"])
        assert status == 0, err

    async def test_one_that_runs_something_on_what_it_leases(self, stack: Stack, leasehold: AnyCommands) -> None:
        pool = await stack.pool(1)
        status, out, err = await leasehold("run", "--pool", pool, "--", "echo", "done")
        assert (status, out) == (0, b"done\n"), err

    @pytest.mark.parametrize("ref", ["ä b/c?d", "%41"])
    async def test_names_that_are_sent_in_escapes(self, leasehold: AnyCommands, ref: str) -> None:
        _, _, err = await leasehold("show", ref)
        assert b"_unknown" in err or b"not_found" in err

    async def test_filters_are_a_part_of_the_request(self, stack: Stack, leasehold: AnyCommands) -> None:
        pool = await stack.pool(2)
        status, out, err = await leasehold("resource", "ls", "--pool", pool, "--match", "n=1", "--json")
        assert status == 0, err
        assert b"r1" in out

    async def test_without_munge_nothing_is_sent(
        self, leasehold: AnyCommands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        status, _, err = await leasehold("ls")
        sentence = b"MUNGE's credentials are asked for, and its program munge is not installed (unavailable)\n"
        assert (status, err) == (1, sentence)

    async def test_without_munged_it_says_so(
        self, leasehold: AnyCommands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("LEASEHOLD_MUNGE_SOCKET", str(tmp_path / "nothing"))
        status, _, err = await leasehold("ls")
        assert status == 1
        assert err.startswith(b"munge made no credential: Failed to access")

    async def test_a_way_that_there_is_not(self, leasehold: AnyCommands, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LEASEHOLD_AUTH", "kerberos")
        status, _, err = await leasehold("ls")
        assert (status, err) == (2, b"LEASEHOLD_AUTH=kerberos: it may be token or munge (invalid)\n")


class Losing(httpx.BaseTransport):
    """A way to the service on which every other answer is lost, the first one too, after it was served."""

    def __init__(self) -> None:
        self._real = httpx.HTTPTransport()
        self.credentials: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.credentials.append(request.headers["Authorization"])
        answer = self._real.handle_request(request)
        if len(self.credentials) % 2:
            answer.read()
            raise httpx.ReadError("the connection broke", request=request)
        return answer

    def close(self) -> None:
        self._real.close()


class Proxied(httpx.HTTPTransport):
    """A proxy that has the service at `/lab`."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path.startswith(b"/lab/")
        request.url = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(b"/lab"))
        return super().handle_request(request)


async def test_a_repeated_request_has_another_credential(stack: Stack, app: FastAPI, munged: Munged) -> None:
    pool, path = await stack.pool(1), Losing()
    async with served(app) as url:
        with Client(url, auth=MungeAuth(url, munged.socket), transport=path) as client:
            lease = await asyncio.to_thread(client.submit, [{"pool": pool}])
            await asyncio.to_thread(client.cancel, lease["id"])
    assert lease["owner"] == ACCOUNT
    assert len(path.credentials) == len(set(path.credentials)) == 4


async def test_behind_a_proxy_with_a_path_of_its_own(app: FastAPI, munged: Munged) -> None:
    async with served(app) as served_at:
        url = f"{served_at}/lab/"
        with Client(url, auth=MungeAuth(url, munged.socket), transport=Proxied()) as client:
            whoami = await asyncio.to_thread(client.whoami)
    assert whoami["user"] == ACCOUNT


async def test_what_has_no_credential_was_never_sent(tmp_path: Path, munged: Munged) -> None:
    nowhere = httpx.MockTransport(lambda request: pytest.fail("it was sent"))
    with Client(URL, auth=MungeAuth(URL, tmp_path / "nothing"), transport=nowhere) as client:
        with pytest.raises(Unavailable) as error:
            await asyncio.to_thread(client.whoami)
    assert never_sent(error.value)


async def test_what_the_reference_shows_to_do_by_hand() -> None:
    block = REFERENCE.read_text().partition("```bash\n")[2].partition("curl ")[0]
    process = await asyncio.create_subprocess_exec(
        "sh", "-euc", f'{block}printf %s "$said"', stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert said.decode() == bound("POST", b"/v1/leases", b'{"items": [{"pool": "vm"}]}')


def test_a_program_that_is_missing_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    pauses: list[float] = []
    monkeypatch.setattr("leasehold.wire.time.sleep", pauses.append)
    with Client(URL, auth=MungeAuth(URL)) as client, pytest.raises(Unavailable, match="munge is not installed"):
        client.whoami()
    assert pauses == []
