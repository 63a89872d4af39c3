"""The driver `http`: what a hook sends, what it makes of the answer, and what it tells."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest

from activities.drivers.answer import BODY_LIMIT
from activities.drivers.http import HttpDriver
from activities.drivers.output import RESULT_LIMIT
from leasehold.errors import Unavailable
from leasehold.ports import Ending
from tests.contract.command_hooks import GRACE, PATIENCE, Log, until
from tests.contract.http_hooks import (
    LEASE,
    Asked,
    Server,
    answers,
    ask,
    hang_up,
    http_call,
    never,
    one_after_another,
    serving,
)
from tests.servers import free_port


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with asyncio.timeout(2 * PATIENCE), serving() as server:
        yield server


@pytest.fixture
def driver(tmp_path: Path) -> HttpDriver:
    return HttpDriver(tmp_path / "locks", GRACE)


class TestTheRequest:
    async def test_a_url_alone_is_a_get(self, driver: HttpDriver, server: Server) -> None:
        assert (await ask(driver, http_call({"url": f"{server.url}/power"}))).ok
        (asked,) = server.asked
        assert (asked.method, asked.target, asked.body) == ("GET", "/power", b"")
        assert asked.header("host") == f"127.0.0.1:{server.port}"

    @pytest.mark.parametrize("body", [{"json": {}}, {"json": None}, {"body": "x"}, {"body": ""}])
    async def test_with_a_body_it_is_a_post(self, driver: HttpDriver, server: Server, body: dict[str, Any]) -> None:
        assert (await ask(driver, http_call({"url": server.url, **body}))).ok
        assert server.asked[0].method == "POST"

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    async def test_the_method_is_the_one_given(self, driver: HttpDriver, server: Server, method: str) -> None:
        assert (await ask(driver, http_call({"url": server.url, "method": method, "json": 1}))).ok
        assert (server.asked[0].method, server.asked[0].body) == (method, b"1")

    async def test_templates_see_the_lease_the_resource_the_stage_and_the_attempt(
        self, driver: HttpDriver, server: Server
    ) -> None:
        hook = {
            "url": "http://{{ resource.properties.bmc }}:"
            + f"{server.port}"
            + "/{{ resource.pool }}/{{ stage }}?n={{ attempt }}",
            "headers": {"X-Lease": "{{ lease.id }}-{{ lease.number }}", "X-Epoch": "{{ resource.epoch }}"},
            "json": {
                "who": "{{ lease.owner }}",
                "role": "{{ resource.role }}",
                "hosts": ["{{ lease.resources | map(attribute='name') | join(' ') }}"],
                "tag": "{{ resource.tags[0] }}",
                "image": "{{ resource.params.image | default('el8') }}",
                "kept": [1, 2.5, True, None, {"{{ no template }}": "x"}],
            },
        }
        assert (await ask(driver, http_call(hook, params={"image": "el9"}))).ok
        (asked,) = server.asked
        assert asked.target == "/r640/provision?n=2"
        assert (asked.header("x-lease"), asked.header("x-epoch")) == ("nightly-7", "43")
        assert asked.header("content-type") == "application/json"
        assert asked.json() == {
            "who": "alice",
            "role": "bastion",
            "hosts": ["host01 host02"],
            "tag": "metal",
            "image": "el9",
            "kept": [1, 2.5, True, None, {"{{ no template }}": "x"}],
        }

    async def test_a_body_of_text_is_sent_as_it_is_rendered(self, driver: HttpDriver, server: Server) -> None:
        line = "{{ loop.index }} {{ one.name }} {{ one.properties | tojson }}\n"
        body = f"{{% for one in lease.resources %}}{line}{{% endfor %}}ä"
        assert (await ask(driver, http_call({"url": server.url, "method": "PUT", "body": body}))).ok
        (asked,) = server.asked
        properties = '{"bmc": "127.0.0.1", "cores": 48, "uplink": null}'
        assert asked.body.decode() == f"1 host01 {properties}\n2 host02 {properties}\nä"
        assert asked.header("content-type") == "text/plain; charset=utf-8"

    async def test_a_header_replaces_the_one_that_is_sent_otherwise(self, driver: HttpDriver, server: Server) -> None:
        headers = {"content-type": "application/x-ndjson", "USER-AGENT": "lab", "Accept": "text/plain"}
        assert (await ask(driver, http_call({"url": server.url, "body": "x", "headers": headers}))).ok
        names = [name for name, _ in server.asked[0].headers]
        assert sorted(names) == sorted(set(names))
        assert {name: server.asked[0].header(name) for name in headers} == headers

    async def test_a_lease_wide_hook_has_no_resource(self, driver: HttpDriver, server: Server) -> None:
        hook = {"url": server.url, "json": "{{ resource is none }} {{ lease.resources | length }}"}
        assert (await ask(driver, http_call(hook, resource=None, locks=("r640/host01", "r640/host02")))).ok
        assert server.asked[0].json() == "true 2"

    async def test_a_resource_that_was_never_lent_has_no_lease(self, driver: HttpDriver, server: Server) -> None:
        hook = {
            "url": server.url + "/{{ resource.name }}",
            "json": "{{ lease is none }} {{ resource.properties.cores }}",
        }
        assert (await ask(driver, http_call(hook, lease={}))).ok
        assert (server.asked[0].target, server.asked[0].json()) == ("/host01", "true 8")

    async def test_a_resource_that_the_lease_had_before_is_told_as_it_has_it_now(
        self, driver: HttpDriver, server: Server
    ) -> None:
        first, second = ({**LEASE["resources"][0], "role": role} for role in ("old", "new"))
        hook = {"url": server.url, "json": "{{ resource.role }}"}
        assert (await ask(driver, http_call(hook, lease={**LEASE, "resources": [first, second]}))).ok
        assert server.asked[0].json() == "new"

    async def test_a_token_comes_from_a_file_beside_the_pools_file(
        self, driver: HttpDriver, server: Server, tmp_path: Path
    ) -> None:
        (tmp_path / "token").write_text("s3cret\n")
        hook = {
            "url": server.url,
            "files": {"token": "token"},
            "headers": {"Authorization": "Bearer {{ files.token }}"},
        }
        assert (await ask(driver, http_call(hook, folder=tmp_path))).ok
        assert server.asked[0].header("authorization") == "Bearer s3cret"

    async def test_nothing_of_the_workers_own_is_sent_or_used(
        self, driver: HttpDriver, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login leasehold password hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert (await ask(driver, http_call({"url": server.url}))).ok
        assert server.asked[0].header("authorization") is None


class TestWhatCannotBeSent:
    @pytest.mark.parametrize(
        ("http", "why"),
        [
            ({"url": "http://h/{{ resource.properties.bcm }}"}, "url: 'bcm' is missing"),
            ({"url": "http://h/{{ resource.properties.uplink }}"}, "url: a value is null"),
            ({"url": "http://h:{{ resource.name }}/"}, "url: this is no URL"),
            ({"url": "http://h", "headers": {"X": "{{ resource.tags }}"}}, "headers.X: a value is a list"),
            ({"url": "http://h", "json": {"a": ["{{ lease.x.y }}"]}}, "json.a[0]: 'x' is missing"),
            ({"url": "http://h", "body": "{{ lease.number + lease.owner }}"}, "body: `+` needs numbers"),
            ({"url": "http://h", "body": "{{ resource.tags < 1 }}"}, "body: values are of types that"),
            ({"url": "http://h", "files": {"token": "none"}}, "files.token: none: No such file"),
            ({"url": "http://h", "files": {"token": "."}}, "files.token: .: Is a directory"),
            ({"url": "http://h", "files": {"token": "bytes"}}, "files.token: bytes: this is no text"),
            ({"url": "http://h", "files": {"token": "long"}}, "files.token: long: this is longer than 64 KiB"),
            ({"url": "https://h", "verify": "none"}, "verify: none: No such file"),
            ({"url": "https://h", "verify": "bytes"}, "verify: bytes: there is no certificate in it"),
        ],
    )
    async def test_it_says_why_in_words_and_counts_as_an_attempt(
        self, driver: HttpDriver, tmp_path: Path, http: dict[str, Any], why: str
    ) -> None:
        (tmp_path / "bytes").write_bytes(b"\xff")
        (tmp_path / "long").write_bytes(b"x" * 70_000)
        result = await ask(driver, http_call(http, folder=tmp_path))
        assert (result.ending, result.code, result.ok) == (Ending.NOT_STARTED, None, False)
        assert result.detail.startswith(f"could not be sent: {why}")

    async def test_settings_of_another_version_are_not_the_hooks_fault(self, driver: HttpDriver) -> None:
        call = http_call({"url": "http://h"})
        hook = replace(call.hook, settings={"url": "http://h", "later": "hunter2"})
        with pytest.raises(Unavailable, match="does not understand") as caught:
            await driver.run(replace(call, hook=hook), Log())
        assert "hunter2" not in str(caught.value)


class TestWhatPeopleTyped:
    """`params`, `description` and the like are anybody's."""

    @pytest.mark.parametrize(
        "typed",
        [
            "a/b",
            "a?b=c",
            "a#b",
            "a&b=c",
            "x y",
            "ä%2F",
            "\r\nX-Evil: 1\r\n\r\n",
            "a\0b",
            "http://evil/",
            "//evil",
            "h@evil",
        ],
    )
    async def test_nothing_leaves_its_place_in_a_url(self, driver: HttpDriver, server: Server, typed: str) -> None:
        hook = {"url": server.url + "/hosts/{{ resource.params.x }}/power?who={{ resource.params.x }}&n=1"}
        assert (await ask(driver, http_call(hook, params={"x": typed}))).ok
        (asked,) = server.asked
        path, _, query = asked.target.partition("?")
        _, hosts, segment, power = path.split("/")
        assert (hosts, unquote(segment), power) == ("hosts", typed, "power")
        assert parse_qsl(query, keep_blank_values=True) == [("who", typed), ("n", "1")]
        assert asked.header("x-evil") is None

    @pytest.mark.parametrize(
        "typed", ["..", ".", "../x", "a/../../b", "..\\x", "%2e%2e", "%2e%2e%2fx", "%252e%252e", "..;/x", "", "./x"]
    )
    async def test_nothing_climbs_out_of_a_path(self, driver: HttpDriver, server: Server, typed: str) -> None:
        hook = {"url": server.url + "/hosts/{{ resource.params.x }}", "method": "DELETE"}
        result = await ask(driver, http_call(hook, params={"x": typed}))
        assert (result.ending, server.asked) == (Ending.NOT_STARTED, [])

    @pytest.mark.parametrize(
        "typed", ["evil/", "evil?", "evil#", "u@evil", "u:p@evil", "evil\\", "a b", "evil\r\n", "ä", "", "%65vil"]
    )
    async def test_nothing_leaves_the_host(self, driver: HttpDriver, server: Server, typed: str) -> None:
        hook = {"url": "http://{{ resource.params.x }}.lab.example/"}
        result = await ask(driver, http_call(hook, params={"x": typed}))
        assert (result.ending, server.asked) == (Ending.NOT_STARTED, [])

    @pytest.mark.parametrize("typed", ["x\r\nX-Evil: 1", "x\nX-Evil: 1", "x\r", "a\0b", "a\x1bb", "a\x7fb"])
    async def test_nothing_makes_a_header_of_its_own(self, driver: HttpDriver, server: Server, typed: str) -> None:
        hook = {"url": server.url, "headers": {"X-Note": "about {{ resource.params.x }} or so"}}
        result = await ask(driver, http_call(hook, params={"x": typed}))
        assert (result.ending, server.asked) == (Ending.NOT_STARTED, [])
        assert "headers.X-Note" in result.detail

    async def test_a_header_may_be_in_any_language(self, driver: HttpDriver, server: Server) -> None:
        hook = {"url": server.url, "headers": {"X-Note": " {{ resource.params.x }}\n"}}
        assert (await ask(driver, http_call(hook, params={"x": "ä\t漢"}))).ok
        sent = server.asked[0].header("x-note")
        assert sent is not None
        assert sent.encode("latin-1").decode() == "ä\t漢"

    async def test_text_stays_text_in_json(self, driver: HttpDriver, server: Server) -> None:
        hook = {"url": server.url, "json": {"name": "{{ resource.params.x }}"}}
        typed = '", "admin": true, "x": "\n\ud800'
        assert (await ask(driver, http_call(hook, params={"x": typed}))).ok
        assert server.asked[0].json() == {"name": typed}

    @pytest.mark.parametrize("typed", [{"$ne": None}, ["x"], None])
    async def test_what_is_no_text_does_not_become_one_by_itself(
        self, driver: HttpDriver, server: Server, typed: object
    ) -> None:
        hook = {"url": server.url, "json": {"name": "{{ resource.params.x }}"}}
        result = await ask(driver, http_call(hook, params={"x": typed}))
        assert (result.ending, server.asked) == (Ending.NOT_STARTED, [])

    async def test_a_template_in_what_people_typed_is_no_template(self, driver: HttpDriver, server: Server) -> None:
        hook = {"url": server.url, "json": "{{ resource.params.x }}"}
        assert (await ask(driver, http_call(hook, params={"x": "{{ files.token }}{% for %}"}))).ok
        assert server.asked[0].json() == "{{ files.token }}{% for %}"

    async def test_what_is_too_much_is_refused_quickly_and_stops_nothing_else(
        self, driver: HttpDriver, server: Server
    ) -> None:
        typed = ["x" * 30] * 2000
        body = "{% for a in resource.params.x %}{% for b in resource.params.x %}{{ b }}{% endfor %}{% endfor %}"
        result = await ask(driver, http_call({"url": server.url, "body": body}, params={"x": typed}))
        assert (result.ending, server.asked) == (Ending.NOT_STARTED, [])
        assert "too much" in result.detail

    async def test_the_server_cannot_send_the_next_request_elsewhere(self, driver: HttpDriver, server: Server) -> None:
        async with serving() as evil:
            moved = answers(201, Location=f"{evil.url}/tasks/9?x=1#y")
            server.handler = one_after_another(moved, answers(200, {"done": True}))
            polled = {"url": server.url + "{{ headers.Location | path }}", "holds": "json.done"}
            assert (await ask(driver, http_call({"url": server.url, "json": 1, "until": polled}))).ok
        assert [asked.target for asked in server.asked] == ["/", "/tasks/9?x=1"]
        assert evil.asked == []


