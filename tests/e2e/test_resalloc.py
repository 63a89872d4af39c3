"""The port of resalloc's clients, in a process of the API as it is really run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xmlrpc import client as xmlrpc

import httpx
import pytest

from tests.e2e.lab import PATIENCE_S, until
from tests.stack import Stack, free_ports

DATA = bytes(range(256))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """One whose API answers on the port."""
    stack = Stack(tmp_path)
    stack.settings["LEASEHOLD_RESALLOC_PORT"] = str(free_ports(1)[0])
    stack.settings["LEASEHOLD_RESALLOC_LIFETIME"] = "3h"
    with stack:
        yield stack


class Waiting(threading.Thread):
    """A client that waits for a ticket as the old one does: whatever fails it repeats."""

    def __init__(self, url: str, ticket: int) -> None:
        super().__init__(daemon=True)
        self._url, self._ticket = url, ticket
        self.statuses: list[int] = []
        self.data: bytes | None = None

    def run(self) -> None:
        while self.data is None:
            try:
                with xmlrpc.ServerProxy(self._url) as proxy:
                    found = proxy.waitTicket(self._ticket)
                assert isinstance(found, xmlrpc.Binary)
                self.data = found.data
            except xmlrpc.ProtocolError as error:
                self.statuses.append(error.errcode)
            except OSError:
                time.sleep(0.2)


def test_a_client_that_waits_gets_its_resource_across_a_restart(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(DATA)
    pool = {"name": "lab", "deliver": {"run": f"cat {tmp_path}/data.bin"}, "resources": [{"name": "a", "tags": ["x"]}]}
    url = f"http://127.0.0.1:{stack.settings['LEASEHOLD_RESALLOC_PORT']}"
    with stack.client() as client, xmlrpc.ServerProxy(url) as proxy:
        client.apply({"pools": [pool]}, folder=str(tmp_path))
        first, second = proxy.takeTicket(["x"]), proxy.takeTicket(["x"], "sandbox")
        assert isinstance(first, int)
        assert isinstance(second, int)
        proxy.waitTicket(first)
        lease = client.lease(str(first))
        assert lease["owner"] == "resalloc"
        assert lease["expires_at"] is not None
        left = datetime.fromisoformat(lease["expires_at"]) - datetime.now(UTC)
        assert timedelta(hours=2) < left < timedelta(hours=4)
    waiting = Waiting(url, second)
    waiting.start()
    time.sleep(1)

    begun = time.monotonic()
    assert stack.stop(signal.SIGTERM) == 0
    took = time.monotonic() - begun
    until(lambda: waiting.statuses, "who waits is told to try again")
    stack.start()
    with xmlrpc.ServerProxy(url) as proxy:
        proxy.closeTicket(first)

    waiting.join(PATIENCE_S)
    assert (waiting.data, waiting.statuses) == (DATA, [503])
    assert "did not finish" not in stack.last_words()
    assert took < 9, "who waits holds nothing up"


def test_without_the_setting_nobody_listens(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack:
        assert "resalloc" not in stack.last_words()
        # Nor are its calls a part of the API.
        assert httpx.post(f"{stack.url}/RPC2", content=b"<methodCall/>", trust_env=False).status_code == 404
