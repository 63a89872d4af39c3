"""`import quads`: from a real HTTP server and from a file, to a pools file or into the service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from leasehold import config
from tests.unit.cli_runner import Cli
from tests.unit.fake_api import Answer, FakeApi
from tests.unit.quads_answers import ANSWERS

APPLIED = {"changes": [{"action": "add", "kind": "pool", "pool": "r640", "name": "r640", "diff": {}}]}


@contextmanager
def serving(answers: Any) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as QUADS does; its address, and what it was asked for and by whom."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            found = answers.get(self.path.removeprefix("/api/v3/"))
            content = json.dumps(found if found is not None else {"message": "nothing here"}).encode()
            self.send_response(200 if found is not None else 400)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_from_a_server_to_standard_output(api: FakeApi, cli: Cli) -> None:
    with serving(ANSWERS) as (url, asked):
        outcome = cli("import", "quads", url)
    assert outcome.status == 0, outcome.err
    # Whoever is at that address is sent no token.
    assert asked == ["/api/v3/hosts None", "/api/v3/clouds None", "/api/v3/vlans None"]
    inventory = config.load_yaml(outcome.out_bytes)
    assert [spec.name for spec, _ in inventory.pools] == ["r640", "r750", "5039-ms-2", "cloud", "vlan"]
    assert "left out: host host03.example.com: it is retired\n" in outcome.err
    assert "leasehold resource offline r640/host04.example.com --reason 'broken in QUADS'" in outcome.err
    assert api.requests == []


def test_from_a_file_to_a_file(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    saved, pools = tmp_path / "hosts.json", tmp_path / "pools.yaml"
    saved.write_text(json.dumps(ANSWERS["hosts"]))
    outcome = cli("import", "quads", str(saved), "--output", str(pools))
    assert (outcome.status, outcome.out) == (0, ""), outcome.err
    assert len(config.load_yaml(pools.read_bytes()).pools) == 3


def test_applied_at_once_with_broken_hosts_offline(api: FakeApi, cli: Cli, tmp_path: Path) -> None:
    saved = tmp_path / "answers.json"
    saved.write_text(json.dumps(ANSWERS))
    api.answers["POST /v1/apply"] = [Answer(200, APPLIED)]
    api.answers["POST /v1/pools/r640/resources/host04.example.com/offline"] = [Answer(200, {})]
    outcome = cli("import", "quads", str(saved), "--apply")
    assert (outcome.status, outcome.out) == (0, "+ add pool r640\n"), outcome.err
    apply, offline = api.requests
    assert config.load_yaml(apply.body).name == "quads"
    assert offline.json == {"reason": "broken in QUADS"}
    assert "offline: r640/host04.example.com" in outcome.err


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 2, "has no JSON"),
        (b"\xff\xfe", 2, "has no JSON"),
        (b'{"message": "Unauthorized"}', 2, "this is no answer of QUADS"),
        (None, 2, "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_taken(cli: Cli, tmp_path: Path, content: bytes | None, status: int, said: str) -> None:
    saved = tmp_path / "answers.json"
    if content is not None:
        saved.write_bytes(content)
    outcome = cli("import", "quads", str(saved))
    assert (outcome.status, outcome.out) == (status, "")
    assert said in " ".join(outcome.err.replace("│", " ").split())


def test_a_server_that_is_not_quads(cli: Cli) -> None:
    with serving({}) as (url, _):
        outcome = cli("import", "quads", url)
    assert (outcome.status, outcome.out) == (2, "")
    assert "answered 400" in outcome.err


def test_a_server_that_is_not_there(cli: Cli) -> None:
    with serving({}) as (url, _):
        pass
    outcome = cli("import", "quads", url)
    assert (outcome.status, outcome.out) == (1, "")
    assert "cannot be reached" in outcome.err