class TestTheAnswer:
    async def test_its_body_is_the_result_byte_for_byte(self, driver: HttpDriver, server: Server) -> None:
        server.handler = answers(201, b"a\xff\x00b\r\n\n")
        result = await ask(driver, http_call({"url": server.url}))
        assert (result.ending, result.code, result.ok, result.cut) == (Ending.EXITED, 0, True, False)
        assert result.stdout == b"a\xff\x00b\r\n\n"
        assert result.detail == f"GET {server.url}: 201"

    @pytest.mark.parametrize("body", [b"x" * RESULT_LIMIT, b"line\n" * 13_107])
    async def test_a_result_of_just_the_limit_is_whole(self, driver: HttpDriver, server: Server, body: bytes) -> None:
        server.handler = answers(200, body)
        result = await ask(driver, http_call({"url": server.url}))
        assert (result.stdout, result.cut) == (body, False)

    async def test_a_result_too_long_is_cut_at_whole_lines(self, driver: HttpDriver, server: Server) -> None:
        server.handler = answers(200, b"line\n" * 20_000)
        result = await ask(driver, http_call({"url": server.url}))
        assert (result.stdout, result.cut, result.ok) == (b"line\n" * 13_107, True, True)

    @pytest.mark.parametrize("status", [301, 302, 404, 500, 503, 599])
    async def test_a_status_that_was_not_expected_is_a_failure(
        self, driver: HttpDriver, server: Server, status: int
    ) -> None:
        server.handler = answers(status, b"because", Location="/elsewhere")
        log = Log()
        result = await ask(driver, http_call({"url": f"{server.url}/hosts?token=hunter2", "json": 1}), log)
        assert (result.ending, result.code, result.ok) == (Ending.FAILED, status, False)
        assert result.detail == f"POST {server.url}/hosts: {status}, expected 2xx"
        assert log.text("stdout") == b"because"
        assert len(server.asked) == 1

    @pytest.mark.parametrize(("expect", "words"), [(404, "404"), ([200, 404], "200 or 404")])
    async def test_other_statuses_can_be_expected(
        self, driver: HttpDriver, server: Server, expect: object, words: str
    ) -> None:
        server.handler = one_after_another(answers(404), answers(201))
        call = http_call({"url": server.url, "method": "DELETE", "expect": expect})
        assert (await ask(driver, call)).ok
        assert (await ask(driver, call)).detail == f"DELETE {server.url}: 201, expected {words}"

    async def test_nobody_there_is_a_failure_that_says_so(self, driver: HttpDriver) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        result = await ask(driver, http_call({"url": url}))
        assert (result.ending, result.code, result.ok) == (Ending.FAILED, None, False)
        assert result.detail == f"GET {url}: no connection: Connection refused"

    async def test_a_name_without_address_is_a_failure_that_says_so(self, driver: HttpDriver) -> None:
        result = await ask(driver, http_call({"url": "http://nowhere.invalid/"}))
        assert result.ending is Ending.FAILED
        assert result.detail.startswith("GET http://nowhere.invalid/: no address: ")

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            (b"", "the answer ended too early, or is not HTTP"),
            (b"SSH-2.0-hunter2\r\n\r\n", "the answer ended too early, or is not HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhunt", "the answer ended too early, or is not HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "the answer ended too early, or is not HTTP"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"hunter2" * 40_000, "the answer ended too early, or is not HTTP"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the answer ended too early"),
        ],
    )
    async def test_an_answer_that_is_none_is_a_failure_that_quotes_nothing(
        self, driver: HttpDriver, server: Server, said: bytes, why: str
    ) -> None:
        async def babble(asked: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            await writer.drain()
            await hang_up(asked, writer)

        server.handler = babble
        log = Log()
        result = await ask(driver, http_call({"url": server.url}), log)
        assert (result.ending, result.code) == (Ending.FAILED, None)
        assert result.detail.startswith(f"GET {server.url}: {why}")
        assert b"hunter2" not in log.text("service")

    async def test_a_gigabyte_is_not_read(self, driver: HttpDriver, server: Server) -> None:
        sent = 0

        async def flood(asked: Asked, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while sent < 1_000_000_000:
                writer.write(b"x" * 65_536)
                sent += 65_536
                await writer.drain()

        server.handler = flood
        result = await ask(driver, http_call({"url": server.url}))
        assert (result.ok, result.cut, len(result.stdout)) == (True, True, RESULT_LIMIT)
        assert sent < 20 * BODY_LIMIT

    async def test_what_a_server_compresses_unasked_is_not_unpacked(self, driver: HttpDriver, server: Server) -> None:
        bomb = gzip.compress(b"\0" * 50_000_000)
        server.handler = answers(200, bomb, **{"Content-Encoding": "gzip"})
        result = await ask(driver, http_call({"url": server.url}))
        assert (result.ok, result.stdout) == (True, bomb)
        assert server.asked[0].header("accept-encoding") == "identity"


class TestTls:
    @pytest.fixture(scope="class")
    @staticmethod
    def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("tls")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
        subprocess.run(command, check=True, capture_output=True)
        return folder / "ca.pem", folder / "key.pem"

    @pytest.fixture
    async def server(self, certificate: tuple[Path, Path]) -> AsyncIterator[Server]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        async with serving(context) as server:
            yield server

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self, driver: HttpDriver, server: Server) -> None:
        result = await ask(driver, http_call({"url": server.url}))
        assert (result.ending, server.asked) == (Ending.FAILED, [])
        assert result.detail == f"GET {server.url}: the server's certificate is not trusted: self-signed certificate"

    async def test_a_file_can_vouch_for_it(
        self, driver: HttpDriver, server: Server, certificate: tuple[Path, Path]
    ) -> None:
        folder, name = certificate[0].parent, certificate[0].name
        assert (await ask(driver, http_call({"url": server.url, "verify": name}, folder=folder))).ok

    async def test_a_file_vouches_for_no_other_name(
        self, driver: HttpDriver, server: Server, certificate: tuple[Path, Path]
    ) -> None:
        url = f"https://localhost:{server.port}"
        result = await ask(driver, http_call({"url": url, "verify": str(certificate[0])}))
        assert (result.ending, server.asked) == (Ending.FAILED, [])
        assert "not trusted" in result.detail

    async def test_it_can_be_taken_on_trust(self, driver: HttpDriver, server: Server) -> None:
        assert (await ask(driver, http_call({"url": server.url, "verify": False}))).ok

    async def test_what_speaks_no_tls_is_told_apart(self, driver: HttpDriver) -> None:
        def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 lab ESMTP\r\n")
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1", 0) as plain:
            port = plain.sockets[0].getsockname()[1]
            result = await ask(driver, http_call({"url": f"https://127.0.0.1:{port}"}))
        assert result.ending is Ending.FAILED
        assert "no TLS with this server" in result.detail


class TestTheLog:
    async def test_it_has_the_request_the_status_and_the_body_of_what_is_no_secret(
        self, driver: HttpDriver, server: Server
    ) -> None:
        server.handler = answers(200, b"fine\n")
        log = Log()
        await ask(driver, http_call({"url": f"{server.url}/hosts?token=hunter2", "method": "PUT", "body": "x"}), log)
        service = log.text("service").decode()
        assert service.startswith(f"PUT {server.url}/hosts: 200 in 0.")
        assert service.endswith(" s\n")
        assert log.text("stdout") == b"fine\n"

    async def test_it_does_not_repeat_what_a_server_does(
        self, driver: HttpDriver, server: Server, tmp_path: Path
    ) -> None:
        (tmp_path / "token").write_text("hunter2\n")
        secrets = {"KEY": 'stäple "1"'}
        server.handler = answers(422, {"input": {"key": secrets["KEY"], "token": "hunter2", "os": "el9"}})
        hook = {"url": server.url, "json": "{{ secrets.KEY }}{{ files.token }}", "files": {"token": "token"}}
        log = Log()
        result = await ask(driver, http_call(hook, folder=tmp_path, secrets=secrets), log)
        assert not result.ok
        assert json.loads(log.text("stdout")) == {"input": {"key": "…", "token": "…", "os": "el9"}}

    async def test_what_is_made_of_a_secret_is_in_no_url(self, driver: HttpDriver, server: Server) -> None:
        server.handler = answers(500, b"")
        url = server.url + "/{{ (secrets.DOC | from_json).id }}/{{ secrets.KEY | b64encode }}?x={{ secrets.KEY }}"
        call = http_call({"url": url}, secrets={"DOC": '{"id": "hunter2"}', "KEY": "staple"})
        result = await ask(driver, call, log := Log())
        assert server.asked[0].target == "/hunter2/c3RhcGxl?x=staple"
        assert result.detail == f"GET {url.partition('?')[0]}: 500, expected 2xx"
        assert not any(secret in str(log.pieces) for secret in ("hunter2", "staple", "c3RhcGxl"))

    async def test_nothing_secret_is_in_it_or_in_the_workers_own(
        self, driver: HttpDriver, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        (tmp_path / "token").write_text("hunter2/ä\n")
        server.handler = one_after_another(
            answers(200, {"password": "correct-horse"}, Cookie="battery"), answers(503, b"correct-horse")
        )
        hook = {
            "url": server.url + "/{{ files.token }}/{{ secrets.TENANT }}/x?{{ files.token }}",
            "headers": {"Authorization": "Bearer {{ files.token }}", "X-Key": "{{ secrets.KEY }}"},
            "json": "staple",
            "files": {"token": "token"},
        }
        secrets = {"TENANT": "acme-1", "KEY": "s3same"}
        call = http_call(hook, folder=tmp_path, log_stdout=False, secrets=secrets)
        log = Log()
        good, bad = await ask(driver, call, log), await ask(driver, call, log)
        assert good.stdout == b'{"password": "correct-horse"}'
        assert server.asked[0].target == "/hunter2%2F%C3%A4/acme-1/x?hunter2%2F%C3%A4"
        assert server.asked[0].header("X-Key") == "s3same"
        assert bad.detail == f"POST {server.url}/{{{{ files.token }}}}/{{{{ secrets.TENANT }}}}/x: 503, expected 2xx"
        told = f"{log.pieces} {good.detail} {bad.detail} {caplog.text}"
        for secret in ("hunter2", "correct-horse", "battery", "staple", "Bearer", "acme-1", "s3same"):
            assert secret not in told


class TestUntil:
    async def test_what_was_set_going_is_polled_until_the_expression_holds(
        self, driver: HttpDriver, server: Server
    ) -> None:
        server.handler = one_after_another(
            answers(202, {"id": 5}), answers(200, {"state": "busy"}), answers(200, {"state": "done"})
        )
        hook = {
            "url": f"{server.url}/jobs",
            "json": {"go": True},
            "headers": {"X-Token": "t"},
            "until": {"url": server.url + "/jobs/{{ json.id }}", "every": "1s", "holds": "json.state == 'done'"},
        }
        log = Log()
        result = await ask(driver, http_call(hook), log)
        assert (result.ok, result.stdout) == (True, b'{"state": "done"}')
        assert [(a.method, a.target, a.header("x-token")) for a in server.asked] == [
            ("POST", "/jobs", "t"),
            ("GET", "/jobs/5", "t"),
            ("GET", "/jobs/5", "t"),
        ]
        assert [a.header("content-type") for a in server.asked] == ["application/json", None, None]
        assert f"GET {server.url}/jobs/5: 200, and until.holds is not true yet\n" in log.text("service").decode()
        assert log.text("stdout") == b'{"state": "done"}'

    async def test_without_a_url_of_its_own_a_get_is_only_the_wait(self, driver: HttpDriver, server: Server) -> None:
        server.handler = one_after_another(
            answers(404), answers(503), hang_up, answers(200, b"booting"), answers(200, b"ready\n")
        )
        hook = {"url": server.url, "expect": [200, 404], "until": {"every": "1s", "holds": "'ready' in text"}}
        log = Log()
        result = await ask(driver, http_call(hook), log)
        assert (result.ok, result.stdout, len(server.asked)) == (True, b"ready\n", 5)
        service = log.text("service").decode().splitlines()
        assert [line.removeprefix(f"GET {server.url}: ") for line in service[:-1]] == [
            "404, and until.holds is not true yet",
            "503",
            "the answer ended too early, or is not HTTP",
            "200, and until.holds is not true yet",
        ]
        assert service[-1].startswith(f"GET {server.url}: 200, and until.holds, after 5 polls in ")

    async def test_a_server_that_is_not_there_yet_is_waited_for(self, driver: HttpDriver) -> None:
        port = free_port()
        server = Server()
        server.handler = answers(204)
        hook = {"url": f"http://127.0.0.1:{port}", "until": {"every": "1s", "holds": "status == 204"}}
        log = Log()
        running = asyncio.create_task(ask(driver, http_call(hook), log))
        await until(lambda: b"Connection refused" in log.text("service"))
        async with await asyncio.start_server(server.serve, "127.0.0.1", port):
            assert (await running).ok

    async def test_the_same_news_is_told_once(self, driver: HttpDriver, server: Server) -> None:
        log = Log()
        hook = {"url": server.url, "until": {"every": "1s", "holds": "false"}}
        running = asyncio.create_task(ask(driver, http_call(hook), log))
        await until(lambda: len(server.asked) > 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert log.text("service").count(b"not true yet") == 1

    @pytest.mark.parametrize(
        ("holds", "why"),
        [
            ("json.state == 'x'", "until.holds: 'state' is missing"),
            ("json.done", "until.holds: it is neither true nor false"),
            ("json.list[3]", "until.holds: a key or element is missing"),
            ("text < 5", "until.holds: values are of types"),
            ("headers['X-Missing'] == 'x'", "until.holds: 'X-Missing' is missing"),
        ],
    )
    async def test_an_expression_that_fails_ends_it(
        self, driver: HttpDriver, server: Server, holds: str, why: str
    ) -> None:
        server.handler = answers(200, {"done": "hunter2", "list": []})
        result = await ask(driver, http_call({"url": server.url, "until": {"holds": holds}}, log_stdout=False))
        assert (result.ending, result.detail.startswith(why)) == (Ending.FAILED, True), result.detail
        assert "hunter2" not in result.detail

    @pytest.mark.parametrize(
        "body",
        [b"", b"hunter2", b"[" * 100_000, b'{"x": ' + b"9" * 10_000 + b"}", b" " * BODY_LIMIT + b"{}", b"\xff\xfe"],
        ids=len,
    )
    async def test_what_is_no_json_is_said_to_be_none(self, driver: HttpDriver, server: Server, body: bytes) -> None:
        server.handler = answers(200, body)
        hook = {"url": server.url, "until": {"every": "1s", "holds": "json.state == 1"}}
        result = await ask(driver, http_call(hook))
        assert result.ending is Ending.FAILED
        assert "JSON" in result.detail
        hook = {"url": server.url, "until": {"holds": "json is not defined and status == 200"}}
        assert (await ask(driver, http_call(hook))).ok

    async def test_a_status_that_was_not_expected_ends_it(self, driver: HttpDriver, server: Server) -> None:
        server.handler = one_after_another(answers(202), answers(404, b"no such job"))
        polled = {"url": f"{server.url}/jobs/1", "holds": "true"}
        result = await ask(driver, http_call({"url": server.url, "json": 1, "until": polled}))
        assert (result.ending, result.code) == (Ending.FAILED, 404)
        assert result.detail == f"GET {server.url}/jobs/1: 404, expected 2xx"

    async def test_the_answer_can_lack_what_the_next_url_needs(self, driver: HttpDriver, server: Server) -> None:
        server.handler = answers(202, {"job": 1})
        polled = {"url": server.url + "/jobs/{{ json.id }}", "holds": "true"}
        result = await ask(driver, http_call({"url": server.url, "json": 1, "until": polled}))
        assert (result.ending, result.detail) == (Ending.FAILED, "until.url: 'id' is missing")
        assert result.stdout == b'{"job": 1}'

    async def test_a_poll_that_hangs_is_followed_by_the_next(self, server: Server, tmp_path: Path) -> None:
        driver = HttpDriver(tmp_path / "locks", GRACE, poll_limit=timedelta(seconds=1))
        server.handler = one_after_another(never, answers(200))
        log = Log()
        hook = {"url": server.url, "until": {"every": "1s", "holds": "status == 200"}}
        assert (await ask(driver, http_call(hook), log)).ok
        assert b"no answer within 1s" in log.text("service")
